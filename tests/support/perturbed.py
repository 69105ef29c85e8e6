"""How far roundings can move the result of an evaluation, by Monte Carlo arithmetic (Parker, 1997).

The evaluation runs in float64 while each element of the result of every operator is multiplied by 1 ± δ, the sign drawn
at random. What that does to the end is what float32 roundings do to it, times δ over that of an operator: 16 u stands
for its roundings, which add up at random, and for the other order in which sums may be taken. A norm subtracts one mean
from many numbers: its rounding, to about u times their magnitude, moves them all alike, which a sum of them does not
average out.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from .error_bounds import U

DELTA = 16 * U
_aten = torch.ops.aten


class Perturbing(TorchDispatchMode):
    def __init__(self, seed: int) -> None:
        super().__init__()
        self._generator = torch.Generator().manual_seed(seed)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        results = func(*args, **(kwargs or {}))
        if not all(r.alias_info is None for r in func._schema.returns):
            return results
        if (norm := _NORMS.get(func)) is not None:
            results = (results[0] + self._of_the_mean(*norm(results[2], *args)), *results[1:])
        return torch.utils._pytree.tree_map_only(Tensor, self._perturbed, results)

    def _of_the_mean(self, x: Tensor, dims: tuple[int, ...], slope: Tensor, shape: torch.Size) -> Tensor:
        magnitude = x.abs().mean(dims, keepdim=True)
        return (U * magnitude * self._signs(magnitude) * slope).expand(x.shape).reshape(shape)

    def _perturbed(self, value: Tensor) -> Tensor:
        if not value.is_floating_point():
            return value
        return value * (1 + DELTA * self._signs(value))

    def _signs(self, value: Tensor) -> Tensor:
        return torch.randint(2, value.shape, generator=self._generator, dtype=torch.int8) * 2 - 1


# What a norm takes the mean of, over which dimensions, the factor of the difference from it, and the result's shape.
def _group_norm(rstd, x, weight, bias, n, n_channels, n_pixels, n_groups, eps):
    shape = (n, n_groups, n_channels // n_groups, n_pixels)
    scale = 1 if weight is None else weight.reshape(1, *shape[1:3], 1)
    return x.reshape(shape), (2, 3), rstd.reshape(n, n_groups, 1, 1) * scale, x.shape


def _layer_norm(rstd, x, normalized_shape, weight, bias, eps):
    return x, tuple(range(-len(normalized_shape), 0)), rstd if weight is None else rstd * weight, x.shape


# Instance norm comes here too, in training.
def _batch_norm(rstd, x, weight, bias, running_mean, running_var, training, momentum, eps):
    shape = (1, -1, *[1] * (x.dim() - 2))
    slope = rstd.reshape(shape) * (1 if weight is None else weight.reshape(shape)) if training else x.new_zeros(())
    return x, (0, *range(2, x.dim())), slope, x.shape


_NORMS = {
    _aten.native_group_norm.default: _group_norm,
    _aten.native_layer_norm.default: _layer_norm,
    _aten.native_batch_norm.default: _batch_norm,
}


def exact_and_bound(evaluate: Callable[[], Tensor], n_draws: int = 4) -> tuple[Tensor, Tensor]:
    """The result of a float64 evaluation (B, …), and for each chain a bound on what roundings do to its elements.

    Args:
        n_draws: of signs. One number a chain needs more than many do: four draws all move it by less than a tenth of a
            standard deviation once in 25,000 times.
    """
    exact = evaluate()
    moved = exact.new_zeros(len(exact))
    for seed in range(n_draws):
        with Perturbing(seed):
            moved = torch.maximum(moved, (evaluate() - exact).abs().flatten(1).amax(1))
    return exact, 2 * moved + DELTA * exact.abs().flatten(1).amax(1)


def assert_within_bound(got: Tensor, exact: Tensor, bound: Tensor) -> None:
    assert got.shape == exact.shape and torch.isfinite(exact).all()
    excess = (got - exact).abs().flatten(1).amax(1) / bound.clamp(min=1e-30)
    assert (excess <= 1).all(), f"off by {excess.max():.2f} times the bound"
