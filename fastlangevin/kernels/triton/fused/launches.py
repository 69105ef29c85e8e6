"""Launches fused calls."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ....network.pointwise import Pointwise, Section
from ....network.products import Product
from .. import unsupported as triton_unsupported

_HALF = (torch.float16, torch.bfloat16)
_NARROW = 2**31 - 2**12  # elements that 32 bits can count, with those of a last program that are not there


def unsupported(device: torch.device) -> str | None:
    """Why fused calls do not run on a device, or None if they do."""
    if device.type != "cuda":
        return f"their kernels run on GPUs, not on {device.type}"
    return triton_unsupported()


def computes(product: Product, dtype: torch.dtype) -> bool:
    """Whether a kernel computes a product of tensors of a type together with what follows; others are left to torch's
    operators.
    """
    from .plan import supports

    return dtype in _HALF and supports(product)


class Planned(NamedTuple):
    """A launch without its tensors.

    Attributes:
        sizes: the kernel's numbers.
        constants, options: of the kernel, and of the compiler.
    """

    kernel: Any
    grid: tuple[int, ...]
    sizes: tuple[int, ...]
    constants: dict[str, object]
    options: dict[str, int]


class Launch:
    """A fused call as a function of its arguments, tensors on a device, which returns its output or outputs."""

    def __init__(self, operator: Pointwise) -> None:
        self._operator = operator
        shapes = {output: section.shape for section in operator.sections for _, output in section.stores}
        self._shapes = [shapes[k] for k in range(len(operator.dtypes))]

    def __call__(self, *args: Tensor) -> Tensor | tuple[Tensor, ...]:
        from ..device import on

        images = tuple(_dense(a) for a in args)
        device = images[0].device
        outputs = tuple(
            torch.empty(shape, dtype=dtype, device=device, memory_format=torch.channels_last)
            for shape, dtype in zip(self._shapes, self._operator.dtypes, strict=True)
        )
        n_factors = 0 if self._operator.product is None else 2
        planned = self.planned(_processors(device))
        with on(device):
            arguments = (*images[:n_factors], images[n_factors:], outputs, *planned.sizes)
            planned.kernel[planned.grid](*arguments, **planned.constants, **planned.options)
        return outputs[0] if len(outputs) == 1 else outputs

    def planned(self, processors: int) -> Planned:
        """For a GPU with this number of multiprocessors."""
        import triton.language as tl

        operator = self._operator
        before = Section(operator.main.shape, (), ()) if operator.before is None else operator.before
        constants: dict[str, object] = {
            "BEFORE": _program(before),
            "BEFORE_STORES": _stores(before),
            "POOLED": -1 if operator.before is None else operator.pooled,
            "MAIN": _program(operator.main),
            "MAIN_STORES": _stores(operator.main),
            "FLOAT": tl.float64 if operator.dtype == torch.float64 else tl.float32,
        }
        if operator.product is None:
            return _pointwise(operator, constants)
        return _product(operator.product, constants, processors)


def _pointwise(operator: Pointwise, constants: dict[str, object]) -> Planned:
    from .pointwise import BLOCK, WARPS, pointwise_kernel

    _, c, h, w = operator.main.shape
    n = math.prod(operator.main.shape)
    is_wide = max(math.prod(section.shape) for section in operator.sections) > _NARROW
    constants = {**constants, "C": c, "H": h, "W": w, "WIDE": is_wide, "BLOCK": BLOCK}
    return Planned(pointwise_kernel, (-(-n // BLOCK),), (n,), constants, {"num_warps": WARPS, "enable_fp_fusion": True})


def _product(product: Product, constants: dict[str, object], processors: int) -> Planned:
    from .plan import plan
    from .product import product_kernel

    found = plan(product, processors)
    sizes = (found.rows, found.depth_steps)
    return Planned(product_kernel, found.grid, sizes, {**constants, **found.constants}, found.options)


def _dense(a: Tensor) -> Tensor:
    """As an image, channels last: (B, C, H, W) with ones for dimensions that are missing."""
    if a.dim() < 4:
        a = a.reshape((1,) * (4 - a.dim()) + tuple(a.shape))
    return a.contiguous(memory_format=torch.channels_last)


def _program(section: Section) -> tuple[int | float, ...]:
    return tuple(n for op, a, b, number in section.instructions for n in (int(op), a, b, float(number)))


def _stores(section: Section) -> tuple[int, ...]:
    return tuple(n for pair in section.stores for n in pair)


@functools.cache
def _processors(device: torch.device) -> int:
    """The multiprocessors of a GPU; for the interpreter, of an H100."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 132
