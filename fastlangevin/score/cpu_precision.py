"""precision="bf16" and "fp16" on a CPU: at least their accuracy, in the type that is faster there.

It depends on the family of the processor and on the sizes of the network and the batch, and on no measurement, so that
one machine always computes the same.
"""

from __future__ import annotations

import math

import torch

from ..kernels import native
from ..kernels.native import BFloat16Rate
from ..network.layers import Conv, Linear
from ..network.sequential import Sequential
from .precision import HALF

# Torch's operators in bfloat16 are faster than native kernels in float32 from so many multiply-adds of a product, for
# all chains, and of a product for each operation of other operators: measured in docs/performance.md. Twice the rate of
# float32 is less than Winograd's filtering saves.
_WORTHWHILE = {BFloat16Rate.DOUBLE: 4 * 10**8, BFloat16Rate.AMX: 10**8}
_MOSTLY_PRODUCTS = 60


def ways(precision: str, device: torch.device) -> tuple[str, ...]:
    """What `precision` may be computed in on a device."""
    if device.type != "cpu" or precision not in HALF:
        return (precision,)
    if precision == "fp16":
        return ("fp32",)
    if native.load_cpu() is not None:
        return (precision,)
    return ("bf16", "fp32") if native.cpu_bfloat16_rate() > BFloat16Rate.OF_FLOAT32 else ("fp32",)


def reasons(precision: str, device: torch.device) -> list[str]:
    """For plans: why all is computed in float32, if it is."""
    if precision in ways(precision, device):
        return []
    if precision == "fp16":
        return [f"precision {precision!r} is computed in fp32: on a CPU torch's operators are slower in float16"]
    has_none = native.cpu_bfloat16_rate() == BFloat16Rate.NONE
    why = "is not known to have products in bfloat16" if has_none else "multiplies bfloat16 no faster than float32"
    return [f"precision {precision!r} is computed in fp32: this processor {why}"]


def why_bfloat16_of(network: Sequential, n_chains: int) -> str | None:
    """As `why_bfloat16`, for the layers of a network."""
    products = [
        layer.weight.numel() * (math.prod(shape[1:]) if isinstance(layer, Conv) else 1)
        for layer, shape in zip(network.layers[: network.tail], network.shapes[1:], strict=False)
        if isinstance(layer, (Conv, Linear))
    ]
    return why_bfloat16(n_chains * sum(products), len(products))


def why_bfloat16(multiply_adds: int, n_products: int, others: int = 0) -> str | None:
    """Why torch's operators in bfloat16 are faster than native kernels in float32, or None if they are not. The
    processor is one that multiplies bfloat16 faster than float32.

    Args:
        multiply_adds: of all chains in all n_products products of an evaluation.
        others: operations of all chains outside products, if they count.
    """
    if n_products == 0 or multiply_adds < _MOSTLY_PRODUCTS * others:
        return None
    if multiply_adds < n_products * _WORTHWHILE[native.cpu_bfloat16_rate()]:
        return None
    return f"torch's operators are faster in bfloat16, with {multiply_adds / n_products:.2g} multiply-adds a product"
