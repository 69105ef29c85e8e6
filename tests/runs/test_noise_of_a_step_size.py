"""A given step_size needs a given noise_std, whatever the recipe or the run has."""

from __future__ import annotations

import pytest
from support.training_runs import SMALL

import fastlangevin as fl
from fastlangevin import cli
from fastlangevin.samplers.langevin import check_pair

WITHOUT_NOISE = "noise_std must be given with step_size: noise_std=None .* or a number"
UNREAD = "temperature must be 1 unless noise_std=None, .* got temperature=0.5"
ONE = {k: v for k, v in SMALL.items() if k != "sampler"} | {"n_iterations": 1}
QUICK = ["--features", "2", "--batch-size", "2", "--steps", "2", "--iterations", "1", "--quiet"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("pair") / "run"
    fl.train("digits", out=out, sampler={"n_steps": 3, "step_size": 0.5, "noise_std": 0.02}, **ONE)
    return out


@pytest.fixture(scope="module")
def langevin_run(tmp_path_factory):
    """A run with sqrt(2·step_size·temperature)."""
    out = tmp_path_factory.mktemp("pair") / "langevin"
    options = {"n_steps": 3, "step_size": 0.02, "noise_std": None, "temperature": 0.5}
    result = fl.train("digits", out=out, sampler=options, **ONE)
    assert (result.sampler.noise_std, result.sampler.temperature) == (None, 0.5)
    return out


REFUSED = [
    ({"step_size": 0.01}, WITHOUT_NOISE),
    ({"step_size": 0.01, "temperature": 0.5}, WITHOUT_NOISE),
    ({"temperature": 0.5}, UNREAD),
    ({"temperature": 0.5, "step_size": 0.01, "noise_std": 0.1}, UNREAD),
]
TAKEN = [
    {"step_size": 0.01, "noise_std": 0.1},
    {"step_size": 0.01, "noise_std": None, "temperature": 0.5},
    {"noise_std": 0.1, "temperature": 1.0},
    {"noise_std": None},
    {"n_steps": 3},
]


@pytest.mark.parametrize(("options", "words"), REFUSED)
def test_errors(run, options, words):
    with pytest.raises(ValueError, match=words):
        check_pair(options)
    with pytest.raises(ValueError, match=words):
        fl.train("digits", sampler=options, **ONE)
    with pytest.raises(ValueError, match=words):
        fl.load(run, sampler=options)


@pytest.mark.parametrize("options", TAKEN)
def test_accepted(run, options):
    check_pair(options)
    trained, loaded = (
        fl.train("digits", sampler={"n_steps": 2, **options}, **ONE).sampler,
        fl.load(run, sampler=options)[1],
    )
    for name, value in options.items():
        if name != "n_steps":
            assert getattr(trained, name) == getattr(loaded, name) == value
    assert loaded.step_size == options.get("step_size", 0.5)


def test_a_temperature_for_a_run_with_noise_std_none(langevin_run):
    _, sampler = fl.load(langevin_run, sampler={"temperature": 0.25})
    assert sampler.noise_std is None and sampler.temperature == 0.25
    with pytest.raises(ValueError, match=WITHOUT_NOISE):
        fl.load(langevin_run, sampler={"step_size": 0.01})


def test_a_number_instead_of_the_run_s_noise_std_none_ignores_its_temperature(langevin_run):
    _, sampler = fl.load(langevin_run, sampler={"noise_std": 0.1})
    assert (sampler.noise_std, sampler.temperature) == (0.1, 1.0)


@pytest.mark.parametrize("options", [{"step_size": 0.5}, {"step_size": 0.5, "noise_std": 0.02}, {"noise_std": 0.02}])
def test_a_resume_that_repeats_the_options_of_the_run(run, options):
    fl.train("digits", out=run, sampler=options, resume=True, progress=False)


def test_a_resume_with_other_options_is_an_error(run):
    with pytest.raises(ValueError, match="sampler is .* now and .* in the run"):
        fl.train("digits", out=run, sampler={"step_size": 0.01}, resume=True, progress=False)


@pytest.mark.parametrize("more", [[], ["--recipe", "uva"]])
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--step-size", "0.01"], "noise_std must be given with step_size"),
        (["--temperature", "0.5"], "temperature must be 1 unless noise_std=None"),
        (["--step-size", "0.01", "--resume"], "noise_std must be given with step_size"),
    ],
)
def test_on_the_command_line(capsys, tmp_path, arguments, words, more):
    """Also with --resume if there is no run yet."""
    with pytest.raises(SystemExit) as ended:
        cli.main(["train", "digits", "--out", str(tmp_path / "run"), *QUICK, *arguments, *more])
    message = capsys.readouterr().err
    assert ended.value.code == 1 and words in message
    assert "(on the command line: --noise-std langevin for None, or --noise-std NUMBER)" in message


def test_on_the_command_line_with_its_noise(tmp_path):
    out = tmp_path / "run"

    def call(*arguments: str) -> int:
        with pytest.raises(SystemExit) as ended:
            cli.main(["train", "digits", "--out", str(out), *arguments])
        return ended.value.code

    assert call(*QUICK, "--step-size", "0.02", "--noise-std", "langevin", "--temperature", "0.5") == 0
    sampler = fl.load(out)[1]
    assert sampler.noise_std is None and sampler.temperature == 0.5 and sampler.step_size == 0.02
    assert call("--resume", "--step-size", "0.02", "--quiet") == 0
