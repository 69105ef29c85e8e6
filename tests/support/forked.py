"""Processes that begin as copies of one with torch imported, which takes seconds."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from fastlangevin import cli
from fastlangevin.runs import checkpoint
from fastlangevin.training import loop

from .training_runs import OPTIONS, save_blank_plot

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        *("torch", "torch._dynamo", "torch.distributed.fsdp", "fastlangevin.training.train"),
        *("fastlangevin.evaluation.evaluate", "fastlangevin.cli"),
    ]
)


class Command:
    """`fastlangevin` with arguments, on one thread and without plots. What it prints is in `log`."""

    def __init__(self, arguments: Sequence[str], log: Path) -> None:
        self._log = log
        self._process = CONTEXT.Process(target=_command, args=(arguments, log), daemon=True)
        self._process.start()

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.exitcode

    def send(self, number: signal.Signals) -> None:
        os.kill(self._process.pid, number)

    def wait(self, seconds: float = 600) -> str:
        """What it has printed when it has ended."""
        self._process.join(seconds)
        assert self.exit_code is not None, f"it has not ended after {seconds:g} s"
        return self._log.read_text()


def start(out: Path, *more: str) -> Command:
    """A training in a process of its own, once it has begun to save checkpoints."""
    arguments = ["train", "digits", *OPTIONS, "--iterations", "100000", "--checkpoint-every", "3", "--out", str(out)]
    command = Command([*arguments, *more], out.with_name(f"{out.name}.log"))
    end = time.monotonic() + 600
    while not (newest := checkpoint.newest(out / "checkpoints")) or int(newest.stem) < 6:
        assert command.exit_code is None and time.monotonic() < end, command.wait(1)
        time.sleep(0.02)
    return command


def _command(arguments: Sequence[str], log: Path) -> None:
    torch.set_num_threads(1)
    loop.save_training_plot = save_blank_plot
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(file, stream)
    cli.main(arguments)
