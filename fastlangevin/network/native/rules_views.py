"""Rules of operators that read or arrange a tensor's numbers in another way: views where they can be."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from ..graph import Call
from .lowering import Lowering, rule, with_defaults
from .values import Node, NotLowered, Shape, View, dense_strides

_aten = torch.ops.aten


def _dim(node: Node, dim: int) -> int:
    return dim % max(1, len(node.shape))


def _result(lo: Lowering, call: Call) -> Shape:
    (value,) = call.results
    assert value is not None
    return lo.shape(value)


def _not_samples(lo: Lowering, node: Node, dims: Sequence[int]) -> None:
    if lo.n_samples > 1 and node.batch in dims:
        raise NotLowered("an operator takes samples apart")


@rule(_aten.view.default, _aten._unsafe_view.default, _aten.reshape.default)
def _reshape(lo: Lowering, call: Call) -> Node:
    return reshaped(lo, lo.node(call.args[0]), lo.shape(call.args[0]), _result(lo, call))


def reshaped(lo: Lowering, node: Node, old: Shape, new: Shape) -> Node:
    """A node in another shape, both given for all samples: those are counted by the outermost dimension."""
    batch = 0
    if lo.n_samples > 1:
        batch = next((d for d, n in enumerate(new) if n != 1), 0)
        if math.prod(old[: node.batch]) != 1 or new[batch] % lo.n_samples:
            raise NotLowered("a reshape puts samples together with other dimensions")
    return in_shape(lo, node, lo.sample_shape(new, batch), batch)


def in_shape(lo: Lowering, node: Node, shape: Shape, batch: int) -> Node:
    """A node in another shape, both of one sample."""
    if node.is_number:
        return lo.number(node.number, shape, batch)
    order = lo.natural_order(node)
    lies = View(lo.state, node.shape, dense_strides(node.shape, order))
    plain = tuple(range(len(node.shape)))
    view = lo.stored(node, order if lies.reshaped(shape) is not None else plain)
    found = view.reshaped(shape) or lo.copied(node).reshaped(shape)
    assert found is not None
    return lo.of_view(found, batch)


@rule(_aten.permute.default)
def _permute(lo: Lowering, call: Call) -> Node:
    node = lo.node(call.args[0])
    dims = [_dim(node, d) for d in call.args[1]]
    return permuted(lo, node, dims)


def permuted(lo: Lowering, node: Node, dims: Sequence[int]) -> Node:
    batch = list(dims).index(node.batch) if dims else 0
    if node.is_number:
        return lo.number(node.number, tuple(node.shape[d] for d in dims), batch)
    return lo.of_view(lo.stored(node).permuted(dims), batch)


@rule(_aten.t.default, _aten.transpose.int)
def _transpose(lo: Lowering, call: Call) -> Node:
    node = lo.node(call.args[0])
    dims = list(range(len(node.shape)))
    if call.name == "t" and len(dims) < 2:
        return node
    a, b = (0, 1) if call.name == "t" else (_dim(node, d) for d in call.args[1:])
    dims[a], dims[b] = dims[b], dims[a]
    return permuted(lo, node, dims)


@rule(_aten.expand.default)
def _expand(lo: Lowering, call: Call) -> Node:
    node, shape = lo.node(call.args[0]), _result(lo, call)
    batch = node.batch + len(shape) - len(node.shape)
    return lo.like(node, lo.sample_shape(shape, batch))


@rule(_aten.unsqueeze.default)
def _unsqueeze(lo: Lowering, call: Call) -> Node:
    node, dim = lo.node(call.args[0]), call.args[1]
    dim %= len(node.shape) + 1
    shape = (*node.shape[:dim], 1, *node.shape[dim:])
    return _same_numbers(lo, node, shape, node.batch + (dim <= node.batch and bool(node.shape)))


@rule(_aten.squeeze.default, _aten.squeeze.dim, _aten.squeeze.dims)
def _squeeze(lo: Lowering, call: Call) -> Node:
    node, full = lo.node(call.args[0]), lo.shape(call.args[0])
    given = call.args[1:] or ([*range(len(full))],)
    dims = {_dim(node, d) for d in (given[0] if isinstance(given[0], (list, tuple)) else given)}
    dims = {d for d in dims if full and full[d] == 1}
    shape = tuple(n for d, n in enumerate(node.shape) if d not in dims)
    return _same_numbers(lo, node, shape, max(0, node.batch - sum(d < node.batch for d in dims)))


def _same_numbers(lo: Lowering, node: Node, shape: Shape, batch: int) -> Node:
    """With dimensions of size 1 more or fewer."""
    if node.is_number:
        return lo.number(node.number, shape, batch)
    view = lo.stored(node).reshaped(shape)
    assert view is not None
    return lo.of_view(view, batch)


def _range(size: int, start: int | None, stop: int | None, step: int = 1) -> range:
    return range(size)[slice(start, stop, step)]


@rule(_aten.slice.Tensor)
def _slice(lo: Lowering, call: Call) -> Node:
    node = lo.node(call.args[0])
    dim, start, stop, step = with_defaults(call.args[1:], (0, None, None, 1))
    dim = _dim(node, dim)
    places = _range(lo.shape(call.args[0])[dim], start, stop, step)
    if len(places) == lo.shape(call.args[0])[dim]:
        return node
    _not_samples(lo, node, [dim])
    return _part(lo, node, dim, places)


def _part(lo: Lowering, node: Node, dim: int, places: range) -> Node:
    if node.is_number:
        shape = (*node.shape[:dim], len(places), *node.shape[dim + 1 :])
        return lo.number(node.number, shape, node.batch)
    return lo.of_view(lo.stored(node).sliced(dim, places.start, len(places), places.step), node.batch)


@rule(_aten.select.int)
def _select(lo: Lowering, call: Call) -> Node:
    node, dim = lo.node(call.args[0]), _dim(lo.node(call.args[0]), call.args[1])
    _not_samples(lo, node, [dim])
    place = call.args[2] % node.shape[dim]
    part = _part(lo, node, dim, range(place, place + 1))
    shape = (*part.shape[:dim], *part.shape[dim + 1 :])
    return _same_numbers(lo, part, shape, node.batch - (dim < node.batch))


@rule(_aten.split.Tensor, _aten.split_with_sizes.default, _aten.unsafe_split.Tensor)
def _split(lo: Lowering, call: Call) -> tuple[Node, ...]:
    node = lo.node(call.args[0])
    dim = _dim(node, call.args[2] if len(call.args) > 2 else call.kwargs.get("dim", 0))
    _not_samples(lo, node, [dim])
    size, sizes = node.shape[dim], call.args[1]
    if isinstance(sizes, int):
        sizes = [min(sizes, size - start) for start in range(0, size, sizes)]
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return tuple(_part(lo, node, dim, range(s, s + n)) for s, n in zip(starts, sizes, strict=True))


@rule(_aten.unbind.int)
def _unbind(lo: Lowering, call: Call) -> tuple[Node, ...]:
    node = lo.node(call.args[0])
    dim = _dim(node, call.args[1] if len(call.args) > 1 else 0)
    _not_samples(lo, node, [dim])
    shape = (*node.shape[:dim], *node.shape[dim + 1 :])
    parts = (_part(lo, node, dim, range(i, i + 1)) for i in range(node.shape[dim]))
    return tuple(_same_numbers(lo, p, shape, node.batch - (dim < node.batch)) for p in parts)


@rule(_aten.flip.default)
def _flip(lo: Lowering, call: Call) -> Node:
    node = lo.node(call.args[0])
    dims = [_dim(node, d) for d in call.args[1]]
    _not_samples(lo, node, dims)
    return node if node.is_number else lo.of_view(lo.stored(node).flipped(dims), node.batch)


@rule(_aten.roll.default)
def _roll(lo: Lowering, call: Call) -> Node:
    node, shifts, dims = lo.node(call.args[0]), call.args[1], (*call.args[2:], [])[0]
    if len(dims) != 1 or node.is_number:
        raise NotLowered("there is no kernel for a roll of several dimensions")
    dim = _dim(node, dims[0])
    _not_samples(lo, node, [dim])
    size = node.shape[dim]
    shift = shifts[0] % size
    parts = [_part(lo, node, dim, range(size - shift, size)), _part(lo, node, dim, range(size - shift))]
    return _joined(lo, parts, dim)


@rule(_aten.cat.default)
def _cat(lo: Lowering, call: Call) -> Node:
    dim = call.args[1] if len(call.args) > 1 else 0
    varying = next(lo.node(r) for r in call.args[0] if lo.varies(r))
    dim = _dim(varying, dim)
    parts = []
    for ref in call.args[0]:
        if lo.shape(ref) != (0,):
            parts.append(lo.operand(ref, varying.batch_from_right, varying.shape[varying.batch]))
    return _joined(lo, parts, dim)


def _joined(lo: Lowering, parts: Sequence[Node], dim: int) -> Node:
    varying = next(p for p in parts if p.view is None or p.view.base is not None)
    _not_samples(lo, varying, [dim])
    sizes = [p.shape[dim] for p in parts]
    shape = (*varying.shape[:dim], sum(sizes), *varying.shape[dim + 1 :])
    whole = lo.buffer(shape, lo.natural_order(varying))
    for part, start in zip(parts, (sum(sizes[:i]) for i in range(len(sizes))), strict=True):
        if part.shape[dim]:
            lo.put(part, whole.sliced(dim, start, part.shape[dim]))
    return lo.of_view(whole, varying.batch)


def surrounded(lo: Lowering, node: Node, shape: Shape, starts: Sequence[int], value: float = 0.0) -> Node:
    """A node as a part of a tensor whose other numbers are a given one; it is cut where it lies outside."""
    whole = lo.buffer(shape, lo.natural_order(node))
    lo.put(lo.number(value, shape, node.batch), whole)
    inner = whole
    for dim, start in enumerate(starts):
        first, stop = max(0, -start), min(node.shape[dim], shape[dim] - start)
        if (first, stop) != (0, node.shape[dim]):
            node = _part(lo, node, dim, range(first, stop))
        inner = inner.sliced(dim, start + first, stop - first)
    if 0 not in node.shape:
        lo.put(node, inner)
    return lo.of_view(whole, node.batch)


@rule(_aten.constant_pad_nd.default)
def _pad(lo: Lowering, call: Call) -> Node:
    node, padding = lo.node(call.args[0]), call.args[1]
    starts, shape = [0] * len(node.shape), list(node.shape)
    for i, (before, after) in enumerate(zip(padding[::2], padding[1::2], strict=True)):
        dim = len(shape) - 1 - i
        starts[dim], shape[dim] = before, shape[dim] + before + after
        if before or after:
            _not_samples(lo, node, [dim])
    return surrounded(lo, node, tuple(shape), starts, float((*call.args[2:], 0.0)[0] or 0.0))


@rule(_aten.slice_backward.default)
def _slice_backward(lo: Lowering, call: Call) -> Node:
    node, full, dim, start, stop, step = lo.node(call.args[0]), *call.args[1:]
    dim = _dim(node, dim)
    places = _range(full[dim], start, stop, step)
    if len(places) == full[dim]:
        return node
    _not_samples(lo, node, [dim])
    shape = lo.sample_shape(full, node.batch)
    if places.step == 1:
        return surrounded(lo, node, shape, [places.start if d == dim else 0 for d in range(len(shape))])
    whole = lo.buffer(shape, lo.natural_order(node))
    lo.put(lo.number(0.0, shape, node.batch), whole)
    lo.put(node, whole.sliced(dim, places.start, len(places), places.step))
    return lo.of_view(whole, node.batch)


@rule(_aten.select_backward.default)
def _select_backward(lo: Lowering, call: Call) -> Node:
    node, full, dim, place = lo.node(call.args[0]), *call.args[1:]
    dim %= len(full)
    batch = node.batch + (dim <= node.batch and bool(node.shape))
    shape = lo.sample_shape(full, batch)
    part = _same_numbers(lo, node, (*shape[:dim], 1, *shape[dim + 1 :]), batch)
    _not_samples(lo, part, [dim])
    return surrounded(lo, part, shape, [place % full[dim] if d == dim else 0 for d in range(len(shape))])


@rule(_aten.pixel_shuffle.default)
def _pixel_shuffle(lo: Lowering, call: Call) -> Node:
    node, factor = lo.node(call.args[0]), call.args[1]
    one, channels, height, width = node.shape
    _not_samples(lo, node, [1, 2, 3])
    split = in_shape(lo, node, (one, channels // factor**2, factor, factor, height, width), node.batch)
    moved = permuted(lo, split, (0, 1, 4, 2, 5, 3))
    return in_shape(lo, moved, (one, channels // factor**2, height * factor, width * factor), node.batch)


@rule(_aten.pixel_unshuffle.default)
def _pixel_unshuffle(lo: Lowering, call: Call) -> Node:
    node, factor = lo.node(call.args[0]), call.args[1]
    one, channels, height, width = node.shape
    _not_samples(lo, node, [1, 2, 3])
    split = in_shape(lo, node, (one, channels, height // factor, factor, width // factor, factor), node.batch)
    moved = permuted(lo, split, (0, 1, 3, 5, 2, 4))
    return in_shape(lo, moved, (one, channels * factor**2, height // factor, width // factor), node.batch)


@rule(_aten.stack.default)
def _stack(lo: Lowering, call: Call) -> Node:
    varying = next(lo.node(r) for r in call.args[0] if lo.varies(r))
    dim = (call.args[1] if len(call.args) > 1 else 0) % (len(varying.shape) + 1)
    batch = varying.batch + (dim <= varying.batch)
    parts = []
    for ref in call.args[0]:
        node = lo.operand(ref, varying.batch_from_right, varying.shape[varying.batch])
        parts.append(_same_numbers(lo, node, (*node.shape[:dim], 1, *node.shape[dim:]), batch))
    return _joined(lo, parts, dim)


@rule(_aten.new_zeros.default, _aten.new_ones.default, _aten.new_full.default)
def _new(lo: Lowering, call: Call) -> Node:
    """Samples are counted by the first dimension, as everywhere."""
    value = {"new_zeros": 0.0, "new_ones": 1.0}.get(call.name)
    shape = lo.sample_shape(call.args[1], 0)
    return lo.number(call.args[2] if value is None else value, shape, 0)
