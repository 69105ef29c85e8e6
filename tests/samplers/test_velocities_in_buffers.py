"""Replay buffers that store velocities beside states, and chains that go on with both."""

from __future__ import annotations

import copy

import pytest
import torch

import fastlangevin as fl
from fastlangevin.samplers import continued

B, SHAPE = 6, (2, 3)
POLICIES = ["fifo", "reservoir", "indexed"]


def buffer(policy="fifo", **options) -> fl.ReplayBuffer:
    return fl.ReplayBuffer(9, SHAPE, policy=policy, velocities=True, seed=4, **{"reinit": 0.3, **options})


def sampler(**options):
    return fl.Underdamped(lambda x: 0.5 * x.square().flatten(1).sum(1), step_size=0.3, n_steps=2, seed=4, **options)


def go_on(made, of, n=4):
    """Draws, runs and stores n times. Returns what was drawn and stored."""
    seen = []
    for _ in range(n):
        draw = of.sample(B)
        x, v = made.with_velocity(draw.x, velocity=draw.velocity)
        of.store(x, draw.slots if of.policy == "indexed" else None, velocity=v)
        seen.append((draw, x, v))
    return seen


@pytest.mark.parametrize("policy", POLICIES)
def test_a_state_is_drawn_with_its_velocity(policy):
    """Which is the one that was stored with it; there is none of new states, and of those that an indexed buffer begins
    with.
    """
    of = buffer(policy)
    stored = {}
    for draw, x, v in go_on(sampler(), of, 8):
        for row in range(B):
            known = stored.get(tuple(draw.x[row].flatten().tolist()))
            if known is None:
                assert draw.fresh[row] or policy == "indexed"
                assert draw.velocity[row].isnan().all()
            else:
                assert not draw.fresh[row] and torch.equal(draw.velocity[row], known)
        stored |= {tuple(x[row].flatten().tolist()): v[row] for row in range(B)}
    assert any(not draw.velocity.isnan().all() for draw, _, _ in go_on(sampler(), of, 1))


def test_velocities_that_are_not_known_are_drawn():
    """Those that a call without velocities draws, chain by chain."""
    made, x0 = sampler(mass=2.0, temperature=1.5), torch.randn(B, *SHAPE, generator=torch.Generator().manual_seed(1))
    given = torch.randn(B, *SHAPE, generator=torch.Generator().manual_seed(2))
    drawn, gone_on = (made.with_velocity(x0, velocity=v, step=3) for v in (None, given))
    assert not torch.equal(drawn[0], gone_on[0])
    some = given.clone()
    some[1::2] = torch.nan
    mixed, all_drawn = (made.with_velocity(x0, velocity=v, step=3) for v in (some, given * torch.nan))
    for got, new, old, every in zip(mixed, drawn, gone_on, all_drawn, strict=True):
        assert torch.equal(got[1::2], new[1::2]) and torch.equal(got[::2], old[::2]) and torch.equal(every, new)
    assert some[1::2].isnan().all(), "the argument is left as it is"


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("storage", ["float32", "uint8"])
def test_a_restored_buffer_goes_on_with_the_same_bits(policy, storage):
    options = {"storage": storage, "bounds": (-4.0, 4.0)}
    of, made = buffer(policy, **options), sampler()
    go_on(made, of)
    state = copy.deepcopy(of.state_dict())
    assert state["velocities"].shape == (9, *SHAPE) and state["velocities"].dtype == torch.float32
    restored, again = buffer(policy, **options), copy.deepcopy(made)
    restored.load_state_dict(state)
    for (a, *last_a), (b, *last_b) in zip(go_on(made, of), go_on(again, restored), strict=True):
        assert torch.equal(a.x, b.x) and torch.equal(a.velocity.isnan(), b.velocity.isnan())
        assert all(torch.equal(p, q) for p, q in zip(last_a, last_b, strict=True))


def test_of_states_in_one_slot_the_last_velocity_is_kept():
    of = buffer("indexed")
    v = torch.arange(2.0 * 6).view(2, *SHAPE)
    of.store(v, torch.tensor([5, 5]), velocity=-v)
    assert torch.equal(of.state_dict()["velocities"][5], -v[1])


def test_errors():
    of, x = buffer(), torch.zeros(2, *SHAPE)
    plain = fl.ReplayBuffer(9, SHAPE, seed=4)
    assert plain.sample(2).velocity is None and "velocities=True" in repr(of)
    for wrong, words in (
        (lambda: of.store(x), "velocity must be given to a buffer that stores them"),
        (lambda: plain.store(x, velocity=x), "velocity must be None unless the buffer stores them"),
        (lambda: of.store(x, velocity=x[:1]), "velocity must be of the 2 chains of x, got 1"),
        (lambda: of.store(x, velocity=x[:, :1]), "velocity must have the shape"),
        (lambda: of.store(x, velocity=x * torch.nan), "velocity must be finite, got NaN or infinity in 2 of 2"),
        (lambda: of.load_state_dict(plain.state_dict()), "state lacks velocities"),
        (lambda: plain.load_state_dict(of.state_dict()), "created without"),
        (lambda: fl.ReplayBuffer(9, SHAPE, velocities="yes"), "velocities must be one of 'True', 'False', got 'yes'"),
    ):
        with pytest.raises(ValueError, match=words):
            wrong()
    assert of.step == plain.step - 1 == 0


@pytest.mark.parametrize("made", [fl.Langevin, fl.MALA, fl.HMC, fl.Underdamped])
def test_calls_that_are_watched_have_the_same_states(made):
    """And the acceptance is that of a trace, of the proposals since its first record."""
    options = {"noise_std": 0.5} if made is fl.Langevin else {}
    energy = lambda x: 2.0 * x.square().flatten(1).sum(1)
    of = made(energy, step_size=0.6 if made is fl.HMC else 0.2, n_steps=5, seed=4, **options)
    x0 = torch.randn(B, *SHAPE, generator=torch.Generator().manual_seed(3))
    found = continued.run(of, x0, velocity=None, chain_offset=2)
    assert torch.equal(found.x, of(x0, chain_offset=2, step=0)) and of.step == 5
    trace = of.trace(x0, chain_offset=2, step=0, every=5)
    assert found.velocity is None and (found.acceptance is None) == (not trace.statistics)
    if trace.statistics:
        assert found.acceptance == trace.statistics["acceptance"][-1].mean() and 0 < found.acceptance < 1
    again = continued.trace(of, x0, velocity=None, chain_offset=2, step=0, every=5)
    assert torch.equal(again.x, trace.x) and torch.equal(again.score_norm, trace.score_norm)
    if continued.has_velocities(of):
        pair = of.with_velocity(x0, velocity=-x0, chain_offset=2, step=0)
        found = continued.run(of, x0, velocity=-x0, chain_offset=2)
        again = continued.trace(of, x0, velocity=-x0, chain_offset=2, step=5, every=5)
        assert torch.equal(again.x[-1], found.x) and not torch.equal(found.x, pair[0])
        of.load_state_dict({**of.state_dict(), "step": 0})
        assert all(map(torch.equal, continued.run(of, x0, velocity=-x0, chain_offset=2)[:2], pair))
