"""blackjax's SGLD: x ← x + η∇log p + sqrt(2ηT)·z, so T is σ² / 2η.

Its step is jitted in a scan, except for convolutions on a CPU, which XLA runs slower in a scan: they use a Python loop.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import Tensor

from . import jax_chain
from .installed import missing
from .jax_energies import log_density, to_jax, to_torch

if TYPE_CHECKING:
    from works import Work

MISSING = missing("blackjax")


def supports(work: Work) -> str | None:
    return jax_chain.supports(work, form="loop")


def make(work: Work) -> Callable[[Tensor, int, float], Tensor]:
    import blackjax
    import jax

    jax.config.update("jax_default_matmul_precision", "highest")
    f = log_density(work)
    gradient = jax.grad(lambda x: f(x).sum())
    sgld = blackjax.sgld(lambda position, minibatch: gradient(position))
    key = jax.random.key(0, impl="rbg")

    def step(x: Any, key: Any, temperature: Any) -> tuple[Any, Any]:
        key, now = jax.random.split(key)
        return sgld.step(now, x, None, work.step_size, temperature), key

    def scanned(x: Any, key: Any, n_steps: int, temperature: Any) -> tuple[Any, Any]:
        return jax.lax.scan(lambda carry, _: (step(*carry, temperature), None), (x, key), None, n_steps)[0]

    jitted, whole = jax.jit(step), jax.jit(scanned, static_argnums=2)

    def chain(x0: Tensor, n_steps: int, noise_std: float) -> Tensor:
        nonlocal key
        x, temperature = to_jax(x0), noise_std**2 / (2 * work.step_size)
        if work.is_convnet and work.device == "cpu":
            for _ in range(n_steps):
                x, key = jitted(x, key, temperature)
        else:
            x, key = whole(x, key, n_steps, temperature)
        return to_torch(x)

    return chain
