"""10,000 chains in a latent space of 128 dimensions: `python examples/latent_chain.py`.

A latent-space EBM prior p(z) ∝ exp(f(z)) N(z; 0, I) (Pang et al., NeurIPS 2020, arXiv:2006.08205) is sampled by short
runs from N(0, I) at every training step of such a model. Here f is an untrained network.
"""

from __future__ import annotations

import time

import torch

import fastlangevin as fl

torch.manual_seed(0)
prior = fl.models.MLP(128, hidden=(200, 200), activation="gelu", prior=1.0)
options = {"log_density": prior, "n_steps": 60, "step_size": 0.08, "noise_std": None, "init": "normal", "seed": 1}
fast, plain = fl.Langevin(**options), fl.Langevin(**options, engine="autograd")
print("engine:", fast.plan.engine, *fast.plan.reasons[:1])


def timed(sampler: fl.Langevin) -> tuple[torch.Tensor, float]:
    sampler.sample((100, 128), step=0)  # warm-up: compiles and loads kernels
    started = time.perf_counter()
    z = sampler.sample((10_000, 128), step=0)
    return z, time.perf_counter() - started


(z, seconds), (reference, eager) = timed(fast), timed(plain)
print(f"10,000 chains of 60 steps: {seconds:.2f} s, by autograd {eager:.2f} s")
print(f"largest difference of the two, with the same noise: {(z - reference).abs().max():.1e}")
print(f"mean |z|² {z.square().sum(1).mean():.1f} (a standard normal's: 128)")
