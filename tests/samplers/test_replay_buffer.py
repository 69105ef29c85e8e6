"""The replay buffer compared with a plain-Python model of each policy that uses the same uniforms."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch
from scipy import stats
from support.error_bounds import U

import fastlangevin as fl
from fastlangevin.noise import STREAM_VERSION, Stream

SEED = 2**63 + 5
EVENT = (2, 3)


class Model:
    """What `ReplayBuffer` documents, as lists and loops, for states that are numbered by their first element."""

    def __init__(self, capacity, policy="fifo", reinit=0.05, n_classes=1, seed=SEED):
        self.policy, self.reinit, self.seed, self.step = policy, reinit, seed, 0
        self.part = capacity // n_classes
        self.slots: list[float | None] = [None] * capacity
        self.counts = [0] * n_classes
        if policy == "indexed":
            self.slots = self.fresh(capacity)
            self.counts = [self.part] * n_classes
            self.step += 1

    def uniforms(self, n, width):
        u = fl.noise.uniform((n, width), seed=self.seed, step=self.step, stream=Stream.REPLAY_BUFFER)
        return [[float(v) for v in row] for row in u]

    def fresh(self, n):
        u = fl.noise.uniform((n, *EVENT), seed=self.seed, step=self.step, stream=Stream.INITIAL_STATE)
        return [2 * float(state.flatten()[0]) - 1 for state in u]

    def sample(self, n, y=None):
        stored = [[self.slots[s] for s in self.slots_of(c)] for c in range(len(self.counts))]
        fresh, draws = self.fresh(n), []
        for i, (high, low, restart) in enumerate(self.uniforms(n, 3)):
            u = high + low / 2**24
            if y is None:
                places = [s for c in range(len(self.counts)) for s in self.slots_of(c)]
            else:
                places = list(self.slots_of(y[i]))
                assert len(places) == len(stored[y[i]])
            is_fresh = not places or restart < np.float32(self.reinit)
            slot = places[math.floor(u * len(places))] if places else None
            draws.append((fresh[i] if is_fresh else self.slots[slot], slot, is_fresh))
        self.step += 1
        return draws

    def slots_of(self, c):
        return range(c * self.part, c * self.part + min(self.counts[c], self.part))

    def store(self, values, slots=None, y=None):
        u = self.uniforms(len(values), 2) if self.policy == "reservoir" else None
        for i, value in enumerate(values):
            if slots is not None:
                self.slots[slots[i]] = value
                continue
            c = 0 if y is None else y[i]
            t, self.counts[c] = self.counts[c], self.counts[c] + 1
            place = t % self.part
            if self.policy == "reservoir" and t >= self.part:
                place = math.floor((u[i][0] + u[i][1] / 2**24) * (t + 1))
            if place < self.part:
                self.slots[c * self.part + place] = value
        self.step += 1


def states(values):
    return torch.as_tensor(values, dtype=torch.float32)[:, None, None].expand(-1, *EVENT).contiguous()


@pytest.mark.parametrize("n_classes", [None, 1, 3])
@pytest.mark.parametrize(("capacity", "sizes"), [(12, [1, 4, 7, 12, 5, 30, 2]), (3, [2, 2, 7, 1]), (999, [64] * 20)])
@pytest.mark.parametrize("policy", ["fifo", "reservoir", "indexed"])
def test_against_the_model(policy, capacity, sizes, n_classes):
    buffer = fl.ReplayBuffer(capacity, EVENT, policy=policy, per_class=n_classes, reinit=0.2, seed=SEED)
    model = Model(capacity, policy, 0.2, n_classes or 1)
    random = np.random.default_rng(capacity)
    value = 100
    for n in sizes:
        y = None if n_classes is None else random.integers(0, n_classes, n)
        for classes in (y, None):
            draw = buffer.sample(n, None if classes is None else torch.from_numpy(classes))
            expected = model.sample(n, classes)
            assert draw.x.shape == (n, *EVENT) and draw.x.dtype == torch.float32
            assert draw.fresh.tolist() == [f for _, _, f in expected]
            assert draw.x[:, 0, 0].tolist() == [x for x, _, _ in expected]
            where = [
                (s, slot) for s, (_, slot, _) in zip(draw.slots.tolist(), expected, strict=True) if slot is not None
            ]
            assert all(s == slot for s, slot in where)
            assert ((draw.slots >= 0) & (draw.slots < capacity)).all()
        values = [value + i for i in range(n)]
        value += n
        if policy == "indexed":
            buffer.store(states(values), draw.slots)
            model.store(values, draw.slots.tolist())
        else:
            buffer.store(states(values), y=None if y is None else torch.from_numpy(y))
            model.store(values, y=y)
        assert len(buffer) == sum(min(c, model.part) for c in model.counts)
    kept = buffer.state_dict()["values"][:, 0, 0].tolist()
    assert kept == [0.0 if v is None else v for v in model.slots]
    assert buffer.state_dict()["counts"].tolist() == model.counts
    assert buffer.step == model.step


def test_draws_are_uniform_over_what_is_stored():
    buffer = fl.ReplayBuffer(100, (1,), reinit=0.25, seed=3)
    buffer.store(torch.arange(37.0)[:, None])
    draw = buffer.sample(40_000)
    assert stats.binomtest(int(draw.fresh.sum()), 40_000, 0.25).pvalue > 1e-4
    counts = np.bincount(draw.x[~draw.fresh, 0].long(), minlength=37)
    assert len(counts) == 37 and stats.chisquare(counts).pvalue > 1e-4
    assert stats.kstest(draw.x[draw.fresh, 0].numpy(), stats.uniform(-1, 2).cdf).pvalue > 1e-4


def test_draws_without_classes_are_uniform_over_all_of_them():
    buffer = fl.ReplayBuffer(90, (1,), reinit=0, per_class=3, seed=3)
    y = torch.tensor([0] * 5 + [2] * 12)
    buffer.store(torch.arange(17.0)[:, None], y=y)
    counts = np.bincount(buffer.sample(20_000).x[:, 0].long(), minlength=17)
    assert len(counts) == 17 and stats.chisquare(counts).pvalue > 1e-4
    draw = buffer.sample(50, torch.arange(50) % 3)
    stored = torch.arange(50) % 3 != 1
    assert torch.equal(draw.fresh, ~stored)
    assert torch.equal(y[draw.x[stored, 0].long()], (torch.arange(50) % 3)[stored])


def test_a_reservoir_keeps_each_state_equally_often():
    """200 buffers of 10 after 50 states, in batches that do not divide either number: each is kept with 10 / 50."""
    kept: Counter[int] = Counter()
    for seed in range(200):
        buffer = fl.ReplayBuffer(10, (1,), policy="reservoir", seed=seed)
        for start in range(0, 50, 7):
            buffer.store(torch.arange(float(start), min(start + 7, 50))[:, None])
        kept.update(buffer.state_dict()["values"][:, 0].int().tolist())
    counts = np.array([kept[i] for i in range(50)])
    assert counts.sum() == 2000
    # Sampling without replacement leaves counts less variance than the multinomial's, by 1 - 10/50.
    assert stats.chi2(49).sf(((counts - 40) ** 2).sum() / 40 / 0.8) > 1e-4
    assert stats.binomtest(int(counts[:10].sum()), 2000, 0.2).pvalue > 1e-4


def test_a_reservoir_of_very_many_states():
    """Beyond 2^24, where a float32 uniform would miss most slots: the newest state is kept with capacity / t."""
    capacity, pushed = 2**12, 2**26
    buffer = fl.ReplayBuffer(capacity, (1,), policy="reservoir", seed=4)
    buffer.load_state_dict({**buffer.state_dict(), "counts": torch.tensor([pushed])})
    buffer.store(torch.ones(2**20, 1))
    written = buffer.state_dict()["values"][:, 0].nonzero()[:, 0].numpy()
    rate = capacity * math.log((pushed + 2**20) / pushed)
    assert stats.poisson(rate).cdf(len(written)) > 5e-5 and stats.poisson(rate).sf(len(written)) > 5e-5
    assert stats.kstest(written / capacity, stats.uniform.cdf).pvalue > 1e-4
    assert len({w % 4 for w in written}) == 4  # with 24 bits all would be multiples of 4


def test_indices_have_48_bits():
    buffer = fl.ReplayBuffer(2**25, (), reinit=0, seed=1)
    buffer._slots.counts.fill_(2**25)
    odd = buffer.sample(10_000).slots % 2
    assert stats.binomtest(int(odd.sum()), 10_000, 0.5).pvalue > 1e-4


def test_persistent_chains():
    """An indexed buffer is full from the start, and chains that were drawn return to their slots."""
    buffer = fl.ReplayBuffer(7, (4,), policy="indexed", reinit=0, seed=1)
    assert len(buffer) == 7
    before = buffer.state_dict()["values"].clone()
    assert before.abs().max() <= 1 and before.std() > 0.4
    draw = buffer.sample(5)
    assert torch.equal(draw.x, before[draw.slots]) and not draw.fresh.any()
    buffer.store(draw.x + 10, draw.slots)
    moved = before.clone()
    moved[draw.slots] += 10
    assert torch.equal(buffer.state_dict()["values"], moved)


def test_no_row_is_written_twice():
    """The result of a scatter with duplicates is not defined on a GPU. On a CPU the last one is kept in any case."""
    buffer = fl.ReplayBuffer(5, (1,), policy="indexed", seed=1)
    written = []
    buffer._values.index_copy_ = lambda dim, rows, values: written.append(rows)
    slots = torch.tensor([3, 0, 3, 4, 0, 3, 1])
    buffer.store(torch.zeros(7, 1), slots)
    assert written[0].tolist() == [5, 5, 5, 4, 0, 3, 1]


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-1.0, 1.0), (-3.0, 5.0)])
def test_bytes(bounds):
    lo, hi = bounds
    level = (hi - lo) / 256
    buffer = fl.ReplayBuffer(5000, (), storage="uint8", bounds=bounds, reinit=0, policy="indexed", seed=1)
    x = torch.cat([torch.linspace(lo, hi, 4996), torch.tensor([lo - 1, hi + 1, lo, hi])])
    slots = torch.arange(5000)
    buffer.store(x, slots)
    q = buffer.state_dict()["values"]
    assert q.dtype == torch.uint8 and q[-4:].tolist() == [0, 255, 0, 255]
    assert torch.equal(q.unique().long(), torch.arange(256))
    draw = buffer.sample(50_000)
    error = draw.x - x.clamp(lo, hi)[draw.slots]
    # Rounded: a level's three operations on the way in, and on the way out two in units of hi - lo, and the last sum.
    rounding = U * (2 * (hi - lo) + max(abs(lo), abs(hi)))
    assert error.abs().max() <= level + 3 * U * (hi - lo) + rounding
    assert abs(error.mean()) < 4 * error.std() / math.sqrt(50_000)  # no drift from one round trip to the next
    u = fl.noise.uniform(draw.x.shape, seed=1, step=2, stream=Stream.REPLAY_BUFFER, offset=2**62)
    exact = lo + (q[draw.slots] + u.double()) * level
    assert ((draw.x - exact).abs() <= rounding).all()
    assert lo <= draw.x.min() and draw.x.max() <= hi
    again = buffer.sample(50_000)
    assert not torch.equal(again.x, draw.x)


@pytest.mark.parametrize("policy", ["fifo", "reservoir", "indexed"])
def test_continues_from_a_state(policy):
    options = dict(policy=policy, storage="uint8", bounds=(-1, 1), per_class=2)

    def continued(buffer):
        draws = []
        for _ in range(4):
            draw = buffer.sample(9, torch.arange(9) % 2)
            draws.append(draw.x)
            buffer.store(0.5 * draw.x, **({"slots": draw.slots} if policy == "indexed" else {"y": torch.arange(9) % 2}))
        return torch.stack(draws)

    first = fl.ReplayBuffer(20, EVENT, seed=8, **options)
    continued(first)
    state = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in first.state_dict().items()}
    second = fl.ReplayBuffer(20, EVENT, seed=9, **options)
    second.load_state_dict(state)
    assert second.seed == 8 and second.step == first.step and len(second) == len(first)
    expected = continued(first)
    assert torch.equal(continued(second), expected)
    other = fl.ReplayBuffer(20, EVENT, seed=9, **options)
    assert not torch.equal(continued(other), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"values": torch.zeros(8, 2)}, "values must be torch.float32 \\(8, 3\\), got torch.float32 \\(8, 2\\)"),
        ({"values": torch.zeros(8, 3, dtype=torch.uint8)}, "values must be torch.float32 .*, got torch.uint8"),
        ({"values": [1]}, "values must be .* got list"),
        ({"counts": torch.zeros(2, dtype=torch.int64)}, "counts must be torch.int64 \\(1,\\)"),
        ({"policy": "reservoir"}, "policy must be 'fifo', got 'reservoir'"),
        ({"stream_version": 0}, f"noise stream version 0, this is {STREAM_VERSION}"),
        ({"seed": 2**64}, "seed must fit 64 bits"),
        ({"step": -1}, "step must lie in"),
    ],
)
def test_a_state_that_does_not_fit_changes_nothing(change, message):
    buffer = fl.ReplayBuffer(8, (3,), seed=1)
    buffer.store(torch.ones(3, 3))
    state = fl.ReplayBuffer(8, (3,), seed=2).state_dict()
    with pytest.raises(ValueError, match=message):
        buffer.load_state_dict({**state, **change})
    assert len(buffer) == 3 and buffer.seed == 1 and buffer.step == 1
    with pytest.raises(ValueError, match="state lacks counts, seed"):
        buffer.load_state_dict({k: v for k, v in state.items() if k not in ("counts", "seed")})


@pytest.mark.parametrize("storage", ["float32", "uint8"])
@pytest.mark.parametrize("n_classes", [None, 2])
@pytest.mark.parametrize("policy", ["fifo", "reservoir", "indexed"])
def test_no_value_is_read_on_the_host(policy, n_classes, storage):
    """On a device without values, everything that depends on one raises: item(), nonzero(), a boolean mask, a copy."""
    options = dict(policy=policy, per_class=n_classes, storage=storage, device="meta")
    buffer = fl.ReplayBuffer(10, EVENT, bounds=(0, 1), seed=1, **options)
    y = None if n_classes is None else torch.zeros(4, dtype=torch.int64, device="meta")
    draw = buffer.sample(4, y)
    buffer.sample(4)
    buffer.store(draw.x, **({"slots": draw.slots} if policy == "indexed" else {"y": y}))
    assert {t.device.type for t in (*draw, *buffer.state_dict().values()) if isinstance(t, torch.Tensor)} == {"meta"}
    with pytest.raises(RuntimeError, match="meta tensors"):
        len(buffer)


def test_states_are_stored_as_copies_without_a_graph():
    buffer = fl.ReplayBuffer(4, (2,), reinit=0, seed=1)
    x = torch.ones(4, 2, dtype=torch.float64, requires_grad=True)
    buffer.store(x * 2)
    with torch.no_grad():
        x.zero_()
    draw = buffer.sample(3)
    assert not draw.x.requires_grad and torch.equal(draw.x, torch.full((3, 2), 2.0))
    draw.x.zero_()
    assert torch.equal(buffer.sample(3).x, torch.full((3, 2), 2.0))
    with torch.inference_mode():
        buffer.store(torch.full((4, 2), 3.0))
        inside = buffer.sample(2).x
    assert not inside.is_inference()
    assert buffer.sample(0).x.shape == (0, 2)
    buffer.store(torch.zeros(0, 2))
    assert len(buffer) == 4


def test_p0_is_the_sampler_s():
    options = dict(bounds=(-2.0, 0.5), seed=6)
    sampler = fl.Langevin(lambda x: x.sum(1), init="normal", **options)
    buffer = fl.ReplayBuffer(9, (5,), init="normal", **options)
    assert torch.equal(buffer.sample(4).x, sampler.initial((4, 5)))
    given = fl.ReplayBuffer(9, (5,), init=lambda shape, *, seed, step, chain_offset: torch.full(shape, float(step)))
    given.sample(1)
    assert torch.equal(given.sample(2).x, torch.ones(2, 5))


def test_seeds():
    first, second = (fl.ReplayBuffer(9, (5,), generator=torch.Generator().manual_seed(i)) for i in (0, 1))
    assert first.seed != second.seed and not torch.equal(first.sample(2).x, second.sample(2).x)
    torch.manual_seed(0)
    drawn = fl.ReplayBuffer(9, (5,)).seed
    assert drawn == first.seed
    before = torch.get_rng_state()
    fl.ReplayBuffer(9, (5,), seed=1).sample(3)
    assert torch.equal(torch.get_rng_state(), before)
    assert repr(fl.ReplayBuffer(9, (5,), seed=1)) == "ReplayBuffer(9, (5,), reinit=0.05, policy='fifo', seed=1, step=0)"


def test_a_device_may_have_an_index():
    buffer = fl.ReplayBuffer(4, EVENT, seed=SEED, device="cpu:0")
    buffer.store(torch.zeros(2, *EVENT))
    assert len(buffer) == 2 and buffer.device == buffer.sample(2).x.device
