"""Classes with the interfaces of other libraries, on the engines of fastlangevin: `torchebm`, `ebmkit` and `lightning`.

Each needs the extra of its name, and is imported, with its library, when it is first read.
"""

from __future__ import annotations

import importlib
from types import ModuleType

__all__ = ["ebmkit", "lightning", "torchebm"]


def __getattr__(name: str) -> ModuleType:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module(f"{__name__}.{name}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
