"""The whole step, or ten of them unrolled, under torch.compile, noise included; or the network alone in the loop.

The network alone is for hooks that assign tensors, which torch.compile cannot trace through `torch.func.grad`. On a CPU
with `fallback_random`: there, inductor's random numbers are ten times slower than torch's.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from . import eager

if TYPE_CHECKING:
    from works import Work

MISSING = None


def supports(
    work: Work,
    *,
    unroll: int = 1,
    precision: str = "fp32",
    mode: str | None = None,
    graph: bool = False,
    whole_step: bool = True,
) -> str | None:
    if isinstance(getattr(work.module, "evaluations", None), int):
        return "it compiles anew whenever a Python counter has changed"
    has_hooks = any(module._forward_pre_hooks for module in work.module.modules())
    if whole_step and has_hooks:
        return "torch.func.grad cannot trace hooks that assign tensors"
    if not whole_step and not has_hooks:
        return "without hooks the whole step is compiled"
    if (graph or mode == "reduce-overhead") and work.device != "cuda":
        return "CUDA graphs are for GPUs"
    if work.n_steps % unroll:
        return f"{work.n_steps} steps are not a multiple of {unroll}"
    return eager.supports(work, precision=precision)


def make(
    work: Work,
    *,
    unroll: int = 1,
    precision: str = "fp32",
    mode: str | None = None,
    graph: bool = False,
    whole_step: bool = True,
) -> Callable[[Tensor, int, float], Tensor]:
    if not whole_step:
        network = torch.compile(work.module, fullgraph=True, dynamic=False)
        return eager.make(dataclasses.replace(work, module=network), precision=precision)

    def density(x: Tensor) -> Tensor:
        return work.log_density(x).sum()

    score = work.score if work.kind == "score" else torch.func.grad(density)
    grad_clip, bounds, noise_first = (work.options.get(name) for name in ("grad_clip", "bounds", "noise_first"))

    def steps(x: Tensor, noise_std: Tensor) -> Tensor:
        for _ in range(unroll):
            if noise_first:
                x = x + noise_std * torch.randn_like(x)
            if noise_first == "clamp":
                x = x.clamp(*bounds)
            with torch.autocast(x.device.type, torch.bfloat16) if precision == "bf16" else contextlib.nullcontext():
                s = score(x)
            if grad_clip is not None:
                s = s.clamp(-grad_clip, grad_clip)
            x = x + work.step_size * s
            if not noise_first:
                x = x + noise_std * torch.randn_like(x)
            if bounds is not None:
                x = x.clamp(*bounds)
        return x

    compiled = _compile(steps, work.device, mode)
    replays: dict[float, Callable[[Tensor], Tensor]] = {}

    def advance(x: Tensor, noise_std: float, sigma: Tensor) -> Tensor:
        if graph:
            if noise_std not in replays:
                replays[noise_std] = _captured(compiled, x, sigma)
            return replays[noise_std](x)
        if mode == "reduce-overhead":
            torch.compiler.cudagraph_mark_step_begin()
            return compiled(x, sigma).clone()  # the next replay overwrites the memory of the graph
        return compiled(x, sigma)

    def chain(x0: Tensor, n_steps: int, noise_std: float) -> Tensor:
        if n_steps % unroll:
            raise ValueError(f"n_steps must be a multiple of {unroll}, got {n_steps}")
        x, sigma = x0, torch.tensor(noise_std, device=x0.device)
        with eager.by_hand("fp32", x0.device.type), torch.no_grad():
            for _ in range(n_steps // unroll):
                x = advance(x, noise_std, sigma)
        return x.clone() if graph else x

    return chain


def _captured(compiled: Callable[[Tensor, Tensor], Tensor], x: Tensor, sigma: Tensor) -> Callable[[Tensor], Tensor]:
    """A manually captured CUDA graph of one call of the compiled code."""
    state = x.clone()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            compiled(state, sigma)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        state.copy_(compiled(state, sigma))

    return functools.partial(_replay, graph, state, sigma)


def _replay(graph: torch.cuda.CUDAGraph, state: Tensor, sigma: Tensor, x: Tensor) -> Tensor:
    """`sigma` is kept alive for the graph, which reads it."""
    if x is not state:
        state.copy_(x)
    graph.replay()
    return state


def _compile(function: Callable[..., Any], device: str, mode: str | None = None) -> Callable[..., Any]:
    """`fallback_random` is set per function, because a recompilation loses the process-wide setting."""
    options = {"fallback_random": True} if device == "cpu" else None
    return torch.compile(function, fullgraph=True, mode=mode, options=options)


def make_update(n: int, device: str) -> Callable[[float, float], Tensor]:
    x, score = torch.zeros(n, device=device), torch.ones(n, device=device)

    def step(x: Tensor, score: Tensor, step_size: Tensor, noise_std: Tensor) -> None:
        x.add_(step_size * score + noise_std * torch.randn_like(x))

    compiled = _compile(step, device)
    numbers: dict[tuple[float, float], tuple[Tensor, Tensor]] = {}

    def update(step_size: float, noise_std: float) -> Tensor:
        key = (step_size, noise_std)
        if key not in numbers:
            numbers[key] = (torch.tensor(step_size, device=device), torch.tensor(noise_std, device=device))
        compiled(x, score, *numbers[key])
        return x

    return update
