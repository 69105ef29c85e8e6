"""Score engines: one file each. An engine binds to the states and extra arguments of a call, and the steps of a chain
call the bound score.
"""

from __future__ import annotations

from ..network.target import Target
from ..validation import unknown
from .analytic import AnalyticEngine
from .auto import AutoEngine
from .autograd import AutogradEngine, AutogradScore
from .base import BoundScore, ScoreEngine
from .compiled import CompiledEngine
from .convnet import ConvNetEngine
from .graph import GraphEngine
from .mlp import MlpEngine

_ALL = (AutoEngine, AutogradEngine, CompiledEngine, ConvNetEngine, MlpEngine, AnalyticEngine, GraphEngine)
ENGINES: dict[str, type[ScoreEngine]] = {engine.name: engine for engine in _ALL}

__all__ = ["ENGINES", "AutogradScore", "BoundScore", "ScoreEngine", "Target", "check_engine", "make_engine"]


def check_engine(engine: str) -> str:
    if engine not in ENGINES:
        raise unknown("engine", engine, ENGINES)
    return engine


def make_engine(target: Target, engine: str, precision: str) -> ScoreEngine:
    """The engine called `engine`; "auto" is the fastest that recognises the target."""
    return ENGINES[check_engine(engine)](target, precision)
