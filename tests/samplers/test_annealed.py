"""`AnnealedLangevin`: its steps against a plain loop, and what they are for."""

from __future__ import annotations

import copy
import itertools
import math

import pytest
import torch
from support.fake_capture import FakeCapture
from support.langevin_reference import FLOAT64, normal
from torch import nn

import fastlangevin as fl
from fastlangevin.chains.cuda_graph import GraphCache

SIGMAS, T = (4.0, 2.0, 1.0, 0.5), 3
ETA = 0.02
OPTIONS = dict(sigmas=SIGMAS, steps_per_level=T, step_size=ETA, seed=1)
X = torch.randn(5, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
CENTRES = torch.tensor([[1.0, -2.0, 0.5], [-1.0, 0.0, 3.0]], dtype=torch.float64)


def score(x, sigma):
    """Of two points of equal weight, smoothed."""
    centres = CENTRES.to(x.dtype)
    squares = (x[:, None] - centres).square().sum(2)
    weights = torch.softmax(-squares / (2 * sigma[:, None] ** 2), 1)
    return (weights @ centres - x) / sigma[:, None] ** 2


def energy(x, sigma):
    squares = (x[:, None] - CENTRES.to(x.dtype)).square().sum(2)
    return -torch.logsumexp(-squares / (2 * sigma[:, None] ** 2), 1)


def loop(x, *, eta=ETA, consistent=False, denoise=False, bounds=None, s=score, of_level=lambda x, i: SIGMAS[i]):
    """The updates as the docstring writes them, in float64. Returns the states after each step."""
    states = []
    levels = [i for i in range(len(SIGMAS)) for _ in range(T)]
    for k, i in enumerate(levels):
        size = eta * SIGMAS[i] ** 2 / SIGMAS[-1] ** 2
        std = math.sqrt(2 * size)
        if consistent and k + 1 < len(levels):
            following = SIGMAS[levels[k + 1]]
            std = following * math.sqrt(1 - (1 - eta / SIGMAS[-1] ** 2) ** 2 * SIGMAS[i] ** 2 / following**2)
        elif consistent:
            std = 0.0
        level = torch.full((len(x),), of_level(x, i))
        x = x + size * s(x, level) + std * normal(x.shape, k).double()
        x = x if bounds is None else x.clamp(*bounds)
        states.append(x)
    if denoise:
        x = x + SIGMAS[-1] ** 2 * s(x, torch.full((len(x),), of_level(x, len(SIGMAS) - 1)))
        states.append(x if bounds is None else x.clamp(*bounds))
    return states


FORMS = {
    "plain": {},
    "denoise": {"denoise": True},
    "bounds": {"bounds": (-1.0, 1.5), "denoise": True},
    "consistent": {"consistent": True, "step_size": 0.2},
    "consistent, denoise": {"consistent": True, "denoise": True, "step_size": 0.13},
}


@pytest.mark.parametrize("form", FORMS)
def test_the_steps_are_those_of_a_plain_loop(form):
    """With the noise of one stream of steps, which runs on from level to level."""
    options = dict(FORMS[form])
    sampler = fl.AnnealedLangevin(score=score, **{**OPTIONS, **options})
    expected = loop(X, eta=options.pop("step_size", ETA), **options)
    states = []
    x = sampler(X, callback=lambda k, x: states.append(x))
    torch.testing.assert_close(torch.stack(states), torch.stack(expected), **FLOAT64)
    assert torch.equal(x, states[-1]) and sampler.step == len(expected) == sampler.n_steps
    assert torch.equal(sampler(X, step=0), x)
    assert torch.equal(sampler(X, step=0, callback=lambda k, x: None, every=7), x)
    trace = sampler.trace(X, every=5, step=0)
    for record, k in zip(trace.x[1:], trace.steps[1:].tolist(), strict=True):
        assert torch.equal(record, states[k - 1])


@pytest.mark.parametrize("kind", ["energy", "log_density"])
def test_energies_of_the_level(kind):
    function = energy if kind == "energy" else lambda x, sigma: -energy(x, sigma)
    sampler = fl.AnnealedLangevin(**{kind: function}, **OPTIONS, denoise=True)
    torch.testing.assert_close(sampler(X, step=0), loop(X, denoise=True)[-1], **FLOAT64)
    trace = sampler.trace(X, every=4, step=0)
    for t, k in enumerate((0, 4, 8, 12)):
        sigma = torch.full((5,), SIGMAS[min(k // T, 3)], dtype=torch.float64)
        torch.testing.assert_close(trace.energy[t], energy(trace.x[t], sigma), **FLOAT64)
    sigma = torch.full((5,), 2.0, dtype=torch.float64)
    torch.testing.assert_close(sampler.energy(X, sigma), energy(X, sigma), **FLOAT64)
    torch.testing.assert_close(sampler.score(X, sigma), score(X, sigma), **FLOAT64)


def test_the_index_as_the_condition():
    sigmas = torch.tensor(SIGMAS, dtype=torch.float64)
    sampler = fl.AnnealedLangevin(score=lambda x, i: score(x, sigmas[i]), condition="index", **OPTIONS)
    torch.testing.assert_close(sampler(X), loop(X)[-1], **FLOAT64)


@pytest.mark.parametrize("condition", ["sigma", "index"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_level_is_of_each_chain(condition, dtype):
    seen = []
    function = lambda x, level: seen.append(level) or -x
    sampler = fl.AnnealedLangevin(score=function, condition=condition, engine="autograd", **OPTIONS)
    sampler(X.to(dtype))
    wanted = torch.int64 if condition == "index" else torch.float64 if dtype == torch.float64 else torch.float32
    values = range(4) if condition == "index" else SIGMAS
    assert all(level.dtype == wanted and level.shape == (5,) for level in seen)
    assert [level.tolist() for level in seen] == [[v] * 5 for v in values for _ in range(T)]


def test_other_arguments_follow_the_level():
    """Also such as change from step to step."""

    def shifted(x, sigma, shift, *, factor):
        return factor * score(x - shift, sigma)

    shifts = torch.randn(13, 1, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    sampler = fl.AnnealedLangevin(score=shifted, **OPTIONS, denoise=True)
    got = sampler(X, shifts[0], kwargs={"factor": 0.5})
    torch.testing.assert_close(
        got, loop(X, denoise=True, s=lambda x, sigma: shifted(x, sigma, shifts[0], factor=0.5))[-1], **FLOAT64
    )
    each = iter(shifts)
    expected = loop(X, denoise=True, s=lambda x, sigma: shifted(x, sigma, next(each), factor=2))[-1]
    for run in (sampler, lambda *args, **rest: sampler.trace(*args, every=2, **rest).x[-1]):
        torch.testing.assert_close(run(X, fl.PerStep(shifts), kwargs={"factor": 2}, step=0), expected, **FLOAT64)


def elementwise(x, sigma):
    """Its operations are correctly rounded, so that all engines have the same bits."""
    return (1.0 - x) / sigma[:, None].square()


@pytest.mark.parametrize("engine", ["auto", "graph"])
@pytest.mark.parametrize("split", [False, True])
def test_native_programs_run_a_level_in_one_call(engine, split, monkeypatch):
    from fastlangevin.kernels.cpu import program

    calls, run = [], program.run_
    monkeypatch.setattr(program, "run_", lambda bound, x, args: calls.append(len(args.steps)) or run(bound, x, args))
    x = X.float()
    expected = fl.AnnealedLangevin(score=elementwise, engine="autograd", **OPTIONS, denoise=True)(x)
    sampler = fl.AnnealedLangevin(score=elementwise, engine=engine, **OPTIONS, denoise=True)
    if split:
        parts = [sampler(x[a:b], chain_offset=a, step=0) for a, b in ((0, 2), (2, 5))]
        assert torch.equal(torch.cat(parts), expected)
    else:
        assert torch.equal(sampler(x), expected)
        assert calls == [T, T, T, T, 1]
        assert sampler.plan.engine == "graph"


def captured(sampler, unroll):
    FakeCapture.made = []
    sampler._graphs = GraphCache(True, unroll, FakeCapture, "cpu")
    return sampler


@pytest.mark.parametrize(("unroll", "engine"), [(1, "auto"), (3, "autograd"), (4, "auto"), (12, "autograd")])
def test_captured_levels(unroll, engine):
    """Windows of a graph are whole levels, parts of one, or parts of several; the denoising step is not in it."""
    options = dict(OPTIONS, engine=engine, denoise=True)
    eager, replayed = (fl.AnnealedLangevin(energy, **options) for _ in range(2))
    captured(replayed, unroll)
    x = X.float()
    for _ in range(2):
        assert torch.equal(replayed(x), eager(x))
    other = dict(sigmas=(8.0, 4.0, 3.0, 0.5), step_size=0.01)
    assert torch.equal(replayed.replace(**other)(x, step=0), eager.replace(**other)(x, step=0))
    assert len(FakeCapture.made) == 1
    assert FakeCapture.made[0].cold == set() and FakeCapture.made[0].replays == 3 * 12 // unroll
    fewer = dict(sigmas=(8.0, 2.0, 1.0), steps_per_level=4)  # in as many steps
    assert torch.equal(replayed.replace(**fewer)(x), eager.replace(**fewer)(x))


@pytest.mark.parametrize(("every", "graphs"), [(2, 2), (4, 1)])
def test_captured_parts_that_begin_within_levels(every, graphs):
    """Those at one level, and those at several, share a graph."""
    eager = fl.AnnealedLangevin(score=score, **OPTIONS, denoise=True)
    replayed = captured(fl.AnnealedLangevin(score=score, **OPTIONS, denoise=True), None)
    expected, got = [], []
    eager(X, callback=lambda k, x: expected.append(x), every=every)
    replayed(X, callback=lambda k, x: got.append(x), every=every)
    assert torch.equal(torch.stack(got), torch.stack(expected))
    assert len(FakeCapture.made) == graphs
    one_level = fl.AnnealedLangevin(score=score, sigmas=[1.0], steps_per_level=1, step_size=0.1, denoise=True, seed=1)
    assert torch.equal(captured(copy.deepcopy(one_level), None)(X), one_level(X))


def test_the_gradient_through_the_levels():
    x0 = X.clone().requires_grad_()
    expected = torch.autograd.grad(loop(x0, denoise=True)[-1].square().sum(), x0)[0]
    for kind in ({"score": score}, {"energy": energy}):
        x = fl.AnnealedLangevin(**kind, **OPTIONS, denoise=True)(x0, step=0)
        torch.testing.assert_close(torch.autograd.grad(x.square().sum(), x0)[0], expected, rtol=1e-10, atol=1e-12)


def test_inpainting():
    mask = torch.tensor([True, False, True])
    sampler = fl.AnnealedLangevin(score=score, **OPTIONS, denoise=True)
    x = fl.inpaint(sampler, X, mask)
    assert torch.equal(x[:, mask], X[:, mask])
    expected = torch.where(mask, X, sampler.initial(X.shape, step=0, dtype=torch.float64))
    fixed = lambda x, sigma: score(x, sigma).masked_fill(mask, 0.0)
    start, states = expected, []
    for k, i in enumerate([*(i for i in range(4) for _ in range(T)), 3]):
        size = 0.25 if k == 12 else ETA * SIGMAS[i] ** 2 / SIGMAS[-1] ** 2
        noise = 0.0 if k == 12 else math.sqrt(2 * size) * normal(X.shape, k).double().masked_fill(mask, 0.0)
        start = start + size * fixed(start, torch.full((5,), SIGMAS[i])) + noise
        states.append(start)
    torch.testing.assert_close(x, states[-1], **FLOAT64)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_samples_start_from_noise_of_the_first_level(dtype):
    z = normal((64, 3), 0, stream=1)
    sampler = fl.AnnealedLangevin(score=elementwise, **OPTIONS)
    expected = (4.0 * z.to(torch.promote_types(dtype, torch.float32))).to(dtype)
    assert torch.equal(sampler.initial((64, 3), dtype=dtype), expected)
    bounded = sampler.replace(bounds=(-5, 5)).initial((64, 3), dtype=dtype)
    assert torch.equal(bounded, expected.clamp(-5, 5)) and not torch.equal(bounded, expected)
    assert torch.equal(
        sampler.replace(init="uniform").initial((64, 3)), 2 * fl.noise.uniform((64, 3), seed=1, step=0, stream=1) - 1
    )
    assert torch.equal(sampler.sample((64, 3), dtype=dtype), sampler(expected, step=0))


def test_the_weights_of_a_mixture():
    """Two modes 20 apart, of weights 0.2 and 0.8, from states that are symmetric between them: within 5 standard
    errors. At σ_L alone the chains stay in the mode that they begin in.
    """
    n, weight = 2048, 0.2
    logits = torch.tensor([weight, 1 - weight], dtype=torch.float64).log()
    means = torch.tensor([-10.0, 10.0], dtype=torch.float64)

    def smoothed(x, sigma):
        variance = 0.25 + sigma[:, None].square()
        weights = torch.softmax(logits - (x - means).square() / (2 * variance), 1)
        return ((weights * means).sum(1, keepdim=True) - x) / variance

    sigmas = torch.logspace(math.log10(30), -1, 16, dtype=torch.float64)
    sampler = fl.AnnealedLangevin(score=smoothed, sigmas=sigmas, steps_per_level=40, step_size=0.002, seed=3)
    x0 = sampler.initial((n, 1), dtype=torch.float64)
    error = math.sqrt(weight * (1 - weight) / n)
    assert abs((sampler(x0) < 0).double().mean() - weight) < 5 * error
    alone = sampler.replace(sigmas=[0.1], steps_per_level=640)(x0)
    assert abs((alone < 0).double().mean() - 0.5) < 5 * math.sqrt(0.25 / n)


def test_consistent_noise_is_that_of_the_level():
    """Around a point of data, whose score at σ is -x / σ², the noise of a state before each step is that of its level:
    the variances of n normal numbers within 5 standard errors, sqrt(2 / n). That of the form without β, which ends at
    η_i = 0.4 σ_i², where it is 2·0.4 / (1 - 0.6²) = 1.25 σ_L², is above all levels after the first.
    """
    n, sigmas = 20_000, [2.0 * 0.8**i for i in range(6)]
    point = lambda x, sigma: -x / sigma[:, None].square()
    options = dict(sigmas=sigmas, steps_per_level=2, step_size=0.4 * sigmas[-1] ** 2, seed=5)
    sampler = fl.AnnealedLangevin(score=point, consistent=True, **options)
    x0 = sampler.initial((n, 1))
    before = sampler.trace(x0, every=1, step=0).x[:-1]
    levels = torch.tensor(sigmas).repeat_interleave(2)
    error = 5 * math.sqrt(2 / n)
    assert ((before.square().mean((1, 2)) / levels.square() - 1).abs() < error).all()
    plain = sampler.replace(consistent=False).trace(x0, every=1, step=0).x[:-1]
    assert (plain.square().mean((1, 2)) / levels.square() - 1 > error)[1:].all()
    rounding = 8 * 2**-24 * before.abs().max()  # of σ², the score, its product and the sum, twice what they can be
    assert sampler.replace(denoise=True)(x0, step=0).abs().max() < rounding


def test_the_consistent_form_on_a_gaussian():
    """Data N(0, τ²) has the score -x / (τ² + σ²): the variance of the states follows a recursion, within 5 standard
    errors at every step.
    """
    n, tau, sigmas, eta = 20_000, 0.7, [3.0 * 0.7**i for i in range(6)], 0.5
    gaussian = lambda x, sigma: -x / (tau**2 + sigma[:, None].square())
    sampler = fl.AnnealedLangevin(
        score=gaussian, consistent=True, sigmas=sigmas, steps_per_level=3, step_size=eta * sigmas[-1] ** 2, seed=6
    )
    x0 = sampler.initial((n, 1))
    variances = sampler.trace(x0, every=1, step=0).x.square().mean((1, 2)).tolist()
    levels = [*(s for s in sigmas for _ in range(3)), 0.0]
    v = sigmas[0] ** 2
    for k, (sigma, following) in enumerate(itertools.pairwise(levels)):
        assert abs(variances[k] / v - 1) < 5 * math.sqrt(2 / n)
        noise = 0.0 if k == 17 else following**2 - ((1 - eta) * sigma) ** 2
        v = v * (1 - eta * sigma**2 / (tau**2 + sigma**2)) ** 2 + noise
    assert abs(variances[-1] / v - 1) < 5 * math.sqrt(2 / n)


def test_options():
    sampler = fl.AnnealedLangevin(score=score, **OPTIONS, denoise=True)
    assert sampler.n_steps == 13 and sampler.replace(steps_per_level=10, denoise=False).n_steps == 40
    assert sampler.sigmas == SIGMAS
    assert repr(sampler) == (
        "AnnealedLangevin(score=score, n_steps=13, sigmas=(4.0, 2.0, 1.0, 0.5), steps_per_level=3, step_size=0.02, "
        "denoise=True, seed=1, step=0)"
    )
    assert torch.equal(copy.deepcopy(sampler)(X), sampler(X))


GIVEN = dict(score=score, sigmas=[2.0, 1.0], steps_per_level=2, step_size=0.1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sigmas": [1.0, 2.0]}, "sigmas must decrease from level to level, got 1.0 and then 2.0 at 0 and 1"),
        ({"sigmas": [1.0, 1.0]}, "sigmas must decrease"),
        ({"sigmas": [1.0, 0.0]}, r"sigmas must be a sequence of positive finite numbers, got \[1.0, 0.0\]"),
        ({"sigmas": [math.inf, 1.0]}, "sigmas must be a sequence of positive finite numbers"),
        ({"sigmas": []}, "sigmas must be a sequence of positive finite numbers"),
        ({"sigmas": 1.0}, "sigmas must be a sequence of positive finite numbers"),
        ({"steps_per_level": 0}, "steps_per_level must be an int of at least 1, got 0"),
        ({"step_size": 0.0}, "step_size must be positive and finite, got 0.0"),
        ({"condition": "level"}, "condition must be one of 'sigma', 'index', got 'level'"),
        ({"consistent": "yes"}, "consistent must be one of"),
        ({"denoise": 2}, "denoise must be one of"),
        ({"consistent": True}, "step_size must lie in 0.5 … 1.5 with consistent=True, .* got 0.1"),
        ({"consistent": True, "step_size": 0.6, "sigmas": [4.0, 3.0, 1.0]}, "step_size must lie in 0.666667 … 1.33333"),
        ({"consistent": True, "step_size": 1.6}, "step_size must lie in 0.5 … 1.5"),
    ],
)
def test_bad_options(change, message):
    with pytest.raises(ValueError, match=message):
        fl.AnnealedLangevin(**{**GIVEN, **change})


def test_bad_calls():
    sampler = fl.AnnealedLangevin(**GIVEN, seed=1)
    with pytest.raises(ValueError, match=r"n_steps must be None: it is 4, of 2 sigmas and steps_per_level=2 .*, got 8"):
        sampler(X, n_steps=8)
    with pytest.raises(TypeError, match="an option of AnnealedLangevin must be one of"):
        sampler.replace(n_steps=8)
    with pytest.raises(TypeError, match="AnnealedLangevin needs sigmas"):
        fl.AnnealedLangevin.check_options({"steps_per_level": 1, "step_size": 1.0})
    with pytest.raises(ValueError, match="exactly one of energy, log_density and score must be given, got none"):
        fl.AnnealedLangevin(**{**GIVEN, "score": None})
    with pytest.raises(TypeError):  # of the score, which does not take the level
        fl.AnnealedLangevin(**{**GIVEN, "score": lambda x: -x})(X)
    assert fl.AnnealedLangevin(**GIVEN, seed=1).step == 0 == sampler.step


def test_a_network_of_the_level():
    """A recording is made once, and bound to each level."""
    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.level, self.outer = nn.Linear(3, 16), nn.Linear(1, 16), nn.Linear(16, 3)

        def forward(self, x, sigma):
            return self.outer(torch.tanh(self.inner(x) + self.level(sigma[:, None].log()))) / sigma[:, None]

    net = Net().double()
    sampler = fl.AnnealedLangevin(score=net, **OPTIONS)
    torch.testing.assert_close(sampler(X), loop(X, s=lambda x, sigma: net(x, sigma.double()))[-1], **FLOAT64)
    assert sampler.plan.engine == "graph" and len(sampler._score._recordings) == 1
