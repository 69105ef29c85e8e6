"""Learns a two-dimensional density from points in seconds: `python examples/mixture_2d.py [picture.png]`.

The picture shows the points, samples of the learned model, and its energy with the paths of chains. Requires matplotlib
(`pip install 'fastlangevin[plots]'`).
"""

from __future__ import annotations

import sys
import time

import matplotlib.pyplot as plt
import torch

import fastlangevin as fl

OUT = sys.argv[1] if len(sys.argv) > 1 else "mixture_2d.png"
torch.manual_seed(0)

truth = fl.energies.GaussianMixture(
    means=[[-0.5, -0.5], [0.5, -0.5], [-0.1, 0.6], [0.1, 0.0]],
    variances=[0.12**2, 0.08**2, 0.12**2, 0.06**2],
    weights=[3, 2, 3, 1],
)
data = truth.sample(20_000)
data = data[(data.abs() <= 1).all(dim=1)]  # data outside [-1, 1] would be rescaled

model = fl.models.MLP(2, hidden=(128, 128), activation="leaky_relu")
started = time.perf_counter()
result = fl.train(
    data,
    model,
    n_iterations=800,
    batch_size=128,
    lr=2e-3,
    lr_decay=0.5,
    data_noise=0.02,
    sampler={"n_steps": 60, "step_size": 0.0015, "noise_std": None, "bounds": (-1.2, 1.2)},
    progress=False,
)
seconds = time.perf_counter() - started
trace = result.sampler.trace(torch.rand(5_000, 2) * 2.4 - 1.2, every=5)
samples = trace.x[-1]
shares = [torch.bincount(torch.cdist(x, truth.means).argmin(1), minlength=4) / len(x) for x in (data, samples)]
print(f"trained in {seconds:.1f} s, engine {result.sampler.plan.engine!r}")
for name, x, share in zip(("data", "samples"), (data, samples), shares, strict=True):
    text = ", ".join(f"{part:.1%}" for part in share)
    print(f"{name}: mean true energy {truth(x).mean():.2f}; nearest mode: {text}")

axis = torch.linspace(-1.2, 1.2, 200)
grid = torch.cartesian_prod(axis, axis)
energy = result.sampler.energy(grid).reshape(200, 200)
figure, (left, middle, right) = plt.subplots(1, 3, figsize=(12, 4.2), sharex=True, sharey=True, layout="constrained")
left.scatter(*data[:5_000].T, s=1, color="black")
left.set_title("data")
middle.scatter(*samples.T, s=1, color="black")
middle.set_title(f"samples, {result.sampler.n_steps} steps from uniform noise")
lines = right.contourf(axis, axis, (energy - energy.min()).T.clamp(max=14), levels=15, cmap="viridis")
right.plot(*trace.x[:, :12].permute(2, 0, 1), color="white", linewidth=0.8)
right.set_title("learned energy (capped), and 12 chains")
figure.colorbar(lines, ax=right)
for axes in (left, middle, right):
    axes.set_aspect("equal")
figure.savefig(OUT, dpi=110)
print(f"picture: {OUT}")
