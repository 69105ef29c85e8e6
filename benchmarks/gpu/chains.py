"""Chains of the paper's networks on one GPU: Langevin's engines in captured graphs, and handwritten loops."""

from __future__ import annotations

import contextlib
import copy
import functools
import gc
import itertools
from collections.abc import Callable, Iterator

import checks
import torch
from contenders import eager
from timing import Call, spread
from torch import Tensor, nn

import fastlangevin as fl
from gpu.timing import Row, failed, ratio, times

PRECISIONS = ("fp32", "tf32", "bf16", "fp16")
BATCH, N_STEPS, NOISE = 64, 100, 0.01
TARGETS = {  # the minimum ratio of a step to a peer of the same run
    ("chain n_f=64 32×32 batch 64", "auto fp16", "eager fp32"): "7×, at most 95 µs",
    ("chain n_f=64 32×32 batch 64", "auto bf16", "eager fp32"): "7×, at most 95 µs",
    ("chain n_f=64 32×32 batch 64", "auto fp16", "eager tf32"): "3×",
    ("chain n_f=64 32×32 batch 64", "auto bf16", "eager tf32"): "3×",
    ("chain n_f=32 32×32 batch 64", "auto fp16", "eager fp32"): "7×",
    ("chain n_f=32 32×32 batch 64", "autograd tf32", "eager tf32"): "3×",
    ("chain n_f=32 32×32 batch 64", "autograd bf16", "eager bf16"): "3×",
    ("chain n_f=64 32×32 batch 64", "autograd tf32", "eager fp32"): "2.5×",
    ("chain n_f=64 beside compiled", "auto fp16", "compiled fp16"): "1.4×",
    ("chain n_f=64 beside compiled", "auto bf16", "compiled bf16"): "1.4×",
}


class Problem:
    """A network and x0 in a precision and its usual layout: contiguous for fp32, else channels_last."""

    device = "cuda"

    def __init__(
        self, features: int, precision: str, image_size: int = 32, batch: int = BATCH, engine: str = "autograd"
    ) -> None:
        torch.manual_seed(0)
        layout = torch.contiguous_format if precision == "fp32" else torch.channels_last
        self.precision, self.engine = precision, engine
        self.net: nn.Module = fl.models.ConvNet(image_size, 3, features).to(self.device, memory_format=layout)
        shape = (batch, 3, image_size, image_size)
        self.x0 = torch.empty(shape, device=self.device).uniform_(-1, 1).contiguous(memory_format=layout)

    def eager(self, n_steps: int = N_STEPS, noise: float = NOISE) -> Tensor:
        """The handwritten loop."""
        with eager.by_hand(self.precision, self.device):
            return eager.chain(eager.by_autograd(self.net), self.x0, n_steps, step_size=1.0, noise_std=noise)

    def sampler(self, n_steps: int = N_STEPS, noise: float = NOISE) -> fl.Langevin:
        return fl.Langevin(
            log_density=self.net,
            n_steps=n_steps,
            step_size=1.0,
            noise_std=noise,
            precision=self.precision,
            graph=True,
            engine=self.engine,
            seed=1,
        )

    def disagreement(self, run: Callable[[int, float], Tensor]) -> str | None:
        """Why a chain of three steps without noise is not the handwritten loop in float64, or None.

        Args:
            run: maps the number of steps and the noise to the last states.
        """
        wide = copy.deepcopy(self.net).double().to(memory_format=torch.contiguous_format)
        score = eager.by_autograd(wide)
        exact = eager.chain(score, self.x0.double().contiguous(), 3, step_size=1.0, noise_std=0.0)
        why = checks.without_noise(run(3, 0.0), exact, self.x0, self.precision)
        return None if why is None else f"after 3 steps without noise {why}"


def chain(features: int, image_size: int = 32, batch: int = BATCH) -> list[Row]:
    """A step of the paper's network in a chain of K = 100: the engines in captured graphs, and the eager loops."""
    work = f"chain n_f={features} {image_size}×{image_size} batch {batch}"
    calls: dict[str, Call] = {}
    rows, plans = [], {}
    for precision in PRECISIONS:
        if precision != "fp16":
            _add_eager(calls, rows, work, Problem(features, precision, image_size, batch))
        for engine in ("autograd", "auto"):
            _add(calls, plans, rows, work, Problem(features, precision, image_size, batch, engine))
    return rows + _step_rows(work, calls, plans, rounds=9)


def chain_compiled(features: int) -> list[Row]:
    """The same, with graphs of inductor's code, which takes a minute to compile."""
    work = f"chain n_f={features} beside compiled"
    calls: dict[str, Call] = {}
    rows, plans = [], {}
    _add_eager(calls, rows, work, Problem(features, "fp32"))
    for precision, engine in (("bf16", "compiled"), ("fp16", "compiled"), ("bf16", "auto"), ("fp16", "auto")):
        _add(calls, plans, rows, work, Problem(features, precision, engine=engine))
    return rows + _step_rows(work, calls, plans, rounds=9, beside=("compiled bf16", "compiled fp16"))


def _add_eager(calls: dict[str, Call], rows: list[Row], work: str, problem: Problem) -> None:
    """Adds the handwritten loop to the contenders if it agrees with float64, else a failed row."""
    name = f"eager {problem.precision}"
    why = problem.disagreement(problem.eager)
    if why is None:
        calls[name] = problem.eager
    else:
        rows.append(failed(f"{work}, {name}", why))


def _add(calls: dict[str, Call], plans: dict[str, str], rows: list[Row], work: str, problem: Problem) -> None:
    """Adds a sampler to the contenders if it agrees with float64, else a failed row."""
    name = f"{problem.engine} {problem.precision}"
    try:
        why = problem.disagreement(lambda n_steps, noise: problem.sampler(n_steps, noise)(problem.x0))
        if why:
            raise AssertionError(why)
        sampler = problem.sampler()
        sampler(problem.x0)
        sampler.check()
        plans[name] = str(sampler.plan_for(problem.x0.device))
        calls[name] = functools.partial(sampler, problem.x0)
    except Exception as error:  # the others are still timed
        rows.append(failed(f"{work}, {name}", f"{type(error).__name__}: {error}"))


def _step_rows(
    work: str, calls: dict[str, Call], plans: dict[str, str], rounds: int, beside: tuple[str, ...] = ()
) -> list[Row]:
    seconds = times(calls, rounds=rounds, warmup=1)
    rows = []
    for name, values in seconds.items():
        value, quartiles = spread([s / N_STEPS * 1e6 for s in values])
        row: Row = {"what": f"{work}, {name}", "value": value, "unit": "µs per step", "quartiles": quartiles}
        if name not in plans:
            rows.append(row)
            continue
        row["plan"] = plans[name]
        for peer in ("eager fp32", f"eager {name.split()[1]}", "eager tf32", *beside):
            if peer in seconds and peer != name:
                wanted = TARGETS.get((work, name, peer))
                rows.append(row | ratio(seconds[peer], values, peer) | ({"wanted": wanted} if wanted else {}))
    return rows


def memory(features: int) -> list[Row]:
    """Peak memory of the eager loop and of the graph, including network and state."""
    rows: list[Row] = []
    for precision in PRECISIONS:
        peaks = {}
        for kind in ("eager", "autograd", "auto"):
            with _peak() as peak:
                problem = Problem(features, precision, engine="autograd" if kind == "eager" else kind)
                call = problem.eager if kind == "eager" else functools.partial(problem.sampler(), problem.x0)
                for _ in range(3):
                    call()
                torch.cuda.synchronize()
                del problem, call
            peaks[kind] = peak
        for engine, measure in itertools.product(("autograd", "auto"), ("allocated", "reserved")):
            row: Row = {"what": f"memory n_f={features} {engine} {precision}, {measure}", "unit": "MiB"}
            row |= {"value": peaks[engine][measure] / 2**20, "ratio_to": "eager's", "wanted": "1.3× or less"}
            rows.append(row | {"ratio": peaks[engine][measure] / peaks["eager"][measure]})
    return rows


@contextlib.contextmanager
def _peak() -> Iterator[dict[str, int]]:
    """The peak bytes that the body allocates and reserves, in addition to those before it."""
    _collect()
    before = {"allocated": torch.cuda.memory_allocated(), "reserved": torch.cuda.memory_reserved()}
    torch.cuda.reset_peak_memory_stats()
    peak: dict[str, int] = {}
    yield peak
    peak["allocated"] = torch.cuda.max_memory_allocated() - before["allocated"]
    peak["reserved"] = torch.cuda.max_memory_reserved() - before["reserved"]


def growth(n_calls: int = 1000) -> list[Row]:
    """The growth of the memory in use over 1,000 calls of one sampler."""
    problem = Problem(8, "fp32", image_size=8, batch=8)
    sampler = problem.sampler(n_steps=10)
    for _ in range(20):
        sampler(problem.x0)
    _collect()
    before = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    for _ in range(n_calls):
        sampler(problem.x0)
    sampler.check()
    _collect()
    grown = max(torch.cuda.memory_allocated() - before[0], torch.cuda.memory_reserved() - before[1])
    row: Row = {"what": f"memory grown over {n_calls:,} calls", "value": grown, "unit": "bytes", "wanted": "0"}
    return [row | ({"failure": f"the memory in use has grown by {grown:,} bytes"} if grown > 0 else {})]


def _collect() -> None:
    torch.cuda.synchronize()
    gc.collect()
    torch.cuda.empty_cache()
