"""The score of linear layers and activations by turns, whose kernels run all steps of a chain in one call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from ..kernels import native, triton
from ..kernels.cpu import mlp_chain
from ..network import walk
from ..network.layers import Activation, Linear
from ..network.sequential import Sequential
from .torch_ops import OperatorScore

_Numbers = Sequence[float | Tensor]


class MlpScore(OperatorScore):
    """Whole chains by the kernels of a subclass; a single score by torch's operators."""

    name = "mlp"

    def __init__(self, stack: Sequential, precision: str, x: Tensor) -> None:
        super().__init__(stack, precision, x)
        self._precision = precision
        # log p = direction · h - ½ prior ‖x‖², h the last hidden layer's activations
        direction, prior = walk.last_gradient(stack, x.device)[0], -2 * stack.quadratic
        self._energy = (stack.layers[: stack.tail], direction, prior)

    def run_chain_(self, x: Tensor, *numbers: Any) -> bool:
        if x.dtype != torch.float32 or not x.is_contiguous():
            return False
        if x.is_cuda and not isinstance(numbers[0][0], Tensor) and torch.cuda.is_current_stream_capturing():
            return False  # a graph of the caller's own cannot copy the numbers from the host
        self._run_chain_(x, *numbers)
        return True

    def _run_chain_(self, x: Tensor, *numbers: Any) -> None:
        raise NotImplementedError


class NativeMlpScore(MlpScore):
    """In C++ on a CPU, float32."""

    kernels = "native whole-chain kernels"
    updates_with = "cpu"

    @staticmethod
    def unsupported(stack: Sequential, precision: str, x: Tensor) -> str | None:
        if x.device.type != "cpu":
            return f"they run on the CPU, not on {x.device.type}"
        if precision != "fp32":
            return f"they compute in fp32, not in {precision}"
        layers = stack.layers[: stack.tail]
        return _not_an_mlp(stack, x) or mlp_chain.unsupported(layers, x.shape[1]) or native.load_cpu()

    def _run_chain_(self, x: Tensor, *numbers: Any) -> None:
        mlp_chain.run_(*self._energy, x, *numbers)


class TritonMlpScore(MlpScore):
    """In Triton on a GPU, in any precision."""

    kernels = "Triton whole-chain kernels"
    updates_with = "triton"

    @staticmethod
    def unsupported(stack: Sequential, precision: str, x: Tensor) -> str | None:
        if x.device.type != triton.DEVICE:
            return f"they run on {triton.DEVICE} tensors, not on {x.device.type}"
        if triton.DEVICE == "cpu" and precision == "bf16":
            return "Triton's interpreter multiplies no bfloat16"
        why = triton.unavailable() or _not_an_mlp(stack, x)
        if why is not None:
            return why
        from ..kernels.triton import mlp_chain as kernel

        return kernel.unsupported(stack.layers[: stack.tail], x.shape[1], precision)

    def _run_chain_(
        self,
        x: Tensor,
        step_sizes: _Numbers,
        noise_stds: _Numbers,
        has_noise: bool,
        seed: int | Tensor,
        steps: Sequence[int | Tensor],
        offset: int,
        grad_clip: float | None,
        lo: float | None,
        hi: float | None,
        noise_first: bool | Literal["clamp"],
    ) -> None:
        from ..kernels.triton import mlp_chain as kernel

        eta, sigma = (_on(x, values, torch.float64) for values in (step_sizes, noise_stds))
        first = _on(x, [seed, steps[0]], torch.int64)
        noise = (eta, sigma, has_noise, first[0], first[1], offset)
        arguments: tuple[Any, ...] = (*self._energy, x, *noise, grad_clip, lo, hi, noise_first, self._precision)
        kernel.run_(*arguments)


def _not_an_mlp(stack: Sequential, x: Tensor) -> str | None:
    layers = stack.layers[: stack.tail]
    by_turns = (
        all(isinstance(la, Activation if i % 2 else Linear) for i, la in enumerate(layers)) and len(layers) % 2 == 0
    )
    if x.dim() != 2 or not layers or not by_turns:
        return "they are for linear layers and activations by turns, on vectors"
    return None if x.dtype == torch.float32 else f"their state is float32, not {x.dtype}"


def _on(x: Tensor, numbers: Sequence[Any], dtype: torch.dtype) -> Tensor:
    """Numbers, Python's or on the device already, as one tensor on x's device."""
    if isinstance(numbers[0], Tensor):
        return torch.stack(list(numbers))
    return torch.tensor([int(n) if dtype == torch.int64 else n for n in numbers], dtype=dtype, device=x.device)
