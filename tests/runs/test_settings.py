"""The settings of a training: what is derived from their declarations, and errors."""

from __future__ import annotations

import dataclasses
import inspect

import pytest
import typer

import fastlangevin as fl
from fastlangevin import cli
from fastlangevin.cli import setting_flags
from fastlangevin.data.sources import load_data
from fastlangevin.runs.resolution import override, resolve
from fastlangevin.runs.settings import DECLARATIONS, Overrides, Settings, defaults
from fastlangevin.samplers.kinds import KINDS

IDENTITY = ["data", "data_fingerprint", "event_shape", "model"]
PAST = ["n_classes", "label_fingerprint", "optimizer", "from_checkpoint", "changes"]
FLAGS = [(name, flag) for name, declared in DECLARATIONS.items() for flag in declared.flags]


def resolved(overrides=None, saved=None) -> Settings:
    return resolve(overrides or {}, fl.recipes.digits, load_data("digits"), None, saved)


def test_every_field_is_declared_or_identifies_the_data_and_model():
    names = [item.name for item in dataclasses.fields(Settings)]
    assert names == [*IDENTITY, *DECLARATIONS, *PAST]


def test_train_takes_every_setting():
    """With None, "not given", as default; `Overrides` has the same names."""
    parameters = inspect.signature(fl.train).parameters
    shown = [name for name in parameters if name in DECLARATIONS]
    assert shown == list(DECLARATIONS) == list(Overrides.__annotations__)
    assert all(parameters[name].default is None for name in shown)
    assert not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())


def test_the_docstring_of_train_has_every_setting():
    arguments = fl.train.__doc__.split("Args:")[1].split("Raises:")[0]
    described = {name for line in arguments.splitlines() for name in line.split(":")[0].strip().split(", ")}
    assert set(DECLARATIONS) <= described


@pytest.mark.parametrize("name", fl.recipes.BY_NAME)
def test_recipes_have_every_setting_and_no_others(name):
    assert list(fl.recipes.BY_NAME[name]) == [n for n, declared in DECLARATIONS.items() if declared.in_recipes]


def test_defaults_are_copies():
    defaults()["sampler"]["n_steps"] = 1
    assert defaults()["sampler"]["n_steps"] == fl.recipes.short_run["sampler"]["n_steps"] == 100


def test_what_is_stored_is_every_setting():
    settings = resolved()
    stored = [*IDENTITY, *(n for n, d in DECLARATIONS.items() if not d.of_model), *PAST]
    assert list(settings.to_dict()) == stored
    assert Settings.from_dict(settings.to_dict()) == settings and settings.features == 64


def test_the_command_line_has_a_flag_for_every_setting():
    command = typer.main.get_command(cli.app).commands["train"]
    spellings = {spelling for parameter in command.params for spelling in parameter.opts}
    assert {flag.spelling.split("/")[0] for _, flag in FLAGS} <= spellings
    assert {name for name, _ in FLAGS} == set(DECLARATIONS)
    assert len({flag.parameter for _, flag in FLAGS}) == len(FLAGS)


GIVEN = {
    "--iterations": (7, 7),
    "--batch-size": (3, 3),
    "--lr": ("1e-3,5:1e-4", [(0, 1e-3), (5, 1e-4)]),
    "--lr-decay": (0.25, 0.25),
    "--adam-betas": ("0.5,0.9", (0.5, 0.9)),
    "--max-grad-norm": (0.1, 0.1),
    "--ema": (0.5, 0.5),
    "--data-noise": ("0.2", 0.2),
    "--data-range": ("0,1", (0.0, 1.0)),
    "--clamp-data/--no-clamp-data": (True, True),
    "--class-conditional/--no-class-conditional": (True, True),
    "--energy-penalty": (0.3, 0.3),
    "--kl-weight": (0.4, 0.4),
    "--start": ("buffer", "buffer"),
    "--buffer-capacity": (9, 9),
    "--buffer-reinit": (0.2, 0.2),
    "--buffer-policy": ("indexed", "indexed"),
    "--buffer-storage": ("uint8", "uint8"),
    "--features": (5, 5),
    "--sampler": ("langevin", "langevin"),
    "--steps": (6, 6),
    "--step-size": (0.7, 0.7),
    "--noise-std": ("langevin", None),
    "--temperature": (0.8, 0.8),
    "--leapfrog": (3, 3),
    "--friction": ("inf", float("inf")),
    "--mass": (2.5, 2.5),
    "--grad-clip": ("0.03", 0.03),
    "--bounds": ("-1,1", (-1.0, 1.0)),
    "--precision": ("bf16", "bf16"),
    "--sample-steps": (8, 8),
    "--seed": (3, 3),
    "--checkpoint-every": (11, 11),
    "--keep-checkpoints": (4, 4),
    "--log-every": (12, 12),
    "--on-divergence": ("rollback", "rollback"),
    "--max-rollbacks": (0, 0),
    "--max-energy-gap": ("none", float("inf")),
    "--max-relative-gap": ("9", 9.0),
    "--max-saturation": ("0.5", 0.5),
}


def test_every_flag_reaches_the_settings(monkeypatch):
    assert set(GIVEN) == {flag.spelling for _, flag in FLAGS}
    taken = {}
    monkeypatch.setattr(fl, "train", lambda data, **options: taken.update(options))
    arguments = ["train", "digits", "--out", "x"]
    for spelling, (text, _) in GIVEN.items():
        arguments += [spelling.split("/")[0]] if text is True else [spelling, str(text)]
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 0
    for name, flag in FLAGS:
        value = taken[name] if flag.option is None else taken[name][flag.option]
        assert value == GIVEN[flag.spelling][1], flag.spelling
    given = {name: value for name, value in taken.items() if name in DECLARATIONS}
    accepted = set()
    for kind, made in KINDS.items():
        own = {o: v for o, v in given["sampler"].items() if o in made._defaults()}
        others = {} if kind == "langevin" else {"kl_weight": 0.0, "clamp_data": False}
        accepted |= {*resolved({**given, **others, "sampler": {**own, "kind": kind}}).sampler}
    assert accepted == {*given["sampler"]}


def test_omitted_flags_are_not_given():
    assert setting_flags.overrides({flag.parameter: None for _, flag in FLAGS}) == {}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--lr", "fast"], "--lr must be a number, or a number and its changes such as 1e-4,150000:1e-5, got 'fast'"),
        (["--adam-betas", "0.9"], "--adam-betas must be two numbers separated by a comma, got '0.9'"),
        (["--noise-std", "none"], "--noise-std must be a number or langevin, got 'none'"),
        (["--grad-clip", "no"], "--grad-clip must be a number or none, got 'no'"),
        (["--max-energy-gap", "no"], "--max-energy-gap must be a number or none, got 'no'"),
        (["--bounds", "1"], "--bounds must be two numbers separated by a comma, got '1'"),
    ],
)
def test_bad_text(capsys, arguments, words):
    with pytest.raises(SystemExit) as ended:
        cli.main(["train", "digits", "--out", "x", *arguments])
    assert ended.value.code == 1 and words in capsys.readouterr().err


def test_none_disables_limits_of_a_recipe(monkeypatch):
    taken = {}
    monkeypatch.setattr(fl, "train", lambda data, **options: taken.update(options))
    with pytest.raises(SystemExit):
        cli.main(["train", "digits", "--recipe", "uva", "--grad-clip", "none", "--start", "noise"])
    assert taken["sampler"] == {**fl.recipes.uva["sampler"], "grad_clip": None} and taken["buffer"] == {}


def test_options_are_merged_one_by_one_and_dependent_ones_dropped():
    uva, digits = fl.recipes.uva, fl.recipes.digits
    assert override(uva, {"buffer": {"capacity": 5}})["buffer"] == {**uva["buffer"], "capacity": 5}
    assert override(uva, {"start": "noise"})["buffer"] == {}
    assert override(digits, {})["sample_steps"] == 14
    assert override(digits, {"sampler": {"n_steps": 3}})["sample_steps"] is None
    assert override(digits, {"sampler": {"n_steps": 3}, "sample_steps": 5})["sample_steps"] == 5
    assert override(digits, {"sampler": {"precision": "bf16"}})["sample_steps"] == 14


def test_unknown_setting():
    with pytest.raises(TypeError, match="train has no setting 'batchsize'; did you mean 'batch_size'?"):
        fl.train("digits", batchsize=3)


def names_after(name: str) -> list[str]:
    return list(DECLARATIONS)[list(DECLARATIONS).index(name) + 1 :]


@pytest.mark.parametrize("name", DECLARATIONS)
def test_a_resume_may_change_only_n_iterations_and_how_it_is_watched(name):
    value = next(GIVEN[flag.spelling][1] for n, flag in FLAGS if n == name)
    options = {flag.option: GIVEN[flag.spelling][1] for n, flag in FLAGS if n == name and flag.option}
    if name == "sampler":
        options = {option: options[option] for option in ("kind", "n_steps", "step_size", "noise_std", "bounds")}
    saved = resolved({"sampler": {"bounds": (-2.0, 2.0)}, "start": "buffer" if name == "buffer" else None})
    overrides = {name: options or value}
    if name == "n_iterations" or name in names_after("seed"):
        assert getattr(resolved(overrides, saved), name) == value
        return
    with pytest.raises(ValueError, match=f"resume must use .*{'model' if name == 'features' else name} is "):
        resolved(overrides, saved)
    assert resolved({name: getattr(saved, name)}, saved) == saved
