"""The stand-in for a state, on which an energy runs once, and the record of the operations on it."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from . import quadratic, walk
from .errors import NotRecognised, WrongShape
from .layers import Activation, AveragePool, Conv, Gather, Layer, Linear, LogSumExp, Reshape
from .purity import Purity
from .sequential import Sequential


class RecordingTensor(Tensor):
    """A tensor without data: every operation on it goes to its recorder.

    Attributes:
        is_state: whether it is the state, in any shape.
        squared: what it is if it is made of the state's squares.
    """

    recorder: Recorder
    is_state: bool
    squared: quadratic.Square | None

    @classmethod
    def __torch_function__(
        cls, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        traced = next((a for a in args if isinstance(a, RecordingTensor)), None)
        if traced is None:
            raise NotRecognised(f"{name_of(function)} takes the state in an unsupported way")
        traced.recorder.purity.check_frames(sys._getframe(1))
        with torch._C.DisableTorchFunctionSubclass():
            return traced.recorder.apply(traced.recorder, function, args, kwargs or {})


def name_of(function: Callable[..., Any]) -> str:
    name = getattr(function, "__name__", repr(function))
    return name if name != "__get__" else str(getattr(function.__self__, "__name__", name))  # type: ignore[attr-defined]


class Recorder:
    """Turns the operations on its `input` into layers, with a shape before and after each.

    Args:
        apply: (recorder, function, args, kwargs) to the function's result (`operations.apply`).

    Attributes:
        device: of the chain; the stand-in itself has no data.
        purity: checks the Python code that operations are called from.
        input: the stand-in for the state.
        last: the result of the last layer, the only value that the next one may be applied to; before the first layer
            the state in any shape.
    """

    def __init__(
        self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, apply: Callable[..., Any]
    ) -> None:
        self._layers: list[Layer] = []
        self._shapes = [shape]
        self._dtype, self.device = dtype, device
        self.apply = apply
        self._factor, self._quadratic = 1.0, 0.0
        self.purity = Purity(device.type)
        self.input: Any = self.state(shape)
        self.last: Any = self.input

    def state(self, shape: tuple[int, ...]) -> RecordingTensor:
        """The state in a shape that begins with the number of chains."""
        result = self._new(shape)
        result.is_state = True
        return result

    def takes(self, value: object) -> bool:
        """Whether the next layer may be applied to a value."""
        return value is self.last or (is_state(value) and is_state(self.last))

    def start(self, state: RecordingTensor) -> None:
        """Records that the first layer is applied to the state in the shape of `state`."""
        with torch._C.DisableTorchFunctionSubclass():  # also called when the energy has returned
            shape = tuple(state.shape)
        if shape != self.shape:
            self._append(Reshape(shape[1:]))
        self.last = state

    def record(self, result: Layer | float | None) -> RecordingTensor:
        """Records a layer, a multiplication by a number, or (None) no change, and returns the value after it."""
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
        """Records the sum of the layers' output and a square, in either order; `sign` is that of the second."""
        square = b if a is self.last else a
        if not isinstance(square, RecordingTensor) or square.squared is None or not square.squared.summed:
            raise NotRecognised("something other than a multiple of ‖x‖² is added")
        if square.shape != self.last.shape:
            raise NotRecognised(f"shapes {self.shape} and {tuple(square.shape)} are added")
        if a is self.last:
            self._quadratic += sign * square.squared.coefficient
        else:
            self._factor *= sign
            self._quadratic = sign * self._quadratic + square.squared.coefficient

    def finish(self, output: object, sign: float) -> Sequential:
        """The recorded layers, times `sign`; `output` must be the result of the last operation."""
        if self.takes(output) and is_state(output):
            self.start(output)  # type: ignore[arg-type]
        if output is not self.last:
            raise NotRecognised("the energy does not return the result of its last operation")
        if math.prod(self.shape) != self.shape[0]:
            raise WrongShape(f"the energy ends in shape {self.shape}, not in one number per chain")
        shapes = tuple(shape[1:] for shape in self._shapes)
        return Sequential(tuple(self._layers), shapes, self._dtype, sign * self._factor, sign * self._quadratic)

    def square(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> RecordingTensor | None:
        """The square of the state, or the result of a function of a square; None if it is neither."""
        traced = [a for a in args if isinstance(a, RecordingTensor)]
        numbers = (a for a in args if isinstance(a, (int, float)) and not isinstance(a, bool))
        number = next(filter(math.isfinite, numbers), None)
        if traced[0].squared is None:
            found = quadratic.square_of(function, args, kwargs, is_state)
        elif len(traced) == 1:
            found = quadratic.after(function, args, kwargs, traced[0].squared, number)
        else:
            return None
        if found is None:
            return None
        shape = tuple(traced[0].shape)
        if function in quadratic.SUMS:
            shape = quadratic.shape_of_sum(shape, args, kwargs)
        elif function in quadratic.RESHAPES:
            shape = tuple(function(*args, **kwargs).shape)
        result = self._new(shape)
        result.squared = found
        return result

    def weight(self, name: str, tensor: object) -> Tensor:
        """A layer's weights, detached; they must have the input's dtype and be on the chain's device."""
        if not isinstance(tensor, Tensor) or isinstance(tensor, RecordingTensor):
            raise NotRecognised(f"a {name} has weights of type {type(tensor).__name__}")
        if tensor.dtype != self._dtype:
            raise NotRecognised(f"a {name} has weights of {tensor.dtype}, and its input is {self._dtype}")
        if tensor.device != self.device:
            raise NotRecognised(f"a {name} has weights on {tensor.device}, and the chain runs on {self.device}")
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
        elif isinstance(layer, (LogSumExp, Gather)):
            self._shapes.append((before[0], 1) if layer.keepdim else (before[0],))
        else:
            self._shapes.append(before)
        self._layers.append(layer)

    def _new(self, shape: tuple[int, ...]) -> RecordingTensor:
        traced = torch.empty(shape, dtype=self._dtype, device="meta").as_subclass(RecordingTensor)
        traced.recorder, traced.is_state, traced.squared = self, False, None
        return traced


def is_state(value: object) -> bool:
    return isinstance(value, RecordingTensor) and value.is_state


def _shape_after(layer: Conv | Linear | AveragePool, shape: tuple[int, ...]) -> tuple[int, ...]:
    if isinstance(layer, Linear):
        if shape[-1] != layer.weight.shape[1]:
            raise WrongShape(f"a linear layer expects {layer.weight.shape[1]} input features, got {shape[-1]}")
        return (*shape[:-1], layer.weight.shape[0])
    if len(shape) != 4:
        raise WrongShape(f"a 2-D layer expects a 4-dimensional input, got shape {shape}")
    if isinstance(layer, AveragePool):
        return tuple(walk.forward(layer, torch.empty(shape, device="meta")).shape)
    n_out, n_in, *kernel = layer.weight.shape
    if shape[1] != n_in * layer.groups:
        raise WrongShape(f"a convolution expects {n_in * layer.groups} input channels, got {shape[1]}")
    size = tuple(
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(shape[2:], kernel, layer.stride, layer.padding, layer.dilation, strict=True)
    )
    if min(size) < 1:
        raise WrongShape(f"a convolution's kernel {tuple(kernel)} is larger than its input {shape[2:]}")
    return (shape[0], n_out, *size)
