"""The library's exceptions, and where its warnings point."""

from __future__ import annotations

import sys
from typing import Any


class ChainDiverged(RuntimeError):
    """A chain's state became NaN or infinite.

    Attributes:
        step: the first step (0 … n_steps - 1 within the call) after which a state was not finite. None if it is not
            known: on CUDA, or if the divergence did not recur in a second pass (an energy that draws random numbers).
        n_chains: the number of chains that were not finite at the end of the call.

    Examples:
        >>> def energy(x):  # not bounded below
        ...     return -(x.square().sum(1) ** 2)
        >>> sampler = fl.Langevin(energy, step_size=1.0, noise_std=0.0, n_steps=50, seed=1)
        >>> try:
        ...     x = sampler(torch.ones(8, 2))
        ... except fl.ChainDiverged as error:
        ...     print(error.step, error.n_chains)
        4 8
    """

    def __init__(self, message: str, *, step: int | None, n_chains: int) -> None:
        super().__init__(message)
        self.step = step
        self.n_chains = n_chains

    def __reduce__(self) -> tuple[Any, ...]:  # Exception's calls the constructor with the message alone
        return _restored, (type(self), self.args, self.__dict__)


def _restored(kind: type[ChainDiverged], arguments: tuple[Any, ...], attributes: dict[str, Any]) -> ChainDiverged:
    error = kind.__new__(kind, *arguments)
    error.__dict__.update(attributes)
    return error


class TrainingDiverged(ChainDiverged):
    """Training diverged.

    Chains, energies or weights are not finite, the mean energies of data and samples are too far apart, or the samples
    are saturated.

    Attributes:
        reason: what was detected.
        advice: what to try.
        iteration: the first iteration in which it was detected, counted from 1.
        since: the first iteration, at most `iteration`, that is part of what was detected.
        step, n_chains: as in `ChainDiverged`, if chains are not finite; else None and 0.

    Examples:
        >>> try:
        ...     fl.train("digits", n_iterations=5, features=8, lr=10.0, progress=False)
        ... except fl.TrainingDiverged as error:
        ...     print(error.iteration, error.reason, error.advice, sep="; ")  # doctest: +ELLIPSIS
        2; the energies of data and samples are ... apart (max_energy_gap=10000); lower lr, ...
    """

    def __init__(
        self,
        reason: str,
        advice: str,
        iteration: int,
        *,
        since: int | None = None,
        kept: str = "",
        step: int | None = None,
        n_chains: int = 0,
    ) -> None:
        super().__init__(
            f"training diverged at iteration {iteration}: {reason}: {advice}{kept}", step=step, n_chains=n_chains
        )
        self.reason, self.advice, self.iteration = reason, advice, iteration
        self.since = iteration if since is None else since


class BackendUnavailable(RuntimeError):
    """A backend, engine or CUDA graph that was requested explicitly is not available; the message gives the reason.

    Examples:
        >>> try:
        ...     fl.noise.normal((4,), seed=1, step=0, device="cpu", backend="cuda")
        ... except fl.BackendUnavailable as error:
        ...     print(error)
        backend='cuda' cannot be used: its kernels run on cuda tensors, not on cpu
    """


class CheckpointError(ValueError):
    """A file is not a checkpoint, is damaged, has another format version, or does not fit the model.

    Examples:
        >>> with open("notes.txt", "w") as file:
        ...     _ = file.write("not a checkpoint")
        >>> try:
        ...     model, sampler = fl.load("notes.txt")
        ... except fl.CheckpointError as error:
        ...     print(error)  # doctest: +ELLIPSIS
        notes.txt is damaged or not a safetensors file ...; no older checkpoint is beside it
    """


class RankFailed(RuntimeError):
    """Another rank failed, ended, or did not answer in time; the message says which and how.

    Examples:
        In a script that `torchrun` starts, where ranks may be lost:

        >>> try:
        ...     result = fl.train("digits", n_iterations=2, features=8, timeout=600, progress=False)
        ... except fl.RankFailed as error:  # on every other rank
        ...     print(error)
        >>> result
        TrainResult(ConvNet after 2 iterations)
    """


def level_of_the_caller() -> int:
    """The stacklevel, for the function that calls this one, of the first frame outside of this package and of torch,
    whose compiler may stand between the two.
    """
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").split(".")[0] in ("fastlangevin", "torch"):
        level, frame = level + 1, frame.f_back
    return level
