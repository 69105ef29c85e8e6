"""The errors of the precisions of the score, on a trained model: `python benchmarks/precision.py RUN`.

Prints two tables in Markdown. The first has the error of the score at states along chains: relative distance and cosine
to the float64 score. The second compares 1,024 chains of each precision with 1,024 other fp32 chains, with different
seeds: differences of the mean energy and of each pixel's mean and standard deviation, in standard errors. By chance
alone the root mean square over pixels is about 1 (pixels of one image depend on each other), and the largest of 64 is
about 2.5.
"""

from __future__ import annotations

import argparse
import copy

import torch
from torch import Tensor

import fastlangevin as fl
from fastlangevin.score import cpu_precision

PRECISIONS = ("fp32", "bf16", "fp16")
N_CHAINS = 1024


def main(run: str) -> None:
    model, sampler = fl.load(run)
    size = (model.channels, model.image_size, model.image_size)
    options = {"step_size": sampler.step_size, "noise_std": sampler.noise_std, "n_steps": sampler.n_steps}
    cpu_precision.ways = lambda precision, device: (precision,)  # whatever this processor is faster in
    samplers = {p: fl.Langevin(log_density=model, precision=p, seed=i, **options) for i, p in enumerate(PRECISIONS)}
    trace = samplers["fp32"].trace(torch.rand(256, *size) * 2 - 1, every=max(1, sampler.n_steps // 3))
    exact = fl.Langevin(log_density=copy.deepcopy(model).double(), engine="autograd", seed=0)
    print("| states after | precision | relative distance of the score | cosine |\n| --- | --- | --- | --- |")
    for x, k in zip(trace.x, trace.steps, strict=True):
        wanted = exact.score(x.double())
        for precision in PRECISIONS:
            score = samplers[precision].score(x).double()
            distance = ((score - wanted).norm() / wanted.norm()).item()
            cosine = torch.cosine_similarity(score.flatten(), wanted.flatten(), 0).item()
            print(f"| {k} steps | {precision} | {distance:.1e} | {cosine:.5f} |")
    baseline = fl.Langevin(log_density=model, seed=99, **options).sample((N_CHAINS, *size))
    energy = samplers["fp32"].energy(baseline)
    print("\n| precision | mean energy | its difference | pixel means, rms and largest | pixel stds, rms and largest |")
    print("| --- | --- | --- | --- | --- |")
    print(f"| fp32, another seed | {energy.mean():.2f} | | | |")
    for precision in PRECISIONS:
        x = samplers[precision].sample((N_CHAINS, *size))
        energies = samplers["fp32"].energy(x)
        difference = mean_difference(energies[:, None], energy[:, None])
        means, stds = mean_difference(x, baseline), mean_difference(squares(x), squares(baseline))
        cells = " | ".join(f"{z.square().mean().sqrt():.2f}, {z.abs().max():.2f}" for z in (means, stds))
        print(f"| {precision} | {energies.mean():.2f} | {difference.item():+.2f} | {cells} |")


def mean_difference(a: Tensor, b: Tensor) -> Tensor:
    """The difference of the means over chains, in standard errors."""
    a, b = a.flatten(1).double(), b.flatten(1).double()
    return (a.mean(0) - b.mean(0)) / (a.var(0) / len(a) + b.var(0) / len(b)).sqrt()


def squares(x: Tensor) -> Tensor:
    """Squared deviations, whose mean is the variance."""
    return (x - x.mean(0)) ** 2


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="the folder of a run of fastlangevin train")
    main(parser.parse_args().run)
