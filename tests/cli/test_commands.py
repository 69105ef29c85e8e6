"""The command line: in this process, and where that matters in one of its own."""

from __future__ import annotations

import io
import os
import shlex
import signal
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from support.forked import start

import fastlangevin as fl
from fastlangevin import cli
from fastlangevin.diagnostics import page
from fastlangevin.runs import checkpoint

pytestmark = pytest.mark.any_processor

QUICK = ["--features", "4", "--batch-size", "8", "--steps", "3", "--iterations", "2"]


def run(*arguments: object, code: int = 0) -> SimpleNamespace:
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit) as ended:
            cli.main([*map(str, arguments)])
    done = SimpleNamespace(stdout=out.getvalue(), stderr=err.getvalue())
    assert ended.value.code == code, done.stdout + done.stderr
    return done


def run_apart(*arguments: object, code: int = 0) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "fastlangevin", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"})
    assert done.returncode == code, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("cli") / "run"
    done = run_apart("train", "digits", "--out", out, *QUICK)
    assert "digits: 1,797 items of 1×8×8" in done.stdout and "\x1b" not in done.stdout
    for name in ("samples.png", "training.png", "metrics.jsonl", "checkpoints", "tensorboard"):
        assert str(out / name) in done.stdout.replace("\n", "")
    return out


def test_a_terminal_without_unicode(monkeypatch):
    shown = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(shown, encoding="ascii"))
    with pytest.raises(SystemExit) as ended:
        cli.main(["train", "--help"])
    assert ended.value.code == 0
    sys.stdout.flush()
    assert "--noise-std" in shown.getvalue().decode("ascii")


def test_sample(trained, tmp_path):
    run("sample", trained, "-n", 10, "-o", tmp_path / "grid.png")
    assert Image.open(tmp_path / "grid.png").width >= 640
    done = run("sample", trained, "-n", 10, "-o", tmp_path / "x.npz", "--seed", 3, "--quiet")
    assert done.stdout == ""
    samples = np.load(tmp_path / "x.npz")["samples"]
    assert samples.shape == (10, 1, 8, 8) and np.isfinite(samples).all()
    run("sample", trained, "-n", 10, "-o", tmp_path / "y.npz", "--seed", 3)
    run("sample", trained, "-n", 10, "-o", tmp_path / "z.npz", "--seed", 4)
    assert (np.load(tmp_path / "y.npz")["samples"] == samples).all()
    assert (np.load(tmp_path / "z.npz")["samples"] != samples).any()


def test_existing_picture_is_not_replaced_unless_requested(trained, tmp_path):
    picture = tmp_path / "grid.png"
    picture.write_bytes(b"mine")
    done = run("sample", trained, "-o", picture, code=1)
    assert "exists: use --overwrite" in done.stderr and picture.read_bytes() == b"mine"
    run("sample", trained, "-o", picture, "--overwrite")
    assert picture.read_bytes() != b"mine"


def test_diagnose(trained, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(page, "_png", lambda figure: b"")  # tests of the pictures are in tests/diagnostics

    def diagnose(*arguments: object, code: int = 0) -> str:
        with pytest.raises(SystemExit) as ended:
            cli.main(["diagnose", str(trained), *map(str, arguments)])
        assert ended.value.code == code
        return "".join(capsys.readouterr())

    out = tmp_path / "new" / "r.html"
    chains = ("--steps", 40, "--chains", 3, "--every", 2, "--elements", 5, "--seed", 3)
    said = diagnose("-o", out, *chains)
    assert "R-hat is up to" in said and f"plots of 3 chains of 40 steps in {out}" in said
    text = out.read_text("utf-8")
    assert "40, of which 20 are burn-in; a draw every 2" in text and "5 rows of 6 quantities" in text
    out.write_bytes(b"mine")
    assert "exists: use --overwrite" in diagnose("-o", out, code=1)
    assert "out must end in .html" in diagnose("-o", "x.pdf", code=1)
    assert out.read_bytes() == b"mine"


def test_resume_and_quiet(trained):
    done = run("train", "digits", "--out", trained, "--resume", "--iterations", 4, "--quiet")
    assert done.stdout == ""
    assert int(checkpoint.newest(trained / "checkpoints").stem) == 4


def test_folder_of_images(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "cats").mkdir()
    for i in range(6):
        Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(tmp_path / "cats" / f"{i}.png")
    run("train", tmp_path / "cats", "--image-size", 16, "--out", tmp_path / "run", *QUICK, "--quiet")
    assert Image.open(tmp_path / "run" / "samples.png").mode == "RGB"


def test_info():
    text = run("info").stdout
    for part in ("fastlangevin", "torch", "triton", "cpu", "reference", "engine convnet", "not used"):
        assert part in text


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["train", "digist"], 1, "did you mean 'digits'"),
        (["train", "digits", "--lr", "-1"], 1, "lr must be"),
        (["train", "digits", "--iterations", "0"], 2, "--iterations"),
        (["train", "digits", "--precision", "tf32", "--out", "OUT"], 1, "precision='tf32'"),
        (["sample", "nowhere"], 1, "run='nowhere' is neither a run's folder nor a checkpoint"),
        (["sample", "nowhere", "-o", "x.txt"], 1, "--out must end in .npy, .npz or the extension of an image format"),
        (["smaple"], 2, "No such command"),
    ],
)
def test_errors_are_one_line_and_exit_codes(arguments, code, words, tmp_path):
    done = run(*[str(tmp_path / "out") if a == "OUT" else a for a in arguments], code=code)
    assert words in done.stderr and "Traceback" not in done.stderr


def test_a_process_fails_in_one_line():
    done = run_apart("train", "digist", code=1)
    assert "did you mean 'digits'" in done.stderr and done.stderr.count("\n") == 1 and done.stdout == ""


def test_value_range(tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).uniform(0, 5, (6, 8, 8)).astype(np.float32))
    command = ["train", tmp_path / "x.npy", "--out", tmp_path / "run", *QUICK, "--quiet"]
    assert "value_range= sets another range" in run(*command, "--value-range", "0,1", code=1).stderr
    run(*command, "--value-range", "0,5")


@pytest.mark.parametrize("ending", ["jpg", "npy"])
def test_sample_writes_other_formats(trained, tmp_path, ending):
    path = tmp_path / f"x.{ending}"
    run("sample", trained, "-n", 10, "-o", path)
    if ending == "npy":
        assert np.load(path).shape == (10, 1, 8, 8)
    else:
        assert Image.open(path).format == "JPEG"


def test_help_and_version():
    assert run("--version").stdout == f"{fl.__version__}\n"
    text = run("train", "-h").stdout
    assert all(name in text for name in fl.recipes.BY_NAME) and "bool" not in text
    assert "train" in run("-h").stdout


def test_ctrl_c_prints_the_command_that_continues(tmp_path):
    out = tmp_path / "a run"
    process = start(out, "--device", "cpu", "--recipe", "digits")
    process.send(signal.SIGINT)
    printed = process.wait()
    assert process.exit_code == 130, printed
    command = shlex.split(printed.split("to continue: ")[1])
    assert command == ["fastlangevin", "train", "digits", "--out", str(out), "--device", "cpu", "--resume"]
    done = int(checkpoint.newest(out / "checkpoints").stem)
    run(*command[1:], "--iterations", done + 1)
    assert int(checkpoint.newest(out / "checkpoints").stem) == done + 1
