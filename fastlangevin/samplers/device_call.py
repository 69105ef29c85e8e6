"""Calls of a sampler, and draws of a replay buffer, as part of a caller's captured graph."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable

import torch
from torch import Tensor

from ..chains import initial
from ..chains.chain import Chain
from ..chains.cuda_graph import LONGEST, check_capturable, columns_of, graph_key, with_columns
from ..chains.step_table import StepTable
from ..network.dependencies import Dependencies
from ..network.inputs import Inputs
from .base import Sampler
from .continued import Ends, ends, going_on
from .replay_buffer import Draw, ReplayBuffer


class DeviceCall:
    """A call `sampler(x0, *args)` on states like x0, whose numbers (seed, noise steps, step sizes, …) a graph reads
    from device memory. `begin` prepares each call, on the host; `initial` and `run` are captured.

    Args:
        x: a state of the shape, dtype and device of all calls.
        args: tensors that the graph reads at each replay.
        upload: copies (values, to) from the host to the device.
    """

    def __init__(
        self, sampler: Sampler, x: Tensor, args: tuple[Tensor, ...], upload: Callable[[Tensor, Tensor], None]
    ) -> None:
        self._sampler, self._x, self._inputs, self._upload = sampler, x, Inputs(args), upload
        self._table: StepTable | None = None
        self._chain: Chain | None = None
        self._memory: tuple[Tensor, ...] | None = None
        self._n_stuck: Tensor | None = None
        self.first_step = 0  # of the noise of the last call that began

    @staticmethod
    def unsupported(sampler: Sampler) -> str | None:
        """Why no calls of a sampler are part of a graph, or None if those whose energy can be captured are."""
        if sampler.graph is False:
            return "disabled by graph=False"
        if sampler.n_steps > LONGEST:
            return f"the chain has {sampler.n_steps} steps, more than {LONGEST}"
        if callable(sampler.init):
            return "init is a function, which must run at each call"
        return None

    def begin(self) -> Hashable:
        """Reserves the noise of the next call and writes its numbers to the device. Returns all that a graph of the
        call has as constants: if it differs from that of a captured call, that graph must not be replayed.

        Raises:
            ChainDiverged: an earlier call diverged, as is known now.
            OverflowError: the noise counter would exceed 2^32.
            NotCapturable: the energy, as it is now, cannot be captured.
        """
        sampler = self._sampler
        chain = sampler._start(self._x, self._inputs, None, 0, None)
        self.first_step = int(chain.steps[0])
        columns = columns_of(chain)
        if self._table is None:
            self._table = StepTable(columns, self._x.device)
        self._table.fill(columns, int(chain.seed), self._upload)
        if self._memory is None:
            self._memory = chain.memory
        on_device = with_columns(chain, self._table.columns())
        self._chain = dataclasses.replace(on_device, seed=self._table.seed, memory=self._memory)
        dependencies = Dependencies(sampler.target.function)
        check_capturable(chain, self._x, dependencies)
        return graph_key(chain, self._x, dependencies)

    def initial(self) -> Tensor:
        """x0 of the call, as `Sampler.sample` draws it."""
        assert self._chain is not None
        return initial.draw(
            self._sampler.init,
            self._x.shape,
            bounds=self._sampler.bounds,
            seed=self._chain.seed,
            step=self._chain.steps[0],
            chain_offset=0,
            offset=0,
            device=self._x.device,
            dtype=torch.float32,
            backend=self._chain.backend.name,
        )

    def run(self, x0: Tensor, velocity: Tensor | None = None) -> Ends:
        """The ends of the chains, new tensors. velocity: at the start, as for `continued.run`."""
        assert self._chain is not None
        chain = going_on(self._chain, velocity)
        with self._sampler._running(x0.device):
            x = chain.run_(x0.clone())
        self._n_stuck = chain.n_stuck()
        return ends(chain, x)

    def settle(self, n_diverged: Tensor) -> None:
        """Queues the check of the last call, after which n_diverged chains were not finite: raised by a later call."""
        pending = self._sampler._pending
        pending.add_count(n_diverged, len(self._x), self.first_step)
        if self._n_stuck is not None:
            pending.add_stuck(self._n_stuck, len(self._x))


class DeviceBuffer:
    """`ReplayBuffer.sample` and `store`, at a seed and steps that a graph reads from device memory.

    Args:
        numbers: (3,) int64 on the device: seed, the step of a draw and that of what is stored after it.
    """

    def __init__(self, buffer: ReplayBuffer, numbers: Tensor) -> None:
        self._buffer = buffer
        self._seed, self._drawn_at, self._stored_at = numbers.unbind()

    @staticmethod
    def reserve(buffer: ReplayBuffer) -> tuple[int, int, int]:
        """The numbers of the next draw and of what is stored after it, on the host. Advances the buffer's counter."""
        seed, first = buffer._noise.reserve(2)
        return seed, first, first + 1

    def sample(self, n: int, y: Tensor | None) -> Draw:
        return self._buffer._draw(n, y, self._seed, self._drawn_at)

    def store(self, x: Tensor, slots: Tensor | None, y: Tensor | None, velocity: Tensor | None = None) -> None:
        self._buffer._keep(x, velocity, slots, y, self._seed, self._stored_at)
