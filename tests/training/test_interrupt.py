"""Training that is killed, stopped by a signal, or whose output pipe is closed."""

from __future__ import annotations

import signal
import subprocess

import pytest
from support.training_runs import SMALL, TRAIN, assert_same_run, finish, start

import fastlangevin as fl
from fastlangevin.runs import checkpoint

pytestmark = pytest.mark.any_processor


def test_a_closed_output_pipe_does_not_stop_training(tmp_path):
    command = [*TRAIN, "--iterations", "30", "--checkpoint-every", "3", "--out", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.wait(timeout=120) == 0, process.stderr.read()
    assert int(checkpoint.newest(tmp_path / "checkpoints").stem) == 30


def test_killed_run_resumes_bit_for_bit(tmp_path, threads):
    process = start(tmp_path / "killed")
    process.send_signal(signal.SIGKILL)
    process.wait()
    last = int(checkpoint.newest(tmp_path / "killed" / "checkpoints").stem)
    n = last + 7
    finish(tmp_path / "killed", n)
    threads(1)
    fl.train("digits", out=tmp_path / "whole", n_iterations=n, checkpoint_every=3, **SMALL)
    assert_same_run(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_save_and_print_how_to_resume(tmp_path, number, code):
    out = tmp_path / "run"
    process = start(out)
    process.send_signal(number)
    text = process.communicate(timeout=60)[0]
    assert process.returncode == code, text
    assert "stopped after iteration" in text and "--resume" in text and str(out) in text.replace("\n", "")
    stopped_at = int(text.split("stopped after iteration ")[1].split()[0])
    assert int(checkpoint.newest(out / "checkpoints").stem) == stopped_at
