"""Class-conditional training: what the network is called with, buffers for each class, and sampling of a class."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from support.training_runs import SMALL, assert_same_run, weights
from torch import nn
from torch.utils.data import TensorDataset

import fastlangevin as fl
from fastlangevin import cli
from fastlangevin.data.order import batch_indices

BY_CLASS = {**SMALL, "class_conditional": True}
X = torch.rand(30, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
Y = torch.arange(30) % 3


class Watching(nn.Module):
    """f(x, y) whose calls are kept."""

    def __init__(self):
        super().__init__()
        self.score = nn.Parameter(torch.zeros(3, 64))
        self.calls = []

    def forward(self, x, y):
        self.calls.append((x.detach().clone(), y.clone()))
        return (x.flatten(1) * self.score[y]).sum(1)


@pytest.mark.parametrize(
    "data", [(X, Y), (X.numpy(), Y.tolist()), TensorDataset(X, Y)], ids=["pair", "arrays", "Dataset"]
)
@pytest.mark.parametrize("options", [{}, {"kl_weight": 0.5}, {"start": "buffer", "buffer": {"capacity": 16}}])
def test_the_network_gets_the_labels_of_the_batch(data, options):
    model = Watching()
    settings = {k: v for k, v in BY_CLASS.items() if k != "features"}
    fl.train(data, model, n_iterations=3, data_noise=0.0, **settings, **options)
    for i in range(3):
        items = batch_indices(30, 8, seed=1, iteration=i)
        of_data = [y for x, y in model.calls if torch.equal(x, X[items])]
        assert of_data and all(torch.equal(y, Y[items]) for y in of_data)
    batches = {tuple(Y[batch_indices(30, 8, seed=1, iteration=i)].tolist()) for i in range(3)}
    assert {tuple(y.tolist()) for _, y in model.calls if len(y) == 8} == batches


@pytest.mark.parametrize("policy", ["fifo", "indexed"])
def test_a_buffer_keeps_classes_apart(policy):
    """Classes that the energy sends to opposite corners never meet, though half of all chains start from the buffer."""

    class Corners(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.tensor(1.0))
            self.seen = []

        def forward(self, x, y):
            if x.requires_grad:
                self.seen.append((x.detach().mean(1), y))
            return self.w * (x * (y - 1.0)[:, None]).sum(1)

    model, points = Corners(), torch.rand(30, 2) * 2 - 1
    fl.train(
        (points, Y),
        model,
        n_iterations=20,
        batch_size=8,
        lr=1e-30,
        start="buffer",
        buffer={"capacity": 31, "reinit": 0.0, "policy": policy},
        sampler={"n_steps": 1, "step_size": 0.5, "noise_std": 0.0, "bounds": (-1, 1)},
        class_conditional=True,
        max_saturation=float("inf"),
        progress=False,
    )
    late = [(x, y) for x, y in model.seen[-20:] if len(x) == 8]
    assert late
    for x, y in late:
        assert (x[y == 2] >= -1e-6).all() or policy == "indexed"
        assert not ((x == -1) & (y == 2)).any() and not ((x == 1) & (y == 0)).any()


def test_digits_by_class(tmp_path):
    result = fl.train("digits", out=tmp_path / "a", **{**fl.recipes.digits_by_class, **SMALL, "n_iterations": 4})
    assert result.model.n_classes == 10
    y = torch.tensor([3, 3, 7, 7])
    x = result.sampler.sample((4, 1, 8, 8), y, step=0)
    model, sampler = fl.load(tmp_path / "a")
    assert torch.equal(sampler.sample((4, 1, 8, 8), y, step=0), x)
    assert not torch.equal(sampler.sample((4, 1, 8, 8), y.flip(0), step=0), x)
    images = torch.rand(5, 1, 8, 8)
    logits = model.net(images)
    assert logits.shape == (5, 10) and torch.equal(model(images), logits.logsumexp(1))
    assert torch.equal(model(images, torch.arange(5)), logits.diagonal())
    picture = Image.open(tmp_path / "a" / "samples.png")
    assert picture.width == 7 * (10 * 10 + 2)  # a column for each class


def test_resume_is_bit_for_bit(tmp_path):
    options = {**BY_CLASS, "start": "buffer", "buffer": {"capacity": 50, "reinit": 0.3}, "log_every": 1}
    fl.train("digits", out=tmp_path / "whole", n_iterations=6, **options)
    fl.train("digits", out=tmp_path / "parts", n_iterations=3, **options)
    fl.train("digits", out=tmp_path / "parts", n_iterations=6, resume=True, progress=False)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    other = (fl.load_data("digits"), fl.digits()[1].flip(0))
    with pytest.raises(ValueError, match="label_fingerprint is"):
        fl.train(other, out=tmp_path / "parts", n_iterations=7, resume=True, progress=False)
    with pytest.raises(ValueError, match="class_conditional cannot change at a resume"):
        changes = {"class_conditional": False}
        fl.train("digits", out=tmp_path / "parts", resume=True, resume_overrides=changes, progress=False)


def test_labels_have_no_effect_unless_asked():
    a, b = (fl.train(data, n_iterations=2, **SMALL) for data in (X, (X, Y)))
    assert torch.equal(weights(a.model), weights(b.model))
    with pytest.raises(ValueError, match="class_conditional=True needs labels, but tensor has none"):
        fl.train(X, n_iterations=1, **BY_CLASS)
    with pytest.raises(ValueError, match="y must be None, because the network was made without n_classes"):
        a.sampler.sample((2, 1, 8, 8), Y[:2])


def test_the_command(tmp_path, capsys):
    fl.train("digits", out=tmp_path / "run", n_iterations=1, **BY_CLASS)
    fl.train("digits", out=tmp_path / "plain", n_iterations=1, **SMALL)

    def sample(*arguments, run="run", code=0):
        with pytest.raises(SystemExit) as ended:
            cli.main(["sample", str(tmp_path / run), *map(str, arguments), "--overwrite"])
        assert ended.value.code == code
        return capsys.readouterr().err

    def samples(*arguments):
        sample("-n", 12, "-o", tmp_path / "x.npy", "--seed", 5, *arguments)
        return torch.from_numpy(np.load(tmp_path / "x.npy"))

    _, sampler = fl.load(tmp_path / "run")
    sampler.load_state_dict({**sampler.state_dict(), "seed": 5, "step": 0})
    shape = (12, 1, 8, 8)
    assert torch.equal(samples("--label", 3), sampler.sample(shape, torch.full((12,), 3), step=0))
    assert torch.equal(samples(), sampler.sample(shape, torch.arange(12) % 10, step=0))
    assert "--label must be less than the run's number of classes, 10, got 10" in sample("--label", 10, code=1)
    assert "--label is for a class-conditional run" in sample("--label", 1, run="plain", code=1)
