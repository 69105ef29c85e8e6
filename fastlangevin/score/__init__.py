"""Score engines: one file each. An engine binds to the states and further inputs of a call, and the bound score is what
the steps of a chain call.
"""

from __future__ import annotations

from ..network.target import Target
from ..validation import unknown
from .analytic import AnalyticScore
from .auto import AutoScore
from .autograd import AutogradScore, BoundScore
from .compiled import CompiledScore
from .stack_engines import ConvNetScore, MlpEngine

_ALL = (AutoScore, AutogradScore, CompiledScore, ConvNetScore, MlpEngine, AnalyticScore)
ENGINES: dict[str, type[AutogradScore]] = {engine.name: engine for engine in _ALL}

__all__ = ["ENGINES", "AutogradScore", "BoundScore", "Target", "check_engine", "make_score"]


def check_engine(engine: str) -> str:
    if engine not in ENGINES:
        raise unknown("engine", engine, ENGINES)
    return engine


def make_score(target: Target, engine: str, precision: str) -> AutogradScore:
    """The engine called `engine`; "auto" is the fastest that recognises the target."""
    return ENGINES[check_engine(engine)](target, precision)
