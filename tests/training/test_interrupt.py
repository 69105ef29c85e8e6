"""Training that is killed, stopped by a signal, or whose output pipe is closed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
import torch
from support.forked import start
from support.training_runs import OPTIONS, SMALL, assert_same_run, finish, weights
from torch import nn
from torch.utils.data import Dataset

import fastlangevin as fl
from fastlangevin.runs import checkpoint
from fastlangevin.training import interrupt

pytestmark = pytest.mark.any_processor


def test_a_closed_output_pipe_does_not_stop_training(tmp_path):
    command = [sys.executable, "-m", "fastlangevin", "train", "digits", *OPTIONS]
    command += ["--iterations", "9", "--checkpoint-every", "3", "--out", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.wait(timeout=600) == 0, process.stderr.read()
    assert int(checkpoint.newest(tmp_path / "checkpoints").stem) == 9


def test_killed_run_resumes_bit_for_bit(tmp_path, threads):
    process = start(tmp_path / "killed")
    process.send(signal.SIGKILL)
    process.wait()
    last = int(checkpoint.newest(tmp_path / "killed" / "checkpoints").stem)
    n = last + 7
    finish(tmp_path / "killed", n)
    threads(1)
    fl.train("digits", out=tmp_path / "whole", n_iterations=n, checkpoint_every=3, **SMALL)
    assert_same_run(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signals_save_and_print_how_to_resume(tmp_path, number, code):
    out = tmp_path / "run"
    process = start(out)
    process.send(number)
    text = process.wait()
    assert process.exit_code == code, text
    assert "stopped after iteration" in text and "--resume" in text and str(out) in text.replace("\n", "")
    stopped_at = int(text.split("stopped after iteration ")[1].split()[0])
    assert int(checkpoint.newest(out / "checkpoints").stem) == stopped_at


def test_nohup_is_respected():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interrupt.listening() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


class Failing(Dataset):
    """Items with a random transform; reading the item `fails_at` raises, after the transform of others has drawn."""

    def __init__(self, fails_at=None):
        self.fails_at, self.reads = fails_at, 0

    def __len__(self):
        return 16

    def __getitem__(self, i):
        self.reads += 1
        if self.reads == self.fails_at:
            raise KeyError("no such photo")
        x = torch.rand(2, generator=torch.Generator().manual_seed(i))
        return x if torch.rand(()) < 0.5 else 1 - x


def test_an_error_of_the_data_saves_first(tmp_path, capsys):
    def train(data, out, n, **more):
        torch.manual_seed(0)
        options = {"batch_size": 4, "sampler": {"n_steps": 2}, "log_every": 1, **more}
        return fl.train(data, nn.Linear(2, 1), out=out and tmp_path / out, n_iterations=n, **options)

    whole = train(Failing(), "whole", 9, progress=False)
    counted = Failing()
    train(counted, "counted", 1, progress=False)
    n_before = counted.reads - 4  # at loading, and by the check before the first iteration
    with pytest.raises(KeyError, match="no such photo") as error:
        train(Failing(n_before + 5 * 4 + 3), "parts", 9)
    assert error.value.__cause__ is None
    assert int(checkpoint.newest(tmp_path / "parts" / "checkpoints").stem) == 5
    said = "the data raised KeyError after iteration 5, checkpoint saved; to continue, use --resume --out"
    assert said in capsys.readouterr().out
    parts = train(Failing(), "parts", 9, resume=True, progress=False)
    assert torch.equal(weights(whole.model), weights(parts.model))
    assert [row["iteration"] for row in parts.history] == list(range(1, 10))
    with pytest.raises(KeyError):
        train(Failing(n_before + 3), None, 9, progress=False)
