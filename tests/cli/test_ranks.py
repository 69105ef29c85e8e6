"""The commands under torchrun, and on ranks that a test has started."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from support.ranks import on_ranks, unwrapped
from support.training_runs import OPTIONS
from torch import distributed as dist
from torch.distributed.run import get_args_parser

import fastlangevin as fl
from fastlangevin import cli
from fastlangevin.kernels import native
from fastlangevin.runs import checkpoint

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
FASTLANGEVIN = ["-m", "fastlangevin"]
SMALL = {"features": 4, "batch_size": 8, "log_every": 1, "checkpoint_every": 1, "lr_decay": 0.0, "progress": False}


def torchrun(*arguments: str, options: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [*TORCHRUN, *options, *FASTLANGEVIN, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def rows(run: Path) -> list[dict[str, float]]:
    """The metrics without their times."""
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in found]


def _trained(out: Path) -> bool:
    sampler = {"n_steps": 5, "noise_std": 0.01}
    fl.train("digits", **{**SMALL, "log_every": 8}, sampler=sampler, sample_steps=5, n_iterations=40, out=out)
    return True


def test_a_rank_that_is_killed_is_started_again_and_the_run_is_that_of_ranks_that_were_not(tmp_path):
    """torchrun starts both ranks anew with the same command, which then continues from the newest checkpoint."""
    arguments = ["train", "digits", *OPTIONS, "--iterations", "40", "--checkpoint-every", "8", "--log-every", "8"]
    process = torchrun(*arguments, "--out", str(tmp_path / "run"), options=("--max-restarts=1",))
    end = time.monotonic() + 90
    while (newest := checkpoint.newest(tmp_path / "run" / "checkpoints")) is None or newest.stem < "00000008":
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.02)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[-1]), signal.SIGKILL)
    out, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    assert out.count("done: 40 iterations") == 1
    assert "ranks, engine" in out and out.count("2 ranks") == 2  # each time it starts
    unwrapped(on_ranks(2, _trained, tmp_path / "whole"))
    assert rows(tmp_path / "run") == rows(tmp_path / "whole")


def _wrong(out: Path) -> tuple[object, str]:
    with contextlib.redirect_stderr(io.StringIO()) as said, pytest.raises(SystemExit) as ended:
        cli.main(["train", "digits", "--batch-size", "1", "--out", str(out)])
    return ended.value.code, said.getvalue()


def test_what_is_wrong_is_said_once(tmp_path):
    first, second = unwrapped(on_ranks(2, _wrong, tmp_path / "run", joined=False))
    assert first == (1, "error: batch_size, that of all ranks, must be at least their number, 2, got 1\n")
    assert second == (1, "")
    assert not (tmp_path / "run").exists()


def _restarted(run: Path, overwrite: bool, n: int) -> str:
    os.environ["TORCHELASTIC_RESTART_COUNT"] = "1"
    try:
        fl.train("digits", **SMALL, n_iterations=n, out=run, overwrite=overwrite)
    except (FileExistsError, fl.RankFailed) as error:
        return str(error)
    return (run / "metrics.jsonl").read_text()


def test_a_restart_continues_only_what_its_torchrun_has_begun(tmp_path):
    """The test's process starts the ranks, as torchrun does."""
    run = tmp_path / "run"
    fl.train("digits", **SMALL, n_iterations=2, out=run)
    before = (run / "metrics.jsonl").read_text()
    refused = unwrapped(on_ranks(2, _restarted, run, False, 3))
    assert all("holds another run: continue it" in message for message in refused)
    assert (run / "metrics.jsonl").read_text() == before
    (replaced,) = set(unwrapped(on_ranks(2, _restarted, run, True, 3)))
    assert replaced.count("\n") == 3 and not replaced.startswith(before)
    (continued,) = set(unwrapped(on_ranks(2, _restarted, run, True, 4)))
    assert continued.count("\n") == 4 and continued.startswith(replaced)


def commands(folder: Path, run: Path) -> list[str]:
    outputs = []
    for arguments in (
        ["sample", str(run), "-n", "21", "-o", str(folder / "x.npz"), "--steps", "4"],
        ["sample", str(run), "-n", "21", "-o", str(folder / "x.npz")],
        ["sample", str(run), "-n", "1", "-o", str(folder / "one.npz")],
        ["interpolate", str(run), "-o", str(folder / "between.png")],
        [
            *("evaluate", str(run), "--data", "digits", "-n", "33", "-o", str(folder / "e.json")),
            *("--reconstruct", "2", "--chains", "2", "--no-coverage", "--no-fid"),
        ],
    ):
        try:
            cli.main(arguments)
        except SystemExit as error:
            outputs.append(str(error.code))
    return outputs


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("run") / "run"
    fl.train("digits", features=4, batch_size=8, n_iterations=2, out=out, progress=False)
    return out


def test_samples_and_evaluations_are_those_of_one_process(tmp_path, run):
    """The digits' network runs on kernels whose bits do not depend on the batch."""
    if (why := native.load_cpu()) is not None:
        pytest.skip(why)
    one, three = tmp_path / "one", tmp_path / "three"
    one.mkdir()
    three.mkdir()
    assert unwrapped(on_ranks(1, commands, one, run)) == [["0", "1", "0", "0", "0"]]
    # Files that exist are refused by rank 0; a single sample cannot be shared; other commands are for one process.
    assert unwrapped(on_ranks(3, commands, three, run)) == [["0", "1", "1", "1", "0"]] * 3
    with np.load(one / "x.npz") as expected, np.load(three / "x.npz") as got:
        assert got["samples"].shape == (21, 1, 8, 8)
        assert np.array_equal(got["samples"], expected["samples"])
    expected, got = (json.loads((folder / "e.json").read_text()) for folder in (one, three))
    assert got.keys() == expected.keys()
    for part in ("pixels", "neighbours", "energy"):
        assert got[part] == expected[part]


def _differing(run: Path) -> list[str]:
    messages = []
    for options in ({"n": 8 + dist.get_rank()}, {"n_steps": 4 + dist.get_rank()}, {"seed": dist.get_rank()}):
        with pytest.raises(ValueError) as raised:
            fl.evaluate(run, "digits", **{"n": 8, "n_reconstruct": 0, "n_chains": 0, "progress": False, **options})
        messages.append(str(raised.value))
    return messages


def test_ranks_that_ask_for_different_samples_are_an_error_of_all(run):
    differing = "must be the same on all ranks, got {} on rank 0 and {} on rank 1".format
    expected = [f"n {differing(8, 9)}", f"n_steps {differing(4, 5)}", f"seed {differing(0, 1)}"]
    assert unwrapped(on_ranks(2, _differing, run)) == [expected] * 2


def _twice(port: int) -> bool:
    os.environ |= {"MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    for _ in range(2):
        options = {"features": 4, "batch_size": 4, "n_iterations": 1, "progress": False}
        fl.train("digits", **options, timeout=20.0)
        rank = dist.get_rank()
        dist.destroy_process_group()
        if rank == 0:
            time.sleep(1.0)  # the other finds no new address of this one
    return True


def test_a_script_may_train_again_after_it_destroyed_the_group():
    """The store, which torchrun's own process serves, still has the addresses of the first group."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    unwrapped(on_ranks(2, _twice, store.port, joined=False))


def test_torchrun_leaves_the_flags_after_two_dashes_alone():
    command = ["train", "digits", "--out", "run", "--start", "buffer"]
    parsed = get_args_parser().parse_args(["--nproc-per-node=2", "-m", "--", "fastlangevin", *command])
    assert (parsed.module, parsed.training_script, parsed.training_script_args) == (True, "fastlangevin", command)
