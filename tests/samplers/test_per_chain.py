"""Step sizes and noise levels of each chain, and of each step and chain."""

from __future__ import annotations

import math

import pytest
import torch
from support.fake_capture import FakeCapture
from support.langevin_reference import FLOAT64, small_net

import fastlangevin as fl
from fastlangevin.chains.cuda_graph import GraphCache
from fastlangevin.kernels import native

B, K = 5, 6
X = torch.randn(B, 3, generator=torch.Generator().manual_seed(1))


def well(x):
    """Its arithmetic is element by element, so that a chain has the same bits in any batch."""
    return (x.square() - 1).square()[:, 0] + (x[:, 1] - x[:, 2]).square()


def rows(*shape, seed=2):
    return 0.1 * torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


OVER_STEPS = [0.02 * (k + 1) for k in range(K)]
CASES = {
    "chains": (rows(B), rows(B, seed=3)),
    "steps and chains": (rows(K, B), rows(K, B, seed=3)),
    "step sizes alone": (rows(B), 0.1),
    "noise alone": (OVER_STEPS, rows(K, B)),
    "noise of the step sizes": (rows(K, B), None),
    "noise of constant step sizes": (rows(B), None),
    "float32": (rows(B).float(), rows(B).float()),
}


def of_chain(schedule, b):
    """The schedule of one chain alone."""
    if not isinstance(schedule, torch.Tensor):
        return schedule
    return schedule[b].item() if schedule.dim() == 1 else schedule[:, b].tolist()


def alone(b, step_size, noise_std, **options):
    return fl.Langevin(well, step_size=of_chain(step_size, b), noise_std=of_chain(noise_std, b), **options)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("noise_first", [False, True])
def test_each_chain_is_that_of_its_own_numbers(case, noise_first):
    options = dict(n_steps=K, seed=1, bounds=(-1.5, 1.5), grad_clip=0.5, noise_first=noise_first)
    step_size, noise_std = CASES[case]
    sampler = fl.Langevin(well, step_size=step_size, noise_std=noise_std, **options)
    expected = torch.cat(
        [alone(b, step_size, noise_std, **options)(X[b : b + 1], chain_offset=b, step=0) for b in range(B)]
    )
    assert torch.equal(sampler(X, step=0), expected)
    assert torch.equal(sampler(X[2:4], chain_offset=2, step=0), expected[2:4])
    assert torch.equal(sampler.trace(X, every=4, step=0).x[-1], expected)
    x0 = X.double()
    torch.testing.assert_close(sampler.with_last_step(x0, step=0), sampler(x0, step=0), **FLOAT64)


@pytest.mark.parametrize("case", ["chains", "steps and chains"])
@pytest.mark.parametrize("energy", [well, "piecewise linear"])
def test_the_gradient_is_that_of_each_chain(case, energy):
    step_size, noise_std = CASES[case]
    x0 = X.double()
    if energy == "piecewise linear":
        net = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1)).double()
        energy = lambda x: net(x)[:, 0]

    def gradient(sampler, x, offset):
        x = x.clone().requires_grad_()
        return torch.autograd.grad(sampler(x, chain_offset=offset, step=0).square().sum(), x)[0]

    options = dict(n_steps=K, seed=1, bounds=(-0.9, 0.9))
    got = gradient(fl.Langevin(energy, step_size=step_size, noise_std=noise_std, **options), x0, 0)
    for b in range(B):
        one = fl.Langevin(energy, step_size=of_chain(step_size, b), noise_std=of_chain(noise_std, b), **options)
        torch.testing.assert_close(got[b : b + 1], gradient(one, x0[b : b + 1], b), **FLOAT64)


def test_the_stationary_variance_of_each_chain_is_of_its_own_step_size():
    """ULA on N(0, 1): 1 / (1 - η/2), with relative standard error sqrt(2 / n)."""
    n = 20_000
    eta = torch.tensor([0.2, 1.0]).repeat_interleave(n)
    sampler = fl.Langevin(lambda x: x.square().sum(1) / 2, n_steps=60, step_size=eta, noise_std=None, seed=1)
    x = sampler(torch.zeros(2 * n, 1)).view(2, n)
    for got, step_size in zip(x.var(dim=1), (0.2, 1.0), strict=True):
        assert abs(got * (1 - step_size / 2) - 1) < 4 * math.sqrt(2 / n)


@pytest.mark.parametrize("unroll", [1, 2, 6])
@pytest.mark.parametrize("case", CASES)
def test_captured_chains_read_them_from_memory(case, unroll):
    FakeCapture.made = []
    graphs = GraphCache("auto", unroll, FakeCapture, "cpu")
    for factor in (1.0, 0.5):
        step_size, noise_std = (factor * v if isinstance(v, torch.Tensor) else v for v in CASES[case])
        eager = fl.Langevin(well, n_steps=K, step_size=step_size, noise_std=noise_std, seed=1)
        replayed = fl.Langevin(well, n_steps=K, step_size=step_size, noise_std=noise_std, seed=1)
        replayed._graphs = graphs
        for _ in range(2):
            assert torch.equal(replayed(X), eager(X))
    assert len(FakeCapture.made) == 1
    plain = fl.Langevin(well, n_steps=K, step_size=OVER_STEPS, noise_std=0.1, seed=1)
    replayed = plain.replace()
    replayed._graphs = graphs
    assert torch.equal(replayed(X, step=0), plain(X, step=0))
    assert len(FakeCapture.made) == 2


def test_the_plan_gives_the_reason_for_single_steps():
    if native.load_cpu():
        pytest.skip(str(native.load_cpu()))
    sampler = fl.Langevin(small_net(), n_steps=K, step_size=0.1, noise_std=rows(B), seed=1)
    assert "steps are taken one by one: noise_std differs between chains" in sampler.plan.reasons
    sampler(X)
    assert "steps are taken one by one: noise_std differs between chains" in sampler.plan.reasons
    assert not any("one by one" in reason for reason in sampler.replace(noise_std=0.1).plan.reasons)


def test_the_tensor_is_copied():
    step_size = rows(B)
    sampler = fl.Langevin(well, n_steps=K, step_size=step_size, noise_std=0.1, seed=1)
    before = sampler(X, step=0)
    step_size.fill_(7.0)
    assert torch.equal(sampler(X, step=0), before)


@pytest.mark.parametrize(
    ("step_size", "words"),
    [
        (rows(K + 1, B), "step_size as a tensor over steps and chains must have n_steps = 6 rows, got 7"),
        (rows(K, B, 1), r"step_size as a tensor must be of numbers over chains, \(B,\), .*float64 \(6, 5, 1\)"),
        (rows(B) > 0, "step_size as a tensor must be of numbers.*bool"),
        (-rows(B), "step_size must be finite and not negative, got -0"),
        (rows(B) / 0, "step_size must be finite and not negative"),
    ],
)
def test_bad_tensors(step_size, words):
    with pytest.raises(ValueError, match=words):
        fl.Langevin(well, n_steps=K, step_size=step_size, noise_std=0.1, seed=1)


def test_too_few_chains():
    sampler = fl.Langevin(well, n_steps=K, step_size=rows(B), noise_std=0.1, seed=1)
    with pytest.raises(ValueError, match="step_size must have a value for each chain .* has 5, .* chains 3 to 7"):
        sampler(X, chain_offset=3)
    assert sampler.step == 0
    with pytest.raises(ValueError, match="step_size must not differ between chains in training"):
        fl.train("digits", sampler={"step_size": rows(64), "noise_std": 0.1})
