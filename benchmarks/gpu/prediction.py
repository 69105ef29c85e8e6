"""What a step of a network of a public code should take on an H100 or H200 by arithmetic: nothing here runs on a GPU.

    python benchmarks/gpu/prediction.py jem igebm-parametrization

Every kernel takes 2 µs for its launch in a graph, first reads and last writes, and then the larger of its bytes at
5.5 TB/s, the rate of L2, and its multiply-adds at a third of 989 TFLOP/s (fp32: of 60). A product, fused or torch's,
reads its image once for each tap, in tiles of the same size, as if L1 gave no hits. torch adds the bias of a
convolution in another kernel. Views take nothing. The update is one more kernel.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from pathlib import Path

if __name__ == "__main__":  # makes benchmarks/ importable, as in pytest
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from unittest import mock

import works
from works import Work

import fastlangevin as fl
from fastlangevin.kernels.triton import fused
from fastlangevin.kernels.triton.fused.plan import plan, supports
from fastlangevin.network.graph import Call, Graph
from fastlangevin.network.inputs import Inputs
from fastlangevin.network.pointwise import Pointwise
from fastlangevin.network.products import Product, product
from fastlangevin.score.graph_program import Program

PROCESSORS, KERNEL, L2 = 132, 2.0, 5.5e6  # multiprocessors, µs, bytes per µs
PRODUCTS = {2: 989e6 / 3, 4: 60e6 / 3}  # operations per µs, by the bytes of a number
VIEWS = {"reshape", "view", "unsqueeze", "squeeze", "expand", "t", "transpose", "permute", "select", "slice"}


def step(work: Work, precision: str, fuses: bool) -> tuple[int, float, float]:
    """The kernels of a step of a work on the CPU, and its µs without and with hits in L1."""
    sampler = fl.Langevin(
        **{work.kind: work.module}, engine="graph", n_steps=1, step_size=1.0, noise_std=1.0, precision=precision
    )
    graph = sampler._score.bind(work.x0, Inputs(work.args))._recording.graph
    program = Program(graph, with_energies=False, fuses=fuses)
    calls = [call for call in program.calls if call.name not in VIEWS]
    update = KERNEL + 12 * work.x0.numel() / L2
    times = (update + sum(microseconds(program.graph, call, hits) for call in calls) for hits in (False, True))
    return 1 + len(calls) + sum(map(has_bias, calls)), *times


def has_bias(call: Call) -> bool:
    return call.name == "convolution" and call.args[2] is not None


def microseconds(graph: Graph, call: Call, hits: bool) -> float:
    def n_bytes(values: frozenset[int]) -> int:
        return sum(math.prod(graph.values[v].shape) * graph.values[v].dtype.itemsize for v in values)

    image, p, bias = None, None, 0.0
    if isinstance(call.operator, Pointwise) and call.operator.product is not None:
        (image, weight), p = (arg.index for arg in call.args[:2]), call.operator.product
        others = call.reads - {image, weight}
    elif call.name.startswith("convolution"):
        bias = KERNEL + 2 * n_bytes(call.returned) / L2 if has_bias(call) else 0.0
        alone = dataclasses.replace(call, args=(*call.args[:2], None, *call.args[3:])) if has_bias(call) else call
        found = product(graph, alone)
        assert found is not None
        (image, _), p, others = found.factors, found.product, frozenset()
    else:
        return KERNEL + (n_bytes(call.reads) + n_bytes(call.returned)) / L2
    size = graph.values[image].dtype.itemsize
    moved = n_bytes(others) + n_bytes(call.returned) + size * _factors(p, hits)
    return bias + KERNEL + max(moved / L2, _operations(p) / PRODUCTS[size])


def _factors(p: Product, hits: bool) -> float:
    """Numbers that the programs read of image and weight from L2."""
    taps = p.weight[2] * p.weight[3] / (p.stride**2 if p.is_gradient else 1)
    if not supports(p):  # of the state, whose few planes stay in L1
        return math.prod(p.image) + math.prod(p.weight)
    found = plan(p, PROCESSORS)
    pixels = min(1.0 if hits else taps, taps) * found.constants["M"]
    return math.prod(found.grid) * p.image[1] * (pixels + taps * found.constants["N"])


def _operations(p: Product) -> float:
    pixels = math.prod((p.image if p.is_gradient else p.result)[i] for i in (0, 2, 3))
    return 2.0 * pixels * math.prod(p.weight)


if __name__ == "__main__":
    with mock.patch.object(fused, "Launch", lambda operator: None):
        for name in sys.argv[1:]:
            for precision in ("fp32", "bf16"):
                for fuses in (False, True):
                    n, time, with_hits = step(works.network(name, "cpu"), precision, fuses)
                    what = f"{name}, {precision}, {'fused' if fuses else 'operators'}: {n} kernels, {time:.0f} µs"
                    print(f"{what}; with hits in L1 {with_hits:.0f} µs")
