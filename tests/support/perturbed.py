"""How far roundings can move the result of an evaluation, by Monte Carlo arithmetic (Parker, 1997).

The evaluation runs in float64 while each element of the result of every operator is multiplied by 1 ± δ, the sign drawn
at random. What that does to the end is what float32 roundings do to it, times δ over that of an operator: 16 u stands
for its roundings, which add up at random, and for the other order in which sums may be taken.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from .error_bounds import U

DELTA = 16 * U


class Perturbing(TorchDispatchMode):
    def __init__(self, seed: int) -> None:
        super().__init__()
        self._generator = torch.Generator().manual_seed(seed)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        results = func(*args, **(kwargs or {}))
        is_new = all(r.alias_info is None for r in func._schema.returns)
        return torch.utils._pytree.tree_map_only(Tensor, self._perturbed, results) if is_new else results

    def _perturbed(self, value: Tensor) -> Tensor:
        if not value.is_floating_point():
            return value
        signs = torch.randint(2, value.shape, generator=self._generator, dtype=torch.int8) * 2 - 1
        return value * (1 + DELTA * signs)


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
