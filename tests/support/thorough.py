"""`make test-thorough`: the whole of what `make test` runs a part of."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TypeVar

T = TypeVar("T")
THOROUGH = os.environ.get("THOROUGH") == "1"


def thorough(cases: Iterable[T], default: Iterable[T]) -> list[T]:
    """All cases with THOROUGH=1, else those of them that are enough from day to day."""
    every, some = list(cases), list(default)
    assert some and all(case in every for case in some)
    return every if THOROUGH else some
