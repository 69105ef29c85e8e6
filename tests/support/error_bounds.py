"""Bounds on rounding errors, by first-order error analysis in float64 (Higham, Accuracy and Stability of Numerical
Algorithms, 2nd ed., chapters 2 and 3). None is taken from what some library's kernel happens to reach.

u is the unit roundoff: each operation gives its exact result times 1 + δ, |δ| ≤ u. A sum of n products in any order,
with or without fused multiply-adds, is off by at most γ_n Σ|terms|, γ_n = n u / (1 - n u). Added up in a known order,
it is off by at most u Σ|partial sums|, and u Σ|terms| more where products are rounded: the running error bound, which
is far smaller.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

UNIT = {torch.float64: 2.0**-53, torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}
U = UNIT[torch.float32]


def gamma(n: int, dtype: torch.dtype = torch.float32) -> float:
    return n * UNIT[dtype] / (1 - n * UNIT[dtype])


class Roundings:
    """What the roundings of an evaluation can do to its results, to first order.

    The evaluation is written in float64. Wherever float32 rounds, `rounded(value, bound)` adds a perturbation of 0 that
    stands for an error of at most `bound`. An output's error is then at most Σ |∂output / ∂perturbation| · bound, with
    the derivatives exact: those of several paths from one rounding to the output cancel as they do in the computation.
    Left out is what is of second order: smaller once more by about the bound's own ratio to the values.

    All tensors are (B, …), and chain b's outputs depend on its own elements alone.

    Attributes:
        sure: (B,) whether no kink or jump of the evaluation lies within the error of what decides it.
    """

    def __init__(self) -> None:
        self._points: list[tuple[Tensor, Tensor]] = []
        self.sure: Tensor | None = None

    def rounded(self, value: Tensor, bound: Tensor | float) -> Tensor:
        perturbation = torch.zeros_like(value, requires_grad=True)
        self._points.append((perturbation, torch.as_tensor(bound).detach().expand_as(value)))
        return value + perturbation

    def relative(self, value: Tensor, units: float = 1.0) -> Tensor:
        """Rounded to `units` · u of itself."""
        return self.rounded(value, units * U * value.abs())

    def bound(self, output: Tensor) -> Tensor:
        flat = output.flatten(1)
        bound = torch.zeros_like(flat)
        points = [(p, b) for p, b in self._points if b.any()]
        if not points or not flat.requires_grad:
            return bound.view_as(output)
        n = flat.shape[1]
        for rows in torch.eye(n, dtype=flat.dtype).split(64):
            basis = rows[:, None, :].expand(len(rows), *flat.shape)
            found = torch.autograd.grad(
                flat, [p for p, _ in points], basis, is_grads_batched=True, retain_graph=True, allow_unused=True
            )
            for derivative, (_, b) in zip(found, points, strict=True):
                if derivative is not None:
                    bound[:, rows.argmax(1)] += (derivative.abs() * b).reshape(len(rows), len(flat), -1).sum(2).t()
        return bound.view_as(output)

    def beyond_tangent(self, function: Callable[[Tensor], Tensor], argument: Tensor, error: Tensor) -> Tensor:
        """What the tangent of an elementwise function leaves out over the argument's error: a part of the bound.

        Smooth functions leave out far less than the error itself. Where it is more (and more than float64 rounds), the
        argument may lie on the other side of a kink or a jump, and the chain is not sure.
        """
        x = argument.detach().requires_grad_()
        value = function(x)
        (slope,) = torch.autograd.grad(value.sum(), x, retain_graph=True)
        ends = [(function(x + step) - value - step * slope).abs() for step in (error, -error)]
        beyond = torch.maximum(*ends).detach()
        sure = (beyond <= error + U**2).flatten(1).all(1)
        self.sure = sure if self.sure is None else self.sure & sure
        return beyond


def assert_within(got: Tensor, expected: Tensor, bound: Tensor, sure: Tensor | None = None, *, tight: float) -> None:
    """|got - expected| ≤ bound for every chain that is sure: most of them. The bound itself must be below `tight` times
    the largest of what is expected, or the test would be none.
    """
    if sure is not None:
        assert sure.double().mean() > 0.5, "too many chains lie at a branch"
        got, expected, bound = got[sure], expected[sure], bound[sure]
    assert got.shape == expected.shape and torch.isfinite(expected).all()
    scale = expected.abs().max()
    assert bound.max() < tight * scale, f"a bound of {bound.max() / scale:.1e} of the largest value shows too little"
    error = (got.double() - expected).abs()
    worst = (error / bound.clamp_min(1e-300)).argmax()
    assert (error <= bound).all(), f"{error.flatten()[worst]:.3e} off, at most {bound.flatten()[worst]:.3e} expected"
