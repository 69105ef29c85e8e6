"""Convolutions, and their gradients with respect to the input, as products of an image and a weight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch

from .graph import Call, Graph

_aten = torch.ops.aten


@dataclass(frozen=True)
class Product:
    """A convolution of images with zeros around them, or the gradient with respect to its input.

    Attributes:
        image: (B, C, H, W) of what is read: the input, or the gradient at the result.
        result: (B, C, H, W) of what is computed.
        weight: (channels of the convolution's result, of its input, height, width).
    """

    is_gradient: bool
    image: tuple[int, ...]
    result: tuple[int, ...]
    weight: tuple[int, ...]
    stride: int
    padding: int


class Factors(NamedTuple):
    product: Product
    factors: tuple[int, int]


def product(graph: Graph, call: Call) -> Factors | None:
    """Of a call that is one, without groups or dilation and alike in rows and columns; None for any other."""
    if call.operator is _aten.convolution.default:
        image, weight, bias, *geometry = call.args
        is_gradient, is_alone = False, bias is None
    elif call.operator is _aten.convolution_backward.default:
        image, _, weight, _, *geometry, wanted = call.args
        is_gradient, is_alone = True, list(wanted) == [True, False, False]
    else:
        return None
    stride, padding, dilation, transposed, _, groups = geometry
    is_plain = not transposed and groups == 1 and set(dilation) == {1} and len(set(stride)) == len(set(padding)) == 1
    read, result, w = (graph.values[v].shape for v in (image.index, call.results[0], weight.index))  # type: ignore[index]
    if not is_alone or not is_plain or len(read) != 4 or len(w) != 4:
        return None
    return Factors(Product(is_gradient, read, result, w, stride[0], padding[0]), (image.index, weight.index))
