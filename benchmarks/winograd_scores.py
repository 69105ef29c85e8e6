"""Scores by native programs with convolutions by Winograd's filtering and by direct arithmetic, one thread.

    python benchmarks/winograd_scores.py [WORK …]

Prints two tables in Markdown: of public networks the speed over direct arithmetic, as CPU time of the thread, median
and quartiles of interleaved rounds, and the errors of both and of torch's float32 against float64, relative, medians
over states; and the speed of layers, sixteen one after the other and their gradients, also where direct arithmetic is
taken: of 3×3 windows, and of 4×4 windows and step 2 to images of half the size and back, in whose gradients and
transposed convolutions, half of all products, windows are 2×2.
FASTLANGEVIN_CPU_CAPABILITY selects an instruction set. WORK: names in `works.NETWORKS`.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from unittest import mock

import torch
from torch import Tensor, nn
from works import NETWORKS, Work

from fastlangevin.kernels import native
from fastlangevin.network.inputs import Inputs
from fastlangevin.network.native import winograd
from fastlangevin.network.target import Target
from fastlangevin.score.graph import GraphEngine, NativeGraphScore

ROUNDS, SECONDS = 15, 0.1
CHECKED = 16  # states whose errors are measured
PUBLIC = ("jem", "igebm-parametrization", "improved-cd", "ncsn", "latent-posterior", "swish-cnn")
# Channels and height of square images.
LAYERS = ((16, 32, 32), (32, 32, 32), (32, 64, 32), (64, 64, 16), (64, 128, 16), (128, 128, 16), (256, 256, 8))
SMALL = ((64, 64, 8), (64, 64, 4), (64, 64, 3))
HALVED = ((32, 64, 32), (64, 128, 16), (256, 256, 8), (64, 64, 8), (64, 64, 6), (64, 64, 4), (16, 16, 16), (3, 64, 32))


def scores(kind: str, module: nn.Module, x: Tensor, args: tuple[Tensor, ...], gain: float | None) -> NativeGraphScore:
    """gain: the least for which Winograd's filtering is taken; None: as it is."""
    with mock.patch.object(winograd, "_GAIN", winograd._GAIN if gain is None else gain):
        bound = GraphEngine(Target(kind, module), "fp32").bind(x, Inputs(args))
    if not isinstance(bound, NativeGraphScore):
        raise SystemExit(f"there is no native program: {bound.fusion}")
    return bound


def cpu_seconds(call: Callable[[], object], n: int = 1) -> float:
    start = time.thread_time()
    for _ in range(n):
        call()
    return (time.thread_time() - start) / n


def speed(direct: Callable[[], object], tiles: Callable[[], object]) -> str:
    tiles()
    n = max(1, round(SECONDS / cpu_seconds(direct)))
    ratios = [cpu_seconds(direct, n) / cpu_seconds(tiles, n) for _ in range(ROUNDS)]
    low, median, high = statistics.quantiles(ratios, n=4)
    return f"{median:.2f} ({low:.2f} … {high:.2f})"


def by_torch(work: Work) -> Tensor:
    if work.kind == "score":
        return work.score(work.x0).detach()
    x = work.x0.clone().requires_grad_()
    return torch.autograd.grad(work.log_density(x).sum(), x)[0]


def error(found: Tensor, exact: Tensor) -> str:
    off = (found.double() - exact).flatten(1).norm(dim=1) / exact.flatten(1).norm(dim=1)
    return f"{off.median():.1e}"


def network_row(name: str) -> str:
    work = NETWORKS[name]()
    tiles, direct = (scores(work.kind, work.module, work.x0, work.args, gain) for gain in (None, 1e9))
    exact, in_float32 = (by_torch(w)[:CHECKED] for w in (work.in_float64(), work))
    errors = (error(s[:CHECKED], exact) for s in (tiles(work.x0), direct(work.x0), in_float32))
    return f"| {name} | {speed(lambda: direct(work.x0), lambda: tiles(work.x0))} | {' | '.join(errors)} |"


def layer_row(n_in: int, n_out: int, size: int, halves: bool) -> str:
    torch.manual_seed(0)
    there = [nn.Conv2d(n_in, n_out, *((4, 2, 1) if halves else (3, 1, 1)), bias=False) for _ in range(8)]
    kind = nn.ConvTranspose2d if halves else nn.Conv2d
    back = [kind(n_out, n_in, *((4, 2, 1) if halves else (3, 1, 1)), bias=False) for _ in range(8)]
    net = nn.Sequential(*(layer for pair in zip(there, back, strict=True) for layer in pair))
    for p in net.parameters():
        p.data *= 1.7  # so that the numbers neither grow nor vanish
    x = torch.randn(8, n_in, size, size)
    module = Squares(net)
    tiles, direct = (scores("energy", module, x, (), gain) for gain in (0.0, 1e9))
    windows = "4×4 and step 2" if halves else "3×3"
    return f"| {windows}, {n_in}, {n_out} channels, {size}×{size} | {speed(lambda: direct(x), lambda: tiles(x))} |"


class Squares(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * self.net(x).flatten(1).square().sum(1)


def main(names: list[str]) -> None:
    torch.set_num_threads(1)
    why = native.load_cpu()
    if why is not None:
        raise SystemExit(f"there are no native kernels: {why}")
    print(f"torch {torch.__version__}, {native.cpu_capability()}\n")
    print("| network | speed | error | with direct arithmetic | of torch |\n| --- | --- | --- | --- | --- |")
    for name in names:
        print(network_row(name), flush=True)
    print("\n| layers | speed |\n| --- | --- |")
    for layers, halves in ((LAYERS + SMALL, False), (HALVED, True)):
        for layer in layers:
            print(layer_row(*layer, halves), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("works", nargs="*", metavar="WORK")
    options = parser.parse_args()
    for name in options.works:
        if name not in NETWORKS:
            parser.error(f"no work {name!r}, known are {', '.join(NETWORKS)}")
    main(options.works or list(PUBLIC))
