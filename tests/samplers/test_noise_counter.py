"""The sampler's position in its noise stream: counter, seed, copies, saved state."""

from __future__ import annotations

import copy
import math
import pickle
import threading

import numpy as np
import pytest
import torch
from support.langevin_reference import normal, quadratic, small_net

import fastlangevin as fl
from fastlangevin.noise import STREAM_VERSION


def test_counter_advances_and_an_override_does_not_change_it():
    sampler = fl.Langevin(quadratic, n_steps=4, step_size=0.0, noise_std=1.0, seed=1)
    x0 = torch.zeros(2, 3)
    first = sampler(x0)
    assert sampler.step == 4
    second = sampler(x0)
    # A step of 0 and noise of 1: one rounding a sum.
    assert torch.equal(first, sum(normal((2, 3), k) for k in range(4)))
    assert torch.equal(second, sum(normal((2, 3), k) for k in range(4, 8)))
    assert torch.equal(sampler(x0, step=4), second) and sampler.step == 8
    sampler.trace(x0)
    sampler.sample((1, 3))
    sampler(x0, n_steps=2)
    assert sampler.step == 18


def test_micro_batches_equal_the_whole_batch(backend):
    sampler = fl.Langevin(quadratic, n_steps=5, seed=9, backend=backend)
    whole = sampler.sample((7, 3, 5), step=2)
    parts = [sampler.sample((n, 3, 5), step=2, chain_offset=o) for o, n in ((0, 2), (2, 1), (3, 4))]
    assert torch.equal(whole, torch.cat(parts))


def test_seed_none_comes_from_torch_s_generator():
    torch.manual_seed(3)
    a = fl.Langevin(quadratic)
    torch.manual_seed(3)
    b = fl.Langevin(quadratic)
    assert a.seed == b.seed != fl.Langevin(quadratic).seed


def test_seed_and_generator_do_not_change_the_global_state():
    before = torch.get_rng_state()
    sampler = fl.Langevin(quadratic, n_steps=3, generator=torch.Generator().manual_seed(1))
    assert sampler.seed == fl.Langevin(quadratic, generator=torch.Generator().manual_seed(1)).seed
    sampler.sample((3, 2))
    fl.Langevin(quadratic, n_steps=3, seed=1).sample((3, 2))
    assert torch.equal(before, torch.get_rng_state())


def test_state_dict_round_trip():
    a = fl.Langevin(quadratic, n_steps=3, seed=2**64 - 2)
    a.sample((2, 2))
    b = fl.Langevin(quadratic, n_steps=3, seed=1)
    b.load_state_dict(a.state_dict())
    assert a.state_dict() == {"seed": 2**64 - 2, "step": 3, "stream_version": STREAM_VERSION}
    assert torch.equal(a.sample((2, 2)), b.sample((2, 2)))
    with pytest.raises(ValueError, match=f"noise stream version {STREAM_VERSION + 1}"):
        b.load_state_dict({"seed": 1, "step": 0, "stream_version": STREAM_VERSION + 1})
    with pytest.raises(ValueError, match="state lacks step"):
        b.load_state_dict({"seed": 1, "stream_version": STREAM_VERSION})


def test_copies_have_their_own_counter_of_the_same_value():
    a = fl.Langevin(small_net(), n_steps=3, seed=1)
    a.sample((2, 3))
    for b in (copy.deepcopy(a), pickle.loads(pickle.dumps(a))):
        assert b.step == 3
        c = copy.deepcopy(a)
        assert torch.equal(b.sample((2, 3)), c.sample((2, 3)))
        assert a.step == 3


def test_threads_share_one_counter():
    sampler = fl.Langevin(quadratic, n_steps=3, step_size=0.0, noise_std=1.0, seed=1)
    results = []
    work = lambda: results.extend(sampler(torch.zeros(1, 4)) for _ in range(20))
    workers = [threading.Thread(target=work) for _ in range(4)]
    [w.start() for w in workers]
    [w.join() for w in workers]
    assert sampler.step == 240
    expected = {
        tuple(
            fl.Langevin(quadratic, n_steps=3, step_size=0.0, noise_std=1.0, seed=1)(torch.zeros(1, 4), step=3 * i)[
                0
            ].tolist()
        )
        for i in range(80)
    }
    assert {tuple(r[0].tolist()) for r in results} == expected


def test_counter_that_would_exceed_its_range_raises():
    sampler = fl.Langevin(quadratic, n_steps=3, seed=1)
    sampler.load_state_dict({"seed": 1, "step": 2**32 - 3, "stream_version": STREAM_VERSION})
    sampler(torch.zeros(1, 2))
    assert sampler.step == 2**32
    with pytest.raises(OverflowError, match="another seed"):
        sampler(torch.zeros(1, 2))
    with pytest.raises(OverflowError):
        sampler(torch.zeros(1, 2), step=2**32 - 2)


@pytest.mark.parametrize(
    ("x0", "call", "error", "words"),
    [
        (
            torch.zeros(2, 2),
            {"chain_offset": 2**62},
            ValueError,
            "chain_offset must leave every element",
        ),
        (torch.zeros(2, 2, dtype=torch.int64), {}, TypeError, "x0 must be a float32.*int64"),
        (np.zeros((2, 2)), {}, TypeError, "x0 must be a float32.*ndarray"),
        (torch.eye(2).to_sparse(), {}, TypeError, "x0 must be a dense tensor, got layout torch.sparse_coo"),
        (
            torch.nested.nested_tensor([torch.ones(2)] * 2, layout=torch.jagged),
            {},
            TypeError,
            "x0 must be a dense tensor, got a nested",
        ),
        (torch.zeros(2, 2, device="meta"), {}, ValueError, "x0 must have values, got a tensor on the meta device"),
        (torch.tensor(1.0), {}, ValueError, "x0 must have a first dimension of chains"),
        (torch.tensor([[1.0], [math.nan]]), {}, ValueError, "x0 must be finite, got NaN or infinity in 1 of 2 chains"),
        (torch.zeros(2, 2), {"n_steps": 0}, ValueError, "n_steps must be an int of at least 1"),
        (torch.zeros(2, 2), {"chain_offset": -1}, ValueError, "chain_offset must be an int of at least 0"),
        (torch.zeros(2, 2), {"step": 2**32}, ValueError, "step must be an int in 0 …"),
        (torch.zeros(2, 2), {"step": 1.0}, ValueError, "step must be an int in 0 …"),
        (torch.zeros(2, 2), {"step": True}, ValueError, "step must be an int in 0 …"),
    ],
)
def test_bad_calls_do_not_change_the_counter(x0, call, error, words):
    sampler = fl.Langevin(quadratic, n_steps=2, seed=1)
    with pytest.raises(error, match=words):
        sampler(x0, **call)
    assert sampler.step == 0


@pytest.mark.parametrize("method", ["trace", "with_last_step", "score", "energy"])
@pytest.mark.parametrize(
    ("x", "error", "words"),
    [
        (torch.zeros(2, 4, dtype=torch.int64), TypeError, "x0? must be a float32"),
        (torch.full((2, 4), math.nan), ValueError, "x0? must be finite"),
        (torch.zeros(()), ValueError, "x0? must have a first dimension"),
        (torch.eye(2).to_sparse(), TypeError, "x0? must be a dense tensor"),
        (torch.zeros(2, 4, device="meta"), ValueError, "x0? must have values"),
    ],
)
def test_every_method_checks_its_states(method, x, error, words):
    sampler = fl.Langevin(lambda x: x.square().sum(1), n_steps=2, seed=1)
    with pytest.raises(error, match=words):
        getattr(sampler, method)(x)
    assert sampler.step == 0


def test_samples_need_a_device_with_values():
    for device in ("meta", torch.device("meta")):
        with pytest.raises(ValueError, match="device must be one whose tensors have values, got meta"):
            fl.Langevin(quadratic, seed=1).sample((2, 2), device=device)


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"seed": 1, "step": 2**32 + 1, "stream_version": STREAM_VERSION}, "state's step must lie in"),
        ({"seed": 1, "step": -1, "stream_version": STREAM_VERSION}, "state's step must lie in"),
        ({"seed": 2**64, "step": 1, "stream_version": STREAM_VERSION}, "seed must fit 64 bits"),
    ],
)
def test_bad_state_dicts_change_nothing(state, words):
    sampler = fl.Langevin(quadratic, seed=5)
    with pytest.raises(ValueError, match=words):
        sampler.load_state_dict(state)
    assert sampler.state_dict() == {"seed": 5, "step": 0, "stream_version": STREAM_VERSION}


def test_negative_seeds_are_their_two_s_complement():
    sampler = fl.Langevin(quadratic, seed=-1)
    assert sampler.seed == 2**64 - 1
    sampler.load_state_dict({"seed": -2, "step": 0, "stream_version": STREAM_VERSION})
    assert sampler.seed == 2**64 - 2


def test_drawn_seeds_use_all_64_bits():
    generator = torch.Generator().manual_seed(0)
    seeds = [fl.Langevin(quadratic, generator=generator).seed for _ in range(40)]
    assert max(seeds) > 2**63 and min(seeds) >= 0 and sum(s > 2**62 for s in seeds) > 15
