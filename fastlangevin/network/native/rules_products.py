"""Rules of convolutions, linear layers and products of matrices."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..graph import Call, Ref
from . import winograd
from .instructions import MOST_WINDOW, ONE, PANEL, Axis, Multiply, Product
from .lowering import Lowering, rule
from .operations import Op
from .values import Constant, Node, NotLowered, Packing, Shape, View, channels_last

_aten = torch.ops.aten


class Window(NamedTuple):
    """Of a convolution along one dimension."""

    kernel: int
    stride: int
    padding: int
    dilation: int


class _Phase(NamedTuple):
    """An axis, and the places of the kernel that its window reads, in its order."""

    axis: Axis
    taps: range


def forward_phases(window: Window, n_in: int, n_out: int) -> list[_Phase]:
    kernel, stride, padding, dilation = window
    return [_Phase(Axis(n_out, -padding, stride, kernel, n_in, dilation=dilation), range(kernel))]


def gradient_phases(window: Window, n_in: int, n_out: int) -> list[_Phase]:
    """Of the input gradient, or a transposed convolution, as a gather: n_out results of n_in numbers.

    With stride s, the results i with (i + padding) % s == r read the places r, r + s, … of the kernel, at
    (i + padding - place) / s.
    """
    kernel, s, padding, dilation = window
    if s == 1:
        axis = Axis(n_out, padding - (kernel - 1) * dilation, 1, kernel, n_in, dilation=dilation)
        return [_Phase(axis, range(kernel - 1, -1, -1))]
    if dilation > 1:
        raise NotLowered("there is no kernel for the gradient of a convolution with both stride and dilation")
    phases = []
    for r in range(s):
        q = -(-(padding - r) // s)
        first = r - padding + s * q
        if first < n_out:
            taps = range(r, kernel, s)[::-1]
            axis = Axis(-(-(n_out - first) // s), q - len(taps) + 1, 1, len(taps), n_in, first, s)
            phases.append(_Phase(axis, taps))
    return phases


def n_packed(n_terms: int, n_out: int) -> int:
    return n_terms * -(-n_out // PANEL) * PANEL


def _start(lo: Lowering, bias: Any, group: int, groups: int, n_out: int) -> Constant:
    """What the sums of a product begin with, padded to whole panels."""
    padded = -(-n_out // PANEL) * PANEL
    if bias is None:
        return lo.constant((), functools.partial(torch.zeros, padded), padded, ("zeros", padded))

    def make(bias: Tensor) -> Tensor:
        part = bias.reshape(-1).float()[group * n_out : (group + 1) * n_out]
        return torch.nn.functional.pad(part, (0, padded - n_out))

    return lo.constant((bias,), make, padded, ("start", group))


def image(lo: Lowering, node: Node) -> View:
    """A node (1, C, H, W) or (1, C, W) as (H, W, C) whose channels lie together."""
    if lo.n_samples > 1 and node.batch != 0:
        raise NotLowered("a convolution's first dimension does not count the samples")
    order = channels_last(len(node.shape))
    view = lo.stored(node, order)
    if isinstance(view.base, Constant) or (view.strides[1] != 1 and view.shape[1] > 1) or min(view.strides) < 0:
        view = lo.copied(node, order)
    return pixels(view)


def pixels(view: View) -> View:
    """(1, C, H, W) or (1, C, W) as (H, W, C)."""
    if len(view.shape) == 3:
        return View(view.base, (1, view.shape[2], view.shape[1]), (0, view.strides[2], 1), view.offset)
    _, c, h, w = view.shape
    return View(view.base, (h, w, c), (*view.strides[2:], 1), view.offset)


@rule(_aten.convolution.default)
def _convolution(lo: Lowering, call: Call) -> Node:
    x, weight, bias, stride, padding, dilation, transposed, _, groups = call.args
    (result,) = call.results
    assert result is not None
    windows = _windows(lo, weight, stride, padding, dilation)
    return convolution(lo, lo.node(x), weight, bias, lo.shape(result), windows, transposed, groups)


@rule(_aten.convolution_backward.default)
def _convolution_backward(lo: Lowering, call: Call) -> tuple[Node | None, ...]:
    gradient, x, weight, _, stride, padding, dilation, transposed, _, groups, wanted = call.args
    if list(wanted) != [True, False, False]:
        raise NotLowered("a step needs a gradient with respect to weights")
    windows = _windows(lo, weight, stride, padding, dilation)
    node = convolution(lo, lo.node(gradient), weight, None, lo.shape(x), windows, not transposed, groups)
    return node, None, None


def _windows(
    lo: Lowering, weight: Ref, stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
) -> list[Window]:
    kernel = lo.shape(weight)[2:]
    if not 1 <= len(kernel) <= 2:
        raise NotLowered(f"there is no kernel for {len(kernel)}-dimensional convolutions")
    n = len(kernel)
    given = (tuple(a) * n if len(a) == 1 else tuple(a) for a in (stride, padding, dilation))
    windows = [Window(*each) for each in zip(kernel, *given, strict=True)]
    return windows if n == 2 else [Window(1, 1, 0, 1), *windows]


def convolution(
    lo: Lowering,
    node: Node,
    weight: Ref,
    bias: Any,
    shape: Shape,
    windows: Sequence[Window],
    gathers_back: bool,
    groups: int,
) -> Node:
    """A convolution, or (gathers_back) the input gradient of one, whose result has a shape (B, C, …).

    Args:
        weight: (O, I, …) of the convolution.
    """
    source = image(lo, node)
    sample = lo.sample_shape(shape, 0)
    if sample[0] != 1 or node.shape[0] != 1:
        raise NotLowered("a convolution's first dimension counts more than samples")
    whole = lo.buffer(sample, channels_last(len(sample)))
    target = pixels(whole)
    phases_of = gradient_phases if gathers_back else forward_phases
    ys, xs = (phases_of(w, source.shape[i], target.shape[i]) for i, w in enumerate(windows))
    n_in, n_out = source.shape[2] // groups, target.shape[2] // groups
    for group, y, x in itertools.product(range(groups), ys, xs):
        if y.axis.window * x.axis.window > MOST_WINDOW:
            raise NotLowered(f"a convolution's window has more than {MOST_WINDOW} pixels")
        n_terms = y.axis.window * x.axis.window * n_in
        width = winograd.group_width(y.axis, x.axis, n_in, n_out)
        tile = lo.tile(n_in if width else n_terms)
        packing = Packing(y.taps, x.taps, group, groups, gathers_back, tile, width)
        size = n_packed(winograd.places(y.axis.window) * n_in if width else n_terms, n_out)
        weights = lo.constant((weight,), packing, size, packing)
        start = _start(lo, bias, group, groups, n_out)
        parts = (source.sliced(2, group * n_in, n_in), target.sliced(2, group * n_out, n_out))
        lo.emit(Product(*parts, weights, start, y.axis, x.axis, tile, width))
    return lo.of_view(whole, 0)


@rule(_aten.addmm.default)
def _addmm(lo: Lowering, call: Call) -> Node:
    bias, x, weight = call.args
    if lo.varies(bias) or set(call.kwargs.values()) - {1}:
        product = _matrix(lo, x, weight, None)
        alpha, beta = (call.kwargs.get(k, 1) for k in ("alpha", "beta"))
        scaled = product if alpha == 1 else lo.pointwise(Op.multiply_number, product, number=alpha)
        return lo.pointwise(Op.add, scaled, bias, number=beta)
    if lo.shape(bias)[:-1] not in ((), (1,)) or lo.shape(bias)[-1] != lo.shape(weight)[1]:
        return lo.pointwise(Op.add, _matrix(lo, x, weight, None), bias, number=1.0)
    return _matrix(lo, x, weight, bias)


@rule(_aten.mm.default)
def _mm(lo: Lowering, call: Call) -> Node:
    x, weight = call.args
    return _matrix(lo, x, weight, None)


def _matrix(lo: Lowering, x: Ref, weight: Ref, bias: Any) -> Node:
    """x (B·k, I) times a constant (I, O)."""
    node = lo.node(x)
    if lo.n_samples > 1 and node.batch != 0:
        raise NotLowered("a matrix product's first dimension does not count the samples")
    view = lo.stored(node, (0, 1))
    if (view.strides[1] != 1 and view.shape[1] > 1) or isinstance(view.base, Constant) or min(view.strides) < 0:
        view = lo.copied(node)
    rows, n_in = view.shape
    n_out = lo.shape(weight)[1]
    whole = lo.buffer((rows, n_out))
    source = View(view.base, (1, rows, n_in), (0, view.strides[0], 1), view.offset)
    target = View(whole.base, (1, rows, n_out), (0, n_out, 1))
    packing = Packing(None, None, 0, 1, gathers=False, tile=lo.tile(n_in), winograd_width=0)
    weights = lo.constant((weight,), packing, n_packed(n_in, n_out), packing)
    start, axis = _start(lo, bias, 0, 1, n_out), Axis(rows, 0, 1, 1, rows)
    lo.emit(Product(source, target, weights, start, ONE, axis, packing.tile))
    return lo.of_view(whole, 0)


@rule(_aten.bmm.default)
def _bmm(lo: Lowering, call: Call) -> Node:
    return batched_product(lo, *call.args)


@rule(_aten.baddbmm.default)
def _baddbmm(lo: Lowering, call: Call) -> Node:
    added, a, b = call.args
    alpha, beta = (call.kwargs.get(k, 1) for k in ("alpha", "beta"))
    product = batched_product(lo, a, b)
    scaled = product if alpha == 1 else lo.pointwise(Op.multiply_number, product, number=alpha)
    return scaled if beta == 0 else lo.pointwise(Op.add, scaled, added, number=beta)


def batched_product(lo: Lowering, a: Ref, b: Ref) -> Node:
    varying = lo.node(a if lo.varies(a) else b)
    if lo.n_samples > 1 and varying.batch != 0:
        raise NotLowered("a batched product's first dimension does not count the samples")
    left, right = (lo.operand(r, 3, varying.shape[0]) for r in (a, b))
    if lo.n_samples > 1 and any(n.batch != 0 or n.shape[0] != varying.shape[0] for n in (left, right)):
        raise NotLowered("a batched product pairs samples with each other")
    rows = lo.stored(left, (0, 1, 2))
    if rows.strides[2] != 1 and rows.shape[2] > 1:
        rows = lo.copied(left)
    columns = lo.stored(right)
    whole = lo.buffer((rows.shape[0], rows.shape[1], columns.shape[2]))
    lo.emit(Multiply(replace(rows, strides=(*rows.strides[:2], 1)), columns, whole))
    return lo.of_view(whole, 0)
