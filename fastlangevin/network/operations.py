"""The effect of each torch function on the recorded state of an energy."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import quadratic
from .errors import NotRecognised, WrongShape
from .layers import AveragePool, Conv, Gather, Layer, Linear, LogSumExp, Reshape
from .recorder import Recorder, RecordingTensor, is_state, name_of


def apply(recorder: Recorder, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Records the effect of a function on the state, and returns the stand-in for its result."""
    if function in PLACES:
        return PLACES[function](recorder.device)
    if function in QUESTIONS:
        return function(*args, **kwargs)
    square = recorder.square(function, args, kwargs)
    if square is not None:
        return square
    operation = OPERATIONS.get(function)
    if operation is None:
        raise NotRecognised(f"{name_of(function)} is not a supported operation")
    if function in RESHAPES and is_state(args[0]):
        layer = operation(recorder, *args, **kwargs)
        return recorder.state((len(args[0]), *layer.event_shape) if isinstance(layer, Reshape) else args[0].shape)
    taken = next((a for a in (args[0], args[-1]) if recorder.takes(a)), None)
    if taken is None:
        raise NotRecognised(f"{name_of(function)} is applied to a value that was used before")
    if is_state(taken):
        recorder.start(taken)
    return recorder.record(operation(recorder, *args, **kwargs))


def _pair(value: Any) -> tuple[int, int]:
    a = (value,) if isinstance(value, int) else tuple(value)
    return (a[0], a[-1])


def _conv(
    r: Recorder,
    x: Tensor,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Layer:
    weight = r.weight("convolution", weight)
    bias = None if bias is None else r.weight("convolution", bias)
    dilation = _pair(dilation)
    if isinstance(padding, str):
        spans = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
        if padding == "same" and any(s % 2 for s in spans):
            raise NotRecognised("a convolution has padding on one side only")
        padding = tuple(s // 2 for s in spans) if padding == "same" else 0
    return Conv(weight, bias, _pair(stride), _pair(padding), dilation, groups)


def _linear(r: Recorder, x: Tensor, weight: Any, bias: Any = None) -> Layer:
    return Linear(r.weight("linear layer", weight), None if bias is None else r.weight("linear layer", bias))


def _average(
    r: Recorder,
    x: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Layer:
    kernel_size = _pair(kernel_size)
    stride = _pair(stride) if stride else kernel_size
    return AveragePool(kernel_size, stride, _pair(padding), ceil_mode, count_include_pad, divisor_override)


def _reshape(function: Callable[..., Tensor]) -> Callable[..., Layer | None]:
    """A change of shape that keeps the order of elements and the first dimension, that of the chains."""

    def operation(r: Recorder, x: Tensor, *args: Any, **kwargs: Any) -> Layer | None:
        if any(isinstance(a, torch.dtype) for a in (*args, *kwargs.values())):
            raise NotRecognised(f"{name_of(function)} reinterprets the elements as another dtype")
        before, shape = tuple(x.shape), tuple(function(x, *args, **kwargs).shape)
        if not shape or shape[0] != before[0]:
            raise WrongShape(
                f"{name_of(function)} changes shape {before} to {shape}, "
                "whose first dimension is not that of the chains"
            )
        if math.prod(shape) != math.prod(before):
            raise NotRecognised(f"{name_of(function)} selects a part of shape {before}")
        return None if shape == before else Reshape(shape[1:])

    return operation


def _number(r: Recorder, a: Any, b: Any) -> float:
    value = b if a is r.last else a
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
        raise NotRecognised(
            f"the output is multiplied or divided by a {type(value).__name__} that is not a finite number"
        )
    return float(value)


def _quotient(r: Recorder, a: Any, b: Any) -> float:
    if a is not r.last or not _number(r, a, b):
        raise NotRecognised("the output is used as a divisor, or is divided by 0")
    return 1 / _number(r, a, b)


def _logsumexp(r: Recorder, input: Tensor, dim: Any, keepdim: bool = False) -> Layer:
    dims = (dim,) if isinstance(dim, int) else tuple(dim)
    if input.dim() != 2 or dims not in ((1,), (-1,)):
        raise NotRecognised(f"logsumexp over dimensions {dims} of shape {tuple(input.shape)}, not over classes (B, C)")
    return LogSumExp(keepdim)


def _gather(r: Recorder, input: Tensor, dim: int, index: Any, *, sparse_grad: bool = False) -> Layer:
    if input.dim() != 2 or dim not in (1, -1) or not _is_index(r, index, (input.shape[0], 1)):
        raise NotRecognised("gather takes other than one class for each chain, index (B, 1) of (B, C)")
    return Gather(index[:, 0], keepdim=True)


def _is_index(r: Recorder, index: Any, shape: tuple[int, ...]) -> bool:
    plain = isinstance(index, Tensor) and not isinstance(index, RecordingTensor)
    return plain and index.dtype == torch.int64 and tuple(index.shape) == shape and index.device == r.device


def _of_each_chain(r: Recorder, x: Tensor, index: Any) -> Layer | None:
    """The layer of x[arange(B), index], x (B, C), if it is that."""
    if not isinstance(index, tuple) or len(index) != 2 or x.dim() != 2 or is_state(x):
        return None
    n_chains, n_classes = x.shape
    rows, columns = index
    if not isinstance(rows, Tensor) or rows.device.type != "cpu" or not _is_index(r, columns, (n_chains,)):
        return None
    if not torch.equal(rows, torch.arange(n_chains)):
        return None
    return Gather(torch.where(columns < 0, columns + n_classes, columns), keepdim=False)


def _index(r: Recorder, x: Tensor, index: Any) -> Layer | None:
    selected = _of_each_chain(r, x, index)
    if selected is not None:
        return selected
    if not all(isinstance(i, (slice, int, type(...))) for i in (index if isinstance(index, tuple) else (index,))):
        raise NotRecognised("the output is indexed by something other than slices and ints")
    return _reshape(Tensor.__getitem__)(r, x, index)


def _dropout(r: Recorder, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> None:
    if training and p > 0:
        raise NotRecognised("dropout is in train mode")


# Evaluated without recording anything: what depends on the chain's device, on which the stand-in for the state is not,
# and what the stand-in has itself.
PLACES: dict[Any, Callable[[torch.device], Any]] = {
    Tensor.device.__get__: lambda device: device,
    Tensor.is_cuda.__get__: lambda device: device.type == "cuda",  # type: ignore[attr-defined]
}
QUESTIONS = {
    *(getattr(Tensor, name).__get__ for name in ("shape", "dtype", "ndim", "layout")),
    *(Tensor.size, Tensor.dim, Tensor.ndimension, Tensor.numel, Tensor.nelement, Tensor.__len__),
    Tensor.is_floating_point,
}
# Changes of shape alone, or (for an index, as the case may be) more.
RESHAPES = {
    *(
        getattr(owner, name)
        for name in ("flatten", "reshape", "squeeze", "unsqueeze", "unflatten")
        for owner in (Tensor, torch)
    ),
    *(Tensor.view, Tensor.contiguous, Tensor.__getitem__),
}
# A function's layer, the number by which it multiplies the output, or None if it changes nothing that is recorded.
OPERATIONS: dict[Any, Callable[..., Layer | float | None]] = {
    torch.conv2d: _conv,
    F.linear: _linear,
    F.avg_pool2d: _average,
    F.leaky_relu: lambda r, input, negative_slope=0.01, inplace=False: r.activation(
        inplace, "leaky_relu", float(negative_slope)
    ),
    F.relu: lambda r, input, inplace=False: r.activation(inplace, "relu"),
    F.silu: lambda r, input, inplace=False: r.activation(inplace, "silu"),
    F.gelu: lambda r, input, *, approximate="none": r.activation(False, "gelu", approximate),
    F.elu: lambda r, input, alpha=1.0, inplace=False: r.activation(inplace, "elu", float(alpha)),
    F.softplus: lambda r, input, beta=1.0, threshold=20.0: r.activation(
        False, "softplus", float(beta), float(threshold)
    ),
    **{f: lambda r, input: r.activation(False, "relu") for f in (torch.relu, Tensor.relu)},
    **{f: lambda r, input: r.activation(False, "tanh") for f in (torch.tanh, Tensor.tanh)},
    **dict.fromkeys((F.dropout, F.dropout2d), _dropout),
    **{f: lambda r, a: -1.0 for f in quadratic.NEGATIONS},
    **dict.fromkeys(quadratic.PRODUCTS, _number),
    **dict.fromkeys(quadratic.QUOTIENTS, _quotient),
    **{f: lambda r, a, b: r.add_square(a, b, 1.0) for f in quadratic.ADDITIONS},
    **{f: lambda r, a, b: r.add_square(a, b, -1.0) for f in quadratic.SUBTRACTIONS},
    **dict.fromkeys((torch.logsumexp, Tensor.logsumexp, torch.special.logsumexp), _logsumexp),
    **dict.fromkeys((torch.gather, Tensor.gather), _gather),
    **{f: _reshape(f) for f in RESHAPES},
    Tensor.__getitem__: _index,
}
