"""The instructions of fused calls (network/pointwise.py), on a tile of an image's elements in registers.

A program is a flat tuple of numbers, four for each instruction, which the compiler reads: nothing of it is left at run
time. Tensors are dense and channels last.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..functions import sigmoid


@triton.jit
def _load(pointer, EXTENT: tl.constexpr, i, pixel, channel, inside, C: tl.constexpr, H: tl.constexpr, W: tl.constexpr):
    """Of elements i, which are at these pixels of all images and these channels."""
    if EXTENT == 4:
        return tl.load(pointer + channel)
    elif EXTENT == 7:
        return tl.load(pointer + i, mask=inside, other=1.0)
    elif EXTENT == 8:
        row = pixel // W // 2
        at = (row * (W // 2) + pixel % W // 2) * C + channel
        return tl.load(pointer + at, mask=inside, other=1.0) * 0.25
    else:
        at = i * 0
        if EXTENT % 2 == 1:
            at += pixel // (H * W)
        if EXTENT // 2 % 2 == 1:
            at = at * (H * W) + pixel % (H * W)
        if EXTENT // 4 == 1:
            at = at * C + channel
        return tl.load(pointer + at, mask=inside, other=1.0)


@triton.jit
def _apply(values, OP: tl.constexpr, A: tl.constexpr, B: tl.constexpr, NUMBER: tl.constexpr):
    if OP == 1:
        if NUMBER == 1.0:
            return values[A] + values[B]
        else:
            return values[A] + values[B] * NUMBER
    elif OP == 2:
        return values[A] * values[B]
    elif OP == 3:
        return values[A] / values[B]
    elif OP == 4:
        return values[A] + NUMBER
    elif OP == 5:
        return values[A] * NUMBER
    elif OP == 6:
        return values[A] / NUMBER
    elif OP == 7:
        return tl.where(values[A] <= 0, 0.0, values[A])  # NaN is kept
    elif OP == 8:
        return tl.where(values[A] > 0, values[A], values[A] * NUMBER)
    elif OP == 9:
        return sigmoid(values[A])
    elif OP == 10:
        return values[A] * sigmoid(values[A])
    elif OP == 11:
        return tl.where(values[B] <= NUMBER, 0.0, values[A])
    elif OP == 12:
        return tl.where(values[B] > 0, values[A], values[A] * NUMBER)
    elif OP == 13:
        return values[A] * (1.0 - values[B]) * values[B]
    else:
        tl.static_assert(OP == 14)
        s = sigmoid(values[B])
        return values[A] * s * (1.0 + values[B] * (1.0 - s))


@triton.jit
def evaluate(
    values,  # a tuple of value 0
    PROGRAM: tl.constexpr,
    pointers,  # a tuple, to the operands
    i,
    pixel,
    channel,
    inside,
    C: tl.constexpr,
    H: tl.constexpr,
    W: tl.constexpr,
    FLOAT: tl.constexpr,
):
    for k in tl.static_range(len(PROGRAM) // 4):
        if PROGRAM[4 * k] == 0:
            loaded = _load(pointers[PROGRAM[4 * k + 1]], PROGRAM[4 * k + 2], i, pixel, channel, inside, C, H, W)
            values += (loaded.to(FLOAT),)
        else:
            found = _apply(values, PROGRAM[4 * k], PROGRAM[4 * k + 1], PROGRAM[4 * k + 2], PROGRAM[4 * k + 3])
            values += (found,)
    return values


@triton.jit
def store(values, STORES: tl.constexpr, pointers, i, inside):
    """STORES: pairs of a value and an output."""
    for k in tl.static_range(len(STORES) // 2):
        pointer = pointers[STORES[2 * k + 1]]
        tl.store(pointer + i, values[STORES[2 * k]].to(pointer.dtype.element_ty), mask=inside)
