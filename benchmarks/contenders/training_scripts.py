"""Training iterations: the minimal script of Nijkamp et al. (arXiv:1904.09770) around any chain, and `fl.train`.

x⁻ = K Langevin steps of f from U(-1, 1)
L = mean f(x⁺ + σ_data z) - mean f(x⁻), ascended by Adam (lr 1e-4, betas 0.9 and 0.999)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from works import Work

import fastlangevin as fl

LR = 1e-4


@dataclass(frozen=True)
class Training:
    """Repeated training of `work`'s network on `data`, one batch, from the same weights.

    A run is `(n_iterations, n_steps, noise_std, data_noise, x0) -> weights` (flat); x0 None: new uniform noise.
    """

    work: Work
    data: Tensor
    weights: dict[str, Tensor]

    @classmethod
    def of(cls, work: Work) -> Training:
        torch.manual_seed(1)
        data = torch.rand_like(work.x0) * 2 - 1
        return cls(work, data, {name: value.clone() for name, value in work.module.state_dict().items()})

    def reset(self) -> None:
        """Restores the weights in place, since compiled code and captured graphs continue to read the same tensors."""
        self.work.module.load_state_dict(self.weights)

    def flat(self) -> Tensor:
        return torch.cat([p.detach().flatten() for p in self.work.module.parameters()])


Run = Callable[[int, int, float, float, "Tensor | None"], Tensor]


def script(training: Training, chain: Callable[[Tensor, int, float], Tensor]) -> Run:
    """The script, with `chain` as its `sample_q`."""
    f, data = training.work.module, training.data

    def run(n_iterations: int, n_steps: int, noise_std: float, data_noise: float, x0: Tensor | None) -> Tensor:
        training.reset()
        optimizer = torch.optim.Adam(f.parameters(), lr=LR, betas=(0.9, 0.999))
        for _ in range(n_iterations):
            start = torch.empty_like(data).uniform_(-1, 1) if x0 is None else x0
            samples = chain(start, n_steps, noise_std).detach()
            loss = f(samples).mean() - f(data + data_noise * torch.randn_like(data)).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return training.flat()

    return run


def fl_train(training: Training) -> Run:
    """`fl.train` as a user calls it, including its set-up. It draws x0 itself, see `initial`."""

    def run(n_iterations: int, n_steps: int, noise_std: float, data_noise: float, x0: Tensor | None) -> Tensor:
        training.reset()
        options: dict[str, Any] = {"n_steps": n_steps, "step_size": training.work.step_size, "noise_std": noise_std}
        fl.train(
            training.data,
            training.work.module,
            n_iterations=n_iterations,
            batch_size=len(training.data),
            lr=LR,
            lr_decay=0.0,
            data_noise=data_noise,
            sampler=options,
            value_range=(-1, 1),
            seed=1,
            device=training.work.device,
            progress=False,
        )
        return training.flat()

    return run


def initial(training: Training) -> Tensor:
    """The states from which the first iteration of `fl_train` samples."""
    return fl.Langevin(log_density=training.work.module, seed=1).initial(training.data.shape, step=0)


def disagreement(training: Training, run: Run, tolerance: float = 0.05) -> str | None:
    """Why one iteration without noise does not move the weights as the eager script does, or None.

    Adam's first step has size lr in every weight; rounding decides its sign where the gradient is almost 0.
    """
    from . import eager

    x0, n_steps, before = initial(training), training.work.check_steps, training.weights
    start = torch.cat([value.flatten() for value in before.values()])
    expected = script(training, eager.make(training.work))(1, n_steps, 0.0, 0.0, x0)
    apart, moved = (run(1, n_steps, 0.0, 0.0, x0) - expected).norm().item(), (expected - start).norm().item()
    if not apart <= tolerance * moved:
        return (
            f"after one iteration the weights are {apart:.2g} away from the eager script's, which moved by {moved:.2g}"
        )
    return None
