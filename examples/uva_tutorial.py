"""Replaces the sampler of the UvA tutorial on energy-based models: `python examples/uva_tutorial.py [picture.png]`.

The training loop is that of tutorial 8 of the UvA Deep Learning Tutorials (Lippe, phlippe/uvadlc_notebooks,
Deep_Energy_Models.ipynb) on the 8×8 digits. `plain_chain` is the original MCMC loop, for comparison.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
from side_by_side import report_samples, report_speed
from torch import Tensor, nn

import fastlangevin as fl

BATCH, ITERATIONS = 64, 300
torch.manual_seed(0)
digits, _ = fl.digits()  # in [-1, 1]

# The tutorial's network, at the size of the digits. Its Swish, x * sigmoid(x), is nn.SiLU.
model = nn.Sequential(
    *(nn.Conv2d(1, 16, 3, stride=2, padding=1), nn.SiLU()),
    *(nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.SiLU()),
    *(nn.Flatten(), nn.Linear(128, 32), nn.SiLU(), nn.Linear(32, 1), nn.Flatten(0)),
)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, betas=(0.0, 0.999))

recipe = fl.recipes.uva
sampler = fl.Langevin(log_density=model, seed=1, **recipe["sampler"])
buffer = fl.ReplayBuffer(shape=(1, 8, 8), bounds=(-1, 1), seed=2, **recipe["buffer"])


def plain_chain(x: Tensor) -> Tensor:
    model.requires_grad_(False)
    x, noise = x.clone().requires_grad_(), torch.empty_like(x)
    for _ in range(60):
        x.data.add_(noise.normal_(0, 0.005)).clamp_(-1, 1)
        (-model(x)).sum().backward()
        x.data.sub_(x.grad.clamp_(-0.03, 0.03), alpha=10).clamp_(-1, 1)
        x.grad.zero_()
    model.requires_grad_(True)
    return x.detach()


def iteration(chain: Callable[[Tensor], Tensor]) -> Tensor:
    real = digits[torch.randint(len(digits), (BATCH,))]
    real = (real + 0.005 * torch.randn_like(real)).clamp(-1, 1)
    fake = chain(buffer.sample(BATCH).x)
    buffer.store(fake)
    real_out, fake_out = model(torch.cat([real, fake])).chunk(2)
    loss = fake_out.mean() - real_out.mean() + 0.1 * (real_out**2 + fake_out**2).mean()
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 0.1)
    optimizer.step()
    return (real_out.mean() - fake_out.mean()).detach()


for i in range(ITERATIONS):
    gap = iteration(sampler)
    if i % 100 == 0 or i == ITERATIONS - 1:
        print(f"iteration {i}: f(data) - f(samples) {gap:+.3f}")

print("engine:", sampler.plan.engine)
x0 = buffer.sample(BATCH).x
report_speed("a chain of 60 steps", lambda: plain_chain(x0), lambda: sampler(x0))
report_speed("an iteration", lambda: iteration(plain_chain), lambda: iteration(sampler))

noise = torch.rand(500, 1, 8, 8) * 2 - 1
report_samples(digits, noise=noise, samples=sampler(noise, n_steps=256))
if len(sys.argv) > 1:
    fl.save_grid(sampler(noise[:64], n_steps=256), sys.argv[1])
