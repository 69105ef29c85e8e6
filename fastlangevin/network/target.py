"""The target of sampling: an energy, a log-density or a score, as the caller defines it."""

from __future__ import annotations

import functools
import inspect
import warnings
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ..distributed import sharded_module
from .data_parallel import unwrapped

# Networks that were trained as log-densities, and the number of classes of those that were trained with their labels.
_TRAINED: weakref.WeakKeyDictionary[nn.Module, int | None] = weakref.WeakKeyDictionary()


def note_log_density(model: nn.Module, n_classes: int | None = None) -> None:
    """Notes that a network was trained as a log-density, so that `make_target` can warn where it is given as energy.

    Args:
        n_classes: C if it was trained as f(x, y), y = 0 … C - 1; else None.
    """
    _TRAINED[model] = n_classes


@dataclass(frozen=True)
class Target:
    """One of the three forms that a density to sample from can take.

    Attributes:
        kind: "energy" U, low where data is likely; "log_density" f = -U up to a constant; or "score" ∇f = -∇U.
        function: `(x, *args, **kwargs)` to B numbers in any shape for the first two, to x's shape for a score.
    """

    kind: Literal["energy", "log_density", "score"]
    function: Callable[..., Tensor]

    @property
    def module(self) -> nn.Module | None:
        """The module of the function: the function itself, or the module of which it is a method. Of a partial, that of
        what it calls.
        """
        function = self.function
        while isinstance(function, functools.partial):
            function = function.func
        owner = function if isinstance(function, nn.Module) else getattr(function, "__self__", None)
        return owner if isinstance(owner, nn.Module) else None

    @property
    def is_sharded(self) -> bool:
        """Whether parameters of the module are divided over the ranks of torch.distributed (`fully_shard`)."""
        return sharded_module.is_sharded(self.module)

    @property
    def n_classes(self) -> int | None:
        """The number of classes of a network that `train` or `load` returned, if it is f(x, y) of classes y."""
        module = self.module if _TRAINED else None
        return None if module is None else _TRAINED.get(module)

    def check_without_arguments(self) -> None:
        """Raises TypeError if the function is such a network, and takes no x alone."""
        n_classes = self.n_classes
        if n_classes is None:
            return
        function = self.module.forward if self.function is self.module else self.function
        try:
            inspect.signature(function).bind(None)
        except TypeError:
            raise TypeError(
                f"{type(self.module).__name__} was trained with classes: pass those of the chains, an int64 tensor "
                f"(B,) of 0 … {n_classes - 1}, after the states or the shape"
            ) from None

    def parameter(self) -> Tensor | None:
        """A floating-point parameter or buffer of the module, which has the device and the dtype of the network."""
        module = self.module
        if module is None:
            return None
        buffer: Tensor | None = None
        for part in module.modules():
            for parameter in part._parameters.values():
                if parameter is not None and parameter.is_floating_point():
                    return parameter
            if buffer is None:
                buffer = next((b for b in part._buffers.values() if b is not None and b.is_floating_point()), None)
        return buffer

    def device(self) -> torch.device | None:
        parameter = self.parameter()
        return None if parameter is None else parameter.device

    def energies(self, output: Tensor, n_chains: int) -> Tensor:
        """The function's output as (B,).

        Raises:
            TypeError, ValueError: it is not a tensor of one number per chain.
        """
        if not isinstance(output, Tensor):
            raise TypeError(f"{self.kind} must return a tensor, got {type(output).__name__}")
        if output.is_complex():
            raise TypeError(f"{self.kind} must return real numbers, got {output.dtype}")
        if output.numel() != n_chains:
            raise ValueError(
                f"{self.kind} must return one number per chain, in any shape of {n_chains} numbers, "
                f"got {tuple(output.shape)}{_remedy(output, n_chains)}"
            )
        return output if output.dim() == 1 else output.reshape(n_chains)


def _remedy(output: Tensor, n_chains: int) -> str:
    if output.numel() == 1:
        return ": is it a sum or a mean over the chains?"
    if output.dim() < 2 or len(output) != n_chains:
        return ""
    return f": add up each chain's numbers with {'.sum(1)' if output.dim() == 2 else '.flatten(1).sum(1)'}"


def make_target(**given: Callable[..., Tensor] | None) -> Target:
    """The target of exactly one of energy, log_density and score."""
    kinds = [kind for kind, function in given.items() if function is not None]
    if len(kinds) != 1:
        got = " and ".join(kinds) if kinds else "none"
        raise ValueError(f"exactly one of energy, log_density and score must be given, got {got}")
    function = given[kinds[0]]
    if not callable(function):
        raise TypeError(f"{kinds[0]} must be callable, got {type(function).__name__}")
    if isinstance(function, type):
        got = f"the class {function.__name__}: make an instance"
        raise TypeError(f"{kinds[0]} must be a function or a network, got {got}")
    function = unwrapped(function)
    if kinds[0] == "energy" and isinstance(function, nn.Module) and function in _TRAINED:
        warnings.warn(
            f"energy={type(function).__name__} is a network that fastlangevin trained, which is a log-density: as an "
            "energy it is sampled where data is unlikely. Use log_density=",
            UserWarning,
            stacklevel=3,
        )
    return Target(kinds[0], function)  # type: ignore[arg-type]
