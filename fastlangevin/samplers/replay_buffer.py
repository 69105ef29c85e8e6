"""A replay buffer of states, from which persistent Langevin chains start and in which their last states are stored."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from numbers import Real
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from .. import noise
from ..chains import initial
from ..chains.divergence import n_not_finite
from ..noise import Stream
from ..transfer import with_index
from ..validation import check_bounds, check_int, check_shape, check_state_dtype, unknown
from .noise_counter import NoiseCounter
from .replay_slots import POLICIES, Policy, Slots

Storage = Literal["float32", "uint8"]

_STORAGES = {"float32": torch.float32, "uint8": torch.uint8}
_LEVELS = 256
_DITHER = 2**62  # first index, in a call's stream, of the uniforms that dequantise bytes


class Draw(NamedTuple):
    """The result of `ReplayBuffer.sample`: n initial states of chains.

    Attributes:
        x: (n, *shape) float32 states.
        slots: (n,) int64, the slot from which each state was drawn, or which a new draw from p0 replaces.
        fresh: (n,) bool, whether a state is a new draw from p0.
        velocity: (n, *shape) float32 velocities of a buffer that stores them; NaN for states that have none yet, which
            `Underdamped.with_velocity` takes.
    """

    x: Tensor
    slots: Tensor
    fresh: Tensor
    velocity: Tensor | None = None


class ReplayBuffer:
    """Stores last states of chains, from which later chains start:

        x0 = buffer.sample(n)            a stored state, or with probability `reinit` a draw from p0
        x = sampler(x0.x)
        buffer.store(x)                  buffer.store(x, x0.slots) if the policy is "indexed"

    With ``velocities=True`` chains of `Underdamped` dynamics go on with the velocities that they had:

        x, v = sampler.with_velocity(x0.x, velocity=x0.velocity)
        buffer.store(x, velocity=v)

    Stored states are drawn uniformly and with replacement; an empty buffer draws all states from p0. Policies:

        "fifo": a new state replaces the oldest (Du and Mordatch, NeurIPS 2019, arXiv:1903.08689).
        "reservoir": a uniform sample, without replacement, of all states ever stored (Vitter, ACM TOMS 11(1), 1985,
            Algorithm R; Du et al., ICML 2021, arXiv:2012.01316): once the buffer is full, the t-th state, counted from
            1, is stored in slot ⌊t·u⌋, u uniform in [0, 1), if that is below the capacity, and is dropped otherwise.
        "indexed": initialised with draws from p0; states are stored in the slots that were drawn (Grathwohl et al.,
            ICLR 2020, arXiv:1912.03263; persistent chains with reinit=0: Tieleman, ICML 2008).

    All random numbers are functions of (seed, step, element) alone, like a sampler's noise (docs/noise.md): the same on
    every device and after a reload. The counter starts at 0, and each call advances it by one step (so do the initial
    draws of an indexed buffer). Use different seeds for the buffer and the sampler if both draw from p0.

    Sampling and storing run on the device, without copies to the host and without synchronisation. A buffer is not
    thread-safe.

    Args:
        capacity: number of states, at least 1.
        shape: of one state.
        reinit: probability of each chain to start from a new draw from p0 instead.
        storage: "float32", or "uint8" for a quarter of the memory: with v = clip((x - lo) / (hi - lo), 0, 1) the byte
            is min(⌊256·v⌋, 255), and is read as v = (byte + u) / 256 with u uniform in [0, 1). Needs bounds.
        policy: "fifo", "reservoir" or "indexed", as above.
        per_class: number of classes. The capacity is divided evenly among them, and `y` selects the class.
        init: p0, as in `Langevin`: "uniform" over the bounds (else U(-1, 1)), "normal", or a callable
            `(shape, *, seed, step, chain_offset)`.
        bounds: (lo, hi), finite.
        velocities: whether to store velocities too, in float32 whatever the `storage` of states.
        seed: 64 bits. None: drawn once by the constructor, from `generator` or else from torch's default generator.
        generator: of the seed. Mutually exclusive with `seed`.
        device: of the states.

    Raises:
        TypeError, ValueError: an argument that is not as above; the message names it.

    Examples:
        >>> sampler = fl.Langevin(fl.energies.Rings(), step_size=0.01, noise_std=None, n_steps=20, seed=1)
        >>> buffer = fl.ReplayBuffer(1000, (2,), reinit=0.05, bounds=(-3, 3), storage="uint8", seed=2)
        >>> for _ in range(3):
        ...     draw = buffer.sample(64)
        ...     buffer.store(sampler(draw.x))
        >>> buffer.seed, buffer.step, int(buffer.state_dict()["counts"])
        (2, 6, 192)
    """

    def __init__(
        self,
        capacity: int,
        shape: Sequence[int],
        *,
        reinit: float = 0.05,
        storage: Storage = "float32",
        policy: Policy = "fifo",
        per_class: int | None = None,
        init: initial.Init = "uniform",
        bounds: tuple[float, float] | None = None,
        velocities: bool = False,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.capacity = check_int("capacity", capacity)
        self.shape = check_shape(shape)
        self.reinit = _probability("reinit", reinit)
        if storage not in _STORAGES:
            raise unknown("storage", storage, _STORAGES)
        self.storage = storage
        if policy not in POLICIES:
            raise unknown("policy", policy, POLICIES)
        self.policy = policy
        self.per_class = None if per_class is None else check_int("per_class", per_class)
        if self.capacity % (self.per_class or 1):
            raise ValueError(f"per_class must divide capacity = {self.capacity}, got {self.per_class}")
        self.init = initial.check(init)
        self.bounds = check_bounds(bounds)
        if self.bounds is not None and not all(map(math.isfinite, self.bounds)):
            raise ValueError(f"bounds must be finite, got {self.bounds}")
        if storage == "uint8" and self.bounds is None:
            raise ValueError("storage='uint8' needs bounds, got None")
        if velocities not in (True, False):
            raise unknown("velocities", velocities, ("True", "False"))
        self.velocities = bool(velocities)
        self.device = with_index(torch.device(device))
        self._noise = NoiseCounter(seed, generator, owner="buffer")
        self._slots = Slots(self.capacity, self.per_class or 1, policy, self.reinit, self._device_of_slots())
        # The extra row receives states that are not kept, so that every write has the same shape.
        rows = self._rows()
        size = (len(rows) + 1, *self.shape)
        self._values = torch.zeros(size, dtype=_STORAGES[storage], device=self.device)
        self._velocities = torch.full(size, math.nan, device=self.device, dtype=torch.float32) if velocities else None
        if policy == "indexed":
            with torch.no_grad():
                self._values[:-1] = self._encoded(self._fresh(rows, *self._noise.reserve()))
            self._slots.counts += self._slots.part

    def _rows(self) -> range:
        """The slots whose states are in `_values`."""
        return range(self.capacity)

    def _device_of_slots(self) -> torch.device:
        return self.device

    def sample(self, n: int, y: Tensor | None = None) -> Draw:
        """Draws n initial states of chains.

        Args:
            n: number of states.
            y: (n,) int64 classes on the buffer's device, whose states are drawn; None: draw from all states.

        Raises:
            TypeError, ValueError: an argument that is not as above. Values of classes are checked on a CPU only.
            OverflowError: the noise counter would exceed 2^32.

        Examples:
            >>> buffer = fl.ReplayBuffer(1000, (1, 8, 8), per_class=10, seed=1)
            >>> draw = buffer.sample(4, torch.tensor([3, 1, 4, 1]))
            >>> draw.x.shape, draw.fresh.tolist()  # empty: all are new draws from p0
            (torch.Size([4, 1, 8, 8]), [True, True, True, True])
        """
        n = check_int("n", n, 0)
        if y is not None:
            self._check_classes(y, n)
        return self._draw(n, y, *self._noise.reserve())

    def _draw(self, n: int, y: Tensor | None, seed: int | Tensor, step: int | Tensor) -> Draw:
        with torch.inference_mode(False), torch.no_grad():
            slots, fresh = self._slots.draw(n, y, seed, step)
            stored = self._decoded(self._values.index_select(0, slots), 0, seed, step)
            is_fresh = self._like_states(fresh)
            x = torch.where(is_fresh, self._fresh(range(n), seed, step), stored)
            velocity = None
            if self._velocities is not None:
                velocity = torch.where(is_fresh, math.nan, self._velocities.index_select(0, slots))
        return Draw(x, slots, fresh, velocity)

    def store(
        self, x: Tensor, slots: Tensor | None = None, y: Tensor | None = None, velocity: Tensor | None = None
    ) -> None:
        """Stores last states of chains. If several states have one slot, the last of them is kept.

        States that are not finite raise an error on a CPU, because later chains would start from them. On other devices
        the check would synchronise, so they are stored, and the sampler raises.

        Args:
            x: (n, *shape), floating point; stored as float32 or as bytes, without its graph.
            slots: (n,) int64, those that `sample` returned. Required if the policy is "indexed"; else None.
            y: (n,) int64 classes. Required with `per_class`, unless the policy is "indexed", where a slot determines
                the class.
            velocity: of x's shape, stored as float32. Required if the buffer stores velocities; else None.

        Raises:
            TypeError, ValueError: an argument that is not as above. Values of slots and classes are checked on a CPU
                only.
            OverflowError: the noise counter would exceed 2^32.

        Examples:
            >>> buffer = fl.ReplayBuffer(1000, (2,), policy="indexed", reinit=0.0, seed=1)  # persistent chains
            >>> draw = buffer.sample(4)
            >>> buffer.store(draw.x + 1, draw.slots)
            >>> torch.equal(buffer.state_dict()["values"][draw.slots], draw.x + 1)
            True
        """
        self._check_states("x", x)
        n = self._batch_size(x)
        if (velocity is not None) != self.velocities:
            wanted = "given to a buffer that stores them" if self.velocities else "None unless the buffer stores them"
            raise ValueError(f"velocity must be {wanted} (velocities={self.velocities})")
        if velocity is not None:
            self._check_states("velocity", velocity)
            if len(velocity) != len(x):
                raise ValueError(f"velocity must be of the {len(x)} chains of x, got {len(velocity)}")
        if (slots is None) == (self.policy == "indexed"):
            wanted = "the slots that sample returned" if slots is None else "None, because the policy selects them"
            raise ValueError(f"slots must be {wanted} (policy={self.policy!r})")
        if slots is not None:
            if y is not None:
                raise ValueError("y must be None if policy='indexed', where a slot determines the class")
            self._check_numbers("slots", slots, n, self.capacity)
        elif y is not None:
            self._check_classes(y, n)
        elif self.per_class is not None:
            raise ValueError("y must be given to a buffer with per_class, got None")
        self._keep(x, velocity, slots, y, *self._noise.reserve())

    def _batch_size(self, x: Tensor) -> int:
        """The number of states of the whole batch of which x is stored."""
        return len(x)

    def _keep(
        self,
        x: Tensor,
        velocity: Tensor | None,
        slots: Tensor | None,
        y: Tensor | None,
        seed: int | Tensor,
        step: int | Tensor,
    ) -> None:
        with torch.inference_mode(False), torch.no_grad():
            if slots is None:
                slots = self._slots.place(len(x), y, seed, step)
            slots = self._slots.last_of_each(slots)
            for rows, kept in self._pairs(self._encoded(x), velocity):
                rows.index_copy_(0, slots, kept)

    def _pairs(self, values: Tensor, velocity: Tensor | None) -> Iterator[tuple[Tensor, Tensor]]:
        """What is stored, with what is to be stored there."""
        yield self._values, values
        if self._velocities is not None and velocity is not None:
            yield self._velocities, velocity.to(torch.float32)

    def state_dict(self) -> dict[str, Any]:
        """Returns the whole state of the buffer.

        The tensors "values" and "velocities" (if they are stored), both (capacity, *shape), and "counts" (number of
        classes,) are views, not copies; the other entries are ints and strings.
        """
        return {
            "values": self._values[:-1],
            **({} if self._velocities is None else {"velocities": self._velocities[:-1]}),
            "counts": self._slots.counts,
            "policy": self.policy,
            **self._noise.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores `state_dict()` of a buffer with the same options, on any device: the same calls then draw the same
        states.

        The buffer is unchanged if an error is raised.

        Raises:
            ValueError: a missing key, velocities for a buffer that does not store them, tensors of another shape or
                dtype, another policy or version of the noise stream, a step that is not an int in 0 … 2^32, or a seed
                that does not fit 64 bits.
            TypeError: a seed that is not an int.

        Examples:
            >>> buffer = fl.ReplayBuffer(1000, (2,), seed=1)
            >>> buffer.store(torch.randn(64, 2))
            >>> torch.save(buffer.state_dict(), "buffer.pt")
            >>> resumed = fl.ReplayBuffer(1000, (2,))
            >>> resumed.load_state_dict(torch.load("buffer.pt"))
            >>> torch.equal(resumed.sample(8).x, buffer.sample(8).x)
            True
        """
        rows = {"values": self._values}
        if self._velocities is not None:
            rows["velocities"] = self._velocities
        elif "velocities" in state:
            raise ValueError("state has velocities, and the buffer was created without (velocities=False)")
        self._noise.check(state, needed=(*rows, "counts", "policy"))
        for name, shape, dtype in (
            *((name, (self.capacity, *self.shape), stored.dtype) for name, stored in rows.items()),
            ("counts", tuple(self._slots.counts.shape), torch.int64),
        ):
            got = state[name]
            if not isinstance(got, Tensor) or tuple(got.shape) != shape or got.dtype != dtype:
                said = f"{got.dtype} {tuple(got.shape)}" if isinstance(got, Tensor) else type(got).__name__
                raise ValueError(f"state's {name} must be {dtype} {shape}, got {said}")
        if state["policy"] != self.policy:
            raise ValueError(f"state's policy must be {self.policy!r}, got {state['policy']!r}")
        with torch.no_grad():
            own = self._rows()
            for name, stored in rows.items():
                stored[:-1].copy_(state[name][own.start : own.stop])
            self._slots.counts.copy_(state["counts"])
        self._noise.load_state_dict(state)

    def reseed(self, seed: int) -> None:
        """Draws from another seed from now on, at the same counter.

        Examples:
            >>> buffer = fl.ReplayBuffer(1000, (2,), seed=1)
            >>> buffer.reseed(2)
            >>> buffer.seed, buffer.step
            (2, 0)
        """
        self._noise.load_state_dict({**self._noise.state_dict(), "seed": seed})

    @property
    def seed(self) -> int:
        """The seed of the draws."""
        return self._noise.seed

    @property
    def step(self) -> int:
        """The noise counter: the noise step of the next call."""
        return self._noise.step

    def __len__(self) -> int:
        """The number of stored states. Synchronises with the device."""
        return len(self._slots)

    def __repr__(self) -> str:
        options = [f"{self.capacity}", f"{self.shape}", f"reinit={self.reinit}", f"policy={self.policy!r}"]
        defaults = {"storage": "float32", "per_class": None, "init": "uniform", "bounds": None, "velocities": False}
        for name, default in defaults.items():
            if getattr(self, name) != default:
                options.append(f"{name}={getattr(self, name)!r}")
        return f"ReplayBuffer({', '.join(options)}, seed={self.seed}, step={self.step})"

    def _fresh(self, chains: range, seed: int | Tensor, step: int | Tensor) -> Tensor:
        """Draws from p0 for these chains of a call."""
        return initial.draw(
            self.init,
            (len(chains), *self.shape),
            bounds=self.bounds,
            seed=seed,
            step=step,
            chain_offset=chains.start,
            offset=chains.start * math.prod(self.shape),
            device=self.device,
            dtype=torch.float32,
            backend=None,
        )

    def _like_states(self, flags: Tensor) -> Tensor:
        """(n,) flags in a shape that broadcasts to (n, *shape)."""
        return flags.view(-1, *(1 for _ in self.shape))

    def _encoded(self, x: Tensor) -> Tensor:
        x = x.to(torch.float32)
        if self.bounds is None or self.storage == "float32":
            return x
        lo, hi = self.bounds
        level = x.sub(lo).div_(hi - lo).nan_to_num_().clamp_(0, 1).mul_(_LEVELS).floor_()
        return level.clamp_(max=_LEVELS - 1).to(torch.uint8)

    def _decoded(self, values: Tensor, first: int, seed: int | Tensor, step: int | Tensor) -> Tensor:
        """Stored values as states, those of the chains of a call from `first` on."""
        if self.bounds is None or self.storage == "float32":
            return values
        lo, hi = self.bounds
        offset = _DITHER + first * math.prod(self.shape)
        u = noise.uniform(
            values.shape, seed=seed, step=step, stream=Stream.REPLAY_BUFFER, offset=offset, device=self.device
        )
        level = values.to(torch.float32).add_(u)
        return level.mul_((hi - lo) / _LEVELS).add_(lo)

    def _check_states(self, name: str, x: Tensor) -> None:
        check_state_dtype(name, x)
        if x.dim() == 0 or x.shape[1:] != self.shape:
            raise ValueError(f"{name} must have the shape (n, {', '.join(map(str, self.shape))}), got {tuple(x.shape)}")
        self._check_device(name, x, self.device)
        if x.device.type == "cpu":
            n_bad = int(n_not_finite(x))
            if n_bad:
                raise ValueError(f"{name} must be finite, got NaN or infinity in {n_bad} of {len(x)} states")

    def _check_classes(self, y: Tensor, n: int) -> None:
        if self.per_class is None:
            raise ValueError("y must be None: the buffer was created without per_class")
        self._check_numbers("y", y, n, self.per_class)

    def _check_numbers(self, name: str, numbers: Tensor, n: int, end: int) -> None:
        if not isinstance(numbers, Tensor) or numbers.dtype != torch.int64 or tuple(numbers.shape) != (n,):
            is_tensor = isinstance(numbers, Tensor)
            got = f"{numbers.dtype} {tuple(numbers.shape)}" if is_tensor else type(numbers).__name__
            raise ValueError(f"{name} must be an int64 tensor of shape ({n},), got {got}")
        self._check_device(name, numbers, self._slots.device)
        if numbers.device.type == "cpu" and n:
            low, high = (int(v) for v in numbers.aminmax())
            if low < 0 or high >= end:
                raise ValueError(f"{name} must lie in 0 … {end - 1}, got {low} … {high}")

    def _check_device(self, name: str, given: Tensor, device: torch.device) -> None:
        if given.device != device:
            raise ValueError(f"{name} is on {given.device} and the buffer on {device}: move one to the other")


def _probability(name: str, value: object) -> float:
    if not isinstance(value, Real) or isinstance(value, bool) or not 0 <= float(value) <= 1:
        raise ValueError(f"{name} must lie in 0 … 1, got {value!r}")
    return float(value)
