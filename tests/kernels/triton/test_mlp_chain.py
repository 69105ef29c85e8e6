"""Whole chains of MLP energies in Triton: in its interpreter against the CPU's kernel and float64, and compiled
ahead of time for several GPUs.
"""

from __future__ import annotations

import importlib.util
import re
import types

import pytest
import torch
from support.activation_bounds import TRITON_MLP
from support.activation_bounds import triton as triton_activation
from support.activation_values import exact
from support.activations import ACTIVATIONS
from support.chain_reference import OPTIONS, arguments
from support.error_bounds import UNIT, U, assert_within
from support.instructions import count
from support.mlp_nets import SILU, Net, states
from support.network_bounds import Arithmetic, Exact

from fastlangevin.kernels import triton as backend
from fastlangevin.kernels.arguments import ChainArgs
from fastlangevin.kernels.cpu.mlp_chain import activation_args
from fastlangevin.network.layers import Activation

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)

import triton
import triton.language as tl

from fastlangevin.kernels.triton.mlp_chain import MOST_LAYERS, _activate, padded, shared_bytes


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
    """The interpreter's sums are NumPy's, in any order."""
    net, x, tail = Net(widths, ACTIVATIONS[activation][1], prior=0.3, gain=1.0), states(20, widths[0]), arguments()
    assert_within(run(kernels, net, x, tail), *net.chain(x, tail, arithmetic=TRITON_MLP), tight=1e-5)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_options_as_on_the_cpu(kernels, options):
    net, x, tail = Net((3, 20, 9), SILU, gain=1.0), states(20, 3), arguments(**OPTIONS[options])
    assert_within(run(kernels, net, x, tail), *net.chain(x, tail, arithmetic=TRITON_MLP), tight=1e-5)


@pytest.mark.parametrize("scale", [1.0, 1e-6])
def test_16_bits(kernels, scale):
    """Also where the last layer's weights are below fp16's least number: states, weights, activations and gradients are
    rounded to 16 bits where products read them. (The interpreter has no bf16 products.)
    """
    net, x = Net((3, 20, 9), SILU, gain=1.0), states(20, 3)
    net.last = net.last * scale
    tail = arguments(step_sizes=[1 / scale], noise_stds=[0.0], steps=[0])
    half = UNIT[torch.float16]

    def rounded(*arguments):
        errors = triton_activation(*arguments)
        return tuple(error + half * v.abs() for error, v in zip(errors, arguments[2:4], strict=True))

    expected, bound, _ = net.chain(x, tail, arithmetic=Arithmetic(rounded, half=half))
    got = run(kernels, net, x, tail, "fp16")
    assert_within(got - x, expected - x, bound, tight=25 * half)
    assert (got - expected).abs().max() > 100 * U * (expected - x).abs().max()  # not float32 either


@pytest.mark.parametrize("precision", ["fp32", "tf32", "fp16"])
@pytest.mark.parametrize("widths", [(2, 17, 9), (5, 3), (3, 5, 4, 9, 2), (33, 2)], ids=str)
def test_sums_of_short_numbers_are_exact(kernels, widths, precision):
    net, x = Net(widths, Activation("leaky_relu", (0.5,))), states(20, widths[0]).round().clamp(-2, 2)
    for layer in net.layers[::2]:
        layer.weight.sign_()
        layer.bias.mul_(2).round_()
    net.last.sign_()
    one_step = arguments(step_sizes=[1.0], noise_stds=[0.0], steps=[0], has_noise=False)
    expected, _, _ = net.chain(x, one_step, arithmetic=Exact(bits=11))
    assert torch.equal(run(kernels, net, x, one_step, precision).double(), expected)


@triton.jit
def activation_kernel(
    z_pointer, value_pointer, derivative_pointer, parameters_pointer, KIND: tl.constexpr, N: tl.constexpr
):
    place = tl.arange(0, N)
    value, derivative = _activate(tl.load(z_pointer + place), KIND, parameters_pointer)
    tl.store(value_pointer + place, value)
    tl.store(derivative_pointer + place, derivative)


@pytest.mark.filterwarnings("ignore:overflow encountered in exp:RuntimeWarning")
@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize(("most", "tight"), [(8, 3e-5), (80, 2e-2)])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name, most, tight):
    """Each operation of an activation's formula is rounded once: `triton_roundings` adds them up. 1 - σ has an error of
    2u wherever σ is near 1, which z³ magnifies in the derivative of gelu "tanh".
    """
    activation = ACTIVATIONS[name][1]
    z = torch.linspace(-most, most, 1 << 13)
    kind, parameters = activation_args(activation)
    got = torch.full((2, len(z)), torch.nan)
    activation_kernel[(1,)](z, got[0], got[1], torch.tensor(parameters), kind, len(z))
    value, derivative = exact(activation, z)
    errors = triton_activation(activation, z.double(), value, derivative)
    for g, expected, error in zip(got, (value, derivative), errors, strict=True):
        assert_within(g, expected, error + UNIT[torch.float64], tight=tight)


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
    assert_within(run(kernels, net, x, tail), *net.chain(x, tail, arithmetic=TRITON_MLP), tight=1e-5)


def test_unsupported(kernels):
    def why(*widths, precision="fp32", activation=SILU):
        return kernels.unsupported(Net((3, *widths), activation).layers, 3, precision)

    assert why(64, 64) is None and why(32, 32, 32, 32) is None
    assert why(128, 128, precision="fp16") is None and why(128, precision="tf32") is None
    assert "a layer is 65 wide, more than 64 in fp32" in why(64, 65)
    assert "a layer is 129 wide, more than 128 in bf16" in why(129, precision="bf16")
    assert "3 hidden layers, more than the 2 that fit the registers at a width of 64 in fp32" in why(64, 33, 33)
    assert "3 hidden layers, more than the 2" in why(128, 5, 5, precision="bf16")
    assert "unknown" in why(4, activation=Activation("unknown"))


@pytest.mark.parametrize(("kib", "fits"), [(99, False), (163, True), (227, True)], ids=["8.6 to 12.0", "8.0", "9.0"])
def test_the_gpu_s_shared_memory_limits_the_weights(kernels, monkeypatch, kib, fits):
    asked = []
    properties = lambda index: asked.append(index) or {"max_shared_mem": kib << 10}
    active = types.SimpleNamespace(utils=types.SimpleNamespace(get_device_properties=properties))
    monkeypatch.setattr(triton.runtime, "driver", types.SimpleNamespace(active=active))

    def why(*widths):
        return kernels.unsupported(Net(widths, SILU).layers, widths[0], "fp16", torch.device("cuda", 3))

    assert why(2, 128, 128) is None and asked == [3]
    assert (why(128, 128, 128) is None) == fits
    assert fits or f"139264 bytes of shared memory, more than the {kib << 10} of this GPU" in why(128, 128, 128)


@pytest.mark.any_processor
@pytest.mark.ahead_of_time
def test_compiled(compiled):
    """Whatever "auto" may choose spills nothing: these are the largest nets of a width, with the activation that takes
    most registers. Products are computed by the tensor cores' instructions for 16 rows, except in fp32.
    """
    chains = {key: record for key, record in compiled.items() if key[0].startswith("mlp_chain")}
    assert {precision for precision in MOST_LAYERS if any(precision in kernel for kernel, _ in chains)} == {
        *MOST_LAYERS
    }
    for (kernel, architecture), record in chains.items():
        precision, width, layers = re.fullmatch(r"mlp_chain-(\w+)-(\d+)x(\d)", kernel).groups()
        inputs, padded_width = padded(int(width), int(width), precision)
        assert record["shared"] <= shared_bytes(inputs, padded_width, int(layers), precision), (kernel, architecture)
        assert record["local"] == 0, (kernel, architecture)
        assert count(record, "FFMA" if "fp32" in kernel else "HMMA") >= 4, (kernel, architecture)
