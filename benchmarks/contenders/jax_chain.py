"""JAX, on its default device: the whole chain as one `jit` of `lax.scan`, or a Python loop over one jitted step.

Both are timed, because XLA runs convolutions on a CPU slower inside a scan, and is faster with a scan otherwise. Noise
is from the "rbg" generator, which draws normals faster than the default threefry. The gradient is `jax.grad` of the sum
over chains; matrix products are in full float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .installed import missing
from .jax_energies import log_density, to_jax, to_torch

if TYPE_CHECKING:
    from works import Work

MISSING = missing("jax")


def supports(work: Work, *, form: str) -> str | None:
    if work.device == "cuda" and jax_device() != "gpu":
        return "the installed JAX does not support the GPU"
    return None


def jax_device() -> str:
    import jax

    return jax.default_backend()


def make(work: Work, *, form: str) -> Callable[[Tensor, int, float], Tensor]:
    import jax

    jax.config.update("jax_default_matmul_precision", "highest")
    f = log_density(work)
    gradient = jax.grad(lambda x: f(x).sum())
    key = jax.random.key(0, impl="rbg")

    def step(x: Any, key: Any, noise_std: Any) -> tuple[Any, Any]:
        key, now = jax.random.split(key)
        return x + work.step_size * gradient(x) + noise_std * jax.random.normal(now, x.shape, x.dtype), key

    jitted = jax.jit(step)

    def scanned(x: Any, key: Any, n_steps: int, noise_std: Any) -> tuple[Any, Any]:
        return jax.lax.scan(lambda carry, _: (step(*carry, noise_std), None), (x, key), None, n_steps)[0]

    whole = jax.jit(scanned, static_argnums=2)

    def chain(x0: Tensor, n_steps: int, noise_std: float) -> Tensor:
        nonlocal key
        x = to_jax(x0)
        if form == "scan":
            x, key = whole(x, key, n_steps, noise_std)
        else:
            for _ in range(n_steps):
                x, key = jitted(x, key, noise_std)
        return to_torch(x)

    return chain


def make_update(n: int, device: str) -> Callable[[float, float], Any]:
    import jax

    x, score, key = to_jax(torch.zeros(n)), to_jax(torch.ones(n)), jax.random.key(0, impl="rbg")

    def step(x: Any, key: Any, score: Any, step_size: Any, noise_std: Any) -> tuple[Any, Any]:
        key, now = jax.random.split(key)
        return x + step_size * score + noise_std * jax.random.normal(now, x.shape, x.dtype), key

    jitted = jax.jit(step, donate_argnums=0)

    def update(step_size: float, noise_std: float) -> Any:
        nonlocal x, key
        x, key = jitted(x, key, score, step_size, noise_std)
        return x.block_until_ready()

    return update
