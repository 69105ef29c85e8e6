"""The tolerances of the benchmarks' check without noise: each precision's own roundings pass, worse ones do not."""

from __future__ import annotations

import checks
import pytest
import torch
import works
from contenders import eager
from torch import nn
from torch.nn import functional

SIGNIFICANT_BITS = {"tf32": 11, "fp16": 11, "bf16": 8}


class Rounded(torch.autograd.Function):
    """Rounds to nearest, to so many significant bits: in the forward pass, the backward pass, or both."""

    @staticmethod
    def forward(context, x, forward_bits, backward_bits):
        context.bits = backward_bits
        return rounded(x, forward_bits)

    @staticmethod
    def backward(context, gradient):
        return rounded(gradient, context.bits), None, None


def rounded(x, bits):
    if bits is None:
        return x
    mantissa, exponent = torch.frexp(x)
    return torch.ldexp(torch.round(mantissa * 2**bits) / 2**bits, exponent)


class RoundedNet(nn.Module):
    """Its convolutions read factors of so many bits, in both passes, and add up in float64."""

    def __init__(self, net, bits):
        super().__init__()
        self.net, self.bits = net, bits

    def forward(self, x):
        for layer in self.net:
            if isinstance(layer, nn.Conv2d):
                y = functional.conv2d(
                    Rounded.apply(x, self.bits, None),
                    rounded(layer.weight.double(), self.bits),
                    layer.bias.double(),
                    layer.stride,
                    layer.padding,
                )
                x = Rounded.apply(y, None, self.bits)
            else:
                x = layer(x)
        return x


@pytest.fixture(scope="module")
def work():
    return works.convnet(16, 3, 16, 3, "cpu")


@pytest.fixture(scope="module")
def exact(work):
    return checks.Expected.of(work).still


def still(work, module):
    score = eager.by_autograd(module)
    return eager.chain(score, work.x0.double(), work.check_steps, step_size=work.step_size, noise_std=0.0)


@pytest.mark.parametrize("precision", SIGNIFICANT_BITS)
def test_the_roundings_of_a_precision_pass(work, exact, precision):
    """They move the states of the paper's networks by 0.7 to 1.2 √u of the distance, from 3 bits to 11."""
    net, bits = work.module.net, SIGNIFICANT_BITS[precision]
    assert checks.without_noise(still(work, RoundedNet(net, bits)), exact, work.x0, precision) is None
    for fewer in (5, 7):
        coarse = still(work, RoundedNet(net, bits - fewer))
        assert "in float64" in checks.without_noise(coarse, exact, work.x0, precision)


@pytest.fixture
def shifts():
    """64 chains that all move by 1, in 10 dimensions."""
    x0 = torch.zeros(64, 10)
    return x0, torch.nn.functional.normalize(torch.ones(64, 10, dtype=torch.float64), dim=1)


def test_few_chains_that_meet_a_kink_do_not_decide(shifts):
    x0, exact = shifts
    got = exact + 1e-6
    got[-8:] += 0.1
    assert checks.without_noise(got, exact, x0, "fp32") is None
    got[0] += 0.1
    assert "56 chains are 0.32 away" in checks.without_noise(got, exact, x0, "fp32")


@pytest.mark.parametrize("wrong", [0.0, -1.0, float("nan")])
def test_one_chain_that_is_wrong_is_refused(shifts, wrong):
    x0, exact = shifts
    got = exact.clone()
    got[17] *= wrong
    assert "the farthest is" in checks.without_noise(got, exact, x0, "fp32")
