"""The classes of a class-conditional run after training: in evaluation, reconstruction and interpolation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.training_runs import SMALL
from torch import nn

import fastlangevin as fl
from fastlangevin import cli
from fastlangevin.data.order import epoch_order

X = torch.rand(30, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
Y = torch.arange(30) % 3
OFF = {"fid": False, "coverage": False, "n_reconstruct": 0, "n_chains": 0, "progress": False}


class Net(nn.Module):
    """f(x, y), which is not defined without y."""

    def __init__(self):
        super().__init__()
        self.score = nn.Parameter(torch.linspace(-0.3, 0.3, 3 * 64).reshape(3, 64))

    def forward(self, x, y):
        return (x.flatten(1) * self.score[y]).sum(1)


@pytest.fixture(scope="module")
def trained():
    options = {k: v for k, v in SMALL.items() if k != "features"}
    return fl.train((X, Y), Net(), n_iterations=1, class_conditional=True, **options)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("by-class") / "run"
    fl.train((X, Y), out=out, n_iterations=1, class_conditional=True, **SMALL)
    return out


def test_evaluation_with_the_labels_of_the_data(trained):
    result = fl.evaluate(trained, (X, Y), n=40, **{**OFF, "n_reconstruct": 2, "n_chains": 4})
    items = epoch_order(30, seed=0, epoch=0)
    y = Y[items].repeat(2)[:40]
    sampler = fl.Langevin(log_density=trained.model, seed=0, n_steps=5)
    samples = sampler.sample((40, 1, 8, 8), y, step=0)
    for key, (x, classes) in {"data_mean": (X[items], Y[items]), "samples_mean": (samples, y)}.items():
        assert result["energy"][key] == float(sampler.energy(x, classes).double().mean())
    mse = fl.reconstruct(sampler, X[items[:2]], Y[items[:2]]).mse.double().mean()
    assert result["reconstruction"]["mse_mean"] == float(mse)
    traced = sampler.trace(sampler.initial((4, 1, 8, 8), step=0), y[:4], every=1, n_steps=50, step=0)
    assert result["chain"]["energy"] == traced.energy.double().mean(1).tolist()
    assert result["notes"]["classes"] == "the samples are of classes of random data items"


def test_evaluation_without_labels(trained):
    result = fl.evaluate(trained, X, n=4, **{**OFF, "n_reconstruct": 2, "n_chains": 2})
    assert {"energy", "reconstruction"} <= result["skipped"].keys() and result["chain"]["energy"]
    assert result["skipped"]["energy"] == "the network is f(x, y) of classes y, and tensor has no labels"
    assert "in turn, because the data has no labels" in result["notes"]["classes"]
    with pytest.raises(ValueError, match=r"labels must be of the network's classes, 0 … 2, got 7"):
        fl.evaluate(trained, (X, Y + 5), n=4, **OFF)
    assert fl.evaluate((trained.model, trained.sampler), X, n=4, **OFF)["pixels"] == result["pixels"]


def test_calls_without_the_classes_say_what_to_pass(trained):
    calls = [
        lambda: trained.sampler.sample((3, 1, 8, 8)),
        lambda: trained.sampler(X[:3]),
        lambda: trained.sampler.energy(X[:3]),
        lambda: fl.reconstruct(trained.sampler, X[:3]),
        lambda: fl.interpolate(trained.sampler, X[:2], X[2:4]),
    ]
    for call in calls:
        with pytest.raises(
            TypeError, match=r"Net was trained with classes: pass .* int64 tensor \(B,\) of 0 … 2, after"
        ):
            call()


def test_without_classes_a_convnet_sums_over_them(run):
    model, sampler = fl.load(run)
    assert torch.equal(sampler.energy(X), -model.net(X).logsumexp(1))


@pytest.fixture
def command(run, tmp_path, capsys):
    """Runs a command on the run, and returns the arrays that it writes or, where it should fail, its message."""
    np.savez(tmp_path / "labelled.npz", images=X.numpy(), labels=Y.numpy())
    np.save(tmp_path / "plain.npy", X.numpy())

    def call(name, *arguments, data=None, code=0):
        given = [] if data is None else ["--data", str(tmp_path / data)]
        with pytest.raises(SystemExit) as ended:
            cli.main([name, str(run), *given, "-o", str(tmp_path / "x.npz"), "--overwrite", *map(str, arguments)])
        error = capsys.readouterr().err
        assert ended.value.code == code, error
        return error if code else np.load(tmp_path / "x.npz")

    return call


def test_the_command_reconstruct(run, command):
    _, sampler = fl.load(run)
    for given, y in (((), Y[:4]), (("--label", 2), torch.full((4,), 2))):
        arrays = command("reconstruct", "-n", 4, "--iterations", 3, *given, data="labelled.npz")
        expected = fl.reconstruct(sampler, X[:4], y, n_iterations=3)
        np.testing.assert_array_equal(arrays["reconstruction"], expected.x)
    assert "--label must be given: the run is class-conditional, and file:plain.npy has no labels" in command(
        "reconstruct", "-n", 4, data="plain.npy", code=1
    )
    assert command("reconstruct", "-n", 4, "--iterations", 1, "--label", 1, data="plain.npy")["mse"].shape == (4,)


def test_the_command_interpolate(run, command):
    _, sampler = fl.load(run)
    for given, y in (((), torch.arange(4) % 3), (("--label", 2), torch.full((4,), 2))):
        arrays = command("interpolate", "--pairs", 4, "-n", 2, *given)
        z = torch.from_numpy(arrays["z"])
        np.testing.assert_array_equal(arrays["samples"], fl.interpolate(sampler, z[1::2], z[::2], y, n=2))
    arrays = command("interpolate", "--pairs", 2, "-n", 2, data="labelled.npz")
    z = fl.reconstruct(sampler, X[:4], Y[[0, 0, 2, 2]]).z
    np.testing.assert_array_equal(arrays["z"], z)
    np.testing.assert_array_equal(arrays["samples"], fl.interpolate(sampler, z[1::2], z[::2], Y[[0, 2]], n=2))
