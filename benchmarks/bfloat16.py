"""What precision="bf16" and "fp16" may be computed in on a CPU, beside one another: the measurements behind the rules.

    python benchmarks/bfloat16.py [WORK …]

Prints a table in Markdown: the multiply-adds of a product, for all chains, and the speed of torch's operators, and of
native kernels where there are some, in 16 bits, relative to fp32 as `fl.Langevin` computes it: median ratios over
seven interleaved rounds of whole chains, and "< 0.1" where a single one took ten times as long as fp32. The last column
has what the rule chooses on this processor. WORK: names in `works.WORKS` and `works.NETWORKS`, by default all networks.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest import mock

import torch
from timing import in_turns, paired_ratio
from torch import Tensor
from works import NETWORKS, WORKS, Work

import fastlangevin as fl
from fastlangevin.kernels import build, native
from fastlangevin.kernels.native import BFloat16Rate
from fastlangevin.score import cpu_precision

ROUNDS, MOST_TIMES_LONGER = 7, 10
ALL = WORKS | {name: make for name, make in NETWORKS.items() if not name.startswith("formula")}
# Precision, instruction set of native kernels, the engines that have some, kind of the processor that chooses them.
COLUMNS = {
    "torch's operators": ("bf16", "avx512", None, BFloat16Rate.AMX),
    "torch's operators in fp16": ("fp16", "avx512", None, BFloat16Rate.AMX),
    "AVX512_BF16 kernels": ("bf16", "avx512", ("convnet",), BFloat16Rate.DOUBLE),
    "AMX kernels": ("bf16", "amx", ("convnet", "mlp"), BFloat16Rate.DOUBLE),
}


def chain(work: Work, precision: str) -> tuple[fl.Langevin, Callable[[], Tensor]]:
    options = {"n_steps": work.n_steps, "step_size": work.step_size, "noise_std": work.noise_std, **work.options}
    work = work.with_own_network()
    sampler = fl.Langevin(**{work.kind: work.module}, precision=precision, seed=1, **options)
    return sampler, lambda: sampler(work.x0, *work.args)


@contextmanager
def forced(capability: str) -> Iterator[None]:
    before = native.cpu_capability()
    native.set_cpu_capability(capability)
    try:
        yield
    finally:
        native.set_cpu_capability(before)


def as_asked(work: Work, precision: str, capability: str, rate: BFloat16Rate) -> Callable[[], Tensor]:
    """In that precision with an instruction set on a processor of a kind, whatever the sizes."""
    _, call = chain(work, precision)

    def run() -> Tensor:
        with (
            forced(capability),
            mock.patch.object(cpu_precision, "ways", lambda precision, device: (precision,)),
            mock.patch.object(native, "cpu_bfloat16_rate", lambda: rate),
        ):
            return call()

    return run


def row(work: Work) -> list[str]:
    means: list[float] = []
    asked, call = chain(work, "bf16")
    rule = cpu_precision.why_bfloat16

    def asked_rule(multiply_adds: int, n_products: int, *others: int) -> str | None:
        means.append(multiply_adds / max(n_products, 1))
        return rule(multiply_adds, n_products, *others)

    with mock.patch.object(cpu_precision, "why_bfloat16", asked_rule):
        call()
    calls: dict[str, Callable[[], object]] = {"fp32": chain(work, "fp32")[1]}
    for name, (precision, capability, engines, rate) in COLUMNS.items():
        if (engines is None or asked.plan.engine in engines) and capability in build.instruction_sets():
            calls[name] = as_asked(work, precision, capability, rate)
    in_turns(calls, 1)
    once = {name: times[0] for name, times in in_turns(calls, 1).items()}
    quick = {name: call for name, call in calls.items() if once[name] <= MOST_TIMES_LONGER * once["fp32"]}
    seconds = in_turns(quick, ROUNDS)
    shown = dict.fromkeys(calls, f"< {1 / MOST_TIMES_LONGER}")
    shown |= {name: f"{paired_ratio(seconds['fp32'], times)[0]:.2f}" for name, times in seconds.items()}
    cells = [shown.get(name, "") for name in COLUMNS]
    return [work.name, f"{means[0]:.2g}" if means else "", *cells, asked.plan.precision]


def main(names: list[str]) -> None:
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {native.cpu_bfloat16_rate().name}\n")
    head = ["network", "multiply-adds a product", *COLUMNS, "the rule"]
    print(f"| {' | '.join(head)} |\n| {' | '.join('---' for _ in head)} |")
    for name in names:
        print(f"| {' | '.join(row(ALL[name]()))} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("works", nargs="*", metavar="WORK")
    options = parser.parse_args()
    for name in options.works:
        if name not in ALL:
            parser.error(f"no work {name!r}, known are {', '.join(ALL)}")
    native.load_cpu()
    main(options.works or [name for name in ALL if name not in ("mixture", "double-well")])
