"""The densities of the works in jax.numpy. Images are (B, H, W, channels), the layout of XLA."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from family_works import Negative
from torch import Tensor, nn

import fastlangevin as fl

if TYPE_CHECKING:
    from works import Work

_ENERGIES = (fl.energies.GaussianMixture, fl.energies.DoubleWell)


def log_density(work: Work) -> Callable[[Any], Any]:
    """(B, *event) to (B,), in JAX."""
    f = of_module(work.module)
    return (lambda x: -f(x)) if isinstance(work.module, _ENERGIES) else f


def of_module(module: nn.Module) -> Callable[[Any], Any]:
    """What the module computes, (B, *event) to (B,), in JAX."""
    import jax

    if isinstance(module, Negative):
        f = of_module(module.log_density)
        return lambda x: -f(x)
    if isinstance(module, fl.energies.GaussianMixture):
        c, mu, p = (t.cpu().numpy() for t in (module.constants, module.means, module.precisions))
        return lambda x: -jax.nn.logsumexp(c - 0.5 * (p * (x[:, None] - mu) ** 2).sum(2), axis=1)
    if isinstance(module, fl.energies.DoubleWell):
        barrier, width = module.barrier, module.width
        return lambda x: barrier * (((x / width) ** 2 - 1) ** 2).sum(1)
    layers, prior = [_layer(layer) for layer in module.net], getattr(module, "prior", 0.0)

    def network(x: Any) -> Any:
        f = x
        for layer in layers:
            f = layer(f)
        return f - 0.5 * prior * (x**2).sum(1) if prior else f

    return network


def _layer(layer: nn.Module) -> Callable[[Any], Any]:
    import jax

    if isinstance(layer, nn.Linear):
        matrix, bias = layer.weight.detach().cpu().numpy().T.copy(), layer.bias.detach().cpu().numpy()
        return lambda x: x @ matrix + bias
    if isinstance(layer, nn.Conv2d):
        kernel = layer.weight.detach().cpu().permute(2, 3, 1, 0).contiguous().numpy()
        bias, padding = layer.bias.detach().cpu().numpy(), [(n, n) for n in layer.padding]
        names = ("NHWC", "HWIO", "NHWC")
        return lambda x: jax.lax.conv_general_dilated(x, kernel, layer.stride, padding, dimension_numbers=names) + bias
    if isinstance(layer, nn.LeakyReLU):
        return lambda x: jax.nn.leaky_relu(x, layer.negative_slope)
    if isinstance(layer, nn.Flatten):
        return lambda x: x.reshape(-1)
    return {nn.SiLU: jax.nn.silu}[type(layer)]


def to_jax(x: Tensor) -> Any:
    """Converts without a copy if possible."""
    import jax

    return jax.dlpack.from_dlpack((x.permute(0, 2, 3, 1) if x.dim() == 4 else x).contiguous())


def to_torch(x: Any) -> Tensor:
    """Waits until it is computed."""
    tensor = torch.from_dlpack(x.block_until_ready())
    return tensor.permute(0, 3, 1, 2) if tensor.dim() == 4 else tensor
