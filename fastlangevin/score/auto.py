"""engine="auto": the fastest engine that recognises an energy."""

from __future__ import annotations

import contextlib
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..network.dependencies import Dependencies
from ..network.errors import NotRecognised, WrongShape
from ..network.graph_tracing import is_impure_itself, why_impure
from ..network.inputs import Inputs
from ..network.sequential import Sequential
from ..network.target import Target
from ..network.tracing import trace
from . import cpu_precision
from .analytic import AnalyticEngine
from .autograd import AutogradScore
from .base import BoundScore, Explanation
from .convnet import ConvNetEngine
from .graph import GraphEngine
from .mlp import MlpEngine
from .sequential import choose

_IMPLEMENTATIONS = (*MlpEngine.implementations, *ConvNetEngine.implementations)
_LIKELY_SIZES = (32, 28, 64, 8, 16, 128)
_LARGEST_SIZE = 256
_FEW_CHAINS, _MANY_CHAINS = 2, 64  # of the states that are recorded for plans; that plans assume before a call
_REMEMBERED = 64  # situations
_AT_ONCE = 4  # recordings that are made when they are first needed


class _Call(NamedTuple):
    """The properties of the last call that plans need."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    with_inputs: bool
    explanation: Explanation


class AutoEngine(GraphEngine):
    """At each call "analytic", "mlp", "convnet" or "graph", the first that recognises the energy, else "autograd".

    That the energy is not a sequence of layers is remembered as long as what it reads keeps its structure.
    """

    name = "auto"

    def __init__(self, target: Target, precision: str) -> None:
        super().__init__(target, precision)
        self._last: _Call | None = None
        self._not_sequential: dict[Hashable, str] = {}
        self._met: set[Hashable] = set()  # situations that are recorded if they come again
        self._impure: tuple[str, list[str]] | None = None  # why its code may not be recorded, and the plan's reasons

    def bind(self, x: Tensor, inputs: Inputs) -> BoundScore:  # type: ignore[override]
        bound, reasons = self._choose(x, inputs)
        explanation = Explanation(bound.name, bound.precision, reasons)
        self._last = _Call(tuple(x.shape), x.dtype, bool(inputs), explanation)
        return bound

    def explain(self, device: torch.device, shape: tuple[int, ...] | None = None) -> Explanation:
        compiled = "engine 'compiled' not used: compiling takes seconds to minutes; it must be requested by name"
        last = self._last
        if shape is None and last is not None and last.with_inputs:
            return last.explanation._replace(reasons=[*last.explanation.reasons, compiled])
        dtype = torch.float32 if last is None else last.dtype
        if shape is None and last is not None:
            shape = last.shape
        x = torch.empty(0, dtype=dtype, device=device)
        if not isinstance(AnalyticEngine.choose(self.target, self.precision, x), str):
            return Explanation("analytic", "fp32", [compiled])
        found = self._examine(device, shape, dtype)
        return found._replace(reasons=[*found.reasons, compiled])

    def _choose(self, x: Tensor, inputs: Inputs) -> tuple[AutogradScore, list[str]]:
        analytic = AnalyticEngine.choose(self.target, self.precision, x)
        if not isinstance(analytic, str):
            return analytic(self.target, "fp32", inputs), []
        if self._impure is not None:  # to read the code again costs less than to compare what it reads
            if is_impure_itself(self.target) or why_impure(self.target, x.device.type) == self._impure[0]:
                return AutogradScore(self.target, self.precision_on(x.device), inputs), self._impure[1]
            self._impure = None
        reason = None
        if not self._not_sequential:
            try:
                return self._sequential(x, inputs)
            except NotRecognised as error:
                reason = str(error)
        try:
            situation = self.situation(x, inputs)
        except NotRecognised as error:
            return self._by_autograd(x, inputs, [_not_sequential(str(reason)), _not_recorded(error)])
        reason = reason or self._not_sequential.get(situation.key)
        if reason is None:
            try:
                return self._sequential(x, inputs)
            except NotRecognised as error:
                reason = str(error)
        if situation.key not in self._not_sequential and len(self._not_sequential) >= _REMEMBERED:
            self._not_sequential.clear()
        self._not_sequential[situation.key] = reason
        if not self._is_worth_recording(situation.key):
            again = NotRecognised(
                "shapes and Python values that are new at each call are recorded when they come again"
            )
            score = AutogradScore(self.target, self.precision_on(x.device), inputs)
            return score, [_not_sequential(reason), _not_recorded(again)]
        try:
            found = self.recognise(x, inputs, situation)
            return found, [_not_sequential(reason), *found.reasons]
        except NotRecognised as error:
            return self._by_autograd(x, inputs, [_not_sequential(reason), _not_recorded(error)])

    def _by_autograd(self, x: Tensor, inputs: Inputs, reasons: list[str]) -> tuple[AutogradScore, list[str]]:
        reasons = [*reasons, *cpu_precision.reasons(self.precision, x.device)]
        impure = why_impure(self.target, x.device.type)
        self._impure = None if impure is None else (impure, reasons)
        return AutogradScore(self.target, self.precision_on(x.device), inputs), reasons

    def _is_worth_recording(self, key: Hashable) -> bool:
        """Whether a recording will be used again: an argument such as a number may differ at each call."""
        if key in self._recordings or len(self._recordings) < _AT_ONCE or key in self._met:
            return True
        if len(self._met) >= _REMEMBERED:
            self._met.clear()
        self._met.add(key)
        return False

    def _sequential(self, x: Tensor, inputs: Inputs) -> tuple[AutogradScore, list[str]]:
        network = trace(self.target, x.shape, x.dtype, x.device, inputs)
        choice = choose(network, self.precision, x, _IMPLEMENTATIONS)
        return choice.bind(network, x), choice.reasons

    def _examine(self, device: torch.device, shape: tuple[int, ...] | None, dtype: torch.dtype) -> Explanation:
        """How states of a shape are computed. Leaves the network's buffers unchanged.

        Without a shape that of a state is guessed from the first layer, and that there are many chains.
        """
        n_chains, event = (None, None) if shape is None else (shape[0], shape[1:])
        try:
            network = _recognised(self.target, device, event, dtype)
            one = torch.empty(network.shapes[0], dtype=dtype, device=device)
            x = one.expand(n_chains or _MANY_CHAINS, *one.shape)
            return choose(network, self.precision, x, _IMPLEMENTATIONS).explanation()
        except NotRecognised as error:
            reasons = [_not_sequential(str(error))]
        if event is None:
            guesses = _events(Dependencies(self.target.function).modules, _LIKELY_SIZES)
            why = "not known before the first call, for want of the shape of states: plan_for takes one"
        else:
            guesses, why = iter([event]), ""
        for guess in guesses:
            x = torch.zeros((_FEW_CHAINS if n_chains is None else n_chains, *guess), dtype=dtype, device=device)
            try:
                with torch.no_grad():
                    score = self.recognise(x, Inputs(), self.situation(x, Inputs()), n_chains or _MANY_CHAINS)
                return Explanation("graph", score.precision, [*reasons, *score.reasons])
            except NotRecognised as error:
                return self._as_it_is(device, [*reasons, _not_recorded(error)])
            except Exception as error:  # raised by the energy, for this shape or without its arguments
                if event is not None:
                    why = f"not used: the energy raised {type(error).__name__} for states of shape {tuple(x.shape)}"
        return self._as_it_is(device, [*reasons, f"engine 'graph' {why}"])

    def _as_it_is(self, device: torch.device, reasons: list[str]) -> Explanation:
        unmet = cpu_precision.reasons(self.precision, device)
        return Explanation("autograd", self.precision_on(device), [*reasons, *unmet])


def _not_sequential(reason: str) -> str:
    return f"engines 'mlp' and 'convnet' not used: {reason}"


def _not_recorded(error: NotRecognised) -> str:
    return f"engine 'graph' not used: {error}"


def _recognised(target: Target, device: torch.device, event: tuple[int, ...] | None, dtype: torch.dtype) -> Sequential:
    dependencies = Dependencies(target.function)
    before = [(b, b.clone()) for b in dependencies.buffers() if b.layout is torch.strided]
    try:
        if event is not None:
            return trace(target, (2, *event), dtype, device, Inputs())
        for guess in _events(dependencies.modules, (*_LIKELY_SIZES, *range(1, _LARGEST_SIZE + 1))):
            with contextlib.suppress(WrongShape):
                return trace(target, (2, *guess), dtype, device, Inputs())
        raise NotRecognised("the shape of the states is not known before the first call, and no square image fits")
    finally:
        for buffer, value in before:
            if not torch.equal(buffer, value):
                buffer.copy_(value)


def _events(modules: Sequence[nn.Module], likely: Iterable[int]) -> Iterator[tuple[int, ...]]:
    """State shapes that a network's first layer accepts: images of the sizes that it names, then of likely ones."""
    first = next((m for m in modules if isinstance(m, (nn.Conv2d, nn.Linear))), None)
    if isinstance(first, nn.Linear):
        yield (first.in_features,)
    elif first is not None:
        own = (getattr(m, "image_size", None) for m in modules)
        sizes = (*(size for size in own if isinstance(size, int)), *likely)
        for size in dict.fromkeys(sizes):
            yield (first.in_channels, size, size)
