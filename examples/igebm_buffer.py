"""Replaces the sampler and the replay buffer of IGEBM: `python examples/igebm_buffer.py [picture.png]`.

The training loop is that of Du and Mordatch (NeurIPS 2019, arXiv:1903.08689; openai/ebm_code_release, train.py), in
PyTorch and on the 8×8 digits. The states of the buffer are stored as bytes. `PlainBuffer` and `plain_chain` are the
original buffer, on the host, and the original chain.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable

import numpy as np
import torch
from side_by_side import report_samples, report_speed
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

import fastlangevin as fl

BATCH, ITERATIONS = 64, 200
torch.manual_seed(0)
random.seed(0)
digits = fl.digits()[0] / 2 + 0.5  # in [0, 1]

energy = nn.Sequential(
    *(spectral_norm(nn.Conv2d(1, 32, 3, padding=1)), nn.LeakyReLU(0.2)),
    *(spectral_norm(nn.Conv2d(32, 64, 4, stride=2, padding=1)), nn.LeakyReLU(0.2)),
    *(spectral_norm(nn.Conv2d(64, 128, 4, stride=2, padding=1)), nn.LeakyReLU(0.2)),
    *(nn.Flatten(), spectral_norm(nn.Linear(512, 1)), nn.Flatten(0)),
)
optimizer = torch.optim.Adam(energy.parameters(), lr=1e-3, betas=(0.0, 0.999))

recipe = fl.recipes.igebm
sampler = fl.Langevin(energy, seed=1, **recipe["sampler"])
buffer = fl.ReplayBuffer(shape=(1, 8, 8), bounds=(0, 1), seed=2, **recipe["buffer"])


class PlainBuffer:
    def __init__(self, size: int) -> None:
        self.size, self.next, self.states = size, 0, []

    def add(self, x: Tensor) -> None:
        for state in np.minimum(256 * x.numpy().clip(0, 1), 255).astype(np.uint8):
            self.states[self.next : self.next + 1] = [state]
            self.next = (self.next + 1) % self.size

    def sample(self) -> Tensor:
        fresh = torch.rand(BATCH, 1, 8, 8)
        if not self.states:
            return fresh
        kept = np.array([self.states[random.randrange(len(self.states))] for _ in range(BATCH)])
        kept = kept / 256 + np.random.uniform(0, 1 / 256, kept.shape)
        return torch.where(torch.rand(BATCH, 1, 1, 1) < 0.05, fresh, torch.from_numpy(kept).float())


plain_buffer = PlainBuffer(10_000)


def plain_chain(x: Tensor) -> Tensor:
    for _ in range(60):
        x = (x + 0.005 * torch.randn_like(x)).requires_grad_()
        (x_grad,) = torch.autograd.grad(energy(x).sum(), x)
        x = (x.detach() - 10 * x_grad.clamp(-0.01, 0.01)).clamp(0, 1)
    return x


def plain_samples() -> Tensor:
    x = plain_chain(plain_buffer.sample())
    plain_buffer.add(x)
    return x


def samples() -> Tensor:
    x = sampler(buffer.sample(BATCH).x)
    buffer.store(x)
    return x


def iteration(draw: Callable[[], Tensor]) -> Tensor:
    energy_neg = energy(draw())
    energy_pos = energy(digits[torch.randint(len(digits), (BATCH,))])
    loss = energy_pos.mean() - energy_neg.mean() + energy_pos.square().mean() + energy_neg.square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return (energy_neg.mean() - energy_pos.mean()).detach()


for i in range(ITERATIONS):
    gap = iteration(samples)
    if i % 100 == 0 or i == ITERATIONS - 1:
        print(f"iteration {i}: U(samples) - U(data) {gap:+.3f}")

print("engine:", sampler.plan.engine)
for _ in range(3):
    plain_samples()
report_speed("60 steps, with sample and store of the buffer", plain_samples, samples)
report_speed("an iteration", lambda: iteration(plain_samples), lambda: iteration(samples))

noise = torch.rand(500, 1, 8, 8)
report_samples(digits, noise=noise, samples=sampler(noise, n_steps=240))
if len(sys.argv) > 1:
    fl.save_grid(sampler(noise[:64], n_steps=240), sys.argv[1], value_range=(0, 1))
