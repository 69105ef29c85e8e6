"""Rules of sums and maxima over windows of pixels, and their gradients."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..graph import Call
from .instructions import WindowSum
from .lowering import Lowering, rule, with_defaults
from .operations import Op
from .rules_products import Window, forward_phases, gradient_phases, image, pixels
from .rules_views import surrounded
from .values import Node, NotLowered, Shape, View, channels_last

_aten = torch.ops.aten
_MOST_TAPS = 16


@rule(_aten.avg_pool2d.default)
def _avg_pool(lo: Lowering, call: Call) -> Node:
    (result,) = call.results
    assert result is not None
    shape, node = lo.shape(result), lo.node(call.args[0])
    windows, factor = _pool(lo, node.shape, call.args[1:], shape[2:])
    scale = factor.flatten()[0].item() if factor.unique().numel() == 1 else 1.0
    mean = windowed(lo, node, lo.sample_shape(shape, 0), windows, False, scale)
    if factor.unique().numel() == 1:
        return mean
    return lo.pointwise(Op.multiply, mean, lo.numbers(factor.flatten().tolist(), (1, 1, *factor.shape)))


@rule(_aten.avg_pool2d_backward.default)
def _avg_pool_backward(lo: Lowering, call: Call) -> Node:
    gradient, x = lo.node(call.args[0]), lo.shape(call.args[1])
    sample = lo.sample_shape(x, 0)
    windows, factor = _pool(lo, sample, call.args[2:], gradient.shape[2:])
    if factor.unique().numel() == 1:
        return windowed(lo, gradient, sample, windows, True, factor.flatten()[0].item())
    numbers = lo.numbers(factor.flatten().tolist(), (1, 1, *factor.shape))
    return windowed(lo, lo.pointwise(Op.multiply, gradient, numbers), sample, windows, True, 1.0)


def _pool(lo: Lowering, shape: Shape, args: Sequence[Any], size: Sequence[int]) -> tuple[list[Window], Tensor]:
    """The windows of avg_pool2d for images of a shape, and what the sum over each window is multiplied by."""
    given = with_defaults(args, (None, [], 0, False, True, None))
    kernel, stride, padding, ceil_mode, counts_padding, divisor = given
    if len(shape) != 4 or shape[0] != 1:
        raise NotLowered("there is no kernel for a mean over windows of such a tensor")
    kernel, stride, padding = (_pair(a) for a in (kernel, stride or kernel, padding))
    ones = torch.ones(1, 1, *shape[2:], dtype=torch.float64)
    means = torch.nn.functional.avg_pool2d(ones, kernel, stride, padding, ceil_mode, counts_padding, divisor)
    sums = torch.nn.functional.avg_pool2d(ones, kernel, stride, padding, ceil_mode, counts_padding, 1)
    assert means.shape[2:] == tuple(size)
    return [Window(k, s, p, 1) for k, s, p in zip(kernel, stride, padding, strict=True)], (means / sums)[0, 0]


def _pair(value: Any) -> tuple[int, int]:
    values = (value,) if isinstance(value, int) else tuple(value)
    return (values[0], values[-1])


@rule(_aten._adaptive_avg_pool2d.default)
def _adaptive(lo: Lowering, call: Call) -> Node:
    (result,) = call.results
    assert result is not None
    node, shape = lo.node(call.args[0]), lo.shape(result)
    windows = _even_windows(node.shape, shape)
    scale = 1.0 / (windows[0].kernel * windows[1].kernel)
    return windowed(lo, node, lo.sample_shape(shape, 0), windows, False, scale)


@rule(_aten._adaptive_avg_pool2d_backward.default)
def _adaptive_backward(lo: Lowering, call: Call) -> Node:
    gradient, sample = lo.node(call.args[0]), lo.sample_shape(lo.shape(call.args[1]), 0)
    windows = _even_windows(sample, gradient.shape)
    return windowed(lo, gradient, sample, windows, True, 1.0 / (windows[0].kernel * windows[1].kernel))


def _even_windows(large: Shape, small: Shape) -> list[Window]:
    if len(large) != 4 or any(n % m for n, m in zip(large[2:], small[2:], strict=True)):
        raise NotLowered("there is no kernel for an adaptive mean over windows of different sizes")
    return [Window(n // m, n // m, 0, 1) for n, m in zip(large[2:], small[2:], strict=True)]


@rule(_aten.upsample_nearest2d.default, _aten.upsample_nearest2d.vec)
def _nearest(lo: Lowering, call: Call) -> Node:
    node = lo.node(call.args[0])
    new = lo.shape(call.results[0])
    one, channels, height, width = node.shape
    if node.batch != 0 or new[2] % height or new[3] % width:
        raise NotLowered("there is no kernel for upsampling by a factor that is not whole")
    repeated = (one, channels, height, new[2] // height, width, new[3] // width)
    if node.is_number:
        return lo.number(node.number, (one, channels, *new[2:]), 0)
    view = lo.stored(node).reshaped((one, channels, height, 1, width, 1))
    assert view is not None
    whole = lo.buffer((one, channels, *new[2:]), lo.natural_order(node))
    into = whole.reshaped(repeated)
    assert into is not None
    lo.put(lo.of_view(view.expanded(repeated), 0), into)
    return lo.of_view(whole, 0)


@rule(_aten.upsample_nearest2d_backward.default)
def _nearest_backward(lo: Lowering, call: Call) -> Node:
    gradient, sample = lo.node(call.args[0]), lo.sample_shape(call.args[2], 0)
    return windowed(lo, gradient, sample, _even_windows(gradient.shape, sample), False, 1.0)


def windowed(
    lo: Lowering, node: Node, shape: Shape, windows: Sequence[Window], gathers_back: bool, scale: float
) -> Node:
    """Scaled sums over windows, or (gathers_back) their gradient, for images of a sample (1, C, H, W)."""
    source, whole = image(lo, node), lo.buffer(shape, channels_last(4))
    target = pixels(whole)
    phases_of = gradient_phases if gathers_back else forward_phases
    ys, xs = (phases_of(w, source.shape[i], target.shape[i]) for i, w in enumerate(windows))
    for y, x in itertools.product(ys, xs):
        lo.emit(WindowSum(source, target, y.axis, x.axis, scale))
    return lo.of_view(whole, 0)


@rule(_aten.max_pool2d_with_indices.default)
def _max_pool(lo: Lowering, call: Call) -> tuple[Node, None]:
    result = call.results[0]
    assert result is not None
    padded, taps, _ = _padded(lo, lo.node(call.args[0]), call.args[1:], lo.shape(result)[2:])
    return _greatest(lo, [lo.of_view(tap, padded.batch) for tap in taps(lo.stored(padded))]), None


@rule(_aten.max_pool2d_with_indices_backward.default)
def _max_pool_backward(lo: Lowering, call: Call) -> Node:
    """The gradient goes to the first place of each window that has its maximum."""
    left, x = lo.node(call.args[0]), lo.node(call.args[1])
    padded, taps, starts = _padded(lo, x, call.args[2:-1], left.shape[2:])
    values = [lo.of_view(tap, 0) for tap in taps(lo.stored(padded))]
    most = _greatest(lo, values)
    lo.stored(most)
    whole = lo.buffer(padded.shape, lo.natural_order(padded))
    zero = lo.number(0.0, left.shape, left.batch)
    lo.put(lo.number(0.0, padded.shape, 0), whole)
    for value, part in zip(values, taps(whole), strict=True):
        is_most = lo.pointwise(Op.equal, value, most)
        share = lo.pointwise(Op.where, is_most, left, zero)
        lo.put(lo.pointwise(Op.add, lo.of_view(part, 0), share, number=1.0), part)
        left = lo.pointwise(Op.where, is_most, zero, left)
        lo.stored(left)
    for dim, start in zip((2, 3), starts, strict=True):
        whole = whole.sliced(dim, start, x.shape[dim])
    return lo.of_view(whole, 0)


def _greatest(lo: Lowering, values: Sequence[Node]) -> Node:
    return functools.reduce(lambda a, b: lo.pointwise(Op.maximum, a, b), values)


def _padded(
    lo: Lowering, node: Node, args: Sequence[Any], size: Sequence[int]
) -> tuple[Node, Callable[[View], list[View]], tuple[int, int]]:
    """Images with what max_pool2d reads around them, the parts that its windows read at each of their places, and where
    the images begin.
    """
    given = with_defaults(args, (None, [], 0, 1, False))
    kernel, stride, padding, dilation = (_pair(a) for a in (given[0], given[1] or given[0], given[2], given[3]))
    if len(node.shape) != 4 or node.shape[0] != 1 or node.batch != 0 or math.prod(kernel) > _MOST_TAPS:
        raise NotLowered(f"there is no kernel for a maximum over windows of {math.prod(kernel)} pixels")
    geometry = zip(size, kernel, stride, dilation, strict=True)
    reach = [(n - 1) * s + (k - 1) * d + 1 for n, k, s, d in geometry]
    shape = [max(r, p + n) for r, p, n in zip(reach, padding, node.shape[2:], strict=True)]
    padded = surrounded(lo, node, (*node.shape[:2], *shape), (0, 0, *padding), -math.inf)

    def taps(view: View) -> list[View]:
        places = itertools.product(range(kernel[0]), range(kernel[1]))
        return [
            view.sliced(2, y * dilation[0], size[0], stride[0]).sliced(3, x * dilation[1], size[1], stride[1])
            for y, x in places
        ]

    return padded, taps, padding
