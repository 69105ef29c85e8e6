"""Whole chains of an MLP energy on the CPU, with weights and state in the cache."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...network.layers import Activation, Layer, Linear, LogSumExp
from .. import native
from ..arguments import ActivationArgs, ActivationKind, ChainArgs, MetropolisMemory, TransitionArgs
from . import transitions, whole_chain

MOST_INPUTS, MOST_WIDTH = 1024, 1024
PRECISIONS = ("fp32", "bf16")


def split(layers: Sequence[Layer]) -> tuple[list[Linear], list[Activation]]:
    """Splits alternating linear layers and activations into the two. A log-sum-exp after the last linear layer is left
    out: there is one activation less then.
    """
    linears = [layer for layer in layers[::2] if isinstance(layer, Linear)]
    activations = [layer for layer in layers[1::2] if isinstance(layer, Activation)]
    has_head = len(layers) > 0 and isinstance(layers[-1], LogSumExp)
    if len(linears) + len(activations) + has_head != len(layers):
        raise ValueError("the layers are not alternating linear layers and activations")
    return linears, activations


def unsupported(layers: Sequence[Layer], n_inputs: int, precision: str = "fp32") -> str | None:
    """Why `run_` does not support these layers of an MLP with n_inputs inputs, or None if it does. May compile or load
    the native library.

    Args:
        layers: alternating a `Linear` and the `Activation` after it; instead of the last one a `LogSumExp`.
    """
    n_linears, n_activations = len(layers[::2]), len(layers[1::2])
    if n_linears != n_activations or not layers:
        return f"the network has {n_linears} linear layers and {n_activations} activations, not one or more pairs"
    try:
        linears, activations = split(layers)
    except ValueError:
        return "the layers are not alternating linear layers and activations"
    if not 1 <= n_inputs <= MOST_INPUTS:
        return f"the network has {n_inputs} inputs, not 1 to {MOST_INPUTS}"
    for linear in linears:
        if linear.weight.dim() != 2 or linear.weight.dtype != torch.float32:
            return f"a weight is {linear.weight.dim()}-dimensional {linear.weight.dtype}, not a float32 matrix"
        if not 1 <= len(linear.weight) <= MOST_WIDTH:
            return f"a layer is {len(linear.weight)} wide, not 1 to {MOST_WIDTH}"
    for activation in activations:
        if _activation_args(activation) is None:
            return f"the activation {activation.name}{activation.parameters} is not supported"
    if precision not in PRECISIONS:
        return f"precision must be fp32 or bf16, got {precision}"
    why = native.load_cpu()
    if why is None and precision == "bf16" and native.cpu_capability() != "amx":
        return f"bfloat16 needs AMX, and the instruction set in use is {native.cpu_capability()}"
    return why


def run_(
    layers: Sequence[Layer],
    last: Tensor,  # (I,), or (B, I) with a row for each chain
    prior: float,
    x: Tensor,  # (B, d), contiguous float32
    args: ChainArgs,
    precision: str = "fp32",
) -> None:
    """All steps of the chains x of log p(x) = last · h(x) - prior / 2 · |x|², with h the last layer's output; in place.

    The score is computed in float32, with sums in ascending order of the features; in "bf16" the factors of products
    are rounded to bfloat16. See `whole_chain.run_`.

    Args:
        layers, precision: supported, see `unsupported`.
    """
    energy, multiply_adds = _energy(layers, last, prior, precision)
    whole_chain.run_("mlp_chain_cpu_", x, energy, args, multiply_adds)


def run_transitions_(
    layers: Sequence[Layer],
    last: Tensor,
    prior: float,
    x: Tensor,
    memory: MetropolisMemory | Tensor,
    args: TransitionArgs,
    precision: str = "fp32",
) -> None:
    """Other transitions of the chains of `run_`, in place."""
    energy, multiply_adds = _energy(layers, last, prior, precision)
    transitions.run_("mlp_transitions_cpu_", x, energy, memory, args, multiply_adds)


def _energy(layers: Sequence[Layer], last: Tensor, prior: float, precision: str) -> tuple[tuple[object, ...], int]:
    """The operators' arguments of an energy, and the multiply-adds of a score of one chain."""
    linears, activations = split(layers)
    arguments = [activation_args(activation) for activation in activations]
    energy = (
        [linear.weight.detach().contiguous() for linear in linears],
        [None if linear.bias is None else linear.bias.detach().contiguous() for linear in linears],
        [int(each.kind) for each in arguments],
        [value for each in arguments for value in each.parameters],
        last.detach().contiguous(),
        prior,
        precision == "bf16",
    )
    return energy, 2 * sum(linear.weight.numel() for linear in linears)


def activation_args(activation: Activation) -> ActivationArgs:
    """The arguments of an activation as the kernels read them. It must be supported, see `unsupported`."""
    found = _activation_args(activation)
    if found is None:
        raise ValueError(f"no kernel for the activation {activation.name}{activation.parameters}")
    return found


def _activation_args(activation: Activation) -> ActivationArgs | None:
    name, parameters = activation.name, activation.parameters
    if name == "relu":
        name, parameters = "leaky_relu", (0.0,)
    elif name == "gelu":
        name, parameters = {"none": "gelu", "tanh": "gelu_tanh"}.get(parameters[0], ""), ()
    if name not in ActivationKind.__members__ or (name == "leaky_relu" and parameters[0] < 0):
        return None
    if (name == "elu" and parameters[0] <= 0) or (name == "softplus" and parameters[0] <= 0):
        return None
    first, second, *_ = (*map(float, parameters), 0.0, 0.0)
    return ActivationArgs(ActivationKind[name], (first, second))
