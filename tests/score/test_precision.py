"""The dtypes of states and networks, and torch's precision flags around the network."""

from __future__ import annotations

import threading

import pytest
import torch
from support.chain_reference import arguments, chain
from support.error_bounds import UNIT, Roundings, U, assert_within
from support.langevin_reference import plain_loop, quadratic, small_net
from support.network_bounds import Arithmetic
from support.network_bounds import score as network_score

import fastlangevin as fl


def in_16_bits(precision: str) -> Arithmetic:
    """Factors, sums, activations and their derivatives are rounded to the type."""
    half = UNIT[{"bf16": torch.bfloat16, "fp16": torch.float16}[precision]]
    rounded = lambda name, z, value, derivative, *_: (half * value.abs() + 8 * U, half * derivative.abs() + 8 * U)
    return Arithmetic(rounded, half=half)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_state_keeps_its_dtype(backend, dtype):
    x0 = torch.randn(4, 3, dtype=torch.float64).to(dtype)
    sampler = fl.Langevin(quadratic, n_steps=5, step_size=0.1, noise_std=0.1, seed=1, backend=backend)
    x = sampler(x0)
    assert x.dtype == dtype
    expected = plain_loop(x0, lambda v: -v, n_steps=5, eta=0.1, sigma=0.1)
    # At each step three roundings by the arithmetic and one to the state's type, of at most 5; later steps shrink them.
    arithmetic = UNIT[dtype if dtype == torch.float64 else torch.float32]
    most = 5 * 5 * (3 * arithmetic + (0 if dtype == torch.float64 else UNIT[dtype]))
    assert (x.double() - expected).abs().max() <= most and expected.abs().max() < 5


def test_network_runs_in_the_dtype_of_its_parameters():
    seen = []
    net = small_net().double()
    net[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].dtype))
    x = fl.Langevin(net, n_steps=2, seed=1)(torch.randn(2, 3))
    assert x.dtype == torch.float32 and set(seen) == {torch.float64}


@pytest.mark.usefixtures("precision_as_asked")
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_precision_applies_to_the_network_only(precision):
    net = small_net()
    x0 = torch.randn(64, 3)
    options = dict(n_steps=3, step_size=0.1, noise_std=0.1, seed=1)
    tail = arguments([0.1] * 3, [0.1] * 3, seed=1, steps=range(3), offset=0)
    expected = chain(lambda r, x: network_score(r, list(net), x, in_16_bits(precision), factor=-1), x0, tail)
    lower = fl.Langevin(net, precision=precision, **options)(x0)
    assert lower.dtype == torch.float32
    assert_within(lower, *expected, tight=0.01)
    assert (lower - expected[0]).abs().max() > 100 * U  # not float32


def test_fp32_is_strict_and_flags_are_restored():
    seen = []

    def energy(x):
        seen.append((torch.backends.mkldnn.matmul.fp32_precision, torch.is_autocast_enabled("cpu")))
        return quadratic(x)

    before = torch.backends.mkldnn.matmul.fp32_precision
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"
    try:
        with torch.autocast("cpu", torch.bfloat16):
            fl.Langevin(energy, n_steps=1, seed=1)(torch.zeros(1, 2))
        assert seen == [("ieee", False)]
        assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"
    finally:
        torch.backends.mkldnn.matmul.fp32_precision = before


def test_threads_share_precision_flags():
    """A strict chain that ends while another runs must not reset the flags of the other."""
    before = torch.backends.mkldnn.matmul.fp32_precision
    inside, go_on = threading.Event(), threading.Event()
    seen = []

    def slow(x):
        inside.set()
        go_on.wait(10)
        seen.append(torch.backends.mkldnn.matmul.fp32_precision)
        return quadratic(x)

    torch.backends.mkldnn.matmul.fp32_precision = "bf16"
    try:
        worker = threading.Thread(target=lambda: fl.Langevin(slow, n_steps=1, seed=1)(torch.zeros(1, 2)))
        worker.start()
        assert inside.wait(10)
        fl.Langevin(quadratic, n_steps=1, seed=1)(torch.zeros(1, 2))
        go_on.set()
        worker.join()
        assert seen == ["ieee"] and torch.backends.mkldnn.matmul.fp32_precision == "bf16"
    finally:
        torch.backends.mkldnn.matmul.fp32_precision = before


def test_flags_that_follow_their_parent_continue_to():
    backend = torch.backends.mkldnn
    before = backend.fp32_precision
    try:
        backend.fp32_precision = "bf16"
        fl.Langevin(quadratic, n_steps=1, seed=1)(torch.zeros(1, 2))
        assert backend.matmul.fp32_precision == "bf16"
        backend.fp32_precision = "ieee"
        assert backend.matmul.fp32_precision == "ieee"
    finally:
        backend.fp32_precision = before


def test_an_energy_may_read_torch_s_older_flags():
    def energy(x):
        with torch.backends.cudnn.flags(enabled=False):
            assert isinstance(torch.backends.cuda.matmul.allow_tf32, bool)
            return quadratic(x)

    fl.Langevin(energy, n_steps=1, seed=1)(torch.zeros(1, 2))


@pytest.mark.usefixtures("precision_as_asked")
def test_energy_and_score_run_in_the_sampler_s_precision():
    net = small_net()
    x = torch.randn(64, 3)
    exact, lower = (fl.Langevin(net, precision=p, seed=1) for p in ("fp32", "bf16"))
    energies = [sampler.energy(x) for sampler in (exact, lower)]
    assert all(energy.dtype == torch.float32 for energy in energies)
    assert (energies[1] - energies[0]).abs().max() > 100 * U * energies[0].abs().max()
    roundings = Roundings()
    expected = network_score(roundings, list(net), x.double(), in_16_bits("bf16"), factor=-1)
    assert_within(lower.score(x), expected.detach(), roundings.bound(expected), tight=0.1)
    assert (lower.score(x) - expected).abs().max() > 100 * U > (exact.score(x) - expected).abs().max()
