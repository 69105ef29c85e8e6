"""The short run as a generator x = M_θ(z), z ~ p0 (Nijkamp et al., arXiv:1904.09770): reconstruction, interpolation."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from ..chains.divergence import report
from ..chains.initial import check_state
from ..network.inputs import Inputs, make_inputs
from ..validation import check_int, check_positive
from .base import Sampler
from .graph_break import outside_graphs
from .langevin import Langevin


class Reconstruction(NamedTuple):
    """The result of `reconstruct` for B images.

    Attributes:
        z: (B, *event) latents, the best ones found.
        x: (B, *event) reconstructions M_θ(z).
        mse: (B,) mean squared errors per pixel, in squared units of the data.

    Examples:
        >>> sampler = fl.Langevin(log_density=fl.models.ConvNet(8, 1, features=8), n_steps=10, seed=1)
        >>> z, x, mse = fl.reconstruct(sampler, fl.digits()[0][:4], n_iterations=5)
        >>> torch.allclose(x, sampler.replace(noise_std=0.0)(z), atol=1e-4)
        True
    """

    z: Tensor
    x: Tensor
    mse: Tensor


@outside_graphs
def reconstruct(
    sampler: Sampler,
    x: Tensor,
    *args: Any,
    kwargs: Mapping[str, Any] | None = None,
    n_iterations: int = 200,
    lr: float = 0.1,
    chain_offset: int = 0,
    progress: bool = False,
) -> Reconstruction:
    """Finds latents z whose short runs end near the images x:

        z* = argmin L(z),  L(z) = ‖x - M_θ(z)‖²          (Nijkamp et al., arXiv:1904.09770, Section 3.4)

    M_θ is the sampler's chain of n_steps steps with noise_std = 0, and the gradient through the chain is exact
    (`vjp.chain_vjp`). z starts at `sampler.initial(x.shape, step=0)`, draws from p0 that do not depend on the counter,
    so that a call can be repeated. It takes n_iterations steps of Adam with learning rates that fall linearly from lr
    to 0 (docs/generation.md gives the reason), and the best z of each image is kept. Adam is element-wise, and the
    length of its steps does not depend on the scale of the gradient, which a chain's Jacobian may change by orders of
    magnitude. The result of an image therefore does not depend on the other images, except for rounding in a library's
    kernels and for networks that mix a batch (batch norm in train mode).

    z is not constrained: it may leave the support of p0 and the bounds of the sampler, which apply from the first step
    on. No gradient flows through an element that is clamped to a bound. An image whose chain becomes non-finite returns
    to its best z. The sampler, its counter, and the gradients and mode of its network do not change. A network in train
    mode still has the side effects of its evaluation (dropout, the running averages of batch norm).

    The cost is n_iterations + 1 chains of the batch and n_iterations backward passes, which are free for piecewise
    linear networks without bounds.

    Args:
        sampler: a `Langevin`, whose chain is the generator; of an energy, a log-density or a score.
        x: (B, *event) images or points, floating point and finite, B at least 1, on the network's device. Detached.
            z has x's dtype, or float32 if that has 16 bits.
        args, kwargs: extra arguments of the energy.
        n_iterations: number of steps of Adam, at least 1.
        lr: initial learning rate of Adam, positive, in units of the data: about the largest change of a pixel of z in a
            step.
        chain_offset: index of x[0] in a larger batch. The images then have the same initial latents as in that batch.
        progress: whether to show a progress bar.

    Returns:
        The latents, reconstructions and errors.

    Raises:
        TypeError, ValueError: an argument that is not as above; the message names it.
        ChainDiverged: the first chain of an image, from p0, is not finite.

    Examples:
        >>> sampler = fl.Langevin(log_density=fl.models.ConvNet(8, 1, features=8), n_steps=10, seed=1)
        >>> images, _ = fl.digits()
        >>> found = fl.reconstruct(sampler, images[:4], n_iterations=50)
        >>> found.z.shape, bool(found.mse.max() < 0.5)
        (torch.Size([4, 1, 8, 8]), True)
    """
    _check_sampler(sampler)
    check_state("x", x, sampler.target)
    check_int("n_iterations", n_iterations)
    check_positive("lr", lr)
    if x.numel() == 0:
        raise ValueError(f"x must hold at least one image, got shape {tuple(x.shape)}")
    if x.is_cuda and not torch.isfinite(x).all():  # on a CPU check_state has checked this
        raise ValueError("x must be finite, got NaN or infinity")
    dtype = torch.promote_types(x.dtype, torch.float32)
    generator, inputs = _Generator(sampler), make_inputs(sampler.target, args, kwargs)
    with torch.inference_mode(False), torch.enable_grad(), _bar(progress) as bar:
        task = bar.add_task("reconstruct", total=n_iterations, mse="")
        x = x.detach().to(dtype)
        z = sampler.initial(x.shape, chain_offset=chain_offset, step=0, device=x.device, dtype=dtype).requires_grad_()
        optimizer = torch.optim.Adam([z], lr=lr)
        best = found = _try(generator, z, x, inputs)
        _check_finite(best.mse)
        for i in range(n_iterations):
            (gradient,) = torch.autograd.grad(found.x, z, 2 * (found.x.detach() - x))
            usable = found.mse.isfinite() & gradient.isfinite().reshape(len(x), -1).all(dim=1)
            with torch.no_grad():
                z.copy_(_where(usable, z, best.z))
                z.grad = _where(usable, gradient, torch.zeros_like(gradient))
            optimizer.param_groups[0]["lr"] = lr * (1 - i / n_iterations)
            optimizer.step()
            found = _try(generator, z, x, inputs)
            better = found.mse < best.mse  # false where it is NaN
            best = Reconstruction(*(_where(better, new.detach(), old) for new, old in zip(found, best, strict=True)))
            if progress:
                bar.update(task, completed=i + 1, mse=f"MSE {best.mse.mean().item():.5f}")
    return Reconstruction(*(tensor.detach() for tensor in best))


@outside_graphs
def interpolate(
    sampler: Sampler, z1: Tensor, z2: Tensor, *args: Any, kwargs: Mapping[str, Any] | None = None, n: int = 8
) -> Tensor:
    """Interpolates between latents, from z2 to z1: n images for each of B pairs.

        x_ρ = M_θ(z_ρ),  z_ρ = ρ·z1 + sqrt(1 - ρ²)·z2,  ρ = 0, 1/(n - 1), …, 1
                                                      (Nijkamp et al., arXiv:1904.09770, Section 3.3)

    The weights preserve the variance of independent z1 and z2. M_θ is the sampler's chain with noise_std = 0, as in
    `reconstruct`. The sampler and its counter do not change.

    Args:
        sampler: a `Langevin`, whose chain is the generator.
        z1, z2: (B, *event) latents of one shape and dtype: draws of `sampler.initial`, or `Reconstruction.z`.
        args, kwargs: extra arguments of the energy, for a batch of B.
        n: number of images per pair, including those of z2 (first) and z1 (last); at least 2.

    Returns:
        (B, n, *event) images, in z1's dtype.

    Raises:
        TypeError, ValueError: an argument that is not as above; the message names it.
        ChainDiverged: a chain is not finite.

    Examples:
        >>> sampler = fl.Langevin(log_density=fl.models.ConvNet(8, 1, features=8), n_steps=10, seed=1)
        >>> z1, z2 = sampler.initial((3, 1, 8, 8)), sampler.initial((3, 1, 8, 8), chain_offset=3)
        >>> fl.interpolate(sampler, z1, z2, n=8).shape  # 8 images for each of 3 pairs
        torch.Size([3, 8, 1, 8, 8])
    """
    _check_sampler(sampler)
    check_int("n", n, 2)
    check_state("z1", z1, sampler.target)
    check_state("z2", z2, sampler.target)
    if (z1.shape, z1.dtype) != (z2.shape, z2.dtype):
        raise ValueError(
            f"z1 and z2 must have one shape and dtype, got {tuple(z1.shape)} {z1.dtype} and "
            f"{tuple(z2.shape)} {z2.dtype}"
        )
    generator, inputs = _Generator(sampler), make_inputs(sampler.target, args, kwargs)
    with torch.no_grad():
        rhos = [i / (n - 1) for i in range(n)]
        x = torch.stack([generator(rho * z1 + math.sqrt(1 - rho**2) * z2, inputs) for rho in rhos], dim=1)
    _check_finite(x)
    return x


class _Generator:
    """M_θ: a sampler's chain without noise, from any z. It does not raise for chains that are not finite."""

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = copy.copy(sampler).replace(noise_std=0.0, temperature=1.0)

    def __call__(self, z: Tensor, inputs: Inputs) -> Tensor:
        return self._sampler._evolve(z, inputs, chain_offset=0, step=0, settle=False)


def _check_sampler(sampler: object) -> None:
    """Raises TypeError for a sampler whose chain is no generator M_θ."""
    if isinstance(sampler, Langevin):
        return
    why = ""
    if isinstance(sampler, Sampler):
        why = (
            ": the generator is a chain of Langevin dynamics without noise, which has a gradient. For the network of a "
            'run with another sampler: fastlangevin.load(run, sampler={"kind": "langevin", "step_size": …, '
            '"noise_std": …})'
        )
    raise TypeError(f"sampler must be a Langevin, got {type(sampler).__name__}{why}")


def _try(generator: _Generator, z: Tensor, x: Tensor, inputs: Inputs) -> Reconstruction:
    y = generator(z, inputs)
    mse = (y.detach() - x).square().reshape(len(x), -1).mean(dim=1)
    return Reconstruction(z.detach().clone(), y, mse)


def _where(chosen: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """The images of `new` where `chosen`, (B,), is true, else those of `old`."""
    return torch.where(chosen.reshape(-1, *[1] * (new.dim() - 1)), new, old)


def _check_finite(values: Tensor) -> None:
    if not torch.isfinite(values).all():
        raise report(values, 0, None)


def _bar(show: bool) -> Progress:
    columns = (TextColumn("{task.description}"), MofNCompleteColumn(), BarColumn(bar_width=None))
    return Progress(*columns, TextColumn("{task.fields[mse]}"), TimeRemainingColumn(), disable=not show, expand=True)
