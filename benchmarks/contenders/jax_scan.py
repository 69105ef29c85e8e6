"""The whole chain as one `jax.jit` of `lax.scan`, on the CPU or on the GPU that JAX finds.

JAX's counter-based "rbg" generator takes threefry's place where it is faster for normals: on a CPU.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

MISSING = None if importlib.util.find_spec("jax") else "jax is not installed (pip install 'fastlangevin[peers]')"


def make_chain(
    energy: Callable[[Any], Any], n_steps: int, *, step_size: float, noise_std: float
) -> Callable[[Tensor], Tensor]:
    """A function of x0; `energy` is written in jax.numpy, (B, d) to (B,)."""
    import jax

    gradient = jax.grad(lambda x: energy(x).sum())

    @jax.jit
    def chain(x: Any, key: Any) -> Any:
        def step(carry: Any, _: None) -> Any:
            x, key = carry
            key, now = jax.random.split(key)
            noise = jax.random.normal(now, x.shape, x.dtype) if noise_std else 0.0
            return (x - step_size * gradient(x) + noise_std * noise, key), None

        return jax.lax.scan(step, (x, key), None, n_steps)[0][0]

    key = jax.random.key(0, impl="rbg")

    def run(x0: Tensor) -> Tensor:
        return torch.from_numpy(np.array(chain(x0.numpy(), key)))

    return run


def mlp(net: nn.Sequential) -> Callable[[Any], Any]:
    """The energy of a torch network of linear layers with LeakyReLU or SiLU."""
    import jax

    layers = []
    for module in net:
        if isinstance(module, nn.Linear):
            layers.append((module.weight.detach().numpy().T.copy(), module.bias.detach().numpy()))
        elif isinstance(module, nn.LeakyReLU):
            layers.append(lambda h, slope=module.negative_slope: jax.nn.leaky_relu(h, slope))
        else:
            layers.append({nn.SiLU: jax.nn.silu}[type(module)])

    def energy(x: Any) -> Any:
        for layer in layers:
            x = layer(x) if callable(layer) else x @ layer[0] + layer[1]
        return x[:, 0]

    return energy


def mixture(constants: Tensor, means: Tensor, precisions: Tensor) -> Callable[[Any], Any]:
    """As `fl.energies.GaussianMixture`."""
    import jax

    c, mu, p = (t.numpy() for t in (constants, means, precisions))
    return lambda x: -jax.nn.logsumexp(c - 0.5 * (p * (x[:, None] - mu) ** 2).sum(2), axis=1)


def double_well(barrier: float, width: float) -> Callable[[Any], Any]:
    """As `fl.energies.DoubleWell`."""
    return lambda x: barrier * (((x / width) ** 2 - 1) ** 2).sum(1)
