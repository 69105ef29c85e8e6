"""The workloads of the benchmarks, each with a description for the contenders and its minimum arithmetic.

The multiply-adds of a step count the forward pass and the input gradient without products of padding, which are not
needed; of `fl.models.ConvNet` without the last layer, whose gradient is its weights. They are those of direct
arithmetic: Winograd's filtering needs fewer.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import multiply_adds
import torch
from public_networks import PUBLIC_ENERGIES
from torch import Tensor, nn

import fastlangevin as fl

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
N_CHAINS = 10_000
BATCH = 64
# Vector instructions of 16 lanes for 64 elements in the compiled AVX-512 update (docs/performance.md), noise included;
# the score of a double well adds 4 per element, that of a mixture about 10 per component. Current processors start at
# most two vector instructions in the time of one multiply-add, hence the half.
UPDATE_LANES, DOUBLE_WELL_LANES, COMPONENT_LANES = 222 * 16 / 64 / 2, 4 / 2, 10 / 2


@dataclass(frozen=True)
class Work:
    """A chain: x ← x + step_size·∇f(x) + noise_std·z, n_steps times from x0.

    Attributes:
        kind: the kind of `module`, the name of the argument of `Langevin`: "log_density" (f), "energy" (-f) or "score".
        args: further arguments of `module`, by chain.
        options: further options of `Langevin` that change the update: "grad_clip", "bounds" and "noise_first".
        lanes: the minimum cost of a step of all chains, in times of a multiply-add; for networks, the multiply-adds.
    """

    name: str
    title: str
    module: nn.Module
    kind: Literal["energy", "log_density", "score"]
    x0: Tensor
    n_steps: int
    step_size: float
    noise_std: float
    lanes: float
    args: tuple[Tensor, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    def log_density(self, x: Tensor) -> Tensor:
        f = self.module(x, *self.args)
        return f if self.kind == "log_density" else -f

    def score(self, x: Tensor) -> Tensor:
        """Of a work whose kind is "score"."""
        return self.module(x, *self.args)

    def with_own_network(self) -> Work:
        """With a copy of the network, whose state hooks may change (spectral norm's vectors, and their dtype)."""
        return dataclasses.replace(self, module=copy.deepcopy(self.module))

    def in_float64(self) -> Work:
        """With a copy of the network, the state and the arguments that are not labels in float64."""
        args = tuple(a.double() if a.is_floating_point() else a for a in self.args)
        return dataclasses.replace(self, module=copy.deepcopy(self.module).double(), x0=self.x0.double(), args=args)

    @property
    def device(self) -> str:
        return self.x0.device.type

    @property
    def is_convnet(self) -> bool:
        return any(isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)) for layer in self.module.modules())

    @property
    def is_network(self) -> bool:
        return self.is_convnet or any(isinstance(layer, nn.Linear) for layer in self.module.modules())

    @property
    def check_steps(self) -> int:
        """Steps that are compared without noise: few, because the chains of a LeakyReLU network diverge at a kink."""
        return min(10, self.n_steps)


def mixture(device: str = DEVICE) -> Work:
    energy = fl.energies.GaussianMixture([[2.0, 2.0], [-2.0, 2.0], [2.0, -2.0], [-2.0, -2.0]], 0.25)
    lanes = N_CHAINS * 2 * (UPDATE_LANES + 4 * COMPONENT_LANES)
    return _density("mixture", "2-D Gaussian mixture, 4 components", energy, lanes, device)


def double_well(device: str = DEVICE) -> Work:
    lanes = N_CHAINS * 2 * (UPDATE_LANES + DOUBLE_WELL_LANES)
    return _density("double-well", "2-D double well", fl.energies.DoubleWell(), lanes, device)


def _density(name: str, title: str, energy: nn.Module, lanes: float, device: str) -> Work:
    torch.manual_seed(0)
    x0 = torch.randn(N_CHAINS, 2).to(device)
    return Work(name, title, energy.to(device), "energy", x0, 100, 0.01, math.sqrt(2 * 0.01), lanes)


def mlp(widths: tuple[int, ...], activation: str, n_steps: int, device: str = DEVICE) -> Work:
    torch.manual_seed(0)
    net = fl.models.MLP(widths[0], widths[1:], activation).to(device)
    x0 = torch.randn(N_CHAINS, widths[0]).to(device)
    multiply_adds = 2 * N_CHAINS * sum(a * b for a, b in itertools.pairwise(widths))
    shape = "→".join(map(str, (*widths, 1)))
    title = f"MLP {shape}, {'SiLU' if activation == 'silu' else 'LeakyReLU'}"
    name = f"mlp-{'-'.join(map(str, (*widths, 1)))}"
    return Work(name, title, net, "log_density", x0, n_steps, 0.01, 0.1, multiply_adds)


def convnet(image_size: int, channels: int, features: int, n_steps: int, device: str = DEVICE) -> Work:
    torch.manual_seed(0)
    net = fl.models.ConvNet(image_size, channels, features).to(device)
    x0 = (torch.rand(BATCH, channels, image_size, image_size) * 2 - 1).to(device)
    name = f"convnet-{channels}x{image_size}x{image_size}-{features}"
    title = f"ConvNet {channels}×{image_size}×{image_size}, n_f = {features}"
    multiply_adds = 2 * BATCH * forward_multiply_adds(net)
    return Work(name, title, net, "log_density", x0, n_steps, 1.0, 0.01, multiply_adds)


def forward_multiply_adds(net: fl.models.ConvNet) -> int:
    """Per image, in all layers but the last."""
    device = next(net.parameters()).device
    x = torch.zeros(1, net.channels, net.image_size, net.image_size, device=device)
    return sum(multiply_adds.of_each_product(net, x)[:-1])


def network(name: str, device: str = DEVICE) -> Work:
    """The energy of a public code and its chain, which on a CPU is cut to about half a second of the eager loop."""
    public = PUBLIC_ENERGIES[name](device=device)
    options = dict(public.options)
    n_steps = options.pop("n_steps")
    n_steps = CPU_STEPS.get(name, n_steps) if device == "cpu" else n_steps
    step_size, noise_std = options.pop("step_size"), options.pop("noise_std")
    passes = 1 if public.kind == "score" else 2
    lanes = passes * sum(multiply_adds.of_each_product(public.module, public.x0, *public.args))
    lanes = lanes or public.x0.numel() * UPDATE_LANES
    numbers = (n_steps, step_size, noise_std, lanes)
    return Work(name, public.title, public.module, public.kind, public.x0, *numbers, public.args, options)


WORKS: dict[str, Callable[[], Work]] = {
    "mixture": mixture,
    "double-well": double_well,
    "mlp-2-64-64-1": lambda: mlp((2, 64, 64), "silu", 50),
    "mlp-128-200-200-1": lambda: mlp((128, 200, 200), "leaky_relu", 10),
    "convnet-1x8x8-32": lambda: convnet(8, 1, 32, 20),
    "convnet-1x16x16-32": lambda: convnet(16, 1, 32, 10),
    "convnet-3x32x32-32": lambda: convnet(32, 3, 32, 10 if DEVICE == "cpu" else 100),
    "convnet-3x32x32-64": lambda: convnet(32, 3, 64, 4 if DEVICE == "cpu" else 100),
}
CPU_STEPS = {
    "swish-cnn": 30,
    "jem": 4,
    "jem-label": 4,
    "igebm-parametrization": 5,
    "igebm-hook": 5,
    "igebm-handmade": 5,
    "improved-cd": 5,
    "latent-posterior": 10,
    "ncsn": 8,
}
NETWORKS: dict[str, Callable[[], Work]] = {name: functools.partial(network, name) for name in PUBLIC_ENERGIES}
GPU_WORKS: dict[str, Callable[[], Work]] = {
    "convnet-3x32x32-128": lambda: convnet(32, 3, 128, 100),
    "convnet-3x64x64-64": lambda: convnet(64, 3, 64, 100),
}
