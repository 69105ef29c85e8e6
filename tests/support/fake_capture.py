"""A stand-in for the capture of CUDA graphs."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fastlangevin.chains.cuda_capture import NotCapturable


class FakeCapture:
    """Counts; replays a body by running it. `times` are what a plan of so many captured steps is measured to take.

    Attributes:
        cold: the operators, with the shapes of their arguments, that were replayed without having run in a warm-up. On
            a GPU their kernels would be loaded while capturing.
    """

    made: ClassVar[list[FakeCapture]] = []

    def __init__(self, device, times=None, why=None):
        self.times, self.why = times or {}, why
        self.bodies, self.replays, self.waited = 0, 0, 0
        self._warm, self.cold = set(), set()
        FakeCapture.made.append(self)

    def warm_up(self, work, buffers):
        with _Launches(self._warm):
            work()
        if self.why:
            raise NotCapturable(self.why)

    def rehearse(self, work, watch):
        with _Launches(self._warm):
            work()
        return watch and self.why is not None

    def capture(self, body):
        self.bodies += 1

        def replay():
            self.replays += 1
            launched = set()
            with _Launches(launched):
                body()
            self.cold |= launched - self._warm

        return replay

    def time(self, run):
        before = self.replays
        run()
        return self.times.get(self.replays - before, 9.0)

    def upload(self, values, to):
        to.copy_(values)

    def begin(self): ...
    def end(self): ...

    def wait(self):
        self.waited += 1


class _Launches(TorchDispatchMode):
    """Adds each operator to a set, with the shapes of its arguments."""

    def __init__(self, into):
        super().__init__()
        self._into = into

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        if operator.namespace == "profiler":  # marks, of an optimiser's step, that launch nothing
            return operator(*args, **(kwargs or {}))
        self._into.add((operator, described(args)))
        return operator(*args, **(kwargs or {}))


def described(argument):
    """Tensors by dtype and shape, numbers by their type."""
    if isinstance(argument, (list, tuple)):
        return tuple(map(described, argument))
    if isinstance(argument, torch.Tensor):
        return argument.dtype, argument.shape
    return type(argument) if isinstance(argument, (int, float)) else str(argument)
