"""The energies in closed form that kernels are tested with, and their scores with the roundings of the kernels: for
`chain_reference.chain`.
"""

from __future__ import annotations

import functools
import math
from types import ModuleType

import torch
from torch import Tensor

import fastlangevin as fl
from fastlangevin.kernels.arguments import ChainArgs

from .chain_reference import OPTIONS, arguments, chain
from .error_bounds import Roundings, U
from .network_bounds import EXPONENTIAL
from .triton_roundings import EXP


def mixture(n_components: int, dimension: int) -> fl.energies.GaussianMixture:
    generator = torch.Generator().manual_seed(n_components)
    means, variances = (torch.randn(n_components, dimension, generator=generator) for _ in range(2))
    weights = torch.rand(n_components, generator=generator) + 0.1
    return fl.energies.GaussianMixture(2 * means, 0.3 + variances.square(), weights)


ENERGIES = {
    "mixture of 4 in 2-d": lambda: (mixture(4, 2), 2),
    "mixture of 1 in 1-d": lambda: (mixture(1, 1), 1),
    "mixture of 7 in 3-d": lambda: (mixture(7, 3), 3),
    "double well in 2-d": lambda: (fl.energies.DoubleWell(2, 0.7, 1.3), 2),
    "double well in 5-d": lambda: (fl.energies.DoubleWell(5, 0.3), 5),
}


def states(n: int, dimension: int) -> Tensor:
    return torch.randn(n, dimension, generator=torch.Generator().manual_seed(1))


def run(kernels: ModuleType, energy: torch.nn.Module, x: Tensor, args: ChainArgs) -> Tensor:
    """The last states of a chain by the kernels of a backend's `analytic_chain`."""
    got = x.clone()
    if isinstance(energy, fl.energies.DoubleWell):
        kernels.double_well_(energy.barrier, energy.width, got, args)
    else:
        kernels.mixture_(energy.constants, energy.means, energy.precisions, got, args)
    return got


@functools.cache
def bounded(name: str, options: str, n: int, in_triton: bool = False):
    """An energy, n states, the arguments of a chain and what `chain_reference.chain` says of it."""
    energy, dimension = ENERGIES[name]()
    x, tail = states(n, dimension), arguments(**{"step_sizes": [0.05] * 4, **OPTIONS[options]})
    if isinstance(energy, fl.energies.DoubleWell):
        score = double_well_score
    else:
        score = triton_mixture_score if in_triton else mixture_score
    leaf = x.double().requires_grad_()
    (force,) = torch.autograd.grad(-energy.double()(leaf).sum(), leaf)
    # Some ten operations of float64, each rounded to 2^-53.
    torch.testing.assert_close(score(energy, Roundings(), leaf).detach(), force, rtol=1e-12, atol=1e-13)
    energy.float()
    return energy, x, tail, chain(functools.partial(score, energy), x, tail)


def mixture_score(
    energy: fl.energies.GaussianMixture,
    r: Roundings,
    x: Tensor,
    exponential: float = EXPONENTIAL,
    in_pairs: bool = False,
) -> Tensor:
    """Σ_k w_k p_k (μ_k - x) / Σ_k w_k, w_k = e^(l_k - max l), with the roundings of csrc/cpu/analytic_chain_impl.h.

    Weights are e^a for a ≤ 0, and one of them is 1: what counts is their absolute error.

    Args:
        exponential: the absolute error of e^a in u.
        in_pairs: whether the squares of neighbours are added, then the sums of neighbours, and so on.
    """
    means, precisions, constants = (v.double() for v in (energy.means, energy.precisions, energy.constants))
    away = r.relative(x[:, None, :] - means)
    squares = r.relative(r.relative(away * precisions) * away)
    additions = squares * math.ceil(math.log2(x.shape[1])) if in_pairs else squares.cumsum(2)
    square = r.rounded(squares.sum(2), U * additions.abs().sum(2))
    logits = r.relative(constants - 0.5 * square)
    weights = r.relative(logits - logits.detach().amax(1, keepdim=True)).exp()
    weights = r.rounded(weights, exponential * U)
    total = r.rounded(weights.sum(1), U * weights.cumsum(1).abs().sum(1))
    pulls = r.relative(-away * precisions) * weights[:, :, None]
    pull = r.rounded(r.relative(pulls).sum(1), U * pulls.cumsum(1).abs().sum(1))
    return r.relative(pull * r.relative(1 / total[:, None]))


def triton_mixture_score(energy: fl.energies.GaussianMixture, r: Roundings, x: Tensor) -> Tensor:
    """The same for fastlangevin/kernels/triton/analytic_chain.py. A GPU's exponential is 2^(1.44… a): the product's
    rounding makes an error of |a| u e^a ≤ u / e, besides those of `triton_roundings.EXP`.
    """
    return mixture_score(energy, r, x, EXP + 1 / math.e, in_pairs=True)


def double_well_score(energy: fl.energies.DoubleWell, r: Roundings, x: Tensor) -> Tensor:
    """-4 b x / w² (x² / w² - 1): b and w are rounded, then w², 1 / w² and b / w², and each operation of the formula."""
    per_square = r.relative(torch.full_like(x, 1 / energy.width**2), 4)
    slope = r.relative(-4 * energy.barrier * per_square, 2)
    well = r.relative(r.relative(r.relative(x.square()) * per_square) - 1)
    return r.relative(r.relative(slope * x) * well)
