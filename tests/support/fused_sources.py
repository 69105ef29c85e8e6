"""The fused calls of residual networks, to compile."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from unittest import mock

import residual_networks
import torch
from triton_source import source

import fastlangevin as fl
from fastlangevin.kernels.triton.fused import Launch
from fastlangevin.network.inputs import Inputs
from fastlangevin.network.pointwise import Extent, Op, Pointwise, Section
from fastlangevin.score import cpu_precision
from fastlangevin.score.graph_program import Program

# By architecture, parts of the names of calls: those with most values at once, and with an order of rows of their own.
NARROWEST: dict[int, tuple[str, ...]] = {
    80: ("silu_backward-of-gradient3x3",),
    86: (),
    89: (),
    90: ("mean-of-forward3x3", "gradient3x3s2", "quarter"),
    100: ("mean-of-forward3x3", "gradient4x4s2"),
    120: ("mean-of-forward3x3",),
}
TYPES = {torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16"}


def sources(precision: str, only: tuple[str, ...] | None = None) -> Iterator[tuple]:
    """(name, source, options) of the calls for 64 images of 32×32, with 64 and 128 channels: of all, or of the first
    one for each part of a name.
    """
    found: set[str] = set()
    for network in residual_networks.NAMES:
        for k, operator in enumerate(recorded(network, precision)):
            name = called(operator)
            wanted = {part for part in only or () if part in name} - found
            if only is None or wanted:
                found |= wanted
                yield f"fused-{precision}-{network}-{k}-{name}", *compiled(operator, precision)
    assert found == set(only or ())


def called(operator: Pointwise) -> str:
    """By its last instruction, what it reads or does beside, and its product."""
    instructions = [i for section in operator.sections for i in section.instructions]
    p = operator.product
    last = instructions[-1].op.name.lower() if instructions else "sum"
    quarter = "-quarter" if any(i.op == Op.LOAD and i.b == Extent.QUARTER for i in instructions) else ""
    mean = "-mean" if operator.before is not None else ""
    of = "" if p is None else f"-of-{'gradient' if p.is_gradient else 'forward'}{p.weight[2]}x{p.weight[3]}s{p.stride}"
    return f"{last}{quarter}{mean}{of}"


@functools.cache
def recorded(network: str, precision: str) -> list[Pointwise]:
    """Recorded with one image: calls for 64 have the same instructions."""
    energy, x, args = residual_networks.seeded(network, 64, (32, 32), 1, torch.float32)
    sampler = fl.Langevin(energy, engine="graph", n_steps=1, step_size=0.1, noise_std=0.1, precision=precision)
    with mock.patch.object(cpu_precision, "ways", lambda precision, device: (precision,)):  # as on a GPU
        bound = sampler._score.bind(x, Inputs(args))
    program = Program(bound._recording.graph, False, fuses=True)
    return [_at_batch(operator, 64) for operator in program.fused]


def compiled(operator: Pointwise, precision: str) -> tuple:
    compute = {"fp16": "*fp16", "bf16": "*bf16", "fp32": "*fp32"}[precision]
    operands = [i.a for section in operator.sections for i in section.instructions if i.op == Op.LOAD]
    pointers: dict[str, str | tuple[str, ...]] = {
        "operand_pointers": (compute,) * (max(operands, default=-1) + 1),
        "output_pointers": tuple(TYPES[dtype] for dtype in operator.dtypes),
    }
    if operator.product is not None:
        pointers |= {"a_pointer": compute, "w_pointer": compute}
    planned = Launch(operator).planned(processors=132)
    return source(planned.kernel, pointers, planned.constants), planned.options


def _at_batch(operator: Pointwise, batch: int) -> Pointwise:
    def of_batch(section: Section | None) -> Section | None:
        return section and dataclasses.replace(section, shape=(batch, *section.shape[1:]))

    p = operator.product
    if p is not None:
        p = dataclasses.replace(p, image=(batch, *p.image[1:]), result=(batch, *p.result[1:]))
    return dataclasses.replace(operator, main=of_batch(operator.main), before=of_batch(operator.before), product=p)
