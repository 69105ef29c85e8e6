"""Ways to sum the gradients of data and samples over ranks, beside one another: the measurement behind `Ranks.sum_`.

    torchrun --nproc-per-node=2 benchmarks/gradient_reduction.py

Each computes the loss mean f(x⁻) - mean f(x⁺) of its rank's items and its gradient, on a CPU with one thread a rank,
and the mean over ranks: by one flattened all-reduce, as `fl.train` does, or by DistributedDataParallel; with two
forward passes, one of the data and one of the samples, or with one of both together. Their gradients are compared
before they are timed. Rounds run each once. Prints, in Markdown, the least time on the last rank, the least processor
time of all ranks together, and the ratios of both to the first row's; on a machine with other work to do these are
steadier than medians, and processor time, which leaves out waiting, is steadiest.
"""

from __future__ import annotations

import copy
import functools
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from timing import once
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

import fastlangevin as fl
from fastlangevin.distributed.ranks import Ranks

WARMUP = 3
OURS, NONE = "one all-reduce, two forward passes", "no reduction, two forward passes"
Gradient = Callable[[], list[Tensor]]


class Times(NamedTuple):
    """Of one call: seconds on the last rank, and processor seconds of all ranks."""

    seconds: float
    processor: float


def two_passes(f: nn.Module, x_data: Tensor, x: Tensor) -> Tensor:
    return f(x).mean() - f(x_data).mean()


def one_pass(f: nn.Module, x_data: Tensor, x: Tensor) -> Tensor:
    f_data, f_samples = f(torch.cat([x_data, x])).chunk(2)
    return f_samples.mean() - f_data.mean()


def ways(network: nn.Module, ranks: Ranks, x_data: Tensor, x: Tensor) -> dict[str, Gradient]:
    """Each returns the gradients of this rank's copy of the network."""
    made: dict[str, Gradient] = {}
    for n, loss in (("two forward passes", two_passes), ("one forward pass", one_pass)):
        own = copy.deepcopy(network)
        made[f"one all-reduce, {n}"] = functools.partial(_summed, own, own, ranks, loss, x_data, x)
        wrapped = DistributedDataParallel(copy.deepcopy(network))
        made[f"DistributedDataParallel, {n}"] = functools.partial(
            _summed, wrapped, wrapped.module, None, loss, x_data, x
        )
        alone = copy.deepcopy(network)
        made[f"no reduction, {n}"] = functools.partial(_summed, alone, alone, None, loss, x_data, x)
    return made


def _summed(
    f: nn.Module, module: nn.Module, ranks: Ranks | None, loss: Callable[..., Tensor], x_data: Tensor, x: Tensor
) -> list[Tensor]:
    module.zero_grad()
    value = loss(f, x_data, x)
    (value if ranks is None else value / ranks.size).backward()
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    if ranks is not None:
        ranks.sum_(gradients)
    return gradients


def check(made: dict[str, Gradient]) -> None:
    """Raises AssertionError unless all ways that reduce give the same gradient, to the rounding of float32 sums."""
    expected = torch.cat([g.flatten() for g in made[OURS]()])
    for name, gradient in made.items():
        apart = torch.cat([g.flatten() for g in gradient()]) - expected
        if not name.startswith("no reduction") and not apart.norm() <= 1e-5 * expected.norm():
            raise AssertionError(f"{name}: {apart.norm() / expected.norm():.1e} of the gradient away from {OURS}")


def measure(made: Mapping[str, Callable[[], object]], ranks: Ranks, rounds: int) -> dict[str, list[Times]]:
    """Round by round."""
    times: dict[str, list[Times]] = {name: [] for name in made}
    for i in range(WARMUP + rounds):
        for name, call in made.items():
            ranks.most(0)  # all begin together
            busy = time.process_time()
            seconds = once(call)
            found = ranks.gather(Times(seconds, time.process_time() - busy))
            if i >= WARMUP:
                times[name].append(Times(max(t.seconds for t in found), sum(t.processor for t in found)))
    return times


def table(title: str, times: Mapping[str, list[Times]]) -> str:
    lines = [f"| {title} | ms | ratio | processor ms | ratio |", "| --- | --- | --- | --- | --- |"]
    least = {name: Times(*map(min, zip(*values, strict=True))) for name, values in times.items()}
    for name in [OURS, *(name for name in times if name != OURS)]:
        cells = [f"{t * 1e3:.2f} | {t / ours:.2f}" for t, ours in zip(least[name], least[OURS], strict=True)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    ranks = Ranks(dist.group.WORLD, dist.new_group(backend="gloo"))
    for image_size, channels, items, rounds in ((8, 1, 16, 151), (32, 3, 8, 21)):
        torch.manual_seed(0)
        network = fl.models.ConvNet(image_size, channels, 64)
        torch.manual_seed(1 + ranks.rank)
        x_data, x = torch.rand(2, items, channels, image_size, image_size) * 2 - 1
        made = ways(network, ranks, x_data, x)
        check(made)
        times = measure(made, ranks, rounds)
        if ranks.is_main:
            title = f"ConvNet {channels}×{image_size}×{image_size}, n_f = 64, {ranks.size} ranks of {items} items"
            print(table(title, times), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
