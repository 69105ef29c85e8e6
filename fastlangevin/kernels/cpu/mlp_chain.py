"""Whole chains of an MLP energy on the CPU: all Langevin steps in one call, weights and state in the cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from .. import chain_operators, native

MOST_LAYERS, MOST_INPUTS, MOST_WIDTH = 4, 256, 512
# As in csrc/cpu/chain.h.
_KINDS = {"leaky_relu": 0, "silu": 1, "gelu_none": 2, "gelu_tanh": 3, "tanh": 4, "softplus": 5, "elu": 6}


def unsupported(layers: Sequence[Any], n_inputs: int) -> str | None:
    """Why `run_` does not take these hidden layers of an MLP with n_inputs inputs, or None where it does.

    Args:
        layers: by turns a `score.stack.Linear` and the `score.stack.Activation` after it.
    """
    linears, activations = layers[::2], layers[1::2]
    if len(linears) != len(activations) or not 1 <= len(linears) <= MOST_LAYERS:
        return f"it has {len(linears)} linear layers and {len(activations)} activations, not 1 to {MOST_LAYERS} pairs"
    if not all(hasattr(layer, "weight") for layer in linears) or not all(hasattr(a, "name") for a in activations):
        return "its layers are not linear ones and activations by turns"
    if not 1 <= n_inputs <= MOST_INPUTS:
        return f"it has {n_inputs} inputs, more than {MOST_INPUTS}"
    for linear in linears:
        if linear.weight.dim() != 2 or linear.weight.dtype != torch.float32:
            return f"a weight is {linear.weight.dim()}-dimensional {linear.weight.dtype}, not a float32 matrix"
        if not 1 <= len(linear.weight) <= MOST_WIDTH:
            return f"a layer is {len(linear.weight)} wide, more than {MOST_WIDTH}"
    for activation in activations:
        if _activation(activation) is None:
            return f"the activation {activation.name}{activation.parameters} is not among those it knows"
    return None


def run_(
    layers: Sequence[Any],
    last: Tensor,  # (I,)
    prior: float,
    x: Tensor,  # (B, d), contiguous float32
    step_sizes: Sequence[float],
    noise_stds: Sequence[float],
    has_noise: bool,
    seed: int,
    steps: Sequence[int],
    offset: int,
    grad_clip: float | None,
    lo: float | None,
    hi: float | None,
    noise_first: bool | Literal["clamp"],
) -> None:
    """All steps of the chains x of log p(x) = last · h(x) - prior / 2 · |x|², h the last layer's activations; in place.

    The noise and the update are those of `langevin_update_`, bit for bit, and a chain's result depends neither on the
    number of threads nor on the chains beside it. The score is float32's, its sums in ascending order of the features.

    Args:
        layers: what `unsupported` takes.
        steps: of the noise stream, consecutive.
        offset: of x's first element in the noise stream.
        (others): of `chain.Chain`.
    """
    why = native.load_cpu()
    if why:
        raise RuntimeError(why)
    linears = layers[::2]
    kinds, parameters = zip(*(known(activation) for activation in layers[1::2]), strict=True)
    energy = (
        [linear.weight.detach().contiguous() for linear in linears],
        [None if linear.bias is None else linear.bias.detach().contiguous() for linear in linears],
        list(kinds),
        [value for pair in parameters for value in pair],
        last.detach().contiguous(),
        prior,
    )
    chain = (step_sizes, noise_stds, has_noise, seed, steps, offset, grad_clip, lo, hi, noise_first)
    chain_operators.run_("mlp_chain_cpu_", x, energy, *chain)


def _activation(activation: Any) -> tuple[int, tuple[float, float]] | None:
    """The kernel's number for it and its two parameters, or None where there is no such kernel."""
    name, parameters = activation.name, activation.parameters
    if name == "relu":
        name, parameters = "leaky_relu", (0.0,)
    elif name == "gelu":
        name, parameters = f"gelu_{parameters[0]}", ()
    if name not in _KINDS or (name == "leaky_relu" and parameters[0] < 0):
        return None
    if (name == "elu" and parameters[0] <= 0) or (name == "softplus" and parameters[0] <= 0):
        return None
    first, second, *_ = (*map(float, parameters), 0.0, 0.0)
    return _KINDS[name], (first, second)


def known(activation: Any) -> tuple[int, tuple[float, float]]:
    known = _activation(activation)
    if known is None:
        raise ValueError(f"no kernel for the activation {activation.name}{activation.parameters}")
    return known
