"""The noise stream: golden bits on every backend, and the statistics of a good generator."""

from __future__ import annotations

import json

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import noise_oracle

import fastlangevin as fl
from fastlangevin.kernels import BACKENDS, reference


def bits(words: list[str]) -> list[int]:
    return np.array([int(w, 16) for w in words], dtype=np.uint32).view(np.int32).tolist()


def test_vectors_are_the_oracle_s():
    assert json.loads(noise_oracle.WRITTEN.read_text()) == noise_oracle.vectors()


def test_vectors_are_those_of_the_stream(vectors):
    assert len(vectors) == 464
    assert vectors[0]["philox"] == ["6627e8d5", "e169c58d", "bc57ac4c", "9b00dbd8"]


def draws(vectors: list[dict], most: int) -> list[list[dict]]:
    """The vectors in parts of at most so many, each the consecutive groups of one key."""
    parts: list[list[dict]] = []
    for row in vectors:
        last = parts[-1][-1] if parts and len(parts[-1]) < most else {}
        follows = last | {"group": str(int(last["group"]) + 1)} if last else {}
        if last and all(row[name] == follows[name] for name in ("seed", "step", "stream", "group")):
            parts[-1].append(row)
        else:
            parts.append([row])
    return parts


@pytest.mark.parametrize("deviate", ["normal", "uniform"])
def test_golden_bits(backend, vectors, deviate):
    """Group by group; what takes time in Triton's interpreter is the launch."""
    for rows in draws(vectors, 64 if backend == "triton" else 1):
        key = dict(seed=int(rows[0]["seed"]), step=rows[0]["step"], stream=rows[0]["stream"])
        offset = 4 * int(rows[0]["group"])
        got = getattr(fl.noise, deviate)((4 * len(rows),), offset=offset, backend=backend, **key)
        expected = [word for row in rows for word in bits(row[f"{deviate}_bits"])]
        assert got.view(torch.int32).tolist() == expected, rows


def test_streams_have_their_numbers():
    """They must not change: the noise of a checkpoint depends on them."""
    assert {s.name: s.value for s in fl.noise.Stream} == {
        "LANGEVIN": 0,
        "INITIAL_STATE": 1,
        "DATA_NOISE": 2,
        "ACCEPT_REJECT": 3,
        "REPLAY_BUFFER": 4,
        "VELOCITY": 5,
        "TEMPERING": 2**31,
    }


def test_golden_philox_words(vectors):
    for row in vectors:
        group = torch.tensor([int(row["group"])])
        seed = fl.noise.check_seed(int(row["seed"]))
        words = reference.philox(group, seed, row["step"], row["stream"])
        assert [f"{int(w):08x}" for w in words] == row["philox"]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 300),
    st.one_of(st.integers(0, 300), st.integers(2**34 - 40, 2**34), st.integers(0, 2**62)),
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**32 - 1),
    st.booleans(),
)
def test_cpu_equals_reference(n, offset, seed, step, stream, uniform):
    if BACKENDS["cpu"].unsupported():
        pytest.skip(BACKENDS["cpu"].unsupported())
    draw = fl.noise.uniform if uniform else fl.noise.normal
    key = dict(seed=seed, step=step, stream=stream, offset=offset)
    assert torch.equal(draw((n,), backend="cpu", **key), draw((n,), backend="reference", **key))


def test_large_fills_agree(backend):
    """Across the boundaries of the reference's chunks and of the threads."""
    n = 2 * 4 * (1 << 14) + 4099
    key = dict(seed=11, step=3, offset=6)
    assert torch.equal(fl.noise.normal((n,), backend=backend, **key), fl.noise.normal((n,), backend="reference", **key))


def test_element_depends_on_its_index_alone(backend):
    key = dict(seed=5, step=9, stream=1, backend=backend)
    whole = fl.noise.normal((7, 13, 11), **key)
    parts = [fl.noise.normal((1, 13, 11), offset=i * 143, **key) for i in range(7)]
    assert torch.equal(whole, torch.cat(parts))
    assert torch.equal(whole.view(-1), fl.noise.normal((1001,), **key))


def test_thread_count_does_not_matter(threads):
    drawn = []
    for n in (1, 2, 5):
        threads(n)
        drawn.append(fl.noise.normal((100_003,), seed=1, step=2, offset=1))
    assert torch.equal(drawn[0], drawn[1]) and torch.equal(drawn[0], drawn[2])


def test_seed_step_as_tensors_and_two_s_complement(backend):
    expected = fl.noise.normal((9,), seed=2**64 - 3, step=2**32 - 1, backend=backend)
    assert torch.equal(expected, fl.noise.normal((9,), seed=-3, step=2**32 - 1, backend=backend))
    seed, step = torch.tensor(-3), torch.tensor([2**32 - 1])
    assert torch.equal(expected, fl.noise.normal((9,), seed=seed, step=step.view(()), backend=backend))


def test_global_random_state_does_not_change():
    before = torch.get_rng_state()
    fl.noise.normal((100,), seed=1, step=0)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"seed": 2**64}, ValueError, "seed must fit 64 bits"),
        ({"seed": -(2**63) - 1}, ValueError, "seed must fit 64 bits"),
        ({"seed": 1.5}, TypeError, "seed must be an int"),
        ({"seed": torch.tensor(1.0)}, TypeError, "seed as a tensor must be int64"),
        ({"step": -1}, ValueError, "step must lie in 0 … 2\\^32 - 1"),
        ({"step": 2**32}, ValueError, "step must lie in"),
        ({"stream": 2**32}, ValueError, "stream must lie in"),
        ({"offset": -4}, ValueError, "offset must lie in"),
        ({"backend": "cpuu"}, ValueError, "did you mean 'cpu'"),
    ],
)
def test_bad_arguments(change, error, words):
    with pytest.raises(error, match=words):
        fl.noise.normal((4,), **{"seed": 0, "step": 0, **change})


# Statistics: thresholds at p = 1e-4 and fixed seeds, so that a good stream always passes.
N = 1 << 20


@pytest.fixture(scope="module")
def normals():
    return fl.noise.normal((N,), seed=20191125, step=0).double().numpy()


def test_moments(normals):
    assert abs(normals.mean()) < 4 / np.sqrt(N)
    assert abs(normals.var() - 1) < 4 * np.sqrt(2 / N)
    assert abs((normals**3).mean()) < 4 * np.sqrt(15 / N)
    assert abs((normals**4).mean() - 3) < 4 * np.sqrt(96 / N)
    assert np.abs(normals).max() < 5.888


def test_distributions(normals):
    assert scipy.stats.kstest(normals, "norm").pvalue > 1e-4
    uniforms = fl.noise.uniform((N,), seed=20191125, step=0).double().numpy()
    assert uniforms.min() >= 0 and uniforms.max() < 1
    assert scipy.stats.kstest(uniforms, "uniform").pvalue > 1e-4


def correlation(a, b) -> float:
    return float(np.corrcoef(a, b)[0, 1]) * np.sqrt(len(a))


def test_independence(normals):
    for lag in (1, 2, 3, 4, 8, 1024):
        assert abs(correlation(normals[:-lag], normals[lag:])) < 4
        assert abs(correlation(normals[:-lag] ** 2, normals[lag:] ** 2)) < 4
    first = dict(seed=20191125, step=0, stream=0)
    for change in ({"seed": 20191126}, {"seed": 20191125 + 2**32}, {"step": 1}, {"step": 2**31}, {"stream": 1}):
        other = fl.noise.normal((N,), **{**first, **change}).double().numpy()
        assert abs(correlation(normals, other)) < 4
        assert abs(correlation(normals**2, other**2)) < 4
        assert not np.array_equal(normals[:8], other[:8])


def test_lanes_pair_up_into_an_isotropic_plane(normals):
    """The two normals of Box-Muller: the squared radius is exponential and the angle uniform."""
    x, y = normals[0::2], normals[1::2]
    assert scipy.stats.kstest((x**2 + y**2) / 2, "expon").pvalue > 1e-4
    assert scipy.stats.kstest(np.arctan2(y, x) / (2 * np.pi) + 0.5, "uniform").pvalue > 1e-4
