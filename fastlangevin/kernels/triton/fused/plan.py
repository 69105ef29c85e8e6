"""The tiles of fused products, as plain numbers that do not need a GPU."""

from __future__ import annotations

import math
from typing import NamedTuple

from ....network.products import Product


class Tile(NamedTuple):
    rows: int
    columns: int
    warps: int
    stages: int


# The largest of which there are as many as multiprocessors, else the smallest. A program's values, of which a call may
# have several at once, are 16 to 32 numbers a thread each.
TILES = (Tile(128, 64, 8, 3), Tile(64, 64, 4, 3), Tile(64, 32, 4, 3), Tile(32, 32, 4, 3), Tile(32, 16, 2, 3))
DEPTH = 64  # channels of a step, at most


class Plan(NamedTuple):
    """A launch without its tensors.

    Attributes:
        rows: of the product; with parities, of each.
        depth_steps: the kernel's steps for each tap.
        constants, options: of the kernel, and of the compiler.
    """

    rows: int
    depth_steps: int
    grid: tuple[int, int, int]
    constants: dict[str, int | bool]
    options: dict[str, int]


def plan(product: Product, processors: int) -> Plan:
    """For a GPU with this number of multiprocessors."""
    (b, c, h, w), (_, depth, height, width) = product.result, product.image
    parities = 4 if product.is_gradient and product.stride == 2 else 1
    rows = b * h * w // parities
    # With parities there are more addresses, for which the largest tile leaves no registers.
    tiles = [t._replace(columns=math.gcd(t.columns, c)) for t in TILES[parities > 1 :]]

    def programs(tile: Tile) -> tuple[int, int, int]:
        return -(-rows // tile.rows), c // tile.columns, parities

    tile = next((t for t in tiles if math.prod(programs(t)) >= processors), tiles[-1])
    k = math.gcd(DEPTH, depth)
    constants = {"HEIGHT": height, "WIDTH": width, "DEPTH": depth, "H": h, "W": w, "C": c}
    constants |= {"KERNEL": product.weight[2], "STRIDE": product.stride, "PADDING": product.padding}
    constants |= {"GRADIENT": product.is_gradient, "M": tile.rows, "N": tile.columns, "K": k}
    # As many that two programs fit a multiprocessor: left to itself the assembler spills a few to fit another one.
    registers = min(255, 65_536 // (2 * 32 * tile.warps))
    options = {"num_warps": tile.warps, "num_stages": tile.stages, "maxnreg": registers, "enable_fp_fusion": True}
    return Plan(rows, depth // k, programs(tile), constants, options)


def supports(product: Product) -> bool:
    """Whether the kernel computes the product: channels in multiples of 16, a square kernel up to 7×7, stride 1 or 2,
    and of the gradient of stride 2 an even height and width.
    """
    (_, c, h, w), (_, depth, *_), (*_, kernel_h, kernel_w) = product.result, product.image, product.weight
    is_even = h % 2 == 0 and w % 2 == 0
    return (
        c % 16 == depth % 16 == 0
        and kernel_h == kernel_w <= 7
        and product.stride in (1, 2)
        and (is_even or not product.is_gradient or product.stride == 1)
    )
