"""Whole chains in one call, beside the usual loop: autograd.grad of the energy, then the update in torch.

Operations of an MLP's step, a chain: 2 · Σ (inputs × outputs) fused multiply-adds over the hidden layers, forward and
back. `fma_peak.cpp` says what the processor could do in the same run; the share of it is printed (-s).
"""

from __future__ import annotations

import ctypes
import itertools
import statistics
import subprocess

import pytest
import torch
from torch import nn

import fastlangevin as fl
from fastlangevin.kernels import analytic_chain, build, mlp_chain, native
from fastlangevin.score.stack import Activation, Linear

BASELINE = "autograd.grad + torch update"
ACTIVATIONS = {"leaky_relu": (nn.LeakyReLU(0.2), (0.2,)), "silu": (nn.SiLU(), ())}
WORKLOADS = [((2, 64, 64), 9984, 100), ((128, 200, 200), 1024, 20)]


@pytest.fixture(scope="module")
def fma_peak(tmp_path_factory):
    """Fused multiply-adds a second on two threads, of 16 lanes; None where the processor has no AVX-512."""
    if native.load_cpu() or native.cpu_capability() != "avx512":
        return None
    library = tmp_path_factory.mktemp("peak") / "peak.so"
    source = __file__.replace("bench_mlp_chain.py", "fma_peak.cpp")
    subprocess.run(
        [*build.compiler().split(), "-O2", "-mavx512f", "-shared", "-fPIC", "-o", library, source], check=True
    )
    function = ctypes.CDLL(str(library)).fma_peak
    function.restype, function.argtypes = ctypes.c_double, [ctypes.c_int]
    return function


@pytest.fixture(autouse=True)
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def eager(energy, x: torch.Tensor, n_steps: int) -> torch.Tensor:
    for _ in range(n_steps):
        x = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(energy(x).sum(), x)
        x = x.detach() - 0.01 * gradient + 0.1 * torch.randn_like(x)
    return x


def numbers(n_steps: int) -> tuple:
    return ([0.01] * n_steps, [0.1] * n_steps, True, 1, range(n_steps), 0, None, None, None, False)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("widths", "n_chains", "n_steps"), WORKLOADS, ids=str)
def test_mlp(compare, fma_peak, benchmark, widths, n_chains, n_steps, activation):
    module, parameters = ACTIVATIONS[activation]
    layers, modules = [], []
    for n_in, n_out in itertools.pairwise(widths):
        linear = nn.Linear(n_in, n_out)
        modules += [linear, module]
        layers += [Linear(linear.weight.detach(), linear.bias.detach()), Activation(activation, parameters)]
    head = nn.Linear(widths[-1], 1)
    net = nn.Sequential(*modules, head).requires_grad_(False)
    x = torch.randn(n_chains, widths[0])

    def ours():
        mlp_chain.run_(layers, -head.weight[0], 0.0, x.clone(), *numbers(n_steps))

    compare(ours, BASELINE, lambda: eager(net, x, n_steps), rounds=7)
    if fma_peak is not None:
        fmas = 2 * n_chains * n_steps * sum(a * b for a, b in itertools.pairwise(widths))
        peak = statistics.median(fma_peak(2) for _ in range(5))
        benchmark.extra_info["share_of_fma_peak"] = share = fmas / benchmark.stats.stats.median / peak
        print(f"\n{share:.0%} of {peak / 1e9:.0f} G fused multiply-adds a second")


def test_mixture(compare):
    u = fl.energies.GaussianMixture([[2.0, 2.0], [-2.0, 2.0], [2.0, -2.0], [-2.0, -2.0]], 0.25)
    x = torch.randn(10_000, 2)

    def ours():
        analytic_chain.mixture_(u.constants, u.means, u.precisions, x.clone(), *numbers(100))

    compare(ours, BASELINE, lambda: eager(u, x, 100), rounds=7)


def test_double_well(compare):
    u, x = fl.energies.DoubleWell(), torch.randn(10_000, 2)

    def ours():
        analytic_chain.double_well_(u.barrier, u.width, x.clone(), *numbers(100))

    compare(ours, BASELINE, lambda: eager(u, x, 100), rounds=15)
