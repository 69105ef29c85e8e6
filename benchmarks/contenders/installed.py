"""Whether a peer is installed."""

from __future__ import annotations

import importlib.util


def missing(module: str, package: str | None = None) -> str | None:
    """Why `module` cannot be imported, or None."""
    if importlib.util.find_spec(module) is not None:
        return None
    return f"{package or module} is not installed (pip install 'fastlangevin[peers]')"
