"""The paper's tables on small data: settings, resuming without repeated work, and errors."""

from __future__ import annotations

import csv
import json

import pytest
import torch
import yaml
from PIL import Image
from support.error_bounds import gamma

import fastlangevin as fl
from fastlangevin.data import digits
from fastlangevin.reproduction import reproduce as module
from fastlangevin.reproduction import tables
from fastlangevin.runs import piecewise

OPTIONS = {"budget": 1e-6, "features": 4, "n": 32, "progress": False}


def small_digits() -> torch.Tensor:
    return digits()[0][:64]


def test_tables_are_the_paper_s():
    two = tables.paper_table("2", "tensor").experiments
    assert [(c.n_steps, c.data_noise, c.features) for c in two] == [
        (5, 0.15, 64),
        (10, 0.1, 64),
        (25, 0.05, 64),
        (50, 0.04, 64),
        (75, 0.03, 64),
        (100, 0.03, 64),
    ]
    three = {(c.n_steps, c.data_noise, c.features) for c in tables.paper_table("3", "celeba").experiments}
    assert three == {(100, s, 64) for s in (0.1, 0.08, 0.06, 0.05, 0.04, 0.03)} | {(100, 0.03, n) for n in (32, 128)}
    (one,) = tables.paper_table("1", "cifar10").experiments
    assert (one.n_steps, one.data_noise, one.features) == (100, 0.03, 128)
    for name in ("1", "2", "3"):
        names = [experiment.name for experiment in tables.paper_table(name, "tensor").experiments]
        assert len(set(names)) == len(names)


def test_annealing_starts_late_and_ends_low():
    settings = tables.annealed_settings(1e-4, 0.03, 250_000)
    lr, noise = (piecewise.check(name, settings[name], positive=True) for name in ("lr", "data_noise"))
    assert piecewise.at(lr, 199_999) == 1e-4 and piecewise.at(noise, 199_999) == 0.03
    assert piecewise.at(lr, 200_000) < 1e-4 and piecewise.at(noise, 200_000) < 0.03
    assert piecewise.at(noise, 249_999) == 0.015
    assert piecewise.at(lr, 249_999) == pytest.approx(1e-5, rel=gamma(4, torch.float64), abs=0)  # a power, a product
    assert tables.annealed_settings(1e-4, 0.03, 3) == {"lr": 1e-4, "data_noise": 0.03}


@pytest.fixture(scope="module")
def three_experiments():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "_STEPS", {5: 0.15, 10: 0.1, 25: 0.05})
        yield


@pytest.fixture(scope="module")
def table_2(three_experiments, tmp_path_factory):
    out = tmp_path_factory.mktemp("table") / "two"
    return fl.reproduce("2", small_digits(), out=out, **OPTIONS)


def test_files_of_a_table(table_2):
    rows, out = table_2
    assert [row["n_steps"] for row in rows] == [5, 10, 25]
    for row in rows:
        assert row["n_iterations"] == 25 and row["frechet"] > 0 and row["score_norm"] > 0
        config = yaml.safe_load((out / row["name"] / "config.yaml").read_text())
        assert config["sampler"]["n_steps"] == config["sample_steps"] == row["n_steps"]
        assert config["data_noise"][0] == [0, row["data_noise"]] and config["model"]["features"] == 4
    markdown = (out / "table.md").read_text()
    assert "| K | σ |" in markdown and markdown.count("\n| ") == 5
    with (out / "table.csv").open() as file:
        written = list(csv.DictReader(file))
    assert [float(r["frechet"]) for r in written] == [row["frechet"] for row in rows]
    assert Image.open(out / "table.png").width > 400


def test_norm_of_the_score_is_of_the_samples(table_2):
    rows, out = table_2
    _, sampler = fl.load(out / "K10")
    score = sampler.score(sampler.sample((64, 1, 8, 8), step=0))
    assert rows[1]["score_norm"] == float(score.flatten(1).norm(dim=1).mean()) > 0


def test_existing_results_are_kept(table_2, monkeypatch):
    rows, out = table_2
    (out / "K25.json").write_text(json.dumps({**json.loads((out / "K25.json").read_text()), "score_norm": 7.0}))
    monkeypatch.setattr(module, "evaluate", None)
    monkeypatch.setattr(module, "_n_iterations_within", None)
    again = fl.reproduce("2", small_digits(), out=out, **{**OPTIONS, "budget": 50.0})
    assert again.rows[2] == {**rows[2], "score_norm": 7.0}
    assert [r for i, r in enumerate(again.rows) if i != 2] == [r for i, r in enumerate(rows) if i != 2]


def test_other_options_repeat_the_evaluation(tmp_path, monkeypatch):
    """Without training again: with more samples, and with labels."""
    monkeypatch.setattr(tables, "_STEPS", {5: 0.15})
    first = fl.reproduce("2", small_digits(), out=tmp_path, **OPTIONS).rows[0]
    monkeypatch.setattr(module, "_n_iterations_within", None)
    more = fl.reproduce("2", small_digits(), out=tmp_path, **{**OPTIONS, "n": 48}).rows[0]
    assert more["frechet"] != first["frechet"] and json.loads((tmp_path / "K5.json").read_text())["n"] == 48
    labels = digits()[1][:64]
    assert fl.reproduce("2", small_digits(), out=tmp_path, labels=labels, **OPTIONS).rows[0]["classifier_score"] >= 1


def test_fid_that_is_not_available_is_an_error_before_any_training(tmp_path, monkeypatch):
    def missing():
        raise module.inception.Unavailable("Inception needs torch-fidelity")

    monkeypatch.setattr(module.inception, "check_installed", missing)
    with pytest.raises(ImportError, match="torch-fidelity"):
        fl.reproduce("1", small_digits(), out=tmp_path / "t", fid=True, **OPTIONS)
    assert not (tmp_path / "t").exists()


def test_an_interrupted_table_continues(table_2, tmp_path, monkeypatch):
    train, calls = module.train, []

    def interrupted(*args, **options):
        if "out" in options:
            calls.append(options["out"].name)
            if len(calls) == 2:
                raise KeyboardInterrupt
        return train(*args, **options)

    monkeypatch.setattr(module, "train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fl.reproduce("2", small_digits(), out=tmp_path, **OPTIONS)
    assert (tmp_path / "table.md").read_text().count("\n| ") == 3
    assert fl.reproduce("2", small_digits(), out=tmp_path, **OPTIONS).rows == table_2.rows


def test_reconstruction_and_paper_s_figures(tmp_path, monkeypatch):
    monkeypatch.setitem(tables.REPORTED, "tensor", {(100, 0.03, 4): {"fid": 12.5}})
    (row,) = fl.reproduce("1", small_digits(), out=tmp_path, **OPTIONS).rows
    assert row["mse"] > 0 and row["paper_fid"] == 12.5
    assert "| FID in the paper |" in (tmp_path / "table.md").read_text()


@pytest.mark.parametrize("measured", [True, False], ids=["later", "while it is measured"])
def test_a_training_that_diverges_is_a_row(tmp_path, monkeypatch, measured):
    def diverges(*args, **options):
        raise fl.TrainingDiverged("the energies are not finite", "lower lr", 7)

    monkeypatch.setattr(module, "train", diverges)
    if measured:
        monkeypatch.setattr(module, "_n_iterations_within", lambda *_: 25)
    (row,) = fl.reproduce("1", small_digits(), out=tmp_path, **OPTIONS).rows
    assert row["remark"] == "diverged: the energies are not finite"
    assert "diverged: the energies" in (tmp_path / "table.md").read_text()


@pytest.mark.parametrize(
    ("name", "change", "error", "words"),
    [
        ("4", {}, ValueError, "table must be one of '1', '2', '3', got '4'"),
        ("2", {"data": torch.rand(9, 2)}, ValueError, r"data must be square images, got items of shape \(2,\)"),
        ("2", {"data": torch.rand(9, 1, 7, 7)}, ValueError, "image_size must be an int of at least 8, got 7"),
        ("2", {"budget": 0}, ValueError, "budget must be positive and finite, got 0"),
        ("2", {"features": 0}, ValueError, "features must be an int of at least 1"),
        ("2", {"n": 1}, ValueError, "n must be an int of at least 2, got 1"),
        ("2", {"data": small_digits()[:1]}, ValueError, "data must hold at least 2 items to compare with, got 1"),
        ("2", {"labels": [0, 1]}, ValueError, r"labels must have shape \(64,\), one per item, got \(2,\)"),
    ],
)
def test_bad_arguments(tmp_path, name, change, error, words):
    with pytest.raises(error, match=words):
        fl.reproduce(name, **{"data": small_digits(), **OPTIONS, "out": tmp_path / "t", **change})
    assert not (tmp_path / "t").exists()


def test_folders_with_other_files_do_not_change(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="holds files that are not of a reproduction"):
        fl.reproduce("1", small_digits(), out=tmp_path, **OPTIONS)
    other = tmp_path / "other"
    other.mkdir()
    (other / "table.json").write_text(json.dumps({"table": "2"}))
    with pytest.raises(ValueError, match="holds another reproduction"):
        fl.reproduce("1", small_digits(), out=other, **OPTIONS)
