"""The position of a sampler or a replay buffer in its noise stream."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from ..noise import STREAM_VERSION, check_seed
from ..validation import as_index

END = 2**32  # noise steps are below this


class NoiseCounter:
    """A seed and the next noise step, which every draw advances. Thread-safe.

    A copy (copy, deepcopy, pickle) starts at the same value and counts independently.

    Args:
        seed: 64 bits. None: drawn once by the constructor, from `generator` or else from torch's default generator.
        generator: of the seed. Mutually exclusive with `seed`.
        owner: what has the counter, for error messages.
    """

    def __init__(
        self, seed: int | None = None, generator: torch.Generator | None = None, owner: str = "sampler"
    ) -> None:
        if seed is not None and generator is not None:
            raise ValueError("seed and generator are mutually exclusive, got both")
        if seed is None:
            device = "cpu" if generator is None else generator.device
            seed = int(torch.randint(-(2**63), 2**63 - 1, (), generator=generator, device=device))
        self._seed = int(check_seed(seed)) % 2**64
        self._step = 0
        self._owner = owner
        self._lock = threading.Lock()

    @property
    def seed(self) -> int:
        """The seed as an unsigned 64-bit number."""
        return self._seed

    @property
    def step(self) -> int:
        """The first noise step of the next draw."""
        return self._step

    def reserve(self, n_steps: int = 1, step: int | None = None) -> tuple[int, int]:
        """Advances the counter by `n_steps` noise steps. Returns the seed and the first of these steps.

        Args:
            step: the first step, which overrides the counter; the counter then does not advance.

        Raises:
            ValueError: `step` is not in 0 … 2^32 - 1.
            OverflowError: the last step would be 2^32 or more.
        """
        with self._lock:
            first = self._step if step is None else check_step(step)
            if first + n_steps > END:
                raise OverflowError(
                    f"the step counter would exceed 2^32 (it is {first}, and {n_steps} steps were requested): "
                    f"create a {self._owner} with another seed"
                )
            if step is None:
                self._step += n_steps
            return self._seed, first

    def state_dict(self) -> dict[str, int]:
        """Returns seed, step and version of the noise stream, as ints."""
        return {"seed": self._seed, "step": self._step, "stream_version": STREAM_VERSION}

    def load_state_dict(self, state: Mapping[str, Any], needed: Iterable[str] = ()) -> None:
        """Restores the counter from `state_dict()`. The counter is unchanged if an error is raised.

        Args:
            needed: other keys that the state must have.

        Raises:
            ValueError: a missing key, another version of the noise stream, a step that is not an int in 0 … 2^32, or a
                seed that does not fit 64 bits.
            TypeError: a seed that is not an int.
        """
        seed, step = self.check(state, needed)
        with self._lock:
            self._seed, self._step = seed, step

    @staticmethod
    def check(state: Mapping[str, Any], needed: Iterable[str] = ()) -> tuple[int, int]:
        """Returns the seed and the step of a saved state. Raises like `load_state_dict`."""
        missing = {"seed", "step", "stream_version", *needed} - set(state)
        if missing:
            raise ValueError(f"state lacks {', '.join(sorted(missing))}, got the keys {sorted(state)}")
        if state["stream_version"] != STREAM_VERSION:
            raise ValueError(f"state has noise stream version {state['stream_version']}, this is {STREAM_VERSION}")
        seed, step = check_seed(state["seed"]), as_index(state["step"])
        if step is None or not 0 <= step <= END:
            raise ValueError(f"state's step must lie in 0 … 2^32, got {state['step']!r}")
        return int(seed) % 2**64, step

    def __getstate__(self) -> dict[str, Any]:
        with self._lock:
            return {**self.__dict__, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())


def check_step(step: object) -> int:
    """Returns the step. Raises ValueError unless it is an int in 0 … 2^32 - 1."""
    number = as_index(step)
    if number is None or not 0 <= number < END:
        raise ValueError(f"step must be an int in 0 … 2^32 - 1, got {step!r}")
    return number
