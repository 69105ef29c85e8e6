"""How a training should scale on H100s, by arithmetic from stated inputs: nothing here ran on a GPU.

    python benchmarks/scaling_model.py              # the tables of docs/distributed.md
    python benchmarks/scaling_model.py --predict    # the steps of WRN-28-10 by gpu/prediction.py (a minute, 3 GB)

A step of a chain of b images takes launches + weights + work · b / 64: 2 µs for each kernel, two passes over the
weights in 16 bits, and what is left of the step that docs/performance.md or gpu/prediction.py predicts for 64 images.
This is the best case for few images, which do not fill the GPU. An iteration is

    K steps     the chain
    loss        forward, input and weight gradients of data and samples: the work of 3 steps, in TF32 at half the rate
    update      44 bytes a parameter: the gradient is copied twice, Adam reads 4 numbers and writes 3
    all-reduce  the gradient in float32, after all of these: NCCL's model, the faster of ring and tree

and on the host meanwhile a vote in gloo's ring; it takes as long as the longer of the two. One process exchanges
nothing. Efficiency is the images a second and GPU, relative to one GPU with a batch of 64.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from dataclasses import dataclass
from unittest import mock

import torch
from public_networks.jem import JEM
from torch import nn
from works import Work

import fastlangevin as fl

# All in µs, bytes and bytes per µs.
BATCH, NODE = 64, 8
LAUNCH, L2_BYTES, L2, MEMORY = 2.0, 50e6, 5.5e6, 3.0e6
# NVLink 4: 450 GB/s one way; a node's eight NDR ports: 400. NCCL reaches 0.8 (NVIDIA/nccl-tests#212).
NVLINK, NETWORK = 0.8 * 450e3, 0.8 * 8 * 50e3
# NCCL's src/graph/tuning.cc for LL128: once, and for each message within a node and between nodes.
RING, TREE = (10.0, 1.9, 4.0), (4.4, 1.2, 8.5)
VOTES, MESSAGE = 1, 50.0  # a message by gloo: half of the least time of a vote of two ranks (votes.py)


@dataclass(frozen=True)
class Training:
    """Attributes:
    step: µs of a step of 64 chains, of n_kernels kernels.
    """

    name: str
    parameters: int
    n_steps: int
    step: float
    n_kernels: int

    def step_of(self, images: float) -> float:
        return self.floor + (self.step - self.floor) * images / BATCH

    @property
    def floor(self) -> float:
        """A step's launches and weights."""
        weights = 2 * self.parameters
        return LAUNCH * self.n_kernels + 2 * weights / (L2 if weights < L2_BYTES else MEMORY)

    def loss(self, images: float) -> float:
        launches = LAUNCH * self.n_kernels
        return 3 * (launches + 2 * (self.step_of(images) - launches))

    @property
    def update(self) -> float:
        return 44 * self.parameters / MEMORY

    def all_reduce(self, n: int) -> float:
        return all_reduce(4 * self.parameters, n)


@dataclass(frozen=True)
class Iteration:
    """An iteration on n GPUs with `images` on each, in µs."""

    training: Training
    n: int
    images: float

    @property
    def on_gpu(self) -> float:
        t = self.training
        return t.n_steps * t.step_of(self.images) + t.loss(self.images) + t.update + t.all_reduce(self.n)

    @property
    def time(self) -> float:
        return max(self.on_gpu, votes(self.n))

    def efficiency(self, time: float) -> float:
        return self.images / BATCH * Iteration(self.training, 1, BATCH).on_gpu / time


def all_reduce(n_bytes: float, n: int) -> float:
    """NCCL's all-reduce, by its own model, on full nodes or one part of a node."""
    if n == 1:
        return 0.0
    nodes = math.ceil(n / NODE)
    bandwidth = NVLINK if nodes == 1 else NETWORK
    once, within, between = RING
    ring = once + 2 * (n - nodes) * within + 2 * (nodes - 1) * between + 2 * (n - 1) / n * n_bytes / bandwidth
    once, within, between = TREE
    tree = once + 2 * (n // nodes - 1) * within + 2 * math.log2(nodes) * between + 2 * n_bytes / bandwidth
    return min(ring, tree)


def votes(n: int) -> float:
    """The votes of an iteration in a ring, which passes 2 (n - 1) messages one after another."""
    return VOTES * 2 * (n - 1) * MESSAGE


def count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def trainings() -> list[Training]:
    with torch.device("meta"):
        paper, wide = fl.models.ConvNet(32, 3, 64), JEM(28, 10)
    return [
        Training("the paper's network, K = 100", count(paper), 100, 81.0, 8),
        Training("WRN-28-10, K = 20", count(wide), 20, 4903.0, 72),
    ]


def tables() -> Iterator[str]:
    """Lines of Markdown."""
    head = ["network", "GPUs", "images a GPU", "chain", "loss, update", "all-reduce", "votes", "iteration"]
    yield from _head([*head, "efficiency", "without votes"])
    for t in trainings():
        shapes = [(1, 64), (8, 8), (64, 1), (8, 64), (64, 64), (512, 64)]
        for i in (Iteration(t, n, images) for n, images in shapes):
            parts = (
                t.n_steps * t.step_of(i.images),
                t.loss(i.images) + t.update,
                t.all_reduce(i.n),
                votes(i.n),
                i.time,
            )
            shares = [f"{i.efficiency(time):.0%}" for time in (i.time, i.on_gpu)]
            yield _row([t.name, str(i.n), str(i.images), *(f"{part / 1e3:.2f}" for part in parts), *shares])
    yield ""
    yield from _head(["network", "GPUs", "images a GPU for half of one GPU's speed", "without votes", "for 80 %"])
    for t in trainings():
        for n in (8, 64, 512):
            cells = [least_images(t, n, 0.5, True), least_images(t, n, 0.5, False), least_images(t, n, 0.8, False)]
            yield _row([t.name, str(n), *map(str, cells)])


def least_images(training: Training, n: int, share: float, with_votes: bool) -> int:
    """The smallest number of images a GPU with which n GPUs keep this share of one GPU's speed."""
    for images in range(1, 10_000):
        i = Iteration(training, n, images)
        if i.efficiency(i.time if with_votes else i.on_gpu) >= share:
            return images
    raise ValueError(f"share must be one that is reached, got {share}")


def _head(columns: list[str]) -> Iterator[str]:
    yield _row(columns)
    yield _row(["---"] * len(columns))


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def predict() -> None:
    """Prints the step of WRN-28-10 by the arithmetic of gpu/prediction.py, and by `Training.step_of`."""
    from gpu import prediction  # needs Triton

    torch.manual_seed(0)
    network, training = JEM(28, 10).eval(), trainings()[1]
    for images in (1, 8, BATCH):
        x0 = torch.rand(images, 3, 32, 32)
        work = Work("wrn-28-10", "WRN-28-10", network, "log_density", x0, 20, 1.0, 0.01, 0.0)
        with mock.patch.object(prediction.fused, "Launch", lambda operator: None):
            n, _, time = prediction.step(work, "bf16", fuses=True)
        print(f"{images} images: {n} kernels, {time:.0f} µs with hits in L1; here {training.step_of(images):.0f} µs")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--predict", action="store_true", help="the steps of WRN-28-10 instead")
    if parser.parse_args().predict:
        predict()
    else:
        print("\n".join(tables()))
