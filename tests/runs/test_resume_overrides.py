"""Settings that change at a resume, config.yaml that was edited, and new runs from old states."""

from __future__ import annotations

import pytest
import torch
import yaml
from support.training_runs import SMALL, tensors_of, weights

import fastlangevin as fl
from fastlangevin import cli
from fastlangevin.cli.setting_flags import resume_overrides
from fastlangevin.runs import checkpoint

AGAIN = {"resume": True, "progress": False}


def config_of(folder) -> dict:
    return yaml.safe_load((folder / "config.yaml").read_text())


def edit(folder, old: str, new: str) -> None:
    text = (folder / "config.yaml").read_text()
    assert old in text
    (folder / "config.yaml").write_text(text.replace(old, new))


def trained(out, n_iterations=3, **options):
    return fl.train("digits", out=out, n_iterations=n_iterations, **{**SMALL, "lr": 2e-3, **options})


def used_by_adam(monkeypatch, name) -> list:
    seen, step = [], torch.optim.Adam.step

    def spy(self, *args, **kwargs):
        seen.append(self.param_groups[0][name])
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.Adam, "step", spy)
    return seen


@pytest.mark.parametrize(("name", "value"), [("lr", 5e-4), ("betas", (0.5, 0.9))])
def test_the_optimiser_uses_the_changed_setting(tmp_path, monkeypatch, name, value):
    trained(tmp_path)
    seen = used_by_adam(monkeypatch, name)
    setting = {"lr": "lr", "betas": "adam_betas"}[name]
    fl.train("digits", out=tmp_path, n_iterations=5, resume_overrides={setting: value}, **AGAIN)
    assert seen == [value] * 2


def test_a_change_is_recorded_and_kept(tmp_path, capsys):
    trained(tmp_path, max_grad_norm=0.5)
    changes = {"lr": 5e-4, "sampler": {"n_steps": 3}, "max_grad_norm": None}
    fl.train("digits", out=tmp_path, n_iterations=5, lr=2e-3, resume_overrides=changes, resume=True)
    assert "lr is 0.0005 from iteration 4 on, 0.002 before" in capsys.readouterr().out.replace("\n", " ")
    config = config_of(tmp_path)
    (record,) = config["changes"]
    before = {"lr": 2e-3, "max_grad_norm": 0.5, "sampler": {"n_steps": 5, "noise_std": 0.01, "step_size": 1.0}}
    after = {"lr": 5e-4, "max_grad_norm": None, "sampler": {**before["sampler"], "n_steps": 3}}
    assert record == {
        "iteration": 3,
        "before": {**before, "sample_steps": 5},
        "after": {**after, "sample_steps": 3},
    }
    assert config["lr"] == 5e-4 and config["max_grad_norm"] is None
    fl.train("digits", out=tmp_path, n_iterations=6, resume_overrides={"lr": 5e-4}, **AGAIN)
    assert config_of(tmp_path)["changes"] == [record]
    with pytest.raises(ValueError, match=r"lr is 0.002 now and 0.0005 in the run.*resume_overrides= \(--override"):
        fl.train("digits", out=tmp_path, lr=2e-3, **AGAIN)


def test_a_change_holds_if_the_process_is_killed_before_the_next_checkpoint(tmp_path, monkeypatch):
    trained(tmp_path)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.Adam, "step", killed)
        with pytest.raises(KeyboardInterrupt):
            fl.train("digits", out=tmp_path, n_iterations=5, resume_overrides={"lr": 5e-4}, **AGAIN)
    seen = used_by_adam(monkeypatch, "lr")
    fl.train("digits", out=tmp_path, n_iterations=5, **AGAIN)
    assert seen == [5e-4] * 2


def test_an_average_and_a_buffer_may_begin_at_a_resume(tmp_path):
    trained(tmp_path)
    changes = {"ema": 0.5, "start": "buffer", "buffer": {"capacity": 16}}
    result = fl.train("digits", out=tmp_path, n_iterations=4, resume_overrides=changes, **AGAIN)
    assert torch.equal(weights(result.ema), weights(result.model))  # as after the first iteration of a new run
    assert tensors_of(tmp_path)["buffer.counts"].tolist() == [8]
    fl.train("digits", out=tmp_path, n_iterations=5, resume_overrides={"buffer": {"reinit": 0.5}}, **AGAIN)
    assert tensors_of(tmp_path)["buffer.counts"].tolist() == [16]
    fl.train("digits", out=tmp_path, n_iterations=6, resume_overrides={"buffer": {"capacity": 17}}, **AGAIN)
    assert tensors_of(tmp_path)["buffer.counts"].tolist() == [8]


def test_another_seed_draws_other_noise(tmp_path):
    trained(tmp_path)
    result = fl.train("digits", out=tmp_path, n_iterations=4, resume_overrides={"seed": 7}, **AGAIN)
    assert result.sampler.seed == 7


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"resume_overrides": {"features": 5}}, ValueError, "features cannot change at a resume"),
        ({"resume_overrides": {"lrr": 5}}, TypeError, "train has no setting 'lrr'; did you mean 'lr'"),
        ({"resume_overrides": {"lr": -1.0}}, ValueError, "lr must be positive"),
        ({"resume_overrides": {"sampler": {"step_size": 2.0}}}, ValueError, "noise_std must be given with step_size"),
        ({"resume_overrides": "lr"}, TypeError, "resume_overrides must be a dict of settings or 'config.yaml'"),
        ({"resume_overrides": {"lr": 1.0}, "resume": False}, ValueError, "resume_overrides needs resume=True"),
    ],
)
def test_bad_changes(tmp_path, options, error, words):
    trained(tmp_path)
    before = (tmp_path / "config.yaml").read_text()
    with pytest.raises(error, match=words):
        fl.train("digits", out=tmp_path, n_iterations=5, **{**AGAIN, **options})
    assert (tmp_path / "config.yaml").read_text() == before


# config.yaml


def test_an_edited_config_is_refused_or_used_when_asked(tmp_path, monkeypatch):
    trained(tmp_path)
    edit(tmp_path, "lr: 0.002", "lr: 5e-4")  # which YAML 1.1 reads as text
    edit(tmp_path, "n_steps: 5", "n_steps: 4")
    edited = (tmp_path / "config.yaml").read_text()
    for options in ({}, {"resume_overrides": {"ema": 0.5}}):
        with pytest.raises(
            ValueError, match=r"config.yaml was edited: lr is 0.0005 there and 0.002 .*sampler is .*--override"
        ):
            fl.train("digits", out=tmp_path, n_iterations=5, **AGAIN, **options)
    assert (tmp_path / "config.yaml").read_text() == edited
    seen = used_by_adam(monkeypatch, "lr")
    fl.train("digits", out=tmp_path, n_iterations=5, resume_overrides="config.yaml", **AGAIN)
    assert seen == [5e-4] * 2
    config = config_of(tmp_path)
    assert config["sampler"]["n_steps"] == 4 and config["changes"][0]["before"]["lr"] == 2e-3
    fl.train("digits", out=tmp_path, n_iterations=6, **AGAIN)


@pytest.mark.parametrize("text", ["", "# nothing\n", None])
def test_an_emptied_or_deleted_config_is_restored(tmp_path, text, capsys):
    trained(tmp_path)
    before = config_of(tmp_path)
    if text is None:
        (tmp_path / "config.yaml").unlink()
    else:
        (tmp_path / "config.yaml").write_text(text)
    fl.train("digits", out=tmp_path, resume=True)
    assert config_of(tmp_path) == before
    assert "config.yaml was missing or empty, and is restored from 00000003" in capsys.readouterr().out.replace(
        "\n", ""
    )
    (tmp_path / "config.yaml").unlink()
    with pytest.raises(FileExistsError, match="holds another run"):
        trained(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("lr: ", "lr: [", "is not valid YAML"),
        ("lr: ", "lrr: ", "has an unknown setting 'lrr'; did you mean 'lr'"),
        ("data: digits", "data: cats", "data is 'cats' there and 'digits' .*, which cannot change"),
        ("features: 4", "features: 5", "model is .* there and .*, which cannot change"),
        ("fastlangevin: run", "- a", "is not valid YAML"),
    ],
)
def test_an_edit_that_cannot_be_used(tmp_path, old, new, words):
    trained(tmp_path)
    edit(tmp_path, old, new)
    edited = (tmp_path / "config.yaml").read_text()
    for asked in (None, "config.yaml"):
        with pytest.raises(ValueError, match=f"(?s)config.yaml was edited.*{words}.*delete the file"):
            fl.train("digits", out=tmp_path, n_iterations=5, resume_overrides=asked, **AGAIN)
    assert (tmp_path / "config.yaml").read_text() == edited


def test_a_comment_is_no_edit(tmp_path):
    trained(tmp_path)
    (tmp_path / "config.yaml").write_text("# mine\n" + (tmp_path / "config.yaml").read_text() + "\n# mine\n")
    fl.train("digits", out=tmp_path, n_iterations=4, **AGAIN)


def test_a_config_that_is_newer_than_the_checkpoint_is_no_edit(tmp_path, monkeypatch):
    """The process was killed between config.yaml and the next checkpoint."""
    trained(tmp_path)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.Adam, "step", killed)
        with pytest.raises(KeyboardInterrupt):
            fl.train("digits", out=tmp_path, n_iterations=9, **AGAIN)
    assert config_of(tmp_path)["n_iterations"] == 9
    fl.train("digits", out=tmp_path, n_iterations=4, **AGAIN)


# A new run from an old state


def test_a_new_run_from_a_checkpoint(tmp_path):
    old = trained(tmp_path / "old", 4, checkpoint_every=2)
    path = tmp_path / "old" / "checkpoints" / "00000002.safetensors"
    before = {p: p.read_bytes() for p in (tmp_path / "old").rglob("*") if p.is_file()}
    new = fl.train("digits", out=tmp_path / "new", from_checkpoint=path, n_iterations=2, lr=1e-30, progress=False)
    stored = checkpoint.part(checkpoint.load(path)[0], "model.")
    assert all(torch.equal(tensor, stored[name]) for name, tensor in new.model.state_dict().items())
    assert [row["iteration"] for row in new.history] == [2] and new.sampler.step == 4 * 5 == old.sampler.step
    config = config_of(tmp_path / "new")
    assert config["from_checkpoint"] == str(path) and config["lr"] == 1e-30 and config["batch_size"] == 8
    assert before == {p: p.read_bytes() for p in (tmp_path / "old").rglob("*") if p.is_file()}
    fl.train("digits", out=tmp_path / "new", n_iterations=3, **AGAIN)


def test_a_new_run_from_a_run_and_other_data(tmp_path):
    trained(tmp_path / "old", start="buffer", buffer={"capacity": 64})
    images = torch.rand(20, 1, 8, 8)
    fl.train(images, out=tmp_path / "new", from_checkpoint=tmp_path / "old", n_iterations=1, progress=False)
    assert tensors_of(tmp_path / "new")["buffer.counts"].tolist() == [32]
    with pytest.raises(FileNotFoundError, match="holds no checkpoint"):
        fl.train(images, out=tmp_path / "c", from_checkpoint=tmp_path, progress=False)
    with pytest.raises(ValueError, match="from_checkpoint needs the model of"):
        fl.train(images, out=tmp_path / "c", from_checkpoint=tmp_path / "old", features=5, progress=False)
    assert not (tmp_path / "c").exists()


# The command line


def test_overrides_as_text():
    given = [
        "lr=5e-4,9:1e-4",
        "grad-clip=none",
        "--steps=3",
        "n_iterations=7",
        "clamp-data=false",
        "max_energy_gap=none",
    ]
    assert resume_overrides(given) == {
        "lr": [(0, 5e-4), (9, 1e-4)],
        "sampler": {"grad_clip": None, "n_steps": 3},
        "n_iterations": 7,
        "clamp_data": False,
        "max_energy_gap": float("inf"),
    }
    assert resume_overrides(["config.yaml"]) == "config.yaml"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["lr"], "--override must be config.yaml or NAME=VALUE with the name of a setting, got 'lr'"),
        (["stpes=3"], "got 'stpes=3'; did you mean 'steps'"),
        (["steps=many"], "--override steps must be an int, got 'many'"),
        (["clamp_data=1"], "--override clamp_data must be true or false"),
        (["config.yaml", "lr=1"], "mutually exclusive"),
    ],
)
def test_bad_text(given, words):
    with pytest.raises(ValueError, match=words):
        resume_overrides(given)


def test_the_commands(tmp_path):
    trained(tmp_path / "run")

    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            cli.main(["train", "digits", "--quiet", *map(str, arguments)])
        assert ended.value.code == 0

    run("--out", tmp_path / "run", "--resume", "--iterations", 4, "--override", "lr=5e-4", "--override", "ema=0.5")
    assert config_of(tmp_path / "run")["changes"][0]["after"] == {"lr": 5e-4, "ema": 0.5}
    run("--out", tmp_path / "new", "--from-checkpoint", tmp_path / "run", "--iterations", 1, "--ema", 0)
    assert config_of(tmp_path / "new")["ema"] == 0.0 and config_of(tmp_path / "new")["lr"] == 5e-4
