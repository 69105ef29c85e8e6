"""`ParallelTempering`: its transitions and exchanges against a plain loop, and what they are for."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from support.fake_capture import FakeCapture
from support.langevin_reference import FLOAT64, normal

import fastlangevin as fl
from fastlangevin.chains.cuda_graph import GraphCache
from fastlangevin.score.autograd import AutogradScore

TEMPERATURES, ETAS, EVERY, K = (0.5, 1.0, 3.0, 5.0), (0.1, 0.2, 0.3, 0.15), 2, 8
OPTIONS = dict(temperatures=TEMPERATURES, step_size=ETAS, swap_every=EVERY, n_steps=K, seed=1)
X = torch.randn(6, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
TEMPERING = 2**31


def energy(x, shift=0.0):
    """Operations that round each element alone, and sums in one order, so that a chain has the same bits anywhere."""
    y = x.flatten(1) - shift
    return ((y * y - 1.0) ** 2 + 0.3 * y).sum(dim=1)


def score(x, shift=0.0):
    y = x - shift
    return -(4 * y * (y * y - 1.0) + 0.3)


def transition(x, k, eta, temperature, stream, test_stream, first=0, bounds=None, shift=0.0):
    """MALA as its docstring writes it, in float64."""
    z = normal(x.shape, k, stream=stream, offset=first * 3).double()
    s = score(x, shift)
    y = x + eta * s + math.sqrt(2 * eta * temperature) * z
    t = score(y, shift)
    work = (0.5 * (s + t) * (y - x + eta / 2 * (t - s))).sum(1)
    log_ratio = (energy(x, shift) - energy(y, shift) - work) / temperature
    if bounds is not None:
        log_ratio = log_ratio.masked_fill(((y < bounds[0]) | (y > bounds[1])).any(1), -math.inf)
    u = fl.noise.uniform((len(x),), seed=1, step=k, stream=test_stream, offset=first, backend="reference")
    return torch.where((u.double().log() < log_ratio)[:, None], y, x)


def exchange(replicas, k, shift=0.0):
    """Exchanges neighbours after step k, in place. Returns the chains of each pair that did."""
    exchanged = {}
    for r in range(len(replicas) - 1):
        if (k + 1) % EVERY or ((k + 1) // EVERY - r) % 2 == 0:
            continue
        below, above = replicas[r], replicas[r + 1]
        u = fl.noise.uniform((6,), seed=1, step=k, stream=TEMPERING + 4 * r + 2, backend="reference").double()
        delta = (1 / TEMPERATURES[r] - 1 / TEMPERATURES[r + 1]) * (energy(below, shift) - energy(above, shift))
        swapped = (u < delta.exp())[:, None]
        replicas[r], replicas[r + 1] = torch.where(swapped, above, below), torch.where(swapped, below, above)
        exchanged[r] = swapped.double().mean().item()
    return exchanged


def loop(x, n=K, **rest):
    """The replicas after each step, and the exchanges."""
    replicas, states, rates = [x] * 4 if x.dim() == 2 else list(x), [], []
    for k in range(n):
        for r, (temperature, eta) in enumerate(zip(TEMPERATURES, ETAS, strict=True)):
            streams = (TEMPERING + 4 * r, TEMPERING + 4 * r + 3) if r else (0, 3)
            replicas[r] = transition(replicas[r], k, eta, temperature, *streams, **rest)
        rates.append(exchange(replicas, k, rest.get("shift", 0.0)))
        states.append(torch.stack(replicas))
    return states, rates


@pytest.mark.parametrize("rest", [{}, {"bounds": (-1.2, 1.0)}])
@pytest.mark.parametrize("engine", ["auto", "autograd"])
def test_the_steps_are_those_of_a_plain_loop(rest, engine):
    x0 = X.clamp(-1.0, 0.9)
    sampler = fl.ParallelTempering(energy, **OPTIONS, **rest, engine=engine)
    states, rates = loop(x0, **rest)
    replicas = sampler.with_replicas(x0.expand(4, 6, 3))
    torch.testing.assert_close(replicas, states[-1], **FLOAT64)
    assert sampler.step == K and 0 < sum(rate for found in rates for rate in found.values()) < 10
    assert torch.equal(sampler(x0, step=0), replicas[0])
    observed = []
    assert torch.equal(sampler(x0, step=0, callback=lambda k, x: observed.append(x), every=3), replicas[0])
    torch.testing.assert_close(torch.stack(observed), torch.stack([states[k - 1][0] for k in (3, 6, 8)]), **FLOAT64)
    fewer = sampler.replace(swap_every=4, n_steps=12)
    assert torch.equal(fewer(x0, step=0, callback=lambda k, x: None, every=7), fewer(x0, step=0))


def test_what_traces_record():
    sampler = fl.ParallelTempering(log_density=lambda x: -energy(x), **OPTIONS)
    trace = sampler.trace(X, every=4)
    states, rates = loop(X)
    torch.testing.assert_close(trace.x[1:], torch.stack([states[3][0], states[7][0]]), **FLOAT64)
    torch.testing.assert_close(trace.energy, torch.stack([energy(x) for x in trace.x]), **FLOAT64)
    swaps = torch.tensor([[found[r] for found in (rates[k] | rates[k + 2],) for r in range(3)] for k in (1, 5)])
    torch.testing.assert_close(trace.statistics["swaps"][1:], swaps.float(), rtol=1e-6, atol=0.0)
    assert trace.statistics["swaps"][0].isnan().all()
    acceptance = trace.statistics["acceptance"]
    assert acceptance.shape == (3, 6) and ((4 * acceptance[1:]) % 1 == 0).all() and 0 < acceptance[1:].mean() < 1


def test_calls_with_replicas_are_one_run():
    sampler = fl.ParallelTempering(energy, **OPTIONS)
    replicas = torch.randn(4, 6, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    given = replicas.clone()
    first = sampler.with_replicas(replicas, n_steps=2)
    states, _ = loop(given)
    torch.testing.assert_close(first, states[1], **FLOAT64)
    assert torch.equal(replicas, given) and sampler.step == 2
    assert torch.equal(sampler.with_replicas(first, n_steps=6), sampler.with_replicas(given, step=0))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_split_batch_has_the_same_bits(dtype):
    sampler, x0 = fl.ParallelTempering(energy, **OPTIONS), X.to(dtype)
    whole = sampler.with_replicas(x0.expand(4, 6, 3), step=4)
    assert not torch.equal(whole[0], whole[1])
    parts = [sampler.with_replicas(x0[a:b].expand(4, b - a, 3), step=4, chain_offset=a) for a, b in ((0, 2), (2, 6))]
    assert torch.equal(torch.cat(parts, dim=1), whole)
    images = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(2)).to(memory_format=torch.channels_last)
    x = sampler(images, step=0)
    assert x.is_contiguous(memory_format=torch.channels_last) and torch.equal(x, sampler(images.contiguous(), step=0))


@pytest.mark.parametrize("unroll", [1, 4])
def test_captured_steps_have_the_same_bits(unroll):
    """Windows of a graph exchange even and odd pairs, as numbers in memory tell; temperatures are constants of it."""
    FakeCapture.made = []
    eager, replayed = (fl.ParallelTempering(energy, **{**OPTIONS, "n_steps": 4}) for _ in range(2))
    replayed._graphs = GraphCache(True, unroll, FakeCapture, "cpu")
    for change, step in (({}, 0), ({}, 2), ({"step_size": 0.2}, 0)):
        assert torch.equal(replayed.replace(**change)(X, step=step), eager.replace(**change)(X, step=step))
    assert len(FakeCapture.made) == 1 and FakeCapture.made[0].cold == set()
    for change in ({"temperatures": (0.05, 1.0, 3.0, 5.0)}, {"swap_every": 1}):
        change = {"step_size": 0.2, **change}
        assert torch.equal(replayed.replace(**change)(X, step=0), eager.replace(**change)(X, step=0))
    for seed in (3, 4) if unroll == 4 else ():
        replicas = torch.randn(4, 6, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        assert torch.equal(replayed.with_replicas(replicas, step=0), eager.with_replicas(replicas, step=0))


@pytest.mark.parametrize("of_chains", [False, True])
def test_all_replicas_are_evaluated_at_once_without_arguments_of_chains(of_chains):
    shapes = []

    def noted(x, shift):
        shapes.append(len(x))
        return energy(x, shift)

    shift = torch.linspace(0, 1, 6, dtype=torch.float64)[:, None] if of_chains else 0.5
    sampler = fl.ParallelTempering(noted, **OPTIONS, engine="autograd")
    states, _ = loop(X, shift=shift)
    torch.testing.assert_close(sampler(X, shift), states[-1][0], **FLOAT64)
    assert shapes == ([6] * 4 * (K + 1) if of_chains else [24] * (K + 1))
    torch.testing.assert_close(sampler(X, kwargs={"shift": shift}, step=0), states[-1][0], **FLOAT64)


@pytest.mark.parametrize("of_chains", [False, True])
def test_energies_that_change_from_step_to_step(of_chains):
    """Each round is one of a sampler whose argument stays: what is remembered of the step before must not be used."""
    shifts = [0.0, 0.5, 1.0]
    if of_chains:
        shifts = [shift + torch.linspace(0, 0.3, 6, dtype=torch.float64)[:, None] for shift in shifts]
    sampler = fl.ParallelTempering(energy, **{**OPTIONS, "n_steps": 3, "swap_every": 1})
    replicas = X.expand(4, 6, 3)
    for shift in shifts:
        replicas = sampler.with_replicas(replicas, shift, n_steps=1)
    assert torch.equal(sampler(X, fl.PerStep(shifts), step=0), replicas[0])


def test_kernels_that_run_whole_chains_run_those_of_each_temperature(monkeypatch):
    """With a stand-in for kernels, which writes energies and leaves scores alone."""
    runs = []

    def run_transitions_(self, x, memory, args):
        runs.append(len(args.steps))
        memory.score.fill_(math.nan)
        for step, eta in zip(args.steps, args.step_sizes, strict=True):
            moved = transition(x, step, eta, args.temperature, args.stream, args.test_stream, first=args.first_chain)
            memory.n_accepted.add_((moved != x).any(1))
            x.copy_(moved)
        memory.energy.copy_(energy(x))

    monkeypatch.setattr(AutogradScore, "runs_transitions", lambda self, x, kind: kind.name == "mala", raising=False)
    monkeypatch.setattr(AutogradScore, "run_transitions_", run_transitions_)
    monkeypatch.setattr(AutogradScore, "updates_with", "cpu")
    sampler = fl.ParallelTempering(energy, **OPTIONS, engine="autograd")
    states, _ = loop(X)
    torch.testing.assert_close(sampler.with_replicas(X.expand(4, 6, 3)), states[-1], **FLOAT64)
    assert runs == [2] * 16
    torch.testing.assert_close(sampler.trace(X, every=4, step=0).x[1], states[3][0], **FLOAT64)


def test_the_weights_of_separated_modes():
    """Modes at ±4 of width 0.5 and weights 1/4 and 3/4, behind a barrier of 32: from the lesser one the share in it is
    right within 5 standard errors, where MALA at T = 1 alone stays in it.
    """
    n, width, weight = 1000, 0.5, 0.25
    logits = torch.tensor([weight, 1 - weight]).log()
    modes = torch.tensor([-4.0, 4.0])

    def mixture(x):
        return -torch.logaddexp(*(logits - (x - modes).square() / (2 * width**2)).unbind(1))

    temperatures = [2.0**r for r in range(6)]
    options = dict(step_size=0.15, n_steps=400, seed=2)
    x0 = torch.full((n, 1), -4.0)
    tempering = fl.ParallelTempering(mixture, temperatures=temperatures, swap_every=2, **options)
    x = tempering(x0)
    assert abs((x < 0).double().mean() - weight) < 5 * math.sqrt(weight * (1 - weight) / n)
    left = x[x < 0]
    assert abs((left + 4).square().mean() / width**2 - 1) < 5 * math.sqrt(2 / len(left))
    assert (fl.MALA(mixture, **options)(x0) < 0).all()


def test_the_acceptance_of_exchanges():
    """In two dimensions U = |x|²/2 is exponentially distributed with mean T, so that neighbours at T < T' exchange with
    probability 2T / (T + T'): the share of n chains within 5 standard errors.
    """
    n, temperatures = 4000, (1.0, 1.5, 6.0)
    sampler = fl.ParallelTempering(
        lambda x: x.square().sum(1) / 2, temperatures=temperatures, step_size=0.5, swap_every=1, n_steps=52, seed=3
    )
    rates = sampler.trace(torch.zeros(n, 2), every=50).statistics["swaps"][-1]
    for r in range(2):
        wanted = 2 * temperatures[r] / (temperatures[r] + temperatures[r + 1])
        assert abs(rates[r] - wanted) < 5 * math.sqrt(wanted * (1 - wanted) / n)


def test_chains_that_no_longer_move():
    with pytest.warns(RuntimeWarning, match="6 of 6 chains"):
        fl.ParallelTempering(energy, temperatures=(1.0, 2.0), step_size=(0.1, 1e6), seed=1)(X)


def test_captured_calls_count_anew(monkeypatch):
    monkeypatch.setattr("fastlangevin.chains.tempering_chain.STUCK", 7)
    sampler = fl.ParallelTempering(
        energy, temperatures=(1.0, 2.0), step_size=(0.1, 1e6), swap_every=2, n_steps=4, seed=1
    )
    sampler._graphs = GraphCache(True, None, FakeCapture, "cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sampler(X)
        sampler(X)
    with pytest.warns(RuntimeWarning, match="6 of 6 chains"):
        sampler(X, n_steps=8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperatures": (1.0,)}, "temperatures must be at least two, got 1"),
        ({"temperatures": (2.0, 1.0)}, "temperatures must increase, got 2.0 and then 1.0 at 0 and 1"),
        ({"temperatures": (1.0, 1.0)}, "temperatures must increase"),
        ({"temperatures": (0.0, 1.0)}, "temperatures must be a sequence of positive finite numbers"),
        ({"temperatures": 1.0}, "temperatures must be a sequence of positive finite numbers, got 1.0"),
        ({"step_size": 0.0}, "step_size must be positive and finite, got 0.0"),
        ({"step_size": (0.1, 0.1)}, "step_size as a sequence must have one number for each of 4 temperatures, got 2"),
        ({"step_size": "0.1"}, "step_size must be a sequence of positive finite numbers, got '0.1'"),
        ({"swap_every": 0}, "swap_every must be an int of at least 1, got 0"),
        ({"n_steps": 7}, "n_steps must be a multiple of swap_every = 2, got 7"),
    ],
)
def test_bad_options(change, message):
    with pytest.raises(ValueError, match=message):
        fl.ParallelTempering(energy, **{**OPTIONS, **change})


def test_bad_calls():
    sampler = fl.ParallelTempering(energy, **OPTIONS)
    with pytest.raises(ValueError, match="n_steps must be a multiple of swap_every = 2, got 3"):
        sampler(X, n_steps=3)
    for replicas in (X, [X] * 4, X.expand(3, 6, 3)):
        with pytest.raises(ValueError, match=r"replicas must have shape \(4, B, \*event\), got "):
            sampler.with_replicas(replicas)
    with pytest.raises(ValueError, match="replicas must be finite"):
        sampler.with_replicas(torch.full((4, 6, 3), math.nan))
    with pytest.raises(
        ValueError, match="mask must be None .nothing can be inpainted.: the sampler.s transitions change all"
    ):
        sampler(X, mask=torch.ones(6, 3, dtype=torch.bool))
    assert sampler.step == 0
    with pytest.raises(ValueError, match="x0 must not require grad"):
        sampler(X.clone().requires_grad_())
    with pytest.raises(TypeError, match="unexpected keyword argument 'score'"):
        fl.ParallelTempering(score=score, **OPTIONS)
    with pytest.raises(TypeError, match="ParallelTempering compares energies"):
        sampler.replace(score=score)(X)
