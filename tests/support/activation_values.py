"""The activations in float64, beside what the kernels give."""

from __future__ import annotations

import math

import numpy as np
from scipy import special


def exact(z: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Values and derivatives, one pair an `ActivationKind`, with the parameters of kernels/cpu/activations.cpp."""

    def sigmoid(a):
        return special.expit(a)

    u, du = (math.sqrt(8 / math.pi) * v for v in (z + 0.044715 * z**3, 1 + 3 * 0.044715 * z**2))
    cdf, pdf = special.ndtr(z), np.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    slope = np.where(z > 0, 1.0, float(np.float32(0.2)))
    return [
        (slope * z, slope),
        (z * sigmoid(z), sigmoid(z) * (1 + z * sigmoid(-z))),
        (z * cdf, cdf + z * pdf),
        (z * sigmoid(u), sigmoid(u) * (1 + z * sigmoid(-u) * du)),
        (np.tanh(z), 1 / np.cosh(z) ** 2),
        (np.where(2 * z > 20, z, np.logaddexp(0, 2 * z) / 2), np.where(2 * z > 20, 1, sigmoid(2 * z))),
        (np.where(z > 0, z, 1.5 * np.expm1(z)), np.where(z > 0, 1, 1.5 * np.exp(np.minimum(z, 0)))),
    ]
