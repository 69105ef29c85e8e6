"""The input gradient of strided convolutions of a few channels, such as a network's first layer, as a convolution."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from .graph import Call, Graph, Ref, Value

_aten = torch.ops.aten
_FEW = 4  # channels: more are faster by the backward of torch's libraries
_GRADIENT_ONLY = ([True, False, False], (True, False, False))


def with_phases(graph: Graph) -> Graph:
    """With a convolution of stride 1 and `pixel_shuffle` for the input gradient of 2-D convolutions with stride s > 1
    and at most 4 input channels, which libraries for CPUs compute at a fraction of their usual speed.

    The gradient at pixel s·q + r - padding takes only the weights at r, r + s, r + 2s, …: for each r (a phase), its
    channels are an ordinary convolution of the output's gradient. The weights are rearranged once per call.
    """
    builder = _Builder(graph)
    for call in graph.calls:
        if not (call.operator is _aten.convolution_backward.default and _gains(graph, call)):
            builder.calls.append(call)
            continue
        gradient, x, weight, _, (s, _), padding, *_ = call.args
        size = graph.values[x.index].shape[2:]
        taps = [-(-k // s) for k in graph.values[weight.index].shape[2:]]
        sizes = zip(taps, padding, size, graph.values[gradient.index].shape[2:], strict=True)
        margins, starts = zip(*(_margin_and_start(s, *each) for each in sizes), strict=True)
        phases = _phases(builder, weight, s, taps)
        image = builder.add(
            _aten.convolution.default, gradient, phases, None, [1, 1], list(margins), [1, 1], False, [0, 0], 1
        )
        image = builder.add(_aten.pixel_shuffle.default, image, s)
        for dim, start, length in zip((2, 3), starts, size, strict=True):
            image = builder.add(_aten.slice.Tensor, image, dim, start, start + length)
        builder.end(call, _aten.clone.default, image, memory_format=torch.contiguous_format)
    return dataclasses.replace(graph, values=tuple(builder.values), calls=tuple(builder.calls))


def _gains(graph: Graph, call: Call) -> bool:
    gradient, x, weight, _, stride, _, dilation, transposed, _, groups, mask = call.args
    if len(stride) != 2 or stride[0] != stride[1] or stride[0] == 1 or tuple(dilation) != (1, 1) or transposed:
        return False
    shapes = [graph.values[v.index].shape for v in (gradient, x, weight)]
    return groups == 1 and mask in _GRADIENT_ONLY and len(shapes[1]) == 4 and shapes[1][1] <= _FEW


def _margin_and_start(s: int, taps: int, padding: int, size: int, out_size: int) -> tuple[int, int]:
    """The padding of the convolution over the output's gradient, so that the phases reach all pixels along one
    dimension, and where the first pixel is then.

    With padding P, row 0 of the result is q = taps - 1 - P, and the last is q = out_size - 1 + P. Pixel 0 is at
    s·q + r = padding, the last one at padding + size - 1.
    """
    margin = max(0, taps - 1 - padding // s, -(-(padding + size) // s) - out_size)
    return margin, padding - s * (taps - 1 - margin)


def _phases(builder: _Builder, weight: Ref, s: int, taps: list[int]) -> Ref:
    """Weights (O, C, kh, kw) as (C·s·s, O, th, tw): W'[(c, r1, r2), o, -t1, -t2] = W[o, c, r1 + s·t1, r2 + s·t2]."""
    n_out, channels, *kernel = builder.values[weight.index].shape
    (th, tw), (kh, kw) = taps, kernel
    weight = builder.add(_aten.constant_pad_nd.default, weight, [0, tw * s - kw, 0, th * s - kh])
    weight = builder.add(_aten.reshape.default, weight, [n_out, channels, th, s, tw, s])
    weight = builder.add(_aten.permute.default, weight, [1, 3, 5, 0, 2, 4])
    weight = builder.add(_aten.reshape.default, weight, [channels * s * s, n_out, th, tw])
    return builder.add(_aten.flip.default, weight, [2, 3])


class _Builder:
    """Appends calls and their results to a graph; shapes and strides are those that the operators give."""

    def __init__(self, graph: Graph) -> None:
        self.calls: list[Call] = []
        self.values = list(graph.values)
        self._n_storages = 1 + max(value.storage for value in graph.values)

    def add(self, operator: Any, *args: Any) -> Ref:
        result = operator(*(self._like(a) if isinstance(a, Ref) else a for a in args))
        source = next(a for a in args if isinstance(a, Ref))
        is_view = operator in (_aten.permute.default, _aten.slice.Tensor, _aten.reshape.default)
        storage = self.values[source.index].storage if is_view else self._n_storages
        self._n_storages += not is_view
        self.values.append(Value(tuple(result.shape), result.stride(), result.storage_offset(), result.dtype, storage))
        index = len(self.values) - 1
        self.calls.append(Call(operator, args, {}, (index,), True))
        return Ref(index)

    def end(self, call: Call, operator: Any, *args: Any, **kwargs: Any) -> None:
        """Appends a call whose result takes the place of the first one of another call."""
        self.calls.append(Call(operator, args, kwargs, call.results[:1], True))

    def _like(self, ref: Ref) -> Tensor:
        value = self.values[ref.index]
        base = torch.empty(0, dtype=value.dtype, device="meta")
        return base.new_empty_strided(value.shape, value.stride)
