"""10,000 chains in a latent space of 128 dimensions: `python examples/latent_chain.py [picture.png]`.

A latent-space EBM prior p(z) ∝ exp(f(z)) N(z; 0, I) (Pang et al., NeurIPS 2020, arXiv:2006.08205) is sampled by short
runs from N(0, I) at every training step of such a model. Here f is an untrained network. The picture, which requires
matplotlib, shows f along the chains.
"""

from __future__ import annotations

import sys
import time

import torch

import fastlangevin as fl

CHAINS = 10_000
torch.manual_seed(0)
prior = fl.models.MLP(128, hidden=(200, 200), activation="gelu", prior=1.0)
with torch.no_grad():
    prior.net[-2].weight *= 30  # without training f is nearly constant, and p(z) nearly N(0, I)
options = {"log_density": prior, "n_steps": 60, "step_size": 0.08, "noise_std": None, "init": "normal", "seed": 1}
fast, plain = fl.Langevin(**options), fl.Langevin(**options, engine="autograd")
print("engine:", fast.plan.engine, *fast.plan.reasons[:1])


def timed(sampler: fl.Langevin) -> tuple[torch.Tensor, float]:
    sampler.sample((100, 128), step=0)  # warm-up: compiles and loads kernels
    started = time.perf_counter()
    z = sampler.sample((CHAINS, 128), step=0)
    return z, time.perf_counter() - started


(z, seconds), (reference, eager) = timed(fast), timed(plain)
print(f"{CHAINS:,} chains of 60 steps: {seconds:.2f} s, by autograd {eager:.2f} s")
print(f"largest difference of the two, with the same noise: {(z - reference).abs().max():.1e}")
print(f"mean |z|² {z.square().sum(1).mean():.1f} (a standard normal's: 128)")

if len(sys.argv) > 1:
    import matplotlib.pyplot as plt

    trace = fast.trace(fast.initial((CHAINS, 128), step=0), every=5, step=0)
    f = trace.x.square().sum(2) / 2 - trace.energy  # U(z) = |z|² / 2 - f(z)
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    low, middle, high = f.quantile(torch.tensor([0.05, 0.5, 0.95]), dim=1)
    left.fill_between(trace.steps, low, high, alpha=0.3, label="5 % to 95 % of the chains")
    left.plot(trace.steps, middle, label="median")
    left.set(xlabel="step", ylabel="f(z)", title="along the chains")
    left.legend()
    for k, label in ((0, "from N(0, I)"), (-1, "after 60 steps")):
        right.hist(f[k].numpy(), bins=60, alpha=0.6, density=True, label=label)
    right.set(xlabel="f(z)", title="the first states and the last")
    right.legend()
    figure.savefig(sys.argv[1], dpi=110)
    print(f"picture: {sys.argv[1]}")
