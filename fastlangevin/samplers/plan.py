"""How a sampler runs on a device."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from .. import kernels
from ..chains.cuda_graph import GraphCache
from ..score import ScoreEngine
from ..score import precision as precisions

WHOLE_CHAIN_ENGINES = ("mlp", "analytic")


@dataclass(frozen=True)
class Plan:
    """What the "auto" options of a sampler resolve to on a device, and why.

    Attributes:
        device: type of the device: "cpu", "cuda".
        engine: the engine that computes the score: "autograd", "graph", "convnet", "mlp", "analytic"
            or "compiled".
        backend: the backend of the update: "cuda", "cpu", "triton" or "reference".
        graph: whether the steps are captured as CUDA graphs.
        precision: what the network computes in: "fp32", "tf32", "bf16" or "fp16"; on a CPU that is "fp32" where
            "fp16" was asked for, and may be where "bf16" was.
        reasons: one sentence for each engine, kernel, backend or graph that is not used, with the reason.

    Examples:
        >>> def energy(x):  # Python decides by a value, so it must run at each step
        ...     return x.square().sum(1) if x.abs().max() < 10 else 100 * x.square().sum(1)
        >>> plan = fl.Langevin(energy, step_size=0.1, noise_std=None, seed=1).plan_for("cpu", (8, 2))
        >>> plan.engine
        'autograd'
        >>> print(*plan.reasons[:2], sep="; ")  # doctest: +ELLIPSIS
        engines 'mlp' and 'convnet' not used: ...; engine 'graph' not used: the energy reads values of tensors ...
    """

    device: str
    engine: str
    backend: str
    graph: bool
    precision: str
    reasons: tuple[str, ...] = field(repr=False)


def make_plan(
    engine: ScoreEngine,
    backend: kernels.Backend,
    asked_backend: str,
    graphs: GraphCache,
    device: torch.device,
    shape: tuple[int, ...] | None,
) -> Plan:
    """The plan of chains on `device`. May compile or load a kernel library.

    Args:
        engine: of the score, with its precision.
        backend: what `asked_backend` resolved to on `device`.
        asked_backend: the sampler's `backend` option.
        graphs: the sampler's captured chains.
        shape: (B, *event) of the states; None: that of the last call, or what the network's first layer suggests.
    """
    precisions.check(engine.precision, device)
    name, precision, reasons = engine.explain(device, shape)
    kernels_of_the_engine = "cpu" if device.type == "cpu" else "triton"
    if name in WHOLE_CHAIN_ENGINES and asked_backend not in ("auto", kernels_of_the_engine):
        reasons.append(f"steps are taken one by one: backend={asked_backend!r} was requested")
    for other in kernels.BACKENDS.values():
        if other is backend:
            break
        reasons.append(f"backend {other.name!r} not used: {other.unsupported(device) or 'not requested'}")
    no_graph = graphs.unsupported(device)
    if no_graph is not None:
        reasons.append(f"graph not used: {no_graph}")
    return Plan(device.type, name, backend.name, no_graph is None, precision, tuple(reasons))
