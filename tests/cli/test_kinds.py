"""The commands for runs with other samplers than `Langevin`."""

from __future__ import annotations

import re

import numpy as np
import pytest

import fastlangevin as fl
from fastlangevin import cli
from fastlangevin.runs import metrics_log
from fastlangevin.training import loop

QUICK = ["--features", "2", "--batch-size", "2", "--steps", "2", "--iterations", "1"]
HMC = ["--sampler", "hmc", "--step-size", "0.1", "--leapfrog", "3", "--mass", "2"]


@pytest.fixture(autouse=True, scope="module")
def without_plots():
    """They take longer than these trainings."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (loop, metrics_log):
            patch.setattr(module, "has_plots", lambda: False)
        yield


@pytest.fixture
def command(capsys):
    """Runs a command in this process and returns its output, on stderr if it should fail."""

    def call(*arguments, code=0):
        with pytest.raises(SystemExit) as ended:
            cli.main([*map(str, arguments)])
        out, err = capsys.readouterr()
        assert ended.value.code == code, out + err
        return err if code else out

    return call


def test_a_run_with_another_sampler(command, tmp_path):
    run, samples = tmp_path / "run", tmp_path / "x.npz"
    said = command("train", "digits", "--out", run, "--recipe", "uva", *QUICK, *HMC)
    assert "sampler: noise_std, noise_first, grad_clip of recipe uva are for Langevin, not for HMC" in said
    assert "2 HMC steps (2 to sample)" in said
    _, sampler = fl.load(run)
    assert type(sampler) is fl.HMC and (sampler.n_leapfrog, sampler.mass, sampler.bounds) == (3, 2.0, (-1.0, 1.0))
    command("sample", run, "-n", 3, "-o", samples, "--steps", 4, "--seed", 5)
    sampler.load_state_dict({**sampler.state_dict(), "seed": 5, "step": 0})
    expected = sampler.sample((3, 1, 8, 8), n_steps=4)
    assert np.array_equal(np.load(samples)["samples"], expected.numpy())

    for arguments in (("reconstruct", run, "--data", "digits"), ("interpolate", run)):
        said = command(*arguments, "-o", tmp_path / "y.npz", code=1)
        assert "sampler must be a Langevin, got HMC: the generator is a chain of Langevin dynamics" in said
        assert 'fastlangevin.load(run, sampler={"kind": "langevin"' in said

    change = ("train", "digits", "--out", run, "--resume", "--quiet", "--iterations", 2, "--override", "sampler=mala")
    assert "step_size must be given: MALA" in command(*change, code=1)
    command(*change, "--override", "step-size=0.25")
    assert (type(fl.load(run)[1]), fl.load(run)[1].step_size) == (fl.MALA, 0.25)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--sampler", "mlaa", "--step-size", "1"], "sampler's kind must be one of .* did you mean 'mala'"),
        (["--sampler", "mala"], "sampler's step_size must be given: MALA has no default one"),
        (
            ["--sampler", "mala", "--step-size", "1", "--noise-std", "0.1"],
            "got 'noise_std' .an option of kind 'langevin'",
        ),
        (["--leapfrog", "3"], "got 'n_leapfrog' .an option of kind 'hmc'"),
        (["--sampler", "mala", "--step-size", "1", "--recipe", "improved_cd"], "kl_weight must be 0 with MALA"),
        (["--step-size", "1"], "noise_std must be given with step_size: .*--noise-std langevin"),
    ],
)
def test_errors(command, tmp_path, flags, words):
    said = command("train", "digits", "--out", tmp_path / "run", *QUICK, *flags, code=1)
    assert re.search(words, said), said
    assert not (tmp_path / "run").exists()
