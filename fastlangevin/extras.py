"""Packages that are not installed with fastlangevin itself, but by one of its extras."""

from __future__ import annotations

import importlib
from typing import Any


def require(module: str, extra: str) -> Any:
    """Returns the module. Raises ImportError, which names the extra, if it is not installed or cannot be imported."""
    try:
        return importlib.import_module(module)
    except Exception as error:  # a broken installation, or MPLBACKEND, raises other errors than ImportError
        package = module.partition(".")[0]
        raise ImportError(f"{package} cannot be imported ({error}): pip install 'fastlangevin[{extra}]'") from error
