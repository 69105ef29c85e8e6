"""The pointwise operations of native programs."""

from __future__ import annotations

import enum


class Op(enum.IntEnum):
    """What a step computes of values a, b, c and numbers n, m: `Op` of csrc/cpu/program_pointwise_impl.h."""

    move = 0
    constant = 1
    add = 2  # a + n·b
    multiply = 3
    divide = 4
    add_number = 5
    multiply_number = 6
    divide_number = 7
    number_divide = 8
    multiply_add = 9  # a·b + c
    maximum = 10
    minimum = 11
    clamp = 12
    absolute = 13
    sign = 14
    square_root = 15
    exponential = 16
    logarithm = 17
    log1p = 18
    expm1 = 19
    power = 20
    greater = 21
    greater_equal = 22
    equal = 23
    not_equal = 24
    where = 25
    relu = 26
    leaky_relu = 27
    sigmoid = 28
    silu = 29
    gelu = 30
    gelu_tanh = 31
    tanh = 32
    softplus = 33
    elu = 34
    threshold_backward = 35
    leaky_relu_backward = 36
    sigmoid_backward = 37
    tanh_backward = 38
    silu_backward = 39
    gelu_backward = 40
    gelu_tanh_backward = 41
    softplus_backward = 42
    elu_backward = 43
    hardtanh_backward = 44
