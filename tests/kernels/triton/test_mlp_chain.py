"""Whole chains of MLP energies in Triton: in its interpreter against the CPU's kernel and float64, and compiled
ahead of time for several GPUs.
"""

from __future__ import annotations

import importlib.util

import pytest
import torch
from support.activations import ACTIVATIONS
from support.chain_reference import OPTIONS, arguments, chain
from support.instructions import count
from support.mlp_nets import SILU, Net, states

from fastlangevin.kernels import triton as backend
from fastlangevin.kernels.arguments import ChainArgs
from fastlangevin.network.layers import Activation

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")


@pytest.fixture
def kernels():
    if backend.unsupported() or backend.DEVICE != "cpu":
        pytest.skip("needs the interpreter")
    from fastlangevin.kernels.triton import mlp_chain

    return mlp_chain


def run(kernels, net: Net, x: torch.Tensor, args: ChainArgs, precision="fp32") -> torch.Tensor:
    assert kernels.unsupported(net.layers, x.shape[1], precision) is None
    got = x.clone()
    kernels.run_(net.layers, net.last, net.prior, got, args, precision)
    return got


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("widths", [(2, 17, 9), (5, 3), (3, 5, 4, 9, 2)], ids=str)
def test_against_float64(kernels, widths, activation):
    net, x, tail = Net(widths, ACTIVATIONS[activation][1], prior=0.3, gain=1.0), states(67, widths[0]), arguments()
    assert (run(kernels, net, x, tail) - chain(net.log_density, x, tail)).abs().max() < 1e-6


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_options_as_on_the_cpu(kernels, options):
    net, x, tail = Net((3, 20, 9), SILU, gain=1.0), states(67, 3), arguments(**OPTIONS[options])
    assert (run(kernels, net, x, tail) - chain(net.log_density, x, tail)).abs().max() < 1e-6


@pytest.mark.parametrize("scale", [1.0, 1e-6])
def test_16_bits(kernels, scale):
    """Also with last weights below the smallest fp16 number. (The interpreter has no bf16 products.)"""
    net, x = Net((3, 20, 9), SILU, gain=1.0), states(67, 3)
    net.last = net.last * scale
    tail = arguments(step_sizes=[1 / scale], noise_stds=[0.0], steps=[0])
    expected = chain(net.log_density, x, tail)
    assert (run(kernels, net, x, tail, "fp16") - expected).abs().max() < 4e-3 * (expected - x).abs().max()


def test_numbers_on_the_device_equal_python_numbers(kernels):
    net, x, args = Net((3, 20, 9), SILU), states(10, 3), arguments(seed=-3)
    on_device = args._replace(
        step_sizes=torch.tensor(args.step_sizes, dtype=torch.float64).unbind(),
        noise_stds=torch.tensor(args.noise_stds, dtype=torch.float64).unbind(),
        seed=torch.tensor(args.seed),
        steps=torch.tensor(args.steps).unbind(),
    )
    assert torch.equal(run(kernels, net, x, on_device), run(kernels, net, x, args))


def test_net_without_bias(kernels):
    net, x, tail = Net((3, 20, 9), SILU, bias=False, gain=1.0), states(10, 3), arguments()
    assert (run(kernels, net, x, tail) - chain(net.log_density, x, tail)).abs().max() < 1e-6


def test_unsupported(kernels):
    assert "129 wide" in kernels.unsupported(Net((3, 129), SILU).layers, 3)
    assert "shared memory" in kernels.unsupported(Net((3, 128, 128, 128), SILU).layers, 3)
    assert kernels.unsupported(Net((3, 128, 128, 128), SILU).layers, 3, "fp16") is None
    assert "unknown" in kernels.unsupported(Net((3, 4), Activation("unknown")).layers, 3)


# At most these bytes of local memory per thread. At width 128 the operands of two products fill the registers.
LOCAL = {"mlp_chain-fp16-128": 136, "mlp_chain-bf16-64": 16, "mlp_chain-tf32-64": 40, "mlp_chain-fp32-32": 16}


@pytest.mark.parametrize("kernel", LOCAL)
def test_compiled(compiled, kernel):
    for architecture in (80, 90, 100):
        record = compiled[kernel, architecture]
        assert record["local"] <= LOCAL[kernel], architecture
        assert record["shared"] <= 96 * 1024, architecture
        products = {80: "HMMA", 90: "HGMMA", 100: "UTC"}[architecture] if "fp32" not in kernel else "FFMA"
        assert count(record, products) >= 4, architecture
