"""Convnets of layers whose activations the convnet kernels lack: torch's operators and a native program, over the loop.

    OMP_WAIT_POLICY=PASSIVE python benchmarks/smooth_convnets.py

Chains of the loop written out, of engine="convnet" and of engine="graph" alternate; prints medians of seven rounds.
"""

from __future__ import annotations

import functools

import torch
from timing import in_turns, paired_ratio
from torch import Tensor, nn

import fastlangevin as fl

ROUNDS = 7
ENGINES = ("convnet", "graph")
# Channels and size of the images, n_f, activation, chains, steps.
CASES = (
    *((1, 8, 32, nn.SiLU, 4, 20), (1, 8, 32, nn.SiLU, 64, 20)),
    *((1, 16, 32, activation, 64, 10) for activation in (nn.SiLU, nn.GELU, nn.Softplus)),
    *((3, 32, 32, nn.SiLU, 64, 6), (3, 32, 64, nn.SiLU, 64, 3), (3, 32, 64, nn.SiLU, 1, 20)),
    *((3, 32, 96, nn.SiLU, 64, 4), (3, 32, 128, nn.SiLU, 16, 6), (3, 32, 128, nn.SiLU, 16, 2)),
)


def convnet(channels: int, size: int, features: int, activation: type[nn.Module]) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(channels, features, 3, 1, 1), activation()]
    while size > 4:
        layers += [nn.Conv2d(features, 2 * features, 4, 2, 1), activation()]
        features, size = 2 * features, size // 2
    return nn.Sequential(*layers, nn.Conv2d(features, 1, 4), nn.Flatten(0)).requires_grad_(False)


def loop(network: nn.Module, x: Tensor, n_steps: int) -> Tensor:
    for _ in range(n_steps):
        x = x.detach().requires_grad_()
        (score,) = torch.autograd.grad(network(x).sum(), x)
        x = x.detach().add_(score).add_(torch.randn_like(x), alpha=0.01)
    return x


def main() -> None:
    torch.manual_seed(0)
    print(f"| network | chains, K | {' | '.join(ENGINES)} |\n| --- | --- | --- | --- |")
    for channels, size, features, activation, n_chains, n_steps in CASES:
        network, x = convnet(channels, size, features, activation), torch.rand(n_chains, channels, size, size) * 2 - 1
        calls = {"loop": functools.partial(loop, network, x, n_steps)}
        for engine in ENGINES:
            options = {"n_steps": n_steps, "step_size": 1.0, "noise_std": 0.01, "seed": 1, "engine": engine}
            calls[engine] = functools.partial(fl.Langevin(log_density=network, **options), x)
        in_turns(calls, 2)
        seconds = in_turns(calls, ROUNDS)
        ratios = [f"{paired_ratio(seconds['loop'], seconds[engine])[0]:.2f}" for engine in ENGINES]
        name = f"{channels}×{size}×{size}, n_f = {features}, {activation.__name__}"
        print(f"| {name} | {n_chains}, {n_steps} | {' | '.join(ratios)} |", flush=True)


if __name__ == "__main__":
    main()
