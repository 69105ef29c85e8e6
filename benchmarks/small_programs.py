"""Small native programs with the numbers of each sample together, and with samples side by side; and the eager loop.

    OMP_WAIT_POLICY=PASSIVE python benchmarks/small_programs.py [ENERGY …]

Prints a table in Markdown: for each energy the numbers of scratch memory of a sample, and for numbers of chains the
speed with samples side by side over that with them together, and over that of the eager loop: medians of interleaved
rounds of whole chains. "auto" takes what the rule of `network/native/program.py` says. ENERGY: names in `ENERGIES`.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from contextlib import contextmanager
from unittest import mock

import torch
from timing import in_turns, paired_ratio
from torch import Tensor, nn

import fastlangevin as fl
from fastlangevin.network.native import program

N_STEPS, ROUNDS, CHAINS = 20, 9, (1, 8, 64, 2000)


def mlp(width: int) -> tuple[nn.Module, int]:
    layers = [nn.Linear(2, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1), nn.Flatten(0)]
    return nn.Sequential(*layers), 2


class Mixture(nn.Module):
    def __init__(self, n_components: int, dimension: int) -> None:
        super().__init__()
        self.means = nn.Parameter(torch.randn(n_components, dimension))

    def forward(self, x: Tensor) -> Tensor:
        return -torch.logsumexp(-0.5 * (x[:, None] - self.means).square().sum(2), 1)


class Rosenbrock(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return ((1 - x[:, :-1]).square() + 5 * (x[:, 1:] - x[:, :-1].square()).square()).sum(1)


MIXTURES = ((4, 2), (25, 2), (32, 16), (64, 64))  # components, dimension
ENERGIES: dict[str, Callable[[], tuple[nn.Module, int]]] = {
    **{f"MLP 2-{w}-{w}-1": lambda w=w: mlp(w) for w in (16, 64, 256, 512)},
    **{f"mixture of {k} in {d}-d": lambda k=k, d=d: (Mixture(k, d), d) for k, d in MIXTURES},
    **{f"Rosenbrock in {d}-d": lambda d=d: (Rosenbrock(), d) for d in (2, 32, 128, 512)},
}


@contextmanager
def laid_out(side_by_side: bool):
    with mock.patch.object(program, "_is_small", lambda *_: side_by_side):
        yield


def sampler(energy: nn.Module) -> fl.Langevin:
    return fl.Langevin(energy, step_size=1e-3, noise_std=None, n_steps=N_STEPS, engine="graph", seed=1)


def eager(energy: nn.Module, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    for _ in range(N_STEPS):
        (gradient,) = torch.autograd.grad(energy(x).sum(), x)
        with torch.no_grad():
            x.add_(gradient, alpha=-1e-3).add_(torch.randn_like(x), alpha=math.sqrt(2e-3))
    return x.detach()


def ratios(energy: nn.Module, x: Tensor) -> tuple[float, float]:
    """The speed side by side over that together, and over that of the loop."""
    together, side_by_side = sampler(energy), sampler(energy)
    for each, layout in ((together, False), (side_by_side, True)):
        with laid_out(layout):
            each(x)
    calls = {
        "together": lambda: together(x),
        "side by side": lambda: side_by_side(x),
        "eager": lambda: eager(energy, x),
    }
    in_turns(calls, 1)
    seconds = in_turns(calls, ROUNDS)
    ours = seconds["side by side"]
    return paired_ratio(seconds["together"], ours)[0], paired_ratio(seconds["eager"], ours)[0]


def words(energy: nn.Module, dimension: int) -> int:
    """Numbers of scratch memory of a sample."""
    found: list[int] = []
    rule = program._places

    def watched(*args):
        places = rule(*args)
        found.append(places[1])
        return places

    with mock.patch.object(program, "_places", watched), laid_out(False):
        sampler(energy)(torch.zeros(2, dimension))
    return found[-1]


def main(names: list[str]) -> None:
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, K = {N_STEPS}\n")
    titles = [f"{n:,} chain{'s' if n > 1 else ''}" for n in CHAINS]
    print(f"| energy | numbers | {' | '.join(titles)} |\n| --- | --- |{' --- |' * len(CHAINS)}")
    for name in names:
        torch.manual_seed(0)
        energy, dimension = ENERGIES[name]()
        energy.requires_grad_(False)
        cells = [f"{a:.2f}, {b:.1f}" for a, b in (ratios(energy, torch.randn(n, dimension)) for n in CHAINS)]
        print(f"| {name} | {words(energy, dimension)} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:] or list(ENERGIES))
