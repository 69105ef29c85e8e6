"""Whole chains in one call on a CPU, beside the eager loop, torch.compile of the step and JAX's jit of a scan.

Fused multiply-adds of an MLP's step, a chain: 2 · Σ inputs × outputs over the hidden layers, forward and back.
`fma_peak.cpp` says what the processor does in the same run; the share of it is printed.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import statistics
import subprocess
from pathlib import Path

import pytest
import torch
from contenders import compiled, eager, jax_scan
from torch import nn

import fastlangevin as fl
from fastlangevin.kernels import build, native

OPTIONS = {"step_size": 0.01, "noise_std": 0.1}
ACTIVATIONS = {"leaky_relu": lambda: nn.LeakyReLU(0.2), "silu": nn.SiLU}
NETWORKS = {"2-64-64-1": ((2, 64, 64, 1), 9984, 100), "128-200-200-1": ((128, 200, 200, 1), 2048, 20)}
ROUNDS = 9
CHECKED_STEPS, TOLERANCE = 10, 1e-3  # without noise, of the distance moved


@pytest.fixture(autouse=True)
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def fma_peak(tmp_path_factory):
    """Fused multiply-adds a second on two threads, of 16 lanes; None where the processor has no AVX-512."""
    if native.load_cpu() or native.cpu_capability() != "avx512":
        return None
    library = tmp_path_factory.mktemp("peak") / "peak.so"
    source = Path(__file__).with_name("fma_peak.cpp")
    subprocess.run(
        [*build.compiler().split(), "-O2", "-mavx512f", "-shared", "-fPIC", "-o", library, source], check=True
    )
    function = ctypes.CDLL(str(library)).fma_peak
    function.restype, function.argtypes = ctypes.c_double, [ctypes.c_int]
    return function


def compare_chains(compare, energy, jax_energy, x0, n_steps):
    """Times ours and the peers, all seen to compute the same without noise; `jax_energy` makes JAX's."""

    def sampler(noise_std):
        return fl.Langevin(energy, n_steps=n_steps, step_size=0.01, noise_std=noise_std, seed=1)

    def minus(x):
        return -energy(x)

    assert sampler(0.1).plan.engine in ("mlp", "analytic")
    silent = {**OPTIONS, "noise_std": 0.0}
    expected = eager.chain(minus, x0, CHECKED_STEPS, **silent)
    results = [sampler(0.0)(x0, n_steps=CHECKED_STEPS), compiled.make_chain(minus, **silent)(x0, CHECKED_STEPS)]
    peers = {
        "eager loop": functools.partial(eager.chain, minus, x0, n_steps, **OPTIONS),
        "torch.compile": functools.partial(compiled.make_chain(minus, **OPTIONS), x0, n_steps),
    }
    if jax_scan.MISSING is None:
        results.append(jax_scan.make_chain(jax_energy(), CHECKED_STEPS, **silent)(x0))
        peers["JAX jit scan"] = functools.partial(jax_scan.make_chain(jax_energy(), n_steps, **OPTIONS), x0)
    for result in results:
        assert (result - expected).norm() < TOLERANCE * (expected - x0).norm()
    compare(functools.partial(sampler(0.1), x0), peers, rounds=ROUNDS, missing={"JAX jit scan": jax_scan.MISSING})


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("network", NETWORKS)
def test_mlp(compare, fma_peak, benchmark, network, activation):
    widths, n_chains, n_steps = NETWORKS[network]
    torch.manual_seed(0)
    pairs = [[nn.Linear(a, b), ACTIVATIONS[activation]()] for a, b in itertools.pairwise(widths)]
    net = nn.Sequential(*itertools.chain(*pairs))[:-1].requires_grad_(False)
    compare_chains(compare, net, lambda: jax_scan.mlp(net), torch.randn(n_chains, widths[0]), n_steps)
    if fma_peak is not None:
        fmas = 2 * n_chains * n_steps * sum(a * b for a, b in itertools.pairwise(widths[:-1]))
        peak = statistics.median(fma_peak(2) for _ in range(5))
        benchmark.extra_info["share_of_fma_peak"] = share = fmas / benchmark.stats.stats.median / peak
        print(f"\n{benchmark.name}: {share:.0%} of {peak / 1e9:.0f} G fused multiply-adds a second")


def test_mixture(compare):
    u = fl.energies.GaussianMixture([[2.0, 2.0], [-2.0, 2.0], [2.0, -2.0], [-2.0, -2.0]], 0.25)
    compare_chains(
        compare, u, lambda: jax_scan.mixture(u.constants, u.means, u.precisions), torch.randn(10_000, 2), 100
    )


def test_double_well(compare):
    u = fl.energies.DoubleWell()
    compare_chains(compare, u, lambda: jax_scan.double_well(u.barrier, u.width), torch.randn(10_000, 2), 100)
