"""The activations that all of the kernels of MLPs take, each as a module and as what is recorded of it."""

from __future__ import annotations

from torch import nn

from fastlangevin.network.layers import Activation

ACTIVATIONS = {
    "leaky": (lambda: nn.LeakyReLU(0.2), Activation("leaky_relu", (0.2,))),
    "relu": (nn.ReLU, Activation("relu")),
    "silu": (nn.SiLU, Activation("silu")),
    "gelu": (nn.GELU, Activation("gelu", ("none",))),
    "gelu tanh": (lambda: nn.GELU(approximate="tanh"), Activation("gelu", ("tanh",))),
    "tanh": (nn.Tanh, Activation("tanh")),
    "softplus": (lambda: nn.Softplus(2.0, 20.0), Activation("softplus", (2.0, 20.0))),
    "softplus, low threshold": (lambda: nn.Softplus(1.0, 0.5), Activation("softplus", (1.0, 0.5))),
    "elu": (lambda: nn.ELU(1.5), Activation("elu", (1.5,))),
}
