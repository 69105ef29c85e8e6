"""A stand-in for the capture of CUDA graphs."""

from __future__ import annotations

from typing import ClassVar

from fastlangevin.chains.cuda_capture import NotCapturable


class FakeCapture:
    """Counts; replays a body by running it. `times` are what a plan of so many captured steps is measured to take."""

    made: ClassVar[list[FakeCapture]] = []

    def __init__(self, device, times=None, why=None):
        self.times, self.why = times or {}, why
        self.bodies, self.replays, self.waited = 0, 0, 0
        FakeCapture.made.append(self)

    def warm_up(self, step, buffers):
        step()
        if self.why:
            raise NotCapturable(self.why)

    def capture(self, body):
        self.bodies += 1

        def replay():
            self.replays += 1
            body()

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
