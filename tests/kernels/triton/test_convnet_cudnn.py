"""Layers of a convnet whose products cuDNN computes, against float64; on a CPU, torch's convolutions take its place."""

from __future__ import annotations

import functools
import importlib.util

import pytest
import torch
from support.error_bounds import U, gamma
from support.network_bounds import finest_bit
from torch.nn import functional

from fastlangevin.kernels import triton as backend
from fastlangevin.kernels.arguments import UpdateArgs
from fastlangevin.network.layers import Conv

if importlib.util.find_spec("triton") is None or backend.unsupported() or backend.DEVICE != "cpu":
    pytest.skip("needs Triton's interpreter", allow_module_level=True)

from fastlangevin.kernels.triton import convnet
from fastlangevin.kernels.triton.convnet import cudnn, plan
from fastlangevin.kernels.triton.convnet.measured import CUDNN, Measured

pytestmark = pytest.mark.usefixtures("own")

SHAPE, STRIDES, WIDTHS = (2, 4, 4), (1, 2, 1), (32, 96, 32)
BOTH = ("forward", "backward")
HALF = {"fp16": 2.0**-11, "tf32": 2.0**-11}


@pytest.fixture(autouse=True)
def float64_sums(monkeypatch):
    """As with cuDNN, sums of 16-bit numbers are rounded once; a processor's own may add them in 16 bits."""
    for name in ("convolution", "input_gradient"):
        compute = getattr(cudnn, name)

        def wide(*args, compute=compute):
            dtype = args[0].dtype
            return compute(*(a.double() if isinstance(a, torch.Tensor) else a for a in args)).to(dtype)

        monkeypatch.setattr(cudnn, name, wide)


def tower(whole: bool):
    """Of small whole numbers, with slopes of halves, whose sums even 16 bits hold; or of any."""
    generator = torch.Generator().manual_seed(2)
    draw = lambda *shape: torch.randn(*shape, generator=generator)
    planes, layers = SHAPE[0], []
    for channels, stride in zip(WIDTHS, STRIDES, strict=True):
        side = stride + 2
        weight = draw(channels, planes, side, side)
        weight = weight.div(2).round().sign() if whole else weight * (2 / weight[0].numel()) ** 0.5
        bias = draw(channels)
        layers.append((Conv(weight, bias.round() if whole else bias, (stride, stride), (1, 1), (1, 1), 1), 0.5))
        planes = channels
    last = draw(planes, 2, 2)
    return layers, last.sign() if whole else last


def images(batch: int, whole: bool):
    x = torch.randn(batch, *SHAPE, generator=torch.Generator().manual_seed(3))
    return x.sign() if whole else x


def choose(own: Measured, packed, batch: int, names) -> None:
    for launch in packed.workspace(batch).launches:
        if launch.key[0] in names:
            own.choices[launch.key] = CUDNN
    packed.forget_workspace()


def float64_score(layers, last, x):
    with torch.enable_grad():
        x = h = x.double().requires_grad_()
        for conv, slope in layers:
            h = functional.conv2d(h, conv.weight.double(), conv.bias.double(), conv.stride, 1)
            assert h.detach().abs().max() < 2**11 * finest_bit(h.detach())  # fp16 holds it
            h = functional.leaky_relu(h, slope)
        return torch.autograd.grad((h * last.double()).sum(), x)[0]


@pytest.mark.parametrize("precision", HALF)
def test_the_score_is_float64_s(own, precision):
    """Of whole numbers that 16 bits hold; likewise a step."""
    layers, last = tower(whole=True)
    packed = convnet.pack(layers, last, SHAPE, precision)
    x = images(3, whole=True)
    choose(own, packed, 3, BOTH)
    score = convnet.score(packed, x)
    assert torch.equal(score.double(), float64_score(layers, last, x))
    assert len(score.unique()) > 50
    args = UpdateArgs(0.5, 0.0, 1, 1, 0, 0, None, None, None)
    convnet.step_(packed, moved := x.clone(), args)
    assert torch.equal(moved, x + 0.5 * score)


@pytest.mark.parametrize("precision", HALF)
def test_every_layer_of_any_numbers(own, precision):
    """A sum is rounded once more than by our kernels: before the bias, and before the slope."""
    layers, last = tower(whole=False)
    packed = convnet.pack(layers, last, SHAPE, precision)
    choose(own, packed, 3, BOTH)
    workspace, x, u = packed.workspace(3), images(3, whole=False), HALF[precision]
    between = 0.0 if precision == "tf32" else u  # float32 sums are as they are
    for tensor in (*workspace.activations, *workspace.masks):
        tensor.fill_(-1 if tensor.dtype == torch.int32 else float("nan"))
    workspace.run(0, x)
    nchw = lambda i: workspace.activations[i].permute(0, 3, 1, 2).double()
    positive = lambda mask: ((mask[..., None] >> torch.arange(32)) & 1).bool().flatten(3).permute(0, 3, 1, 2)
    for i in (1, 2):
        conv, slope = layers[i]
        a, weight = nchw(i - 1), packed.layers[i].forward.double().permute(0, 3, 1, 2)
        sums, terms = (functional.conv2d(f(a), f(weight), None, conv.stride, 1) for f in (torch.clone, torch.abs))
        pre = sums + conv.bias.double()[:, None, None]
        off = gamma(weight[0].numel()) * terms + between * sums.abs() + U * pre.abs()
        workspace.run(i, x)
        sure = pre.abs() > off
        assert sure.double().mean() > 0.98
        if i == 1:
            assert torch.equal(positive(workspace.masks[i])[sure], (pre > 0)[sure])
            expected = functional.leaky_relu(pre, slope)
            assert ((nchw(i) - expected).abs() <= (off + (u + U) * expected.abs()) * (1 + 2**-7)).all()
        else:
            scaled = (last / packed.unscale).double()
            expected = torch.where(pre > 0, scaled, scaled * slope)
            assert ((nchw(i) - expected).abs() <= (u + U) * expected.abs() * (1 + 2**-7))[sure].all()
    for i in (3, 4):
        j = 5 - i
        gradient, weight = nchw(j), packed.layers[j].forward.double().permute(0, 3, 1, 2)
        like = nchw(j - 1).shape
        turn = functools.partial(torch.nn.grad.conv2d_input, like, stride=STRIDES[j], padding=1)
        sums, terms = (turn(f(weight), f(gradient)) for f in (torch.clone, torch.abs))
        slopes = torch.where(positive(workspace.masks[j - 1]), 1.0, layers[j - 1][1])
        n = weight.shape[0] * (weight.shape[2] // STRIDES[j]) ** 2
        workspace.run(i, x)
        off = gamma(n) * terms + (between + u + U) * sums.abs()
        assert ((nchw(j - 1) - sums * slopes).abs() <= off * slopes * (1 + 2**-7)).all()


def test_algorithms_are_deterministic_and_views_are_not_copied(own, monkeypatch):
    before, seen = torch.backends.cudnn.deterministic, []
    assert before is False
    real = torch.conv2d

    def conv2d(x, weight, *rest):
        seen.append((torch.backends.cudnn.deterministic, x.is_contiguous(memory_format=torch.channels_last)))
        return real(x, weight, *rest)

    monkeypatch.setattr(torch, "conv2d", conv2d)
    packed = convnet.pack(*tower(whole=True), SHAPE, "tf32")
    choose(own, packed, 1, BOTH)
    convnet.score(packed, images(1, whole=True))
    assert seen == [(True, True)] * 2 and torch.backends.cudnn.deterministic is before

    def fail(*args):
        raise RuntimeError("no algorithm")

    monkeypatch.setattr(torch, "conv2d", fail)
    with pytest.raises(RuntimeError, match="no algorithm"):
        convnet.score(packed, images(1, whole=True))
    assert torch.backends.cudnn.deterministic is before


def test_without_a_measurement_of_this_gpu_layer_and_batch_the_kernels_are_ours(own):
    """Else a number of another machine would decide what is computed here."""
    packed = convnet.pack(*tower(whole=False), SHAPE, "fp16")
    layers = [layer.geometry for layer in packed.layers]
    names = lambda batch=3, itemsize=2, gpu="": [
        la.name for la in plan.plan(layers, batch, itemsize, plan.Gpu(9, 132, gpu))
    ]
    ours = ["first", "forward", "forward", "backward", "backward", "input"]
    assert names() == ours
    choose(own, packed, 3, BOTH)
    assert names() == ["first", "activate", "activate", "deactivate", "deactivate", "input"]
    assert names(batch=2) == names(itemsize=4) == names(gpu="another") == ours
