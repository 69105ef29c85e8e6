"""blackjax's MALA and HMC: a jitted scan over the transitions, each vmapped over the chains."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..installed import missing
from ..jax_energies import of_module, to_jax, to_torch

if TYPE_CHECKING:
    from family_works import FamilyWork

MISSING = missing("blackjax")


def supports(work: FamilyWork) -> str | None:
    return None if work.kind in ("mala", "hmc") else f"it has no sampler of the kind {work.kind!r}"


def make(work: FamilyWork) -> Callable[[Tensor, int], Tensor]:
    import blackjax
    import jax

    jax.config.update("jax_default_matmul_precision", "highest")
    energy = of_module(work.module)

    def log_density(x: Any) -> Any:
        return -energy(x[None])[0]

    if work.kind == "mala":
        kernel = blackjax.mala(log_density, work.options["step_size"])
    else:
        mass = jax.numpy.ones(work.x0.shape[1])
        kernel = blackjax.hmc(log_density, work.options["step_size"], mass, work.options["n_leapfrog"])
    key = jax.random.key(0, impl="rbg")

    def sample(x: Any, key: Any, n_steps: int) -> tuple[Any, Any]:
        def step(carry: tuple[Any, Any], _: None) -> tuple[tuple[Any, Any], None]:
            states, key = carry
            key, now = jax.random.split(key)
            states, _ = jax.vmap(kernel.step)(jax.random.split(now, len(x)), states)
            return (states, key), None

        (states, key), _ = jax.lax.scan(step, (jax.vmap(kernel.init)(x), key), None, n_steps)
        return states.position, key

    jitted = jax.jit(sample, static_argnums=2)

    def chain(x0: Tensor, n_steps: int) -> Tensor:
        nonlocal key
        x, key = jitted(to_jax(x0), key, n_steps)
        return to_torch(x)

    return chain
