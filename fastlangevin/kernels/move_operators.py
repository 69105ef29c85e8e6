"""Calls the moves' operators of a backend, as `operators` those of the update."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .arguments import MetropolisArgs, MetropolisMemory, Momentum, MoveArgs
from .operators import _as_tensors, _float, _int, written
from .schemas import LIBRARY, move_names


class MoveOperators:
    """`fastlangevin::velocity_move_NAME_`, `mala_test_NAME_` and `hmc_test_NAME_`, each taking its numbers as scalars
    or (`.tensor`) as tensors on the states' device. The methods are the functions of `reference_moves`. What they write
    to must share no memory with what they read, which they do not check.
    """

    def __init__(self, name: str) -> None:
        self._names = move_names(name)
        self._move, self._mala, self._hmc = (getattr(torch.ops.fastlangevin, each) for each in self._names)

    def implement(
        self,
        device: str,
        *,
        velocity_move: Callable[..., None],
        mala_test: Callable[..., None],
        hmc_test: Callable[..., None],
    ) -> None:
        """Registers Python functions for tensors on `device`; both overloads have the same parameters."""
        for name, function in zip(self._names, (velocity_move, mala_test, hmc_test), strict=True):
            for overload in ("", ".tensor"):
                LIBRARY.impl(f"{name}{overload}", function, device.upper())

    def velocity_move(self, x: Tensor, v: Tensor, score: Tensor | None, momentum: Momentum, args: MoveArgs) -> None:
        tensors = (x, v, score, momentum.weights, momentum.roots, args.draws)
        drift, noise_std, place = args.drift, args.noise_std, (args.stream, args.offset)
        if _as_tensors(args.kick, drift, args.decay, noise_std, args.seed, args.step):
            kick, decay = _float(args.kick, x), _float(args.decay, x)
            floats, key = (_float(drift, x), decay, _float(noise_std, x)), (_int(args.seed, x), _int(args.step, x))
            self._move.tensor(*tensors, kick, args.n_kicks, *floats, *key, *place)
        else:
            numbers = (args.kick, args.n_kicks, drift, args.decay, noise_std, args.seed, args.step)
            self._move.default(*tensors, *numbers, *place)
        written((x, v))

    def mala_test(
        self, x: Tensor, memory: MetropolisMemory, y: Tensor, score: Tensor, energy: Tensor, args: MetropolisArgs
    ) -> None:
        tensors, place = (x, *memory, y, score, energy), (args.test_stream, args.first_chain)
        self._test(self._mala, tensors, (args.step_size, args.temperature), args, place)
        written((x, *memory))

    def hmc_test(
        self,
        x: Tensor,
        memory: MetropolisMemory,
        y: Tensor,
        v: Tensor,
        score: Tensor,
        energy: Tensor,
        momentum: Momentum,
        args: MetropolisArgs,
    ) -> None:
        tensors = (x, *memory, y, score, energy, v, *momentum)
        place = (args.stream, args.offset, args.test_stream, args.first_chain)
        self._test(self._hmc, tensors, (args.kick, args.noise_std, args.temperature), args, place)
        written((x, *memory))

    @staticmethod
    def _test(
        operator: torch._ops.OpOverloadPacket,
        tensors: tuple[Tensor | None, ...],
        floats: tuple[float | Tensor, ...],
        args: MetropolisArgs,
        place: tuple[int, ...],
    ) -> None:
        x = tensors[0]
        assert x is not None
        if _as_tensors(*floats, args.seed, args.step):
            numbers = (_float(number, x) for number in floats)
            key = (_int(args.seed, x), _int(args.step, x))
            operator.tensor(*tensors, *numbers, args.lo, args.hi, *key, *place)
        else:
            operator.default(*tensors, *floats, args.lo, args.hi, args.seed, args.step, *place)
