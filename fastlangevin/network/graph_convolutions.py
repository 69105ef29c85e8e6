"""Other operators for convolutions that libraries for CPUs compute at a fraction of their usual speed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .graph import Call, Graph, Ref, Value

_aten = torch.ops.aten
_FEW = 4  # channels: more are faster by torch's own
_GRADIENT_ONLY = ([True, False, False], (True, False, False))


def with_fast_convolutions(graph: Graph) -> Graph:
    """With other operators, of the same value up to rounding, for these convolutions and their input gradients:

    - A transposed convolution of one pixel, and a convolution whose kernel covers the whole image, is a matrix product.
    - The input gradient of a transposed convolution is a convolution.
    - A transposed convolution of stride s > 1 to at most 4 channels, or the input gradient of a convolution of stride s
      from at most 4, is a convolution of stride 1 and `pixel_shuffle`: pixel s·q + r - padding takes only the weights
      at r, r + s, r + 2s, …, so for each r (a phase) its channels are an ordinary convolution.

    Weights are rearranged once per call of a sampler.
    """
    builder = _Builder(graph)
    for call in graph.calls:
        if not any(rewrite(builder, call) for rewrite in _REWRITES.get(call.operator, ())):
            builder.calls.append(call)
    return dataclasses.replace(graph, values=tuple(builder.values), calls=tuple(builder.calls))


def _product(builder: _Builder, call: Call) -> bool:
    """y = x·W + b of the flattened pixels."""
    x, weight, bias, _, padding, dilation, transposed, out_padding, groups = call.args
    shape, kernel = builder.shape(x), builder.shape(weight)[2:]
    if not _is_product(shape, kernel, padding, dilation, transposed, out_padding, groups):
        return False
    (out,) = call.returned
    out_shape = builder.values[out].shape
    matrix = builder.add(_aten.reshape.default, weight, [builder.shape(weight)[0], -1])
    if not transposed:
        matrix = builder.add(_aten.t.default, matrix)
    image = builder.add(_aten.reshape.default, x, [shape[0], -1])
    if bias is None:
        image = builder.add(_aten.mm.default, image, matrix)
    else:
        image = builder.add(
            _aten.addmm.default, _repeated(builder, bias, kernel.numel() if transposed else 1), image, matrix
        )
    builder.end(call, _aten.reshape.default, image, list(out_shape))
    return True


def _product_gradient(builder: _Builder, call: Call) -> bool:
    gradient, x, weight, _, _, padding, dilation, transposed, out_padding, groups, mask = call.args
    shape, kernel = builder.shape(x), builder.shape(weight)[2:]
    if mask not in _GRADIENT_ONLY or not _is_product(shape, kernel, padding, dilation, transposed, out_padding, groups):
        return False
    matrix = builder.add(_aten.reshape.default, weight, [builder.shape(weight)[0], -1])
    if transposed:
        matrix = builder.add(_aten.t.default, matrix)
    image = builder.add(_aten.reshape.default, gradient, [shape[0], -1])
    image = builder.add(_aten.mm.default, image, matrix)
    builder.end(call, _aten.reshape.default, image, list(shape))
    return True


def _is_product(
    shape: torch.Size, kernel: torch.Size, padding: Any, dilation: Any, transposed: bool, out_padding: Any, groups: int
) -> bool:
    """Whether each pixel of the output takes each pixel of the input once, and the output or the input is one pixel."""
    if groups != 1 or any(padding) or any(out_padding) or any(d != 1 for d in dilation):
        return False
    return all(n == 1 for n in shape[2:]) if transposed else shape[2:] == kernel


def _transposed_gradient(builder: _Builder, call: Call) -> bool:
    gradient, _, weight, _, stride, padding, dilation, transposed, out_padding, groups, mask = call.args
    if not transposed or mask not in _GRADIENT_ONLY or any(o >= s for o, s in zip(out_padding, stride, strict=True)):
        return False
    rest = (list(stride), list(padding), list(dilation), False, [0] * len(stride), groups)
    builder.end(call, _aten.convolution.default, gradient, weight, None, *rest)
    return True


def _phased(builder: _Builder, call: Call) -> bool:
    x, weight, bias, stride, padding, dilation, transposed, _, groups = call.args
    if not transposed or not _has_phases(stride, dilation, groups, builder.shape(weight)):
        return False
    (out,) = call.returned
    _end_with_phases(builder, call, x, weight, bias, stride[0], padding, builder.values[out].shape[2:])
    return True


def _phased_gradient(builder: _Builder, call: Call) -> bool:
    gradient, x, weight, _, stride, padding, dilation, transposed, _, groups, mask = call.args
    if transposed or mask not in _GRADIENT_ONLY or not _has_phases(stride, dilation, groups, builder.shape(weight)):
        return False
    _end_with_phases(builder, call, gradient, weight, None, stride[0], padding, builder.shape(x)[2:])
    return True


def _has_phases(stride: Any, dilation: Any, groups: int, weight: torch.Size) -> bool:
    if len(weight) != 4 or stride[0] != stride[1] or stride[0] == 1 or tuple(dilation) != (1, 1):
        return False
    return groups == 1 and weight[1] <= _FEW


def _end_with_phases(
    builder: _Builder, call: Call, x: Ref, weight: Ref, bias: Ref | None, s: int, padding: Any, size: Any
) -> None:
    """Ends with the image of that size whose convolution, of stride s, x is the gradient of."""
    taps = [-(-k // s) for k in builder.shape(weight)[2:]]
    sizes = zip(taps, padding, size, builder.shape(x)[2:], strict=True)
    margins, starts = zip(*(_margin_and_start(s, *each) for each in sizes), strict=True)
    phases = _phases(builder, weight, s, taps)
    bias = None if bias is None else _repeated(builder, bias, s * s)
    image = builder.add(_aten.convolution.default, x, phases, bias, [1, 1], list(margins), [1, 1], False, [0, 0], 1)
    image = builder.add(_aten.pixel_shuffle.default, image, s)
    for dim, start, length in zip((2, 3), starts, size, strict=True):
        image = builder.add(_aten.slice.Tensor, image, dim, start, start + length)
    builder.end(call, _aten.clone.default, image, memory_format=torch.contiguous_format)


def _repeated(builder: _Builder, bias: Ref, times: int) -> Ref:
    """(C,) to (C·times,), each element so many times in a row."""
    bias = builder.add(_aten.unsqueeze.default, bias, 1)
    bias = builder.add(_aten.expand.default, bias, [-1, times])
    return builder.add(_aten.reshape.default, bias, [-1])


def _margin_and_start(s: int, taps: int, padding: int, size: int, out_size: int) -> tuple[int, int]:
    """The padding of the phases' convolution, so that they reach all pixels along one dimension, and where the first
    pixel is then.

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
    """Appends calls and their results to a graph; shapes and strides are those that the operators give for zeros.
    Without data, on device "meta", torch's operators would import SymPy and the compiler.
    """

    def __init__(self, graph: Graph) -> None:
        self.calls: list[Call] = []
        self.values = list(graph.values)
        self._n_storages = 1 + max(value.storage for value in graph.values)

    def add(self, operator: Any, *args: Any) -> Ref:
        result = operator(*(self._like(a) if isinstance(a, Ref) else a for a in args))
        source = next(a for a in args if isinstance(a, Ref))
        is_view = operator in _VIEWS
        like = self.values[source.index]
        storage = like.storage if is_view else self._n_storages
        self._n_storages += not is_view
        layout = tuple(result.shape), result.stride(), int(result.storage_offset())
        self.values.append(Value(*layout, result.dtype, storage, like.device))
        index = len(self.values) - 1
        self.calls.append(Call(operator, args, {}, (index,), True))
        return Ref(index)

    def shape(self, ref: Ref) -> torch.Size:
        return torch.Size(self.values[ref.index].shape)

    def end(self, call: Call, operator: Any, *args: Any, **kwargs: Any) -> None:
        """Appends a call whose result takes the place of the first one of another call."""
        self.calls.append(Call(operator, args, kwargs, call.results[:1], True))

    def _like(self, ref: Ref) -> Tensor:
        value = self.values[ref.index]
        reach = 1 + sum((n - 1) * stride for n, stride in zip(value.shape, value.stride, strict=True))
        return torch.zeros(max(reach, 0), dtype=value.dtype, device=value.device).as_strided(value.shape, value.stride)


_VIEWS = {getattr(_aten, name).default for name in ("permute", "reshape", "t", "unsqueeze", "expand")} | {
    _aten.slice.Tensor
}
_REWRITES: dict[Any, tuple[Callable[[_Builder, Call], bool], ...]] = {
    _aten.convolution.default: (_product, _phased),
    _aten.convolution_backward.default: (_product_gradient, _transposed_gradient, _phased_gradient),
}
