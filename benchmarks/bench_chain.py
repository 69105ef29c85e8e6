"""Chains of a convnet energy on a CPU: ours in each precision, the eager loop, and torch.compile of the whole step."""

from __future__ import annotations

import functools

import pytest
import torch
from contenders import compiled, eager

import fastlangevin as fl

BATCH = 64
NETWORKS = {"8x8-nf32": (8, 1, 32), "8x8-nf64": (8, 1, 64), "16x16-nf32": (16, 1, 32), "32x32-nf32": (32, 3, 32)}
N_STEPS = {8: 20, 16: 10, 32: 10}
ROUNDS = {8: 21, 16: 11, 32: 5}
OPTIONS = {"step_size": 1.0, "noise_std": 0.01}
TOLERANCE = {"fp32": 1e-3, "bf16": 0.2}  # of the distance moved; bf16's errors are signs that flip


@pytest.fixture(autouse=True)
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("network", NETWORKS)
def test_chain(compare, network, precision):
    size, channels, features = NETWORKS[network]
    torch.manual_seed(0)
    net = fl.models.ConvNet(size, channels, features)
    x0 = torch.rand(BATCH, channels, size, size) * 2 - 1
    n_steps = N_STEPS[size]

    def sampler(noise_std):
        return fl.Langevin(
            log_density=net, n_steps=n_steps, step_size=1.0, noise_std=noise_std, precision=precision, seed=1
        )

    silent = {**OPTIONS, "noise_std": 0.0}
    expected = eager.chain(net, x0, 3, **silent)
    for result in (
        sampler(0.0)(x0, n_steps=3),
        compiled.make_chain(net, **silent, precision=precision)(x0, 3),
    ):  # the same work
        assert (result - expected).norm() < TOLERANCE[precision] * (expected - x0).norm()
    compare(
        functools.partial(sampler(0.01), x0),
        {
            "eager fp32": functools.partial(eager.chain, net, x0, n_steps, **OPTIONS),
            f"torch.compile {precision}": functools.partial(
                compiled.make_chain(net, **OPTIONS, precision=precision), x0, n_steps
            ),
        },
        rounds=ROUNDS[size],
    )
