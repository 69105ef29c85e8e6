"""Training: the algorithm compared with a plain loop, its options, and errors."""

from __future__ import annotations

import pytest
import torch
from support.adam_steps import recorded_gradients, step_along
from support.training_runs import SMALL, tensors_of, weights
from torch import nn

import fastlangevin as fl
from fastlangevin.data.order import batch_indices
from fastlangevin.data.sources import load_data
from fastlangevin.runs import checkpoint


def test_the_algorithm_is_the_paper_s():
    """Three iterations against a loop written from the paper's Algorithm 1, with the library's noise."""
    with recorded_gradients() as gradients:
        result = fl.train("digits", n_iterations=3, lr=1e-2, data_noise=0.1, seed=5, **SMALL)
    data = load_data("digits")
    with torch.random.fork_rng():
        torch.manual_seed(5)
        f = fl.models.ConvNet(8, 1, 4)
    adam = torch.optim.Adam(f.parameters(), lr=1e-2, betas=(0.9, 0.999))
    for i in range(3):
        x = 2 * fl.noise.uniform((8, 1, 8, 8), seed=5, step=5 * i, stream=1) - 1
        for k in range(5):
            x = x.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(f(x).sum(), x)
            x = x.detach() + gradient + 0.01 * fl.noise.normal(x.shape, seed=5, step=5 * i + k)
        batch = data.batch(batch_indices(len(data), 8, seed=5, iteration=i))
        batch = batch + 0.1 * fl.noise.normal(batch.shape, seed=5, step=i, stream=2)
        adam.zero_grad()
        (-(f(batch).mean() - f(x).mean())).backward()
        step_along(adam, f, gradients[i])
    assert torch.equal(weights(result.model), weights(f))
    initial = fl.models.ConvNet(8, 1, 4)
    assert (weights(f) - weights(initial)).abs().max() > 0.01


def test_learning_lowers_the_distance_to_the_data():
    """Points of two clusters: samples of the trained short-run chain lie near them, untrained ones do not."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.tensor([[0.5, 0.5], [-0.5, -0.5]])
    points = centres[torch.arange(400) % 2] + 0.05 * torch.randn(400, 2, generator=generator)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 32), nn.SiLU(), nn.Linear(32, 32), nn.SiLU(), nn.Linear(32, 1))
    options = {"n_steps": 20, "step_size": 0.05, "noise_std": 0.02}
    distance = lambda x: torch.cdist(x, centres).min(1).values.mean()
    before = distance(fl.Langevin(log_density=model, seed=1, **options).sample((500, 2)))
    result = fl.train(points, model, n_iterations=300, lr=3e-3, value_range=(-1, 1), sampler=options, progress=False)
    x = result.sampler.sample((500, 2))
    assert before > 0.4 and distance(x) < 0.2, (before, distance(x))
    share = (torch.cdist(x, centres).argmin(1) == 0).float().mean()
    assert 0.2 < share < 0.8


def test_learning_rate_decays_at_the_end():
    seen = []
    step = torch.optim.Adam.step

    def spy(self, *args, **kwargs):
        seen.append(self.param_groups[0]["lr"])
        return step(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.Adam, "step", spy)
        fl.train("digits", n_iterations=8, lr=2**-10, **{**SMALL, "lr_decay": 0.5})
    assert [lr * 2**10 for lr in seen] == [1, 1, 1, 1, 1, 0.75, 0.5, 0.25]


def test_the_picture_always_starts_from_the_same_noise(tmp_path):
    """The picture must not advance the counter of the training's sampler."""
    a = fl.train("digits", out=tmp_path / "a", n_iterations=4, checkpoint_every=1, **SMALL)
    b = fl.train("digits", n_iterations=4, **SMALL)
    assert torch.equal(weights(a.model), weights(b.model))


def test_same_seed_same_run_other_seed_another():
    a, b = (fl.train("digits", n_iterations=2, seed=3, **SMALL) for _ in range(2))
    assert torch.equal(weights(a.model), weights(b.model))
    assert not torch.equal(weights(a.model), weights(fl.train("digits", n_iterations=2, seed=4, **SMALL).model))


def test_global_random_state_does_not_change():
    before = torch.get_rng_state()
    fl.train("digits", n_iterations=1, **SMALL)
    assert torch.equal(before, torch.get_rng_state())


class Stateful(nn.Module):
    """Has buffers that every evaluation in train mode updates."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        first = nn.utils.parametrizations.spectral_norm(nn.Linear(64, 16))
        self.net = nn.Sequential(nn.Flatten(), first, nn.BatchNorm1d(16), nn.SiLU(), nn.Linear(16, 1))

    def forward(self, x):
        return self.net(x)


def test_logging_does_not_change_the_training_of_a_stateful_model(tmp_path):
    options = {**SMALL, "n_iterations": 8}
    del options["features"]
    expected = fl.train("digits", Stateful(), log_every=3, **options).model.state_dict()
    written = fl.train("digits", Stateful(), out=tmp_path / "a", checkpoint_every=3, log_every=2, **options)
    fl.train("digits", Stateful(), out=tmp_path / "b", **{**options, "n_iterations": 3})
    resumed = fl.train("digits", Stateful(), out=tmp_path / "b", resume=True, **options)
    for model in (written.model, resumed.model):
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, expected[name]), name


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_trains_with_gradients_disabled(context):
    with context():
        fl.train("digits", n_iterations=1, **SMALL)


def test_trains_a_float64_model():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 1)).double()
    options = {k: v for k, v in SMALL.items() if k != "features"}
    assert fl.train("digits", model, n_iterations=2, **options).model[1].weight.dtype == torch.float64


def test_sample_steps(tmp_path):
    """The picture, the result and `load` use them; training does not; a given n_steps replaces the recipe's."""
    result = fl.train("digits", out=tmp_path, n_iterations=2, **{**SMALL, "sample_steps": 9})
    assert result.sampler.n_steps == 9 and result.sampler.step == 2 * 5
    assert fl.load(tmp_path)[1].n_steps == 9
    plain = fl.train("digits", n_iterations=2, **SMALL)
    assert torch.equal(weights(plain.model), weights(result.model))
    assert fl.train("digits", n_iterations=1, batch_size=2, features=2, progress=False).sampler.n_steps == 14
    options = {"n_iterations": 1, "batch_size": 2, "features": 2, "sampler": {"n_steps": 3}, "progress": False}
    assert fl.train("digits", **options).sampler.n_steps == 3


def test_drawing_a_picture_does_not_change_the_average(tmp_path):
    """The picture's chains do not update batch norm of the averaged network: the result has the checkpoint's."""
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 1))
    options = {k: v for k, v in SMALL.items() if k != "features"}
    result = fl.train("digits", model, out=tmp_path, n_iterations=2, ema=0.9, **options)
    saved = checkpoint.part(tensors_of(tmp_path), "ema.module.")
    assert all(torch.equal(value, saved[name]) for name, value in result.ema.state_dict().items())


def test_a_picture_whose_chains_diverge_does_not_stop_training(tmp_path, capsys):
    """sample_steps may exceed the n_steps of training, and be too many."""

    class Repelling(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Parameter(torch.tensor(1.25))

        def forward(self, x):
            return -self.a * x.square().sum(1)

    options = {"batch_size": 8, "lr": 1e-6, "sampler": {"n_steps": 3}, "sample_steps": 1000}
    points = torch.randn(40, 2, generator=torch.Generator().manual_seed(1))
    fl.train(points, Repelling(), out=tmp_path, n_iterations=4, **options)
    assert checkpoint.newest(tmp_path / "checkpoints").stem == "00000004"
    assert "no picture of iteration 4: 64 of 64 chains are not finite" in capsys.readouterr().out


# Bad input


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"n_iterations": 0}, ValueError, "n_iterations must be an int of at least 1, got 0"),
        ({"batch_size": 2.5}, ValueError, "batch_size must be an int"),
        ({"lr": 0.0}, ValueError, "lr must be positive"),
        ({"lr": float("nan")}, ValueError, "lr must be positive and finite"),
        ({"lr_decay": 1.5}, ValueError, "lr_decay must lie in 0 … 1"),
        ({"data_noise": -0.1}, ValueError, "data_noise must be finite and not negative"),
        ({"seed": -1}, ValueError, "seed must be an int in 0"),
        ({"sampler": {"n_stpes": 5}}, TypeError, "options must be one of .* did you mean .n_steps."),
        ({"sampler": {"seed": 5}}, ValueError, "sampler must not contain 'seed'"),
        ({"sampler": {"init": torch.zeros}}, ValueError, "sampler's init"),
        ({"sampler": fl.Langevin(torch.sum, seed=1)}, TypeError, "sampler must be a dict"),
        ({"model": torch.sum}, TypeError, "model must be a torch.nn.Module"),
        ({"checkpoint_every": 0}, ValueError, "checkpoint_every must be an int"),
        ({"resume": True, "overwrite": True, "out": "x"}, ValueError, "resume and overwrite are mutually exclusive"),
        ({"resume": True}, ValueError, "resume needs out"),
        ({"device": "gpu"}, ValueError, "device must be 'auto', 'cpu', 'cuda'.*got 'gpu'"),
        ({"model": nn.Flatten(0)}, ValueError, "model must have parameters that require grad"),
        ({"model": nn.Linear(8, 1).requires_grad_(False)}, ValueError, "model must have parameters that require grad"),
        ({"data": "digist"}, (ValueError, FileNotFoundError), "digits"),
        ({"data": torch.rand(10, 1, 7, 7)}, ValueError, "image_size must be an int of at least 8, got 7"),
        ({"data": torch.rand(10, 1, 8, 16)}, ValueError, "data of shape .* need a model: .*--image-size"),
        ({"data": torch.rand(10, 2)}, ValueError, "data of shape \\(2,\\) need a model"),
    ],
)
def test_bad_arguments(change, error, words):
    with pytest.raises(error, match=words):
        fl.train(**{"data": "digits", "n_iterations": 1, "progress": False, **change})
