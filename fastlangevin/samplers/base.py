"""`Sampler`: the base class of samplers. A subclass adds its options and its transition."""

from __future__ import annotations

import abc
import contextlib
import copy
import dataclasses
import functools
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from .. import kernels
from ..chains import initial
from ..chains.chain import Chain
from ..chains.cuda_capture import being_captured
from ..chains.cuda_graph import GraphCache
from ..chains.divergence import PendingChecks, is_finite, report, warn_of_stuck
from ..chains.initial import check_state
from ..distributed.shards import is_initialized, warn_of_equal_noise
from ..errors import BackendUnavailable
from ..kernels import triton
from ..network.data_parallel import without_ddp
from ..network.inputs import Inputs, make_inputs
from ..network.target import Target, make_target
from ..noise import check_seed
from ..score import make_engine
from ..score import precision as precisions
from ..transfer import with_index
from ..validation import STATE_DTYPES, check_int, check_states_shape
from .call import NOT_OBSERVED, Callback, Observed, at_a_state, check_mask
from .graph_break import outside_graphs
from .noise_counter import NoiseCounter, check_step
from .options import NOISE, TARGETS, Options
from .plan import WHOLE_CHAIN_ENGINES, Plan, make_plan
from .trace import Trace, of_records, record
from .trace_file import recording

S = TypeVar("S", bound="Sampler")


class Sampler(Options, abc.ABC):
    """Base class of samplers: Markov chains on a target density with counter-based noise.

    The keyword arguments of a subclass's constructor, other than those of the target, `seed` and `generator`, are its
    options. It defines an `Option` for each of them, `_check_options`, which also checks the options that it adds, and
    `_chain`, which returns its transitions.

    Attributes:
        _whole_chains_on: types of devices on which kernels of the score run whole chains of its transitions.
    """

    _whole_chains_on: ClassVar[tuple[str, ...]] = ()

    def __init__(self, target: Target, noise: NoiseCounter, options: Mapping[str, Any]) -> None:
        self.target = target
        self._noise = noise
        self._options = self.check_options(options)
        self._score = make_engine(target, self.engine, self.precision)
        self._graphs = GraphCache(self._options["graph"], self.unroll)
        self._pending = PendingChecks()

    @abc.abstractmethod
    def _chain(self, n_steps: int, **shared: Any) -> Chain:
        """Returns the n_steps transitions of one call.

        Args:
            shared: the fields of `Chain`. `seed` and `steps` are set after all arguments have been checked.

        Raises:
            TypeError, ValueError: options that do not fit n_steps.
        """

    @outside_graphs
    def __call__(
        self,
        x0: Tensor,
        *args: Any,
        kwargs: Mapping[str, Any] | None = None,
        n_steps: int | None = None,
        chain_offset: int | None = None,
        step: int | None = None,
        mask: Tensor | None = None,
        callback: Callback | None = None,
        every: int = 1,
    ) -> Tensor:
        """Runs the chains from x0 and returns their last states, a new tensor of x0's shape, dtype and layout.

        Args:
            x0: (B, *event), floating point and finite; left unchanged.
            args: extra arguments of the energy, for example class labels; one that changes from step to step is a
                `PerStep`.
            kwargs: extra keyword arguments of the energy.
            n_steps: overrides the sampler's option.
            chain_offset: index of x0's first chain in the whole batch, for a shard (`fl.distributed.shard`) or a
                micro-batch. None: 0, with a warning on ranks of torch.distributed other than the first.
            step: overrides the noise counter, which then does not advance.
            mask: bool, of a shape that broadcasts to x0's: elements of x0 that stay as they are, within the bounds or
                not, as in inpainting (`fl.inpaint`). Steps are then taken one by one. None: all elements change.
            callback: `callback(k, x)` is called with the states x after k steps, a tensor that it may keep. It must not
                modify x. Its errors end the call.
            every: number of steps between two calls of `callback`, which is also called after the last step.

        Raises:
            TypeError, ValueError: an argument that is not as above, or an energy that does not return one number per
                chain. The counter does not advance for an argument that is not as above.
            OverflowError: the noise counter would exceed 2^32.
            BackendUnavailable: an explicit backend, engine or graph that is not available.
            ChainDiverged: a state is not finite at the end of the chain (on CUDA, where calls do not wait for each
                other: raised by the first call after that is known, or by `check`).

        Examples:
            >>> network = fl.models.ConvNet(image_size=8, channels=1, features=8, n_classes=10)
            >>> sampler = fl.Langevin(log_density=network, n_steps=10, step_size=1.0, noise_std=0.01, seed=1)
            >>> x0, classes = torch.zeros(4, 1, 8, 8), torch.tensor([3, 1, 4, 1])
            >>> x = sampler(x0, classes)
            >>> longer = sampler(x, classes, n_steps=20)  # goes on, with new noise
            >>> kept = sampler(x0, classes, mask=torch.arange(8) < 4)  # the left half stays as it is
            >>> bool((kept[..., :4] == 0).all())
            True

            Half of a batch, with the noise of its place in the whole:

            >>> half = sampler(x0[2:], classes[2:], step=0, chain_offset=2)
            >>> bool((half - x[2:]).abs().max() < 1e-4)
            True
        """
        observed = Observed(callback, every)
        return self._evolve(
            x0, make_inputs(self.target, args, kwargs), n_steps, chain_offset, step, mask=mask, observed=observed
        )

    @outside_graphs
    def sample(
        self,
        shape: Sequence[int],
        *args: Any,
        kwargs: Mapping[str, Any] | None = None,
        n_steps: int | None = None,
        chain_offset: int | None = None,
        step: int | None = None,
        callback: Callback | None = None,
        every: int = 1,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Runs the chains from new initial states and returns (B, *event) samples.

        Other arguments and errors are those of a call.

        Args:
            shape: (B, *event).
            device: of the chains. None: the network's, else that of the first extra argument that is a tensor,
                else the CPU.
            dtype: of the chains' state: float32, float64, bfloat16 or float16.

        Examples:
            >>> sampler = fl.Langevin(log_density=fl.models.ConvNet(8, 3, features=8), n_steps=10, seed=1)
            >>> sampler.sample((16, 3, 8, 8)).shape  # short runs from U(-1, 1)
            torch.Size([16, 3, 8, 8])
        """
        inputs, observed = make_inputs(self.target, args, kwargs), Observed(callback, every)
        empty = self._empty(shape, inputs, device, dtype)
        chain = self._start(empty, inputs, n_steps, chain_offset, step)
        return self._run(chain, self._initial(empty, int(chain.steps[0]), chain.chains.start), observed=observed)

    @outside_graphs
    def initial(
        self,
        shape: Sequence[int],
        *,
        chain_offset: int | None = None,
        step: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Returns the (B, *event) initial states z ~ p0 from which `sample` starts with the same arguments.

        The counter does not advance: `sampler(sampler.initial(shape))` equals `sampler.sample(shape)`.

        Examples:
            >>> sampler = fl.Langevin(fl.energies.Rings(), step_size=0.01, noise_std=None, init="normal", seed=1)
            >>> z = sampler.initial((100, 2))
            >>> torch.equal(sampler(z, step=0), sampler.sample((100, 2)))
            True
        """
        step = self.step if step is None else check_step(step)
        return self._initial(self._empty(shape, Inputs(), device, dtype), step, _checked(chain_offset))

    @outside_graphs
    def trace(
        self,
        x0: Tensor,
        *args: Any,
        kwargs: Mapping[str, Any] | None = None,
        every: int = 1,
        n_steps: int | None = None,
        chain_offset: int | None = None,
        step: int | None = None,
        out: str | os.PathLike[str] | None = None,
    ) -> Trace:
        """Runs the chains like a call, with the same states, and records states along the chain.

        The counter advances as in a call. Other arguments and errors are those of a call.

        Args:
            every: number of steps between records, at least 1. The first and the last state are always recorded.
            out: a file .npz or a folder .zarr (extra "diagnostics"), to which the records are written as they are made:
                no more than 1024 of them, or 4 MiB of states, are in memory. The result then reads from it, as that of
                `Trace.load`. None: all records stay in memory, on the chains' device.

                Until the trace is complete it is in the folder `out` + ".part". If an error or Ctrl-C ends it, its
                records so far are moved to `out`, with a warning. A killed process leaves the folder behind, in which a
                .zarr can be read.

        Raises:
            FileExistsError: `out` exists, or its folder ".part": nothing is ever overwritten.
            ImportError: a .zarr without the extra "diagnostics".

        Examples:
            >>> sampler = fl.Langevin(fl.energies.DoubleWell(), step_size=0.02, noise_std=None, n_steps=100, seed=1)
            >>> trace = sampler.trace(torch.zeros(8, 2), every=25)
            >>> trace.steps.tolist(), trace.x.shape, trace.energy.shape
            ([0, 25, 50, 75, 100], torch.Size([5, 8, 2]), torch.Size([5, 8]))
            >>> trace = sampler.trace(trace.x[-1], n_steps=1000, every=10, out="trace.npz")  # long ones go to a file
            >>> trace.x.shape
            torch.Size([101, 8, 2])
        """
        check_int("every", every)
        check_state("x0", x0, self.target)
        with recording(out) as records:
            chain = self._start(x0, make_inputs(self.target, args, kwargs), n_steps, chain_offset, step)
            with self._running(x0.device):
                x = record(chain, x0, every, records)
        self._settle(chain, x0, x)
        return of_records(records) if out is None else Trace.load(out)

    @outside_graphs
    def energy(self, x: Tensor, *args: Any, kwargs: Mapping[str, Any] | None = None) -> Tensor:
        """Returns the (B,) energies of (B, *event) states, in the sampler's precision.

        Raises:
            ValueError: the sampler was given a score, so that the energy is not known.

        Examples:
            >>> network = fl.models.MLP(2, hidden=(16,))
            >>> sampler = fl.Langevin(log_density=network, step_size=0.1, noise_std=None, seed=1)
            >>> x = torch.zeros(4, 2)
            >>> torch.allclose(sampler.energy(x), -network(x))
            True
        """
        if self.target.kind == "score":
            raise ValueError("energy is not known: the sampler was given a score")
        check_state("x", x, self.target)
        with self._running(x.device):
            energy = self._score.bind(x, at_a_state(self.target, args, kwargs)).energy(x)
        assert energy is not None
        return energy

    @outside_graphs
    def score(self, x: Tensor, *args: Any, kwargs: Mapping[str, Any] | None = None) -> Tensor:
        """Returns ∇ log p at (B, *event) states, of x's shape, unclipped, in the sampler's precision.

        Examples:
            >>> sampler = fl.Langevin(lambda x: x.square().sum(1), step_size=0.1, noise_std=None, seed=1)
            >>> sampler.score(torch.tensor([[1.0, -2.0]]))  # -∇U = -2x
            tensor([[-2.,  4.]])
        """
        check_state("x", x, self.target)
        with self._running(x.device):
            return self._score.bind(x, at_a_state(self.target, args, kwargs))(x)

    def check(self) -> None:
        """Waits for all calls on CUDA, and raises `ChainDiverged` if the chains of one were not finite and no later
        call has raised that (on a CPU the call itself raises).

        Examples:
            >>> sampler = fl.Langevin(fl.energies.DoubleWell(), step_size=0.02, noise_std=None, seed=1)
            >>> x = sampler.sample((100, 2))
            >>> sampler.check()  # before x is saved, say
        """
        self._pending.raise_all()

    @property
    def seed(self) -> int:
        """The seed of the noise.

        Examples:
            >>> fl.Langevin(fl.energies.Rings(), step_size=0.01, noise_std=None, seed=7).seed
            7
        """
        return self._noise.seed

    @property
    def step(self) -> int:
        """The noise counter: the first noise step of the next call.

        Examples:
            >>> sampler = fl.Langevin(fl.energies.Rings(), step_size=0.01, noise_std=None, n_steps=100, seed=1)
            >>> x = sampler.sample((8, 2))
            >>> sampler.step
            100
        """
        return self._noise.step

    @property
    def plan(self) -> Plan:
        """How the sampler runs on the network's device (on the CPU if that is not known).

        Examples:
            >>> sampler = fl.Langevin(fl.energies.Rings(), step_size=0.01, noise_std=None, engine="autograd", seed=1)
            >>> x = sampler.sample((8, 2))
            >>> sampler.plan.engine, sampler.plan.precision
            ('autograd', 'fp32')
        """
        return self.plan_for(self._device(Inputs()))

    def plan_for(self, device: torch.device | str, shape: Sequence[int] | None = None) -> Plan:
        """Returns how the sampler runs on `device`. May compile or load a kernel library, and runs the energy once.

        Args:
            shape: (B, *event) of the states. None: that of the last call; before the first one, what the network's
                first layer suggests, and many chains.

        Examples:
            >>> sampler = fl.Langevin(log_density=fl.models.ConvNet(32, 3, features=8), seed=1)
            >>> plan = sampler.plan_for("cpu", (64, 3, 32, 32))
            >>> plan.engine, plan.device
            ('convnet', 'cpu')
        """
        device = with_index(torch.device(device))
        shape = None if shape is None else check_states_shape(shape)
        with self._running(device):
            plan = make_plan(self._score, self._backend(device), self.backend, self._graphs, device, shape)
        why = self._without_score_kernels(device)
        if why is not None and plan.engine in WHOLE_CHAIN_ENGINES:
            plan = dataclasses.replace(plan, reasons=(*plan.reasons, f"steps are taken one by one: {why}"))
        elif why is not None and plan.engine == "convnet" and device.type == triton.DEVICE:
            plan = dataclasses.replace(plan, reasons=(*plan.reasons, f"the update is a kernel of its own: {why}"))
        return plan

    @property
    def _initial_std(self) -> float:
        """The standard deviation of init="normal"."""
        return 1.0

    def _without_score_kernels(self, device: torch.device) -> str | None:
        """Why kernels of the score do not do this sampler's updates on a device, or None if they may."""
        if device.type in self._whole_chains_on:
            return None
        where = f" on {device.type}" if self._whole_chains_on else ""
        return f"no kernel runs whole chains of {type(self).__name__}{where}"

    def state_dict(self) -> dict[str, int]:
        """Returns the noise counter: "seed", "step" and "stream_version", as ints.

        Examples:
            >>> sampler = fl.Langevin(fl.energies.Rings(), step_size=0.01, noise_std=None, n_steps=100, seed=1)
            >>> x = sampler.sample((8, 2))
            >>> sampler.state_dict()
            {'seed': 1, 'step': 100, 'stream_version': 1}
        """
        return self._noise.state_dict()

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Restores the noise counter from `state_dict()`: the same calls then draw the same noise.

        The counter is unchanged if an error is raised.

        Raises:
            ValueError: a missing key, another version of the noise stream, a step that is not an int in 0 … 2^32, or a
                seed that does not fit 64 bits.
            TypeError: a seed that is not an int.

        Examples:
            >>> sampler = fl.Langevin(fl.energies.Rings(), step_size=0.01, noise_std=None, n_steps=100, seed=1)
            >>> x = sampler.sample((8, 2))
            >>> torch.save(sampler.state_dict(), "sampler.pt")
            >>> resumed = fl.Langevin(fl.energies.Rings(), step_size=0.01, noise_std=None, n_steps=100)
            >>> resumed.load_state_dict(torch.load("sampler.pt"))
            >>> torch.equal(resumed(x), sampler(x))
            True
        """
        self._noise.load_state_dict(state)

    @outside_graphs
    def replace(self: S, **options: Any) -> S:
        """Returns another sampler with the given options; all other options keep their values.

        Both samplers share one noise counter, so they never draw the same noise. They also share compiled code and
        captured graphs if target, engine and precision are the same. noise_std keeps its value too if only step_size is
        given.

        Args:
            options: keyword arguments of the constructor except `seed` and `generator`. An `energy`, `log_density` or
                `score` replaces the target.

        Raises:
            TypeError, ValueError: as for the constructor.

        Examples:
            >>> sampler = fl.Langevin(fl.energies.Rings(), step_size=0.01, noise_std=None, n_steps=100, seed=1)
            >>> longer = sampler.replace(n_steps=1000)
            >>> x = longer.sample((8, 2))
            >>> sampler.n_steps, sampler.step  # one noise counter for both
            (100, 1000)
        """
        for name in NOISE:
            if name in options:
                raise ValueError(f"{name} cannot be replaced, because both samplers share one noise counter")
        target = {kind: options.pop(kind) for kind in TARGETS if kind in options}
        other = copy.copy(self)
        other._noise = self._noise
        other._pending = PendingChecks()
        other._options = self.check_options({**self._options, **options})
        if target:
            other.target = make_target(**target)
        if other.target is not self.target or (other.engine, other.precision) != (self.engine, self.precision):
            other._score = make_engine(other.target, other.engine, other.precision)
        elif (other.graph, other.unroll) == (self.graph, self.unroll):
            other._graphs = self._graphs
        return other

    def __repr__(self) -> str:
        function = self.target.module or self.target.function
        name = type(function).__name__ if self.target.module is not None else getattr(function, "__name__", "…")
        defaults = self._defaults()
        shown = [f"{self.target.kind}={name}", f"n_steps={self.n_steps}"]
        for option, value in self._options.items():
            is_plain = isinstance(value, (bool, int, float, str, tuple, type(None)))
            if option != "n_steps" and not (is_plain and value == defaults[option]):
                shown.append(f"{option}={value!r}" if is_plain else f"{option}=…")
        return f"{type(self).__name__}({', '.join(shown)}, seed={self.seed}, step={self.step})"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_noise": copy.copy(self._noise), "_pending": None, "_graphs": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        options = state["_options"]
        graphs = GraphCache(options["graph"], options["unroll"])  # captured graphs are not copied
        self.__dict__.update(state, _graphs=graphs, _pending=PendingChecks())

    def _evolve(
        self,
        x0: Tensor,
        inputs: Inputs,
        n_steps: int | None = None,
        chain_offset: int | None = None,
        step: int | None = None,
        settle: bool = True,
        mask: Tensor | None = None,
        observed: Observed = NOT_OBSERVED,
    ) -> Tensor:
        """Implements a call. If `settle` is false, chains that are not finite are not reported."""
        check_state("x0", x0, self.target)
        chain = self._start(x0, inputs, n_steps, chain_offset, step, mask)
        run = functools.partial(self._run, chain, settle=settle, observed=observed)
        return self._differentiable(chain, x0, run) if x0.requires_grad and torch.is_grad_enabled() else run(x0)

    def _differentiable(self, chain: Chain, x0: Tensor, run: Callable[[Tensor], Tensor]) -> Tensor:
        """Returns `run(x0)`, the last states of the chain, with a graph to x0."""
        raise ValueError(f"x0 must not require grad, because {type(self).__name__} is not differentiable: detach it")

    def _start(
        self,
        x: Tensor,
        inputs: Inputs,
        n_steps: int | None,
        chain_offset: int | None,
        step: int | None,
        mask: Tensor | None = None,
    ) -> Chain:
        """Returns the chain of one call. Advances the counter after all arguments have been checked."""
        if self._pending and not being_captured():
            self._pending.raise_arrived()
        precisions.check(self.precision, x.device)
        if chain_offset is None:
            warn_of_equal_noise()
        chain_offset = _checked(chain_offset)
        offset = chain_offset * math.prod(x.shape[1:])
        if offset + x.numel() > 2**63:
            raise ValueError(f"chain_offset must leave every element an index below 2^63, got {chain_offset}")
        n_steps = self.n_steps if n_steps is None else check_int("n_steps", n_steps)
        if inputs:
            with torch.inference_mode(False):  # autograd saves no inference tensors
                inputs = inputs.resolved(n_steps).map_tensors(lambda a: a.clone() if a.is_inference() else a)
        chain = self._chain(
            n_steps,
            score=self._score,
            inputs=inputs,
            backend=self._backend(x.device),
            requested_backend=self.backend,
            chains=range(chain_offset, chain_offset + x.shape[0]),
            event=x.shape[1:],
            dtype=x.dtype,
            device=x.device,
            offset=offset,
            seed=0,
            steps=range(n_steps),
        )
        if mask is not None:
            chain = chain.keeping(check_mask(mask, x))
        with torch.inference_mode(False):  # steps run outside of it, and may not write to its tensors
            chain.memory = chain.new_memory(x)
        seed, first = self._noise.reserve(n_steps, step)
        chain.seed, chain.steps = int(check_seed(seed)), range(first, first + n_steps)
        return chain

    def _backend(self, device: torch.device) -> kernels.Backend:
        """Returns the backend on `device`. Raises for an explicit backend or graph that is not available there."""
        backend = kernels.select(self.backend, device)
        no_graph = self._graphs.unsupported(device)
        if self.graph is True and no_graph is not None:
            raise BackendUnavailable(f"graph=True cannot be met: {no_graph}")
        return backend

    def _empty(
        self, shape: Sequence[int], inputs: Inputs, device: torch.device | str | None, dtype: torch.dtype
    ) -> Tensor:
        shape = check_states_shape(shape)
        if dtype not in STATE_DTYPES:
            raise ValueError(f"dtype must be float32, float64, bfloat16 or float16, got {dtype}")
        device = torch.device(self._device(inputs) if device is None else device)
        if device.type == "meta":
            raise ValueError("device must be one whose tensors have values, got meta")
        return torch.empty(shape, dtype=dtype, device=device)

    def _initial(self, like: Tensor, step: int, chain_offset: int) -> Tensor:
        x0 = initial.draw(
            self.init,
            like.shape,
            bounds=self.bounds,
            seed=self.seed,
            step=step,
            chain_offset=chain_offset,
            offset=chain_offset * math.prod(like.shape[1:]),
            device=like.device,
            dtype=like.dtype,
            backend=self._backend(like.device).name,
            std=self._initial_std,
        )
        if callable(self.init):
            check_state("init's state", x0, self.target)
        return x0

    def _run(self, chain: Chain, x0: Tensor, settle: bool = True, observed: Observed = NOT_OBSERVED) -> Tensor:
        if observed.callback is None:
            x = self._steps(chain, x0)
        else:
            x = x0
            for start in range(0, len(chain), observed.every):
                stop = min(start + observed.every, len(chain))
                x = self._steps(chain.part(start, stop), x)
                observed.callback(stop, x)
        if settle:
            self._settle(chain, x0, x)
        return x

    def _steps(self, chain: Chain, x0: Tensor) -> Tensor:
        with self._running(x0.device):
            x = self._graphs.run(chain, x0) if self._graphs.unsupported(x0.device) is None else None
            return chain.run_(x0.clone()) if x is None else x

    def _running(self, device: torch.device) -> contextlib.AbstractContextManager[None]:
        running = precisions.Running(self.precision, device, differentiates=False)
        return self._without_ddp(running) if is_initialized() else running

    @contextlib.contextmanager
    def _without_ddp(self, running: contextlib.AbstractContextManager[None]) -> Iterator[None]:
        with running, without_ddp(self.target.function):
            yield

    def _settle(self, chain: Chain, x0: Tensor, x: Tensor) -> None:
        """Raises for chains that are not finite: immediately on a CPU, in a later call or `check` on CUDA."""
        n_stuck = chain.n_stuck()
        if x.is_cuda:
            if not being_captured():  # by the caller: no values are known until the graph is replayed
                self._pending.add(x, int(chain.steps[0]))
                if n_stuck is not None:
                    self._pending.add_stuck(n_stuck, len(x))
        elif not is_finite(x):
            # To find the step the chain runs again, which a sharded network cannot on some ranks alone.
            is_alone = not self.target.is_sharded
            with self._running(x0.device):
                raise report(x, int(chain.steps[0]), chain.first_divergence(x0) if is_alone else None)
        elif n_stuck is not None:
            warn_of_stuck(int(n_stuck), len(x))

    def _device(self, inputs: Inputs) -> torch.device:
        device = self.target.device()
        if device is not None:
            return device
        return next((a.device for a in inputs.tensors()), torch.device("cpu"))


def _checked(chain_offset: int | None) -> int:
    return 0 if chain_offset is None else check_int("chain_offset", chain_offset, 0)
