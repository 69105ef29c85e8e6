"""Captures a chain's steps as CUDA graphs and replays them: the layout of the graphs, and the cache that keeps them.

Everything that changes from call to call is in device memory that a replay reads: the state, extra arguments, and what
a `StepTable` holds, which is seed, noise steps, step sizes and noise levels. What cannot change is the key of a graph
in the cache.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from ..errors import BackendUnavailable
from ..network.dependencies import Dependencies
from ..network.inputs import Steps
from .chain import Chain
from .cuda_capture import CudaCapture, NotCapturable, being_captured
from .step_table import Column, StepTable, layout

KEPT = 8  # graphs per sampler
LONGEST = 128  # steps that are captured into one graph unless more are requested
_SHORT = 25
_capturing = threading.Lock()


@contextlib.contextmanager
def one_at_a_time(device: torch.device) -> Iterator[None]:
    """A context for a capture: a process makes one at a time. Dropout's random state is restored after it: a resumed
    training captures again, and draws the same numbers.
    """
    with _capturing, torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield


class Capture(Protocol):
    """Captures, replays and times work on a device: `cuda_capture.CudaCapture`, or a stand-in in tests."""

    def warm_up(self, work: Callable[[], None], buffers: list[Tensor]) -> None: ...
    def rehearse(self, work: Callable[[], None], watch: bool) -> bool: ...
    def capture(self, body: Callable[[], None]) -> Callable[[], None]: ...
    def time(self, run: Callable[[], None]) -> float: ...
    def upload(self, values: Tensor, to: Tensor) -> None: ...
    def begin(self) -> None: ...
    def end(self) -> None: ...
    def wait(self) -> None: ...


class CapturedChain:
    """One chain's steps as a graph of `unroll` steps, which is replayed until all steps are done.

    Args:
        chain: whose score, backend, options and number of steps are captured.
        x: a state of the shape, dtype and device that are captured. The graph's own state is contiguous whatever the
            layout of x, as kernels that update it want it: otherwise each step would copy it.
        unroll: steps per graph, a divisor of the number of steps; None: the fastest, by measurement.

    Raises:
        NotCapturable: the score cannot be captured; the message gives the reason.
    """

    def __init__(self, chain: Chain, x: Tensor, dependencies: Dependencies, unroll: int | None, to: Capture) -> None:
        self._device = to
        self._n_steps = len(chain)
        self._keep = dependencies.tensors  # the graph reads their memory, which must not be reused
        self._x = torch.empty_like(x, memory_format=torch.contiguous_format)
        self._inputs = chain.inputs.map_tensors(Tensor.clone)
        self._table = StepTable(columns_of(chain), x.device)
        self._first = torch.arange(self._n_steps, device=x.device)
        self._lock = threading.Lock()
        self._fill(chain, x)
        self._memory = chain.new_memory(self._x)
        chain = dataclasses.replace(chain, inputs=self._inputs, seed=self._table.seed, memory=self._memory)
        buffers = dependencies.buffers()
        plans = [self._plan(chain, x, u, buffers) for u in ([unroll] if unroll else unrolls(self._n_steps))]
        self.times = {u: self._time(chain, x, run) for u, run in plans} if len(plans) > 1 else {}
        self.unroll, self._run = min(plans, key=lambda plan: self.times.get(plan[0], 0.0))

    def __call__(self, chain: Chain, x0: Tensor) -> Tensor:
        """Runs all steps from x0, and returns a new tensor of its layout. Calls from several threads or streams run one
        by one.
        """
        with self._lock:
            self._device.begin()
            self._fill(chain, x0)
            if not chain.begins:
                _copy(chain.memory, self._memory)
            self._run()
            x = torch.empty_like(x0).copy_(self._x)
            _copy(self._memory, chain.memory)
            self._device.end()
        return x

    def wait(self) -> None:
        """Waits until no replay is running, so that the memory can be freed."""
        with self._lock:
            self._device.wait()

    def _plan(self, chain: Chain, x: Tensor, unroll: int, buffers: list[Tensor]) -> tuple[int, Callable[[], None]]:
        """Captures a graph of `unroll` steps. A graph that is shorter than the chain finds its numbers by a position
        that each replay advances: a window of the table is copied to where the kernels read.

        What is captured runs before, for a kernel cannot be loaded while capturing, and other numbers of steps may
        launch other kernels.
        """
        load: Callable[[Tensor], None] | None = None
        if unroll == self._n_steps:
            columns = self._table.columns()
        else:
            columns, load = self._table.window(unroll)
        position = self._first[:unroll].clone()
        part = with_columns(chain, columns)
        # Of several replays only the first one begins a chain: what begins it is then a graph of its own.
        begins_alone = load is not None and chain.begins and bool(self._memory)
        if load is not None:
            part = dataclasses.replace(part, begins=False, continues=True)
        whole = with_columns(chain, self._table.columns())

        def rewind() -> None:
            if load is not None:
                position.copy_(self._first[:unroll])

        def begin() -> None:
            whole.begin_(self._x, whole.bind(self._x))

        def body() -> None:
            if load is not None:
                load(position)
                position.add_(unroll)
            part.run_(self._x)

        def from_the_start() -> None:
            rewind()
            self._x.copy_(x)
            if begins_alone:
                begin()
            body()

        def run() -> None:
            rewind()
            replay_begin()
            for _ in range(self._n_steps // unroll):
                replay()

        self._device.warm_up(from_the_start, buffers)
        replay_begin = self._device.capture(begin) if begins_alone else _nothing
        replay = self._device.capture(body)
        return unroll, run

    def _time(self, chain: Chain, x: Tensor, run: Callable[[], None]) -> float:
        self._fill(chain, x)
        return self._device.time(run)

    def _fill(self, chain: Chain, x: Tensor) -> None:
        self._table.fill(columns_of(chain), int(chain.seed), self._device.upload)
        self._x.copy_(x)
        for static, given in zip(self._inputs.tensors(), chain.inputs.tensors(), strict=True):
            static.copy_(given)


def _copy(memory: Sequence[Tensor], to: Sequence[Tensor]) -> None:
    for source, target in zip(memory, to, strict=True):
        target.copy_(source)


def _nothing() -> None:
    pass


def columns_of(chain: Chain) -> list[Column]:
    """What changes from step to step."""
    return [*chain.per_step(), *chain.inputs.steps(), chain.steps]


def with_columns(chain: Chain, columns: Sequence[Sequence[Tensor]]) -> Chain:
    """The chain with what changes from step to step read from tensors: those of `columns_of`."""
    n = len(columns) - 1 - len(chain.inputs.steps())
    inputs = chain.inputs.with_steps(columns[n:-1])
    return dataclasses.replace(chain.with_per_step(columns[:n], columns[-1]), inputs=inputs)


def unrolls(n_steps: int) -> list[int]:
    """The numbers of steps per graph that are tried: one, the largest divisor up to 25, and all steps."""
    short = max(u for u in range(1, _SHORT + 1) if n_steps % u == 0)
    return sorted({1, short, *([n_steps] if n_steps <= LONGEST else [])})


class GraphCache:
    """A sampler's captured chains: a least-recently-used cache.

    Args:
        mode: the sampler's `graph` option.
        unroll: the sampler's `unroll` option.
        capture: makes the `Capture` of a device.
    """

    def __init__(
        self,
        mode: bool | Literal["auto"],
        unroll: int | None = None,
        capture: Callable[[torch.device], Capture] = CudaCapture,
        device_type: str = "cuda",
    ) -> None:
        self._mode, self._unroll, self._capture, self._device_type = mode, unroll, capture, device_type
        self._chains: OrderedDict[tuple[Any, ...], CapturedChain] = OrderedDict()
        self._declined: str | None = None
        self._misses = 0
        self._lock = threading.Lock()

    def unsupported(self, device: torch.device) -> str | None:
        """Why chains on `device` are not captured, or None if they are."""
        if self._mode is False:
            return "disabled by graph=False"
        if device.type != self._device_type:
            return f"CUDA graphs need an NVIDIA GPU, but the chain runs on {device.type}"
        return self._declined

    def run(self, chain: Chain, x0: Tensor) -> Tensor | None:
        """The chain's last states, or None if it must run eagerly.

        Raises:
            BackendUnavailable: graph=True, and the score cannot be captured.
            ValueError: `unroll` does not divide the number of steps.
        """
        if not len(x0) or being_captured():
            return None  # nothing to do, or part of a user-defined graph
        if self._unroll is not None and len(chain) % self._unroll:
            raise ValueError(f"unroll must divide n_steps = {len(chain)}, got {self._unroll}")
        dependencies = Dependencies(chain.score.target.function)
        with self._lock:
            try:
                check_capturable(chain, x0, dependencies)
                key = graph_key(chain, x0, dependencies)
                self._misses = 0 if key in self._chains else self._misses + 1
                if self._misses > KEPT:
                    raise NotCapturable(f"the key of the graph was different at each of {KEPT} consecutive calls")
                if key not in self._chains:
                    self._make_room()
                    with one_at_a_time(x0.device):
                        device = self._capture(x0.device)
                        self._chains[key] = CapturedChain(chain, x0, dependencies, self._unroll, device)
            except NotCapturable as error:
                self._decline(str(error))
                return None
            self._chains.move_to_end(key)
            captured = self._chains[key]
        return captured(chain, x0)

    @property
    def captured(self) -> list[CapturedChain]:
        """The cached chains, the least recently used first."""
        return list(self._chains.values())

    def _make_room(self) -> None:
        while len(self._chains) >= KEPT:
            _, oldest = self._chains.popitem(last=False)
            oldest.wait()

    def _decline(self, why: str) -> None:
        if self._mode is True:
            raise BackendUnavailable(f"graph=True cannot be met: {why}")
        if self._declined is None:
            warnings.warn(f"the chain runs eagerly, without a CUDA graph: {why}", RuntimeWarning, stacklevel=2)
        self._declined = why


def check_capturable(chain: Chain, x: Tensor, dependencies: Dependencies) -> None:
    """Raises NotCapturable for an energy or arguments that a graph would not run as they are."""
    hooked = dependencies.hooks()
    if hooked:
        raise NotCapturable(f"a {hooked} has hooks, which must run at each evaluation")
    for name, a in chain.inputs.named():
        if isinstance(a, Steps):
            kinds = {(v.shape, v.dtype, v.device) if isinstance(v, Tensor) else None for v in a}
            if len(kinds) > 1 or None in kinds or a[0].device != x.device:
                raise NotCapturable(f"{name} changes from step to step, and is not a tensor of one shape on {x.device}")
        elif isinstance(a, Tensor):
            if a.device != x.device:
                raise NotCapturable(f"{name} is on {a.device}, but the chain is on {x.device}")
        elif not isinstance(a, (int, float, bool, str, type(None))):
            raise NotCapturable(f"{name} is neither a tensor nor a plain number: {type(a).__name__}")


def graph_key(chain: Chain, x: Tensor, dependencies: Dependencies) -> tuple[Any, ...]:
    """All that a graph of the chain from states like x has as constants."""
    inputs = tuple(
        (name, a.shape, a.stride(), a.dtype)
        if isinstance(a, Tensor)
        else (name, type(a), None if isinstance(a, Steps) else a)
        for name, a in chain.inputs.named()
    )
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    flags = (  # what torch's operators read when they are captured; those of float32 are the sampler's
        *(cudnn.enabled, cudnn.benchmark, cudnn.deterministic, torch.are_deterministic_algorithms_enabled()),
        *(matmul.allow_fp16_reduced_precision_reduction, matmul.allow_bf16_reduced_precision_reduction),
        *(matmul.allow_fp16_accumulation, torch.get_default_dtype()),
    )
    engine = (chain.score.name, chain.score.precision, chain.score.target.kind)
    update = (type(chain), chain.backend.name, chain.requested_backend, chain.offset)
    place = (chain.begins, chain.continues) if chain.memory else ()
    options = (len(chain), *engine, *update, *place, *chain.built_in(), layout(columns_of(chain)))
    return (x.shape, x.dtype, x.device, options, inputs, flags, dependencies.fingerprint())
