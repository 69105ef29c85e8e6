"""Score engines: one file each, all with the interface of `AutogradScore`."""

from __future__ import annotations

from ..errors import unknown
from .autograd import AutogradScore
from .compiled import CompiledScore
from .target import Target

ENGINES = {engine.name: engine for engine in (AutogradScore, CompiledScore)}

__all__ = ["ENGINES", "AutogradScore", "CompiledScore", "Target", "check_engine", "make_score"]


def check_engine(engine: str) -> str:
    if engine != "auto" and engine not in ENGINES:
        raise unknown("engine", engine, ("auto", *ENGINES))
    return engine


def make_score(target: Target, engine: str) -> AutogradScore:
    """The engine called `engine`, or for "auto" the fastest that recognises the target."""
    check_engine(engine)
    return ENGINES["autograd" if engine == "auto" else engine](target)
