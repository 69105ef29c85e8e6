"""Options of training beyond the paper's algorithm, compared with a plain loop, and schedules."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from support.adam_steps import recorded_gradients, step_along
from support.error_bounds import U
from torch import nn

import fastlangevin as fl
from fastlangevin.data.order import batch_indices
from fastlangevin.data.sources import load_data
from fastlangevin.runs import checkpoint, piecewise

K, B, SEED = 4, 8, 5
NOISE_FIRST = {"n_steps": K, "step_size": 10.0, "noise_std": 0.005, "grad_clip": 0.01, "noise_first": True}
OPTIONS = {"features": 4, "batch_size": B, "lr": 1e-2, "lr_decay": 0.0, "data_noise": 0.1, "seed": SEED}
QUIET = {"sample_steps": K, "progress": False}


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def initial_network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        return fl.models.ConvNet(8, 1, 4)


def normal(step: int, stream: int = 0) -> torch.Tensor:
    return fl.noise.normal((B, 1, 8, 8), seed=SEED, step=step, stream=stream)


class PlainLoop:
    """Training as a plain loop with the library's noise: one method for each part that options change."""

    def __init__(self, lo=-1.0, hi=1.0, clamp_data=False, alpha=0.0, kl=0.0, betas=(0.9, 0.999), max_norm=None):
        self.lo, self.hi, self.clamp_data, self.alpha, self.kl, self.max_norm = lo, hi, clamp_data, alpha, kl, max_norm
        self.f = initial_network()
        self.adam = torch.optim.Adam(self.f.parameters(), lr=1e-2, betas=betas)
        self.data = load_data("digits")

    def batch(self, i: int) -> torch.Tensor:
        x = self.data.batch(batch_indices(len(self.data), B, seed=SEED, iteration=i))
        x = (x + 1) / 2 * (self.hi - self.lo) + self.lo + 0.1 * normal(i, stream=2)
        return x.clamp(self.lo, self.hi) if self.clamp_data else x

    def p0(self, i: int, batch: torch.Tensor) -> torch.Tensor:
        return self.lo + (self.hi - self.lo) * fl.noise.uniform(batch.shape, seed=SEED, step=K * i, stream=1)

    def move(self, x: torch.Tensor, step: int, create_graph: bool = False) -> torch.Tensor:
        x = (x + 0.005 * normal(step)).detach().requires_grad_()
        (g,) = torch.autograd.grad(self.f(x).sum(), x, create_graph=create_graph)
        return (x + 10 * g.clamp(-0.01, 0.01)).clamp(self.lo, self.hi)

    def iterate(self, i: int, gradient: list[torch.Tensor]) -> None:
        """Steps along `gradient`, training's, which must be its own."""
        batch = self.batch(i)
        x = self.p0(i, batch)
        for k in range(K):
            before = x.detach()
            x = self.move(before, K * i + k)
        x = x.detach()
        f_data, f_samples = self.f(batch), self.f(x)
        loss = (f_samples - f_data).mean() + self.alpha * (f_data**2 + f_samples**2).mean()
        if self.kl:
            x_kl = self.move(before, K * i + K - 1, create_graph=True)
            frozen = copy.deepcopy(self.f).requires_grad_(False)
            loss = loss - self.kl * frozen(x_kl).mean()
        self.adam.zero_grad()
        loss.backward()
        if self.max_norm:
            total = torch.sqrt(sum(p.grad.square().sum() for p in self.f.parameters()))
            for p in self.f.parameters():
                p.grad *= min(1.0, self.max_norm / total)
        step_along(self.adam, self.f, gradient)


def assert_trains_like(loop: PlainLoop, n_iterations: int = 3, **options) -> None:
    bounds = (loop.lo, loop.hi)
    sampler = {**NOISE_FIRST, "bounds": bounds}
    with recorded_gradients() as gradients:
        result = fl.train(
            "digits", n_iterations=n_iterations, sampler=sampler, data_range=bounds, **{**OPTIONS, **options}, **QUIET
        )
    for i in range(n_iterations):
        loop.iterate(i, gradients[i])
    assert (weights(loop.f) - weights(initial_network())).abs().max() > 0.01
    assert torch.equal(weights(result.model), weights(loop.f))


@pytest.mark.parametrize(
    ("loop", "options"),
    [
        ({"alpha": 0.7}, {"energy_penalty": 0.7}),
        ({"betas": (0.0, 0.99)}, {"adam_betas": (0.0, 0.99)}),
        ({"max_norm": 0.05}, {"max_grad_norm": 0.05}),
        ({"lo": 0.0}, {}),
        ({"clamp_data": True}, {"clamp_data": True}),
        ({"lo": 0.0, "kl": 0.9}, {"kl_weight": 0.9}),
    ],
    ids=lambda v: "-".join(v) or "data_range",
)
def test_options_against_a_plain_loop(loop, options):
    assert_trains_like(PlainLoop(**loop), **options)


def test_chains_from_the_data_against_a_plain_loop():
    class Loop(PlainLoop):
        def p0(self, i, batch):
            return batch

    assert_trains_like(Loop(), start="data")


@pytest.mark.parametrize("policy", ["fifo", "reservoir", "indexed"])
def test_chains_from_a_buffer_against_a_plain_loop(policy):
    options = {"capacity": 20, "reinit": 0.3, "policy": policy}

    class Loop(PlainLoop):
        def __init__(self):
            super().__init__()
            self.buffer = fl.ReplayBuffer(shape=(1, 8, 8), bounds=(-1, 1), seed=SEED, **options)

        def p0(self, i, batch):
            if i:
                self.buffer.store(self.last, self.slots)
            draw = self.buffer.sample(B)
            self.slots = draw.slots if policy == "indexed" else None
            return draw.x

        def move(self, x, step, create_graph=False):
            self.last = super().move(x, step, create_graph).detach()
            return self.last

    assert_trains_like(Loop(), n_iterations=5, start="buffer", buffer=options)


@pytest.mark.parametrize("storage", ["float32", "uint8"])
def test_a_buffer_is_part_of_checkpoints(tmp_path, storage):
    options = {**OPTIONS, **QUIET, "start": "buffer", "buffer": {"capacity": 20, "reinit": 0.3, "storage": storage}}
    options["sampler"] = {"n_steps": K, "bounds": (-1, 1)}
    fl.train("digits", out=tmp_path / "whole", n_iterations=6, **options)
    fl.train("digits", out=tmp_path / "parts", n_iterations=4, **options)
    fl.train("digits", out=tmp_path / "parts", n_iterations=6, resume=True, progress=False)
    (a, meta_a), (b, meta_b) = (
        checkpoint.load(checkpoint.newest(tmp_path / name / "checkpoints")) for name in ("whole", "parts")
    )
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    assert meta_a["buffer"] == meta_b["buffer"] and meta_a["buffer"]["step"] == 12
    assert a["buffer.values"].shape == (20, 1, 8, 8) and str(a["buffer.values"].dtype) == f"torch.{storage}"
    config = yaml.safe_load((tmp_path / "whole" / "config.yaml").read_text())
    assert config["start"] == "buffer" and config["buffer"]["capacity"] == 20


def test_the_average_of_the_weights(tmp_path):
    seen = []
    step = torch.optim.Adam.step

    def spy(self, *args, **kwargs):
        result = step(self, *args, **kwargs)
        seen.append(torch.cat([p.detach().flatten() for p in self.param_groups[0]["params"]]))
        return result

    options = {**OPTIONS, **QUIET, "ema": 0.9, "sampler": {"n_steps": K}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.Adam, "step", spy)
        result = fl.train("digits", out=tmp_path / "whole", n_iterations=4, **options)
    expected = seen[0].clone()
    for w in seen[1:]:
        expected = 0.9 * expected + 0.1 * w
    # Three averages, of two products and a sum each: rounded twelve times.
    assert ((weights(result.ema) - expected).abs() <= 12 * U * expected.abs().max()).all()
    assert not torch.allclose(weights(result.model), expected, atol=1e-3)
    model, sampler = fl.load(tmp_path / "whole")
    assert torch.equal(weights(model), weights(result.ema))
    assert torch.equal(sampler.sample((2, 1, 8, 8)), result.sampler.sample((2, 1, 8, 8)))
    assert torch.equal(weights(fl.load(tmp_path / "whole", ema=False)[0]), weights(result.model))

    fl.train("digits", out=tmp_path / "parts", n_iterations=2, **options)
    fl.train("digits", out=tmp_path / "parts", n_iterations=4, resume=True, progress=False)
    a, b = (checkpoint.load(checkpoint.newest(tmp_path / n / "checkpoints"))[0] for n in ("whole", "parts"))
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_ema_of_a_run_without_an_average_is_an_error(tmp_path):
    result = fl.train("digits", out=tmp_path, n_iterations=1, **OPTIONS, **QUIET, sampler={"n_steps": K})
    assert result.ema is None
    with pytest.raises(ValueError, match="ema=True needs a run with an average"):
        fl.load(tmp_path, ema=True)


def test_annealing(tmp_path):
    lrs, batches = [], []
    step, normal = torch.optim.Adam.step, fl.noise.normal

    def spy(self, *args, **kwargs):
        lrs.append(self.param_groups[0]["lr"])
        return step(self, *args, **kwargs)

    def spy_normal(shape, *, stream=0, **kwargs):
        z = normal(shape, stream=stream, **kwargs)
        return torch.full_like(z, 1.0) if stream == 2 else z

    class Watching(fl.models.ConvNet):
        def forward(self, x):
            if torch.is_grad_enabled() and not x.requires_grad:
                batches.append(x.detach().clone())
            return super().forward(x)

    options = {**OPTIONS, **QUIET, "lr": [(0, 1e-2), (2, 1e-3)], "data_noise": [(0, 3.0), (1, 2.0), (3, 0.0)]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.Adam, "step", spy)
        patch.setattr(fl.noise, "normal", spy_normal)
        fl.train("digits", Watching(8, 1, 4), out=tmp_path, n_iterations=4, sampler={"n_steps": K}, **options)
    assert lrs == [1e-2, 1e-2, 1e-3, 1e-3]
    data = load_data("digits")
    of_data = batches[1::2] if len(batches) % 2 else batches[::2]
    for i, sigma in enumerate([3.0, 2.0, 2.0, 0.0]):
        clean = data.batch(batch_indices(len(data), B, seed=SEED, iteration=i))
        assert any(torch.equal(x, clean + sigma) for x in of_data), i
    config = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert config["lr"] == [[0, 1e-2], [2, 1e-3]]
    fl.train("digits", Watching(8, 1, 4), out=tmp_path, n_iterations=5, resume=True, progress=False)


def test_annealed_values():
    value = piecewise.check("lr", [(0, 1.0), (10, 0.5), (20, 0.25)], positive=True)
    assert [piecewise.at(value, i) for i in (0, 9, 10, 19, 20, 10**6)] == [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]
    assert piecewise.at(piecewise.check("lr", 3, positive=True), 7) == 3.0


@pytest.mark.parametrize("data_range", [(0, 1), (-1, 1), (-3, 5)])
def test_pictures_are_drawn_from_the_data_s_range(tmp_path, data_range):
    """With a score of zero, chains end where they start: the picture of p0 has the same grey levels in any range."""

    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.zeros(1))

        def forward(self, x):
            return (self.w * x).flatten(1).sum(1)

    sampler = {"n_steps": 1, "noise_std": 0.0, "bounds": data_range}
    options = {"data_range": data_range, "n_iterations": 1, "lr": 1e-30, "batch_size": 2, "progress": False}
    fl.train("digits", Flat(), out=tmp_path, sampler=sampler, max_energy_gap=float("inf"), **options)
    x = np.asarray(Image.open(tmp_path / "samples.png"))
    expected = fl.noise.uniform((64, 1, 8, 8), seed=1, step=0, stream=1)
    assert x[0, 0] == 128  # the gap
    factor = x.shape[1] // (8 * 10 + 2)
    first = x[2 * factor : 10 * factor : factor, 2 * factor : 10 * factor : factor]
    assert np.abs(first - 255 * expected[0, 0].numpy()).max() <= 1


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"lr": []}, ValueError, r"lr must be a number, or pairs \(iteration, value\)"),
        ({"lr": [(1, 0.1)]}, ValueError, "lr's iterations must start at 0 and increase"),
        ({"lr": [(0, 0.1), (0, 0.2)]}, ValueError, "lr's iterations must start at 0 and increase"),
        ({"lr": [(0, 0.1), (5, 0.0)]}, ValueError, "lr from iteration 5 must be positive and finite, got 0.0"),
        ({"lr": "fast"}, ValueError, "lr must be a number, or pairs"),
        ({"data_noise": [(0, -1)]}, ValueError, "data_noise from iteration 0 must be finite and not negative"),
        ({"adam_betas": 0.9}, ValueError, "adam_betas must be two numbers"),
        ({"adam_betas": (0.9, 1.0)}, ValueError, r"adam_betas\[1\] must be at least 0 and less than 1, got 1.0"),
        ({"ema": 1.0}, ValueError, "ema must be at least 0 and less than 1"),
        ({"max_grad_norm": 0.0}, ValueError, "max_grad_norm must be positive"),
        ({"energy_penalty": -1.0}, ValueError, "energy_penalty must be finite and not negative"),
        ({"kl_weight": float("inf")}, ValueError, "kl_weight must be finite"),
        ({"data_range": (1, 0)}, ValueError, r"data_range must be two finite numbers \(lo, hi\) with lo < hi"),
        ({"clamp_data": True}, ValueError, "clamp_data=True clamps to the sampler's bounds, but sampler has none"),
        ({"clamp_data": 1}, TypeError, "clamp_data must be True or False"),
        ({"start": "dtaa"}, ValueError, "start must be one of .* did you mean 'data'"),
        ({"buffer": {"capacity": 5}}, ValueError, "buffer must not be given unless start='buffer'"),
        ({"start": "buffer", "buffer": 5}, TypeError, "buffer must be a dict of ReplayBuffer options, got int"),
        ({"start": "buffer", "buffer": {"seed": 5}}, ValueError, "buffer must not contain 'seed'"),
        ({"start": "buffer", "buffer": {"size": 5}}, TypeError, "options must be one of .capacity., .* got .size."),
        ({"start": "buffer", "buffer": {"reinit": 2}}, ValueError, "reinit must"),
        ({"start": "buffer", "buffer": {"storage": "uint8"}}, ValueError, "storage='uint8' needs bounds"),
        ({"on_divergence": "roll"}, ValueError, "on_divergence must be one of .* did you mean 'rollback'"),
        ({"on_divergence": "rollback"}, ValueError, "on_divergence='rollback' needs out"),
        ({"max_rollbacks": -1}, ValueError, "max_rollbacks must be an int of at least 0"),
        ({"max_energy_gap": 0}, ValueError, "max_energy_gap must be positive"),
        ({"max_saturation": "all"}, ValueError, "max_saturation must be positive and finite"),
    ],
)
def test_bad_arguments(change, error, words):
    with pytest.raises(error, match=words):
        fl.train(**{"data": "digits", "n_iterations": 1, "progress": False, **change})
