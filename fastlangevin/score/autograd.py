"""The score of any callable energy, by automatic differentiation."""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.autograd.graph import _engine_run_backward
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..network.inputs import Inputs
from ..network.target import Target
from .base import BoundScore, ScoreEngine
from .precision import HALF, autocast


class AutogradEngine(ScoreEngine):
    """The engine for any energy. It differentiates with respect to the state only: it computes no weight gradients,
    leaves `.grad` unchanged and keeps no graph. The state is cast to the dtype of the network's parameters.
    """

    name = "autograd"

    def bind(self, x: Tensor, inputs: Inputs) -> BoundScore:
        return AutogradScore(self.target, self.precision_on(x.device), inputs)


class AutogradScore(BoundScore):
    """The score of any `Target`, with one forward and backward of torch's autograd."""

    name = "autograd"

    def __init__(self, target: Target, precision: str, inputs: Inputs) -> None:
        self.target, self.precision, self.inputs = target, precision, inputs
        parameter = target.parameter()
        self._dtype = None if parameter is None else parameter.dtype
        self._down: Tensor | None = None  # the gradient of the log-density with respect to the energies
        self._running = functools.partial(autocast, precision) if precision in HALF else contextlib.nullcontext
        self._buffers = _buffers(target.module) if precision in HALF else []
        self._changes = bool(inputs.steps())

    def at(self, k: int) -> AutogradScore:
        if not self._changes:
            return self
        score = copy.copy(self)
        score.inputs = self.inputs.at(k)
        return score

    def __call__(self, x: Tensor) -> Tensor:
        if self.target.kind == "score":
            return self.energy_and_score(x)[1]
        with torch.enable_grad():
            return self._differentiated(x.detach().requires_grad_(), create_graph=False)[1]

    def energy(self, x: Tensor) -> Tensor | None:
        if self.target.kind == "score":
            return None
        with torch.no_grad():
            return self._energies(x.clone())  # the energy may overwrite its argument

    def energy_and_score(self, x: Tensor) -> tuple[Tensor | None, Tensor]:
        if self.target.kind == "score":
            with torch.no_grad():
                return None, self._given_score(x.clone())
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            energies, score = self._differentiated(x, create_graph=False)
        return energies.detach(), score

    def linearize(self, x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor | None]]:
        """One forward and backward, and a second backward for v."""
        with torch.enable_grad(), _twice_differentiable():
            x = x.detach().requires_grad_()
            if self.target.kind == "score":
                score = self._given_score(x.clone())
            else:
                _, score = self._differentiated(x, create_graph=True)

        def vjp(v: Tensor) -> Tensor | None:
            if not score.requires_grad:
                return None
            with self._running(x.device):
                return torch.autograd.grad(score, x, v, allow_unused=True)[0]

        return score.detach(), vjp

    def with_graph(self, x: Tensor) -> Tensor:
        """The scores at a constant x, with a graph to the other tensors that the energy reads, such as its weights.

        One forward and backward; a backward through the result is a second backward.
        """
        with torch.enable_grad(), _twice_differentiable():
            if self.target.kind == "score":
                return self._given_score(x.clone())
            return self._differentiated(x.detach().requires_grad_(), create_graph=True)[1]

    def _differentiated(self, x: Tensor, create_graph: bool) -> tuple[Tensor, Tensor]:
        if create_graph and self.target.is_sharded:
            raise ValueError(f"{self.target.kind} has no second derivatives, because its parameters are sharded")
        energies = self._energies(x)
        if not energies.requires_grad:
            raise ValueError(_independent(self.target.kind))
        down = self._down
        if down is None or down.shape != energies.shape or down.dtype != energies.dtype:
            down = self._down = torch.full_like(energies, -1.0, requires_grad=False)
        if self.precision not in HALF:
            score = _gradient(energies, x, down, create_graph)
        else:
            with self._running(x.device):
                score = _gradient(energies, x, down, create_graph)
        if score is None:
            raise ValueError(_independent(self.target.kind))
        return energies, score

    def _energies(self, x: Tensor) -> Tensor:
        output = self.target.energies(self._evaluate(x), x.shape[0])
        return -output if self.target.kind == "log_density" else output

    def _given_score(self, x: Tensor) -> Tensor:
        score = self._evaluate(x)
        if not isinstance(score, Tensor) or score.shape != x.shape:
            got = tuple(score.shape) if isinstance(score, Tensor) else type(score).__name__
            raise ValueError(f"score must return a tensor of the state's shape {tuple(x.shape)}, got {got}")
        return score.to(x.dtype)

    def _evaluate(self, x: Tensor) -> Tensor:
        x = x if self._dtype is None else x.to(self._dtype)
        if self.precision not in HALF:
            return self.inputs.call(self.target.function, x)
        with self._running(x.device):
            output: Tensor = self.inputs.call(self.target.function, x)
        for module, name, dtype in self._buffers:  # hooks may have assigned what autocast computed
            buffer = module._buffers[name]
            if buffer is not None and buffer.dtype != dtype:
                module._buffers[name] = buffer.to(dtype)
        return output


def _twice_differentiable() -> contextlib.AbstractContextManager[None]:
    """Attention is computed by operators that have second derivatives, which its fused kernels lack."""
    return sdpa_kernel(SDPBackend.MATH)


def _gradient(y: Tensor, x: Tensor, v: Tensor, create_graph: bool) -> Tensor | None:
    """vᵀ ∂y/∂x. Except for second derivatives, without the checks of `torch.autograd.grad`, which compare the shapes of
    y and v as symbols: a tenth of the time of a step of a small energy, and half a second to import SymPy.
    """
    if create_graph or torch.compiler.is_compiling() or type(y) is not Tensor or type(x) is not Tensor:
        return torch.autograd.grad(y, x, v, create_graph=create_graph, allow_unused=True)[0]
    if torch._C._is_torch_function_mode_enabled():
        with torch.overrides._pop_mode_temporarily():  # as in torch's functions, which a mode sees from outside
            return _gradient(y, x, v, create_graph)
    return _engine_run_backward((y,), (v,), False, False, (x,), True, accumulate_grad=False)[0]


def _buffers(module: nn.Module | None) -> list[tuple[nn.Module, str, torch.dtype]]:
    """The floating-point buffers of a module and its submodules."""
    return [
        (owner, name, buffer.dtype)
        for owner in (() if module is None else module.modules())
        for name, buffer in owner._buffers.items()
        if buffer is not None and buffer.is_floating_point()
    ]


def _independent(kind: str) -> str:
    return (
        f"{kind} does not depend on x: its output has no gradient with respect to the state "
        "(is x detached, converted to NumPy, or evaluated under no_grad inside it?)"
    )
