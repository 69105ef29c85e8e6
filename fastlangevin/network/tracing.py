"""Reads the layers of an energy by running it once on a tensor that records what is done to it."""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import quadratic
from .purity import Impure, Purity
from .sequential import Activation, AveragePool, Conv, Layer, Linear, Reshape, Stack
from .target import Target


class NotRecognised(ValueError):
    """The energy is not a stack of known layers, as far as can be seen; the message says what is in the way."""


class WrongShape(NotRecognised):
    """What is in the way may be the shape of the states."""


def trace(
    target: Target, shape: Sequence[int], dtype: torch.dtype, device: torch.device, args: Sequence[object]
) -> Stack:
    """The layers of a target's log-density at states (B, *event), with the network's weights as they are now.

    The function runs once, on a stand-in for a state that has its shape and no data. Everything it does to the stand-in
    must be a known operation with each result used once, and its Python must be seen to do the same at every run.

    Raises:
        NotRecognised: it is not, or it raised an error.
    """
    if target.kind == "score":
        raise NotRecognised("a score was given, and it recognises energies and log-densities")
    if len(shape) < 2:
        raise NotRecognised(f"it needs states of shape (B, *event), and they have shape {tuple(shape)}")
    parameter = target.parameter()
    shape = (max(shape[0], 1), *shape[1:])
    recorder = _Recorder(shape, dtype if parameter is None else parameter.dtype, device)
    try:
        with torch.inference_mode(False), torch.enable_grad(), _uncompiled, recorder.purity.watching():
            recorder.purity.check_callable(target.function)
            recorder.purity.check_inputs(args)
            output = target.function(recorder.input, *args)
    except Impure as error:
        raise NotRecognised(str(error)) from None
    except NotRecognised:
        raise
    except Exception as error:  # the energy's own: autograd meets it again and shows all of it
        raise WrongShape(f"it raised {type(error).__name__}: {next(iter(str(error).splitlines()), '')}") from error
    else:
        return recorder.finish(output, 1.0 if target.kind == "log_density" else -1.0)
    finally:
        recorder.input = recorder.last = None  # a circle of references would hold the weights


class _Uncompiled:
    """Within it, what torch.compile has wrapped runs as it was written. The switch belongs to the process: the first
    thread to come sets it and the last to leave sets it back.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._stance: Any = None

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0 and "torch._dynamo" in sys.modules:
                self._stance = torch.compiler.set_stance("force_eager")
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0 and self._stance is not None:
                self._stance.__exit__(None, None, None)
                self._stance = None


_uncompiled = _Uncompiled()


class _Traced(Tensor):
    """A tensor without data: every operation on it goes to its recorder."""

    recorder: _Recorder
    squared: quadratic.Square | None

    @classmethod
    def __torch_function__(
        cls, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        traced = next((a for a in args if isinstance(a, _Traced)), None)
        if traced is None:
            raise NotRecognised(f"{_name(function)} takes the state in a way that it does not know")
        traced.recorder.purity.check_frames(sys._getframe(1))
        with torch._C.DisableTorchFunctionSubclass():
            return traced.recorder.record(function, args, kwargs or {})


class _Recorder:
    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
        self._layers: list[Layer] = []
        self._shapes = [shape]
        self._dtype, self._device = dtype, device
        self._factor, self._quadratic = 1.0, 0.0
        self.purity = Purity(device.type)
        self.input: Any = self._new(shape)
        self.last: Any = self.input

    def record(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if function in _PLACES:
            return _PLACES[function](self._device)
        if function in _QUESTIONS:
            return function(*args, **kwargs)
        square = self._square(function, args, kwargs)
        if square is not None:
            return square
        operation = _OPERATIONS.get(function)
        if operation is None:
            raise NotRecognised(f"{_name(function)} is not an operation that it knows")
        if not any(a is self.last for a in (args[0], args[-1])):
            raise NotRecognised(f"{_name(function)} is applied to a value that something else was applied to before")
        result = operation(self, *args, **kwargs)
        if isinstance(result, float):
            self._factor *= result
            self._quadratic *= result
        elif result is not None:
            if (self._factor, self._quadratic) != (1.0, 0.0) and not isinstance(result, Reshape):
                raise NotRecognised("a layer follows a multiplication by a number, or a sum")
            self._append(result)
        self.last = self._new(self.shape)
        return self.last

    def add_square(self, a: Any, b: Any, sign: float) -> None:
        """The sum of the layers' output and a square, in either order; sign: of the second."""
        square = b if a is self.last else a
        if not isinstance(square, _Traced) or square.squared is None or not square.squared.summed:
            raise NotRecognised("something other than a multiple of ‖x‖² is added")
        if square.shape != self.last.shape:
            raise NotRecognised(f"shapes {self.shape} and {tuple(square.shape)} are added")
        if a is self.last:
            self._quadratic += sign * square.squared.coefficient
        else:
            self._factor *= sign
            self._quadratic = sign * self._quadratic + square.squared.coefficient

    def finish(self, output: object, sign: float) -> Stack:
        if output is not self.last:
            raise NotRecognised("it does not return what its last operation gave")
        if self.shape not in ((self.shape[0],), (self.shape[0], 1)):
            raise WrongShape(f"it ends in shape {self.shape}, not in one number a chain")
        shapes = tuple(shape[1:] for shape in self._shapes)
        return Stack(tuple(self._layers), shapes, self._dtype, sign * self._factor, sign * self._quadratic)

    def _square(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Traced | None:
        traced = [a for a in args if isinstance(a, _Traced)]
        numbers = (a for a in args if isinstance(a, (int, float)) and not isinstance(a, bool))
        number = next(filter(math.isfinite, numbers), None)
        if traced[0].squared is None:
            found = quadratic.square_of(function, args, kwargs, self.input)
        elif len(traced) == 1:
            found = quadratic.after(function, args, kwargs, traced[0].squared, number)
        else:
            return None
        if found is None:
            return None
        result = self._new(tuple(function(*args, **kwargs).shape))
        result.squared = found
        return result

    def weight(self, name: str, tensor: object) -> Tensor:
        """A layer's weights, detached; they must be of one type and on the chain's device."""
        if not isinstance(tensor, Tensor) or isinstance(tensor, _Traced):
            raise NotRecognised(f"a {name} has weights of type {type(tensor).__name__}")
        if tensor.dtype != self._dtype:
            raise NotRecognised(f"a {name} has weights of {tensor.dtype} where the input has {self._dtype}")
        if tensor.device != self._device:
            raise NotRecognised(f"a {name} has weights on {tensor.device}, and the chain runs on {self._device}")
        return tensor.detach()

    @property
    def shape(self) -> tuple[int, ...]:
        return self._shapes[-1]

    def activation(self, in_place: bool, name: str, *parameters: Any) -> Layer:
        if in_place and not any(isinstance(layer, (Conv, Linear, AveragePool)) for layer in self._layers):
            raise NotRecognised(f"{name} overwrites the state")
        return Activation(name, parameters)

    def _append(self, layer: Layer) -> None:
        before = self._shapes[-1]
        if isinstance(layer, (Conv, Linear, AveragePool)):
            self._shapes.append(_shape_after(layer, before))
        elif isinstance(layer, Reshape):
            self._shapes.append((before[0], *layer.event_shape))
        else:
            self._shapes.append(before)
        self._layers.append(layer)

    def _new(self, shape: tuple[int, ...]) -> _Traced:
        traced = torch.empty(shape, dtype=self._dtype, device="meta").as_subclass(_Traced)
        traced.recorder, traced.squared = self, None
        return traced


def _shape_after(layer: Conv | Linear | AveragePool, shape: tuple[int, ...]) -> tuple[int, ...]:
    if isinstance(layer, Linear):
        if shape[-1] != layer.weight.shape[1]:
            raise WrongShape(f"a linear layer of {layer.weight.shape[1]} inputs is given {shape[-1]}")
        return (*shape[:-1], layer.weight.shape[0])
    if len(shape) != 4:
        raise WrongShape(f"a 2-D layer is given shape {shape}")
    if isinstance(layer, AveragePool):
        return tuple(layer.forward(torch.empty(shape, device="meta")).shape)
    n_out, n_in, *kernel = layer.weight.shape
    if shape[1] != n_in * layer.groups:
        raise WrongShape(f"a convolution of {n_in * layer.groups} channels is given {shape[1]}")
    size = tuple(
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(shape[2:], kernel, layer.stride, layer.padding, layer.dilation, strict=True)
    )
    if min(size) < 1:
        raise WrongShape(f"a convolution's kernel {tuple(kernel)} is larger than its input {shape[2:]}")
    return (shape[0], n_out, *size)


def _name(function: Callable[..., Any]) -> str:
    name = getattr(function, "__name__", repr(function))
    return name if name != "__get__" else str(getattr(function.__self__, "__name__", name))  # type: ignore[attr-defined]


def _pair(value: Any) -> tuple[int, int]:
    a = (value,) if isinstance(value, int) else tuple(value)
    return (a[0], a[-1])


def _conv(
    r: _Recorder,
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
            raise NotRecognised("a convolution is padded on one side only")
        padding = tuple(s // 2 for s in spans) if padding == "same" else 0
    return Conv(weight, bias, _pair(stride), _pair(padding), dilation, groups)


def _linear(r: _Recorder, x: Tensor, weight: Any, bias: Any = None) -> Layer:
    return Linear(r.weight("linear layer", weight), None if bias is None else r.weight("linear layer", bias))


def _average(
    r: _Recorder,
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
    """A change of shape that keeps the order of elements and the chains in front."""

    def operation(r: _Recorder, *args: Any, **kwargs: Any) -> Layer | None:
        if any(isinstance(a, torch.dtype) for a in (*args, *kwargs.values())):
            raise NotRecognised(f"{_name(function)} reads the elements as another type")
        shape = tuple(function(*args, **kwargs).shape)
        if not shape or shape[0] != r.shape[0]:
            raise WrongShape(
                f"{_name(function)} takes shape {r.shape} to {shape}, with no dimension of chains in front"
            )
        if math.prod(shape) != math.prod(r.shape):
            raise NotRecognised(f"{_name(function)} takes a part of shape {r.shape}")
        return None if shape == r.shape else Reshape(shape[1:])

    return operation


def _number(r: _Recorder, a: Any, b: Any) -> float:
    value = b if isinstance(a, _Traced) else a
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
        raise NotRecognised(f"the output is multiplied or divided by a {type(value).__name__} that is no plain number")
    return float(value)


def _quotient(r: _Recorder, a: Any, b: Any) -> float:
    if not isinstance(a, _Traced) or not _number(r, a, b):
        raise NotRecognised("something is divided by the output, or the output by 0")
    return 1 / _number(r, a, b)


def _index(r: _Recorder, x: Tensor, index: Any) -> Layer | None:
    if not all(isinstance(i, (slice, int, type(...))) for i in (index if isinstance(index, tuple) else (index,))):
        raise NotRecognised("the output is indexed by more than slices and ints")
    return _reshape(Tensor.__getitem__)(r, x, index)


def _dropout(r: _Recorder, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> None:
    if training and p > 0:
        raise NotRecognised("dropout is in train mode")


_PLACES: dict[Any, Callable[[torch.device], Any]] = {
    Tensor.device.__get__: lambda device: device,
    Tensor.is_cuda.__get__: lambda device: device.type == "cuda",  # type: ignore[attr-defined]
}
_QUESTIONS = {
    *(getattr(Tensor, name).__get__ for name in ("shape", "dtype", "ndim", "layout")),
    *(Tensor.size, Tensor.dim, Tensor.ndimension, Tensor.numel, Tensor.nelement, Tensor.__len__),
    Tensor.is_floating_point,
}
_OPERATIONS: dict[Any, Callable[..., Layer | float | None]] = {
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
    **{
        f: _reshape(f)
        for name in ("flatten", "reshape", "squeeze", "unsqueeze", "unflatten")
        for f in (getattr(Tensor, name), getattr(torch, name))
    },
    **{f: _reshape(f) for f in (Tensor.view, Tensor.contiguous)},
    Tensor.__getitem__: _index,
}
