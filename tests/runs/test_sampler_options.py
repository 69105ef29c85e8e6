"""Kinds of samplers among the options of a run's sampler: what is kept of a recipe, stored, loaded and refused."""

from __future__ import annotations

import math

import pytest
import torch
import yaml
from support.training_runs import SMALL

import fastlangevin as fl
from fastlangevin.data.sources import load_data
from fastlangevin.runs import checkpoint, sampler_options
from fastlangevin.runs.resolution import resolve
from fastlangevin.runs.settings import Settings
from fastlangevin.samplers.kinds import KINDS

UVA = fl.recipes.uva["sampler"]
ONE = {**SMALL, "n_iterations": 1, "features": 2, "batch_size": 2, "sample_steps": 3}
GIVEN = {
    "mala": {"kind": "mala", "step_size": 0.25, "temperature": 0.5, "bounds": (-3.0, 3.0)},
    "hmc": {"kind": "hmc", "step_size": lambda k: 0.25 * (k + 1), "n_leapfrog": 2, "mass": 4},
    "underdamped": {"kind": "underdamped", "step_size": 0.25, "friction": math.inf, "mass": 2.0},
}


def settings(given, recipe=None) -> Settings:
    return resolve({"sampler": given}, recipe or fl.recipes.digits, load_data("digits"), None, None)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run of each kind."""
    folder = tmp_path_factory.mktemp("kinds")
    plain = {"langevin": {"step_size": 0.5, "noise_std": 0.02, "grad_clip": 0.1}, **GIVEN}
    for kind, options in plain.items():
        fl.train("digits", out=folder / kind, **{**ONE, "sampler": {"n_steps": 3, **options}})
    return folder


@pytest.mark.parametrize(
    ("given", "kept", "dropped"),
    [
        ({"kind": "mala", "step_size": 0.1}, {"n_steps", "bounds"}, ["noise_std", "noise_first", "grad_clip"]),
        ({"kind": "mala"}, {"n_steps", "bounds"}, ["step_size", "noise_std", "noise_first", "grad_clip"]),
        (
            {"kind": "underdamped", "step_size": 0.1, "n_steps": 7},
            set(),
            ["noise_std", "noise_first", "grad_clip", "bounds"],
        ),
        ({"kind": "langevin", "grad_clip": 1.0}, UVA.keys() - {"grad_clip"}, []),
        ({"noise_std": None}, UVA.keys() - {"noise_std"}, []),
    ],
)
def test_of_a_recipe_s_options_those_of_another_kind_fall_away(given, kept, dropped):
    merged = sampler_options.merged(UVA, given)
    assert merged == {**{name: UVA[name] for name in kept}, **given}
    assert sampler_options.dropped(UVA, given) == dropped
    notes = sampler_options.note_on_dropped(UVA, given, "recipe uva")
    assert len(notes) == bool(dropped) and all(name in line for name in dropped for line in notes)


def test_an_option_that_is_given_does_not_fall_away():
    """A kind that lacks it is an error, which says where it belongs."""
    with pytest.raises(TypeError, match=r"kind 'mala' must be one of .* got 'noise_std' \(an option of kind 'langev"):
        settings({"kind": "mala", "step_size": 0.1, "noise_std": 0.1})
    with pytest.raises(TypeError, match="'hmc' must be one of .* got 'leapfrog'; did you mean 'n_leapfrog'"):
        settings({"kind": "hmc", "step_size": 0.1, "leapfrog": 3})
    with pytest.raises(TypeError, match=r"sampler's options must be one of .* got 'mass' .*'hmc', 'underdamped'"):
        settings({"mass": 0.1})
    with pytest.raises(TypeError, match="'underdamped' must be one of .* got 'bounds'"):
        settings({"kind": "underdamped", "step_size": 0.1, "bounds": (-1, 1)})


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"kind": "mal"}, "sampler's kind must be one of 'langevin', 'mala', .* got 'mal'; did you mean 'mala'"),
        ({"kind": None}, "sampler's kind must be one of .* got None"),
        ({"kind": ["mala"]}, r"sampler's kind must be one of .* got \['mala'\]"),
        ({"kind": "annealed"}, "sampler's kind must be one of .* got 'annealed'"),
        ({"kind": "hmc"}, "sampler's step_size must be given: HMC has no default one"),
        ({"kind": "hmc", "step_size": 0.0}, "step_size must be positive"),
        ({"kind": "hmc", "step_size": 0.1, "mass": torch.ones(1, 8, 8)}, "mass must be a number in training"),
        ({"kind": "mala", "step_size": 0.1, "seed": 3}, "must not contain 'seed', which training sets"),
        ({"kind": "mala", "step_size": 0.1, "init": torch.rand}, "init must be 'uniform' or 'normal' in training"),
        ({"kind": "mala", "step_size": lambda k: torch.ones(3)}, "step_size"),
    ],
)
def test_errors(given, words):
    with pytest.raises((ValueError, TypeError), match=words):
        settings(given)


def test_other_settings_that_a_kind_cannot_meet():
    with pytest.raises(ValueError, match=r"kl_weight must be 0 with MALA, got 1: .* last step of Langevin"):
        settings({"kind": "mala", "step_size": 0.1}, fl.recipes.improved_cd)
    with pytest.raises(ValueError, match="clamp_data=True clamps to the sampler's bounds"):
        settings({"kind": "underdamped", "step_size": 0.1}, fl.recipes.uva)
    assert settings({"kind": "mala", "step_size": 0.1}, fl.recipes.uva).sampler["bounds"] == [-1.0, 1.0]


@pytest.mark.parametrize("kind", GIVEN)
def test_what_is_stored_is_what_was_used(kind, runs):
    """As plain values, in config.yaml and the checkpoint; and the options that were given, in the result of `load`."""
    written = yaml.safe_load((runs / kind / "config.yaml").read_text())["sampler"]
    _, meta = checkpoint.load(checkpoint.newest(runs / kind / "checkpoints"))
    assert written == meta["settings"]["sampler"] and written.keys() == {"n_steps", *GIVEN[kind]}
    restored = Settings.from_dict(meta["settings"])
    assert restored.sampler == written and Settings.from_dict(restored.to_dict()) == restored
    _, sampler = fl.load(runs / kind)
    assert type(sampler) is KINDS[kind] and sampler.step == 3
    for option, value in GIVEN[kind].items():
        if option != "kind":
            loaded = getattr(sampler, option)
            assert list(loaded) == [0.25, 0.5, 0.75] if callable(value) else loaded == value


def test_runs_without_a_kind_are_langevin(runs):
    """Those of earlier versions; and a run that names the default kind is stored like them."""
    _, meta = checkpoint.load(checkpoint.newest(runs / "langevin" / "checkpoints"))
    assert "kind" not in meta["settings"]["sampler"]
    assert type(fl.load(runs / "langevin")[1]) is fl.Langevin
    named = settings({"kind": "langevin", "n_steps": 3})
    assert "kind" not in named.sampler and named == settings({"n_steps": 3})


def test_a_run_is_loaded_with_another_sampler(runs):
    _, sampler = fl.load(runs / "langevin", sampler={"kind": "hmc", "step_size": 0.1})
    assert (type(sampler), sampler.n_steps, sampler.step_size, sampler.step) == (fl.HMC, 3, 0.1, 3)
    _, sampler = fl.load(runs / "mala", sampler={"kind": "langevin", "step_size": 0.1, "noise_std": None})
    assert (type(sampler), sampler.bounds, sampler.noise_std) == (fl.Langevin, (-3.0, 3.0), None)
    assert fl.load(runs / "mala", sampler={"step_size": 0.125})[1].step_size == 0.125
    with pytest.raises(ValueError, match="noise_std must be given with step_size"):
        fl.load(runs / "mala", sampler={"kind": "langevin", "step_size": 0.1})
    with pytest.raises(ValueError, match="step_size must be given: MALA"):
        fl.load(runs / "hmc", sampler={"kind": "mala"})
    with pytest.raises(TypeError, match="an option of MALA must be one of .* got 'noise_std'"):
        fl.load(runs / "mala", sampler={"noise_std": 0.1})


def test_another_kind_at_a_resume(runs):
    """Refused like another value of any option, unless it is asked for."""
    again = {"out": runs / "hmc", "resume": True, "progress": False}
    fl.train("digits", sampler={"kind": "hmc", "n_leapfrog": 2}, **again)
    with pytest.raises(ValueError, match=r"sampler is .*'mala'.* now and .*'hmc'.* in the run"):
        fl.train("digits", sampler={"kind": "mala", "step_size": 0.5}, **again)
    with pytest.raises(ValueError, match="step_size must be given: MALA"):
        fl.train("digits", resume_overrides={"sampler": {"kind": "mala"}}, **again)
    changed = {"sampler": {"kind": "mala", "step_size": 0.5}, "n_iterations": 2}
    result = fl.train("digits", resume_overrides=changed, **again)
    assert type(result.sampler) is fl.MALA and result.sampler.step_size == 0.5
    (record,) = yaml.safe_load((runs / "hmc" / "config.yaml").read_text())["changes"]
    assert record["before"]["sampler"]["kind"] == "hmc"
    assert record["after"]["sampler"] == {"kind": "mala", "n_steps": 3, "step_size": 0.5}
