"""The whole training iteration as one CUDA graph: p0, the noise on the data, K steps, loss, backward and Adam."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Callable, Hashable

import torch

from .. import noise
from ..chains.cuda_capture import CudaCapture, NotCapturable
from ..chains.cuda_graph import Capture, one_at_a_time
from ..chains.divergence import n_not_finite
from ..data.dataset import in_memory
from ..data.order import batch_indices
from ..distributed.sharded_module import SHARDED
from ..noise import check_seed
from ..samplers.device_call import DeviceBuffer, DeviceCall
from .state import Step, TrainingState, Watch

NOT_CAPTURED = "training iterations are not captured as a CUDA graph"
_REHEARSALS = 3  # iterations before the capture, which load kernels and choose algorithms
_MOST_CHANGES = 8  # of what a graph has as constants, before it has ever been replayed
_BUFFER_NUMBERS = 3


class IterationGraph:
    """Runs iterations of a training: from the fourth on as one launch, where they can be captured.

    The first three run the same code as the graph, on the stream of its capture: they are iterations like any others.
    What changes from iteration to iteration (seeds and noise steps, lr, the indices of the data or, if these are not in
    the device's memory, the data) is copied to where the graph reads it, and its results are copied to pinned memory.
    The noise schedule of the data, flags of torch, and all that the network reads in Python, are constants of the
    graph: where one has changed, iterations are captured again, and after `forget`, since a restored optimiser has its
    state elsewhere.

    Args:
        watch: of the guard: maps mean energies of data and samples, and the samples, to what it looks at.
        capture: makes the `Capture` of a device.

    Attributes:
        declined: why iterations are not captured, or None.
    """

    def __init__(
        self,
        state: TrainingState,
        watch: Watch,
        capture: Callable[[torch.device], Capture] = CudaCapture,
        device_type: str = "cuda",
    ) -> None:
        self._state, self._watch, self._capture = state, watch, capture
        self.declined = _unsupported(state, device_type)
        self._changes = 0
        self._captured: CapturedIteration | None = None

    def forget(self) -> None:
        """Forgets the graph, after a restored state."""
        if self._captured is not None:
            self._captured.start_again()
        self._captured = None

    def step(self) -> Step:
        """One iteration of `train`."""
        state = self._state
        if self.declined is not None:
            return state.step(self._watch)
        if self._captured is None:
            self._captured = CapturedIteration(state, self._watch, self._capture(state.device))
        captured = self._captured
        captured.read()
        try:
            key = captured.begin()
            if captured.key is not None and captured.key != key:
                self._changes += 1
                if self._changes > _MOST_CHANGES:
                    raise NotCapturable(f"what the graph depends on changed at each of {_MOST_CHANGES} captures")
                captured.start_again()
            captured.key = key
            captured.launch()
            self._changes = 0 if captured.is_replayed else self._changes
        except NotCapturable as error:
            self.declined = str(error)
            warnings.warn(f"{NOT_CAPTURED}: {self.declined}", RuntimeWarning, stacklevel=2)
            captured.run_eagerly()
        return captured.finish()


class CapturedIteration:
    """One iteration of a training whose numbers are on the device; `read`, `begin`, `launch` and `finish` are called in
    this order.

    Raises (by `begin` and `launch`, which have then launched nothing):
        NotCapturable: the message gives the reason.
    """

    def __init__(self, state: TrainingState, watch: Watch, device: Capture) -> None:
        self._state, self._watch, self._device = state, watch, device
        settings, data = state.settings, state.data
        n, self._n_classes = settings.batch_size, settings.batch_size if settings.class_conditional else 0
        n_numbers = 3 + _BUFFER_NUMBERS  # seed, iteration, lr; those of the buffer
        self._numbers = torch.zeros(n_numbers + n + self._n_classes, dtype=torch.int64, device=state.device)
        self._seed, self._iteration, lr = self._numbers[:3].unbind()
        self._lr = lr.view(torch.float64)
        self._indices = self._numbers[n_numbers : n_numbers + n]
        self._classes = (self._numbers[n_numbers + n :],) if self._n_classes else ()
        shape = (n, *data.event_shape)
        self._items = None if in_memory(data) else torch.zeros(shape, device=state.device)
        self._buffer = None
        if state.buffer is not None:
            self._buffer = DeviceBuffer(state.buffer, self._numbers[3:n_numbers])
        self._call = DeviceCall(state.sampler, torch.empty(shape, device=state.device), self._classes, device.upload)
        self.start_again()

    def start_again(self) -> None:
        """Forgets the graph, once no replay of it is running."""
        self._device.wait()
        self.key: Hashable | None = None
        self._rehearsed, self._waits = 0, False
        self._replay: Callable[[], None] | None = None

    @property
    def is_replayed(self) -> bool:
        return self._replay is not None

    def read(self) -> None:
        """Reads the data of the next iteration. An error of the data leaves the state as it was."""
        state, settings = self._state, self._state.settings
        with state.reading():
            indices = batch_indices(len(state.data), settings.batch_size, seed=state.seed, iteration=state.iteration)
            items = None if self._items is None else state.items(indices)
            labels = state.data.labels
        if self._items is not None and items is not None:
            self._items.copy_(items)
        self._host = [indices, labels[indices]] if self._n_classes and labels is not None else [indices]

    def begin(self) -> Hashable:
        """Writes the numbers of the next iteration to the device. Returns the constants of its graph."""
        state = self._state
        buffer = (0,) * _BUFFER_NUMBERS if state.buffer is None else DeviceBuffer.reserve(state.buffer)
        (lr,) = struct.unpack("<q", struct.pack("<d", state.lr))
        numbers = (check_seed(state.seed), state.iteration, lr, check_seed(buffer[0]), *buffer[1:])
        self._device.upload(torch.cat([torch.tensor(numbers), *self._host]), self._numbers)
        settings, i = state.settings, state.iteration
        return self._call.begin(), settings.data_noise_at(i), state.model.training

    def launch(self) -> None:
        """Runs the iteration: the first ones by launching its kernels, then by a graph."""
        if self._waits:
            raise NotCapturable("an iteration makes the host wait for the GPU")
        if self._rehearsed < _REHEARSALS:
            self._rehearsed += 1
            self._waits = self._device.rehearse(self._body, watch=self._rehearsed == _REHEARSALS)
            return
        if self._replay is None:
            self._state.optimizer.zero_grad()  # so that the graph has gradients of its own
            with one_at_a_time(self._state.device):
                self._replay = self._device.capture(self._body)
        self._device.begin()
        self._replay()
        self._device.end()

    def run_eagerly(self) -> None:
        """In place of a graph that could not be captured."""
        self._body()

    def finish(self) -> Step:
        """Does what is left to the host, and returns the results, which the next launch overwrites."""
        state, i = self._state, self._state.iteration
        lr = state.lr
        state.optimization.note(state.settings, i, state.lr_scale)
        if state.averaged is not None:
            state.averaged.n_averaged += 1
        self._call.settle(self._n_diverged)
        state.iteration += 1
        noise_step, acceptance = self._call.first_step, self._ends.acceptance
        starts = (self._x0, self._velocity)
        return Step(*self._energies, *starts, self._ends.x, self._classes, noise_step, lr, self._watched, acceptance)

    def _body(self) -> None:
        state, classes = self._state, self._classes
        x_data = state.items(self._indices) if self._items is None else self._items.clone()
        z = noise.normal(
            x_data.shape,
            seed=self._seed,
            step=self._iteration,
            stream=noise.Stream.DATA_NOISE,
            device=state.device,
        )
        state.add_data_noise_(x_data, z)
        slots = self._velocity = None
        if state.settings.start == "data":
            self._x0 = x_data
        elif self._buffer is None:
            self._x0 = self._call.initial()
        else:
            draw = self._buffer.sample(len(x_data), *(classes or (None,)))
            assert state.buffer is not None
            self._x0, slots = draw.x, draw.slots if state.buffer.policy == "indexed" else None
            self._velocity = draw.velocity
        self._ends = self._call.run(self._x0, self._velocity)
        x = self._ends.x
        if self._buffer is not None:
            self._buffer.store(x, slots, classes[0] if classes and slots is None else None, self._ends.velocity)
        self._n_diverged = n_not_finite(x)
        self._energies = state.backward(x_data, x, classes)
        state.limit_gradient_()
        state.optimization.step_on_device(self._lr, state.settings)
        state.average_()
        self._watched = self._watch(*self._energies, x)


def _unsupported(state: TrainingState, device_type: str) -> str | None:
    """Why iterations of a training are never captured, or None."""
    if state.device.type != device_type:
        return f"CUDA graphs need an NVIDIA GPU, but the training runs on {state.device.type}"
    if state.ranks.size > 1:
        return f"each iteration ends with an exchange between {state.ranks.size} ranks"
    if state.is_sharded:
        return SHARDED
    if not state.optimization.is_default:
        return "the optimiser is the caller's, whose step may run any Python code"
    if state.settings.kl_weight:
        return "kl_weight needs the last step's own graph of autograd"
    return DeviceCall.unsupported(state.sampler)
