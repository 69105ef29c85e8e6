"""What the kernels' activations and their derivatives may be off, for an argument without an error: what
`network_bounds.Arithmetic` asks for. test_mlp_chain.py of kernels/cpu and of kernels/triton hold the kernels to it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .error_bounds import U
from .network_bounds import Arithmetic

Errors = tuple[Tensor, Tensor]


def native(name: str, z: Tensor, value: Tensor, derivative: Tensor, parameters: tuple = ()) -> Errors:
    """7 units in the last place of the value or of 0.1, and 2.5 of the derivative or of 1; a unit is at most 2u of the
    number. A leaky ReLU is a product with the slope rounded to float32.
    """
    if name in ("relu", "leaky_relu"):
        return 2 * U * value.abs(), U * derivative.abs() * (derivative != 1)
    return 14 * U * value.abs().clamp_min(0.1), 5 * U * derivative.abs().clamp_min(1.0)


EXP = 6 * U  # relative: 3 units in the last place


def _sigmoid(a: Tensor, error: Tensor | float) -> tuple[Tensor, Tensor]:
    """1 / (1 + e^-a) and its error, of an a with an error: those of e^-a, of 1 + e^-a and of the division."""
    s = torch.sigmoid(a)
    return s, s * ((1 - s) * (EXP + error) + 2 * U)


def triton(name: str, z: Tensor, value: Tensor, derivative: Tensor, parameters: tuple = ()) -> Errors:
    """By the formulas of kernels/triton/mlp_chain.py: exp is within 3 units in the last place, erf and log within 2."""
    h, d = value.abs(), derivative.abs()
    if name in ("relu", "leaky_relu"):
        return native(name, z, value, derivative)
    if name == "elu":
        e = torch.where(z > 0, 0.0, derivative)
        return e * (EXP + U) + torch.where(z > 0, 0.0, U * h), e * (EXP + U)
    if name == "tanh":  # 2 σ(2z) - 1, 1 - h²
        _, error = _sigmoid(2 * z, 0.0)
        error = 2 * error + U * h
        return error, 2 * h * error + U * h**2 + U * d
    if name == "softplus":  # (max(a, 0) + log(1 + e^-|a|)) / β, σ(a), a = βz
        beta = parameters[0]
        a = beta * z
        t = torch.exp(-a.abs())
        log = t / (1 + t) * (EXP + U * a.abs()) + U + 4 * U * torch.log1p(t)
        _, error = _sigmoid(a, U * a.abs())
        linear = a > parameters[1]
        smooth = (U * a.clamp_min(0) + log + U * (a.clamp_min(0) + torch.log1p(t))) / beta + U * h
        return torch.where(linear, 0.0, smooth), torch.where(linear, 0.0, error)
    if name == "gelu" and parameters == ("none",):  # z Φ(z), Φ + z φ
        w = z / math.sqrt(2)
        erf = 2 / math.sqrt(math.pi) * torch.exp(-w * w) * w.abs() * 2 * U + 4 * U * torch.erf(w).abs()
        cdf = (erf + U * (1 + torch.erf(w))) / 2
        exponent = z * z / 2
        density = z.abs() * torch.exp(-exponent) / math.sqrt(2 * math.pi)
        return z.abs() * cdf + U * h, cdf + density * (EXP + 3 * U + exponent * U) + U * d
    # z σ(a), σ + h (1 - σ) a': a = z for silu, and for gelu "tanh" a polynomial, each power of z a rounding more.
    a, slope, rounded = (z, torch.ones_like(z), 0.0)
    if name == "gelu":
        c = 2 * math.sqrt(2 / math.pi)
        a, slope, rounded = c * (z + 0.044715 * z**3), c * (1 + 3 * 0.044715 * z**2), 5 * U
    s, error = _sigmoid(a, rounded * a.abs())
    rest = error + U * (1 - s)
    error_h = z.abs() * error + U * h
    product = h * (1 - s) * slope
    return error_h, error + error_h * (1 - s) * slope + h * rest * slope + product * (2 * U + rounded) + U * d


# Any order of the sums, as libraries' kernels have; leaky ReLUs alone, for their other activations promise nothing.
LIBRARY = Arithmetic(native)
NATIVE_MLP = Arithmetic(native, ascending=True)
TRITON_MLP = Arithmetic(triton)
