"""What the ranks' votes of an iteration cost: whether a rank failed or was told to stop, one number each, by gloo.

    torchrun --nproc-per-node=2 benchmarks/votes.py

Rounds run one vote and three, of which an iteration once consisted; a time is that of the last rank. Prints, in
Markdown, the least time and the median in µs.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch
from gradient_reduction import measure
from torch import distributed as dist

from fastlangevin.distributed.ranks import Ranks

ROUNDS = 1000


def ways(ranks: Ranks) -> dict[str, Callable[[], object]]:
    return {
        "one vote": lambda: ranks.most(0),
        "three votes": lambda: [ranks.most(0) for _ in range(3)],
    }


def main() -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    ranks = Ranks(dist.group.WORLD, dist.new_group(backend="gloo"))
    times = measure(ways(ranks), ranks, ROUNDS)
    if ranks.is_main:
        print(f"| {ranks.size} ranks | least µs | median |\n| --- | --- | --- |")
        for name, found in times.items():
            values = [t.seconds for t in found]
            print(f"| {name} | {min(values) * 1e6:.0f} | {statistics.median(values) * 1e6:.0f} |")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
