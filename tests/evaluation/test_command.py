"""`fastlangevin evaluate`."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stderr, redirect_stdout
from types import SimpleNamespace

import pytest
from PIL import Image

import fastlangevin as fl
from fastlangevin import cli
from fastlangevin.evaluation import inception


def command(*arguments, code=0):
    """In this process, for the bits of the function's numbers."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
        cli.main(["evaluate", *map(str, arguments)])
    assert ended.value.code == code, out.getvalue() + err.getvalue()
    return SimpleNamespace(stdout=out.getvalue(), stderr=err.getvalue())


def test_the_command(run, tmp_path):
    out, plot, near = tmp_path / "deep" / "e.json", tmp_path / "plots" / "e.png", tmp_path / "near" / "n.png"
    quick = ("--data", "digits", "-n", 20, "--reconstruct", 1, "--chains", 2, "--no-fid")
    said = command(run, *quick, "-o", out, "--plot", plot, "--neighbours", near).stdout
    for words in (
        "20 samples of 5 steps",
        "Fréchet distance",
        "classes hit",
        "AUROC",
        "reconstruction MSE",
        "skipped fid",
    ):
        assert words in said
    numbers = json.loads(out.read_text())
    options = dict(n=20, n_reconstruct=1, n_chains=2, fid=False, progress=False)
    assert numbers == {"run": str(run), **fl.evaluate(run, "digits", **options)}
    assert Image.open(plot).width > 500 and Image.open(near).width >= 640
    assert "exists: use --overwrite" in command(run, *quick, "-o", out, code=1).stderr
    assert "--plot" in command(run, *quick, "--plot", plot, code=1).stderr


@pytest.mark.parametrize(
    "arguments, code, words",
    [
        (["nowhere", "--data", "digits"], 1, "run='nowhere' is neither"),
        (["RUN"], 2, "Missing option '--data'"),
        (["RUN", "--data", "digist"], 1, "did you mean 'digits'"),
        (["RUN", "--data", "digits", "-n", 1], 2, "-n"),
        (["RUN", "--data", "digits", "-o", "x.txt"], 1, "--out must end in .json"),
        (["RUN", "--data", "digits", "--plot", "x.png", "--chains", "0"], 1, "which --chains 0 skips"),
        (["RUN", "--data", "digits", "--labels", "none.npy"], 1, "labels='none.npy': no such file"),
        (["RUN", "--data", "digits", "--fid"], 1, "pip install 'fastlangevin[inception]'"),
    ],
)
def test_errors_of_the_command(run, arguments, code, words):
    if "--fid" in arguments and inception.importlib.util.find_spec("torch_fidelity"):
        pytest.skip("torch-fidelity is installed")
    done = command(*[run if a == "RUN" else a for a in arguments], code=code)
    assert words in done.stderr and "Traceback" not in done.stderr
