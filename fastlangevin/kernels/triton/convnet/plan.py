"""The kernels of a convnet's score and their tiles, as plain numbers that do not need a GPU."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from . import measured
from .backward import backward_kernel
from .between import between_kernel
from .forward import first_kernel, forward_kernel
from .input import input_kernel
from .measured import CUDNN, Choice, Key, Measured, Tile
from .pointwise import activate_kernel, deactivate_kernel

_KERNELS = {
    "first": first_kernel,
    "forward": forward_kernel,
    "backward": backward_kernel,
    "input": input_kernel,
    "between": between_kernel,
    "activate": activate_kernel,
    "deactivate": deactivate_kernel,
}


@dataclass(frozen=True)
class Geometry:
    """A convolution of images (planes, height, width) to `channels`: 3×3 with stride 1, or 4×4 with stride 2."""

    planes: int
    height: int
    width: int
    channels: int
    stride: int

    @property
    def kernel(self) -> int:
        return self.stride + 2

    @property
    def out(self) -> tuple[int, int]:
        return self.height // self.stride, self.width // self.stride


@dataclass(frozen=True)
class Gpu:
    """The properties of a GPU that determine the launches: major compute capability, number of multiprocessors, and the
    name under which it has been measured.
    """

    major: int
    processors: int
    name: str = ""


# By kernel and major compute capability, for shapes that have not been measured (`tune`). Columns and
# depth are reduced to divisors of a layer's. The state's 1 to 4 planes are 16 columns, the minimum of the tensor cores.
# There are few stages because the memory of a multiprocessor that they do not use is L1: docs/performance.md.
TILES: dict[tuple[str, int], Tile] = {
    ("first", 8): Tile(128, 64, 0, 4, 1),
    ("forward", 8): Tile(128, 128, 64, 8, 4),
    ("backward", 8): Tile(128, 128, 64, 8, 4),
    ("input", 8): Tile(128, 16, 64, 4, 3),
    ("first", 9): Tile(128, 64, 0, 4, 1),
    ("forward", 9): Tile(128, 128, 128, 8, 3),
    ("backward", 9): Tile(128, 128, 128, 8, 3),
    ("input", 9): Tile(128, 16, 64, 4, 3),
    ("first", 10): Tile(128, 64, 0, 4, 1),
    ("forward", 10): Tile(128, 128, 128, 8, 3),
    ("backward", 10): Tile(128, 128, 128, 8, 3),
    ("input", 10): Tile(128, 16, 64, 4, 3),
}
# For layers of as many columns, where its programs are at most one for each multiprocessor and those of the tile above
# are more: a second wave would start when the first ends, with nothing to overlap it.
TALL: dict[tuple[str, int], Tile] = {("backward", 9): Tile(512, 64, 64, 8, 4)}
# Major compute capabilities where weights may come through tensor descriptors: for 12.0 Triton 3.6 takes local memory.
DESCRIPTORS = (9, 10)
_SHORTEST_SPLIT = 4  # steps
_PASS = Tile(64, 64, 0, 4, 1)  # of a pass over sums


@dataclass(frozen=True)
class Launch:
    """The launch of a kernel, without its tensors.

    Attributes:
        name: "first", "forward", "backward" or "input"; where cuDNN computes the product of a "forward" or "backward",
            "activate" or "deactivate", which follows it; "between", in place of an "input" and the next "first".
        key, choice: the key of what has been measured, and what is selected.
        rows: of the matrix product; with four parities, of each. Of a pass over sums, all.
        locks, partial: the number of int32 locks and of float32 partial sums of the splits of tiles.
        band: the number of elements that all programs of "between" keep for themselves.
        constants, options: of the kernel, and of the compiler.
    """

    name: str
    key: Key
    choice: Choice
    rows: int
    grid: tuple[int, int, int]
    locks: int
    partial: int
    constants: dict[str, object]
    options: dict[str, object]
    band: int = 0

    @property
    def kernel(self) -> Any:
        return _KERNELS[self.name]

    def __call__(self, *arguments: object, **constants: object) -> None:
        self.kernel[self.grid](*arguments, **(self.constants | constants), **self.options)


def plan(layers: Sequence[Geometry], batch: int, itemsize: int, gpu: Gpu) -> list[Launch]:
    """The launches of a score in order: the layers forward, then backward.

    Args:
        itemsize: bytes of an activation.
    """
    last = len(layers) - 1
    names = ["first"] + ["forward"] * last
    forward = [
        _launch(name, layer, batch, itemsize, gpu, {"LAST": i == last, "ENERGY": False})
        for i, (name, layer) in enumerate(zip(names, layers, strict=True))
    ]
    backward = [_launch("backward", layer, batch, itemsize, gpu, {}) for layer in reversed(layers[1:])]
    return [*forward, *backward, _launch("input", layers[0], batch, itemsize, gpu, {})]


def plan_between(layers: Sequence[Geometry], batch: int, itemsize: int, gpu: Gpu) -> Launch | None:
    """The launch between two steps of a chain, or None if the last kernel of a step and the first of the next one are
    apart: unless the one for both has been measured to be faster on this GPU.
    """
    layer, own = layers[0], measured.BY_GPU.get(gpu.name, Measured())
    tile = own.choices.get(between_key(layer, batch, itemsize))
    if not isinstance(tile, Tile) or len(layers) < 2:
        return None
    height, width = layer.out
    rows = -(-height // tile.split)
    bands = -(-height // rows)
    pdl = own.dependent_launch and gpu.major >= 9
    sizes = {"HEIGHT": height, "WIDTH": width, "CHANNELS": layer.channels, "PLANES": layer.planes}
    sizes |= {"KERNEL": layer.kernel, "STRIDE": layer.stride, "ROWS": rows, "PRODUCTS": first_depth(layer)}
    sizes |= {"M": tile.rows, "N": math.gcd(tile.columns, layer.channels)}
    return Launch(
        name="between",
        key=between_key(layer, batch, itemsize),
        choice=tile,
        rows=batch * layer.height * layer.width,
        grid=(bands, batch, 1),
        locks=0,
        partial=0,
        constants={**sizes, "K": math.gcd(tile.depth // itemsize, layer.channels), "PDL": pdl},
        options=_options(tile, pdl, fusion=False),
        band=bands * batch * layer.planes * (layer.stride * rows + 2) * layer.width,
    )


def between_key(layer: Geometry, batch: int, itemsize: int) -> Key:
    """That of the input gradient."""
    return ("between", itemsize, batch * layer.height * layer.width, layer.planes, layer.kernel**2 * layer.channels)


def first_depth(layer: Geometry) -> int:
    """The number of products per output of the first layer, padded for the tensor cores."""
    return max(16, 1 << (layer.planes * layer.kernel**2 - 1).bit_length())


def _launch(name: str, layer: Geometry, batch: int, itemsize: int, gpu: Gpu, constants: dict[str, object]) -> Launch:
    channels, depth = layer.channels, layer.planes
    if name in ("backward", "input"):
        channels, depth = depth, channels
    height, width = layer.out
    rows, side, parities = batch * height * width, layer.kernel, 1
    if name == "backward":
        side, parities = layer.kernel // layer.stride, layer.stride**2
    elif name == "input":
        rows *= layer.stride**2

    key = (name, itemsize, rows, channels, side * side * depth)
    own = measured.BY_GPU.get(gpu.name, Measured())
    pdl = own.dependent_launch and gpu.major >= 9
    tile = own.choices.get(key) or _tile(name, rows, channels, parities, gpu)
    if tile == CUDNN:
        return _after_cudnn(name, key, height * width, rows * parities, channels, pdl, constants)
    k = first_depth(layer) if name == "first" else math.gcd(tile.depth // itemsize, depth)
    m, n = tile.rows, tile.columns if name == "input" else math.gcd(tile.columns, channels)
    tiles = -(-rows // m) * -(-channels // n) * parities
    split = 1
    if name in ("forward", "backward"):
        if 2 * n <= tile.columns and tiles >= 2 * gpu.processors:
            m, tiles = 2 * m, -(-rows // (2 * m)) * (channels // n) * parities  # each operand is read less often
        split = _split(tiles, side * side * depth // k, tile.split, gpu)
        constants = {**constants, "SPLIT": split, "DESCRIPTOR": tile.descriptor and gpu.major in DESCRIPTORS}
    sizes = {"HEIGHT": height, "WIDTH": width, "DEPTH": depth, "CHANNELS": channels, "M": m, "N": n, "K": k}
    locks = tiles if split > 1 else 0
    return Launch(
        name=name,
        key=key,
        choice=tile,
        rows=rows,
        grid=(-(-rows // m), -(-channels // n), parities * split),
        locks=locks,
        partial=locks * split * m * n,
        constants={**constants, **sizes, "KERNEL": layer.kernel, "STRIDE": layer.stride, "PDL": pdl},
        # The operations of the update are rounded one by one.
        options=_options(tile, pdl, name != "input"),
    )


def _after_cudnn(
    name: str, key: Key, pixels: int, rows: int, channels: int, pdl: bool, constants: dict[str, object]
) -> Launch:
    """The pass over cuDNN's sums of all pixels."""
    m, n = _PASS.rows, math.gcd(_PASS.columns, channels)
    if name == "forward":
        constants = {**constants, "PIXELS": pixels}
    return Launch(
        name={"forward": "activate", "backward": "deactivate"}[name],
        key=key,
        choice=CUDNN,
        rows=rows,
        grid=(-(-rows // m), channels // n, 1),
        locks=0,
        partial=0,
        constants={**constants, "CHANNELS": channels, "M": m, "N": n, "PDL": pdl},
        options=_options(_PASS, pdl),
    )


def _options(tile: Tile, pdl: bool, fusion: bool = True) -> dict[str, object]:
    return {
        "num_warps": tile.warps,
        "num_stages": tile.stages,
        "enable_fp_fusion": fusion,
        **({"launch_pdl": True} if pdl else {}),
    }


def _tile(name: str, rows: int, channels: int, parities: int, gpu: Gpu) -> Tile:
    tile = TILES.get((name, gpu.major)) or TILES[name, 8]
    tall = TALL.get((name, gpu.major))
    if tall is not None and channels == tall.columns:
        programs, before = (-(-rows // m) * parities for m in (tall.rows, 2 * tile.rows))
        if programs <= gpu.processors < before:
            return tall
    return tile


def _split(tiles: int, steps: int, most: int, gpu: Gpu) -> int:
    """The largest power of two for which all programs fit the GPU at once and the steps are divided evenly."""
    split = 1
    while (
        2 * split <= most
        and 2 * split * tiles <= gpu.processors
        and steps % (2 * split) == 0
        and steps // (2 * split) >= _SHORTEST_SPLIT
    ):
        split *= 2
    return split
