"""Replaces the sampler of JEM, a classifier trained as an energy-based model.

    python examples/jem_classifier.py [picture.png]

The training loop is that of JEM (Grathwohl et al., ICLR 2020, arXiv:1912.03263; wgrathwohl/JEM, train_wrn_ebm.py) on
the 8×8 digits: log p(x) by SGLD from persistent chains, log p(y | x) by cross-entropy. `plain_chain` is the original
SGLD loop.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
from side_by_side import report_samples, report_speed
from torch import Tensor, nn

import fastlangevin as fl

BATCH, ITERATIONS = 64, 200
torch.manual_seed(0)
digits, labels = fl.digits()
order = torch.randperm(len(digits))
train, test = order[:1400], order[1400:]

classify = nn.Sequential(
    *(nn.Conv2d(1, 32, 3, padding=1), nn.LeakyReLU(0.2)),
    *(nn.Conv2d(32, 64, 4, stride=2, padding=1), nn.LeakyReLU(0.2)),
    *(nn.Conv2d(64, 128, 4, stride=2, padding=1), nn.LeakyReLU(0.2)),
    *(nn.Flatten(), nn.Linear(512, 10)),
)
optimizer = torch.optim.Adam(classify.parameters(), lr=1e-3, betas=(0.9, 0.999))


def log_density(x: Tensor, y: Tensor | None = None) -> Tensor:
    """f(x) = logsumexp of the logits, or f(x, y) = the logit of class y."""
    logits = classify(x)
    return logits.logsumexp(1) if y is None else logits.gather(1, y[:, None])


recipe = fl.recipes.jem
sampler = fl.Langevin(log_density=log_density, seed=1, **recipe["sampler"])
buffer = fl.ReplayBuffer(shape=(1, 8, 8), per_class=10, seed=2, **recipe["buffer"])


def plain_chain(x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    for _ in range(20):
        (f_prime,) = torch.autograd.grad(log_density(x).sum(), x, retain_graph=True)
        x.data += 1.0 * f_prime + 0.01 * torch.randn_like(x)
    return x.detach()


def iteration(chain: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    items = train[torch.randint(len(train), (BATCH,))]
    x = digits[items] + 0.03 * torch.randn(BATCH, 1, 8, 8)
    draw = buffer.sample(BATCH)
    fake = chain(draw.x)
    buffer.store(fake, draw.slots)
    logits = classify(x)
    gap = logits.logsumexp(1).mean() - log_density(fake).mean()
    loss = -gap + nn.functional.cross_entropy(logits, labels[items])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach(), gap.detach()


for i in range(ITERATIONS):
    loss, gap = iteration(sampler)
    if i % 100 == 0 or i == ITERATIONS - 1:
        print(f"iteration {i}: loss {loss:.3f}, f(data) - f(samples) {gap:+.3f}")

with torch.no_grad():
    accuracy = (classify(digits[test]).argmax(1) == labels[test]).float().mean()
print(f"test accuracy: {accuracy:.1%}")
print("engine:", sampler.plan.engine)
x0 = buffer.sample(BATCH).x
report_speed("a chain of 20 steps", lambda: plain_chain(x0), lambda: sampler(x0))
report_speed("an iteration", lambda: iteration(plain_chain), lambda: iteration(sampler))

wanted = torch.arange(10).repeat_interleave(20)
of_class = sampler(buffer.sample(200, wanted).x, wanted, n_steps=200)
with torch.no_grad():
    share = (classify(of_class).argmax(1) == wanted).float().mean()
print(f"chains of f(x, y): {share:.1%} of the final states are classified as y")
report_samples(digits, noise=torch.rand(200, 1, 8, 8) * 2 - 1, samples=of_class)
if len(sys.argv) > 1:
    fl.save_grid(of_class.clamp(-1, 1), sys.argv[1], columns=20)  # a row for each class
