"""Trains an energy on several ranks, in a loop of one's own with DistributedDataParallel.

    torchrun --nproc-per-node=2 examples/ddp_loop.py          or, in one process: python examples/ddp_loop.py

The loop is that of the UvA tutorial (`uva_tutorial.py`) with persistent chains. BATCH is the batch of all ranks. Its
data, its chains and what the buffer keeps are the same for any number of ranks, and the weights agree to rounding.
"""

from __future__ import annotations

import os

import torch
from side_by_side import report_samples
from torch import distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import fastlangevin as fl

BATCH, ITERATIONS = 64, 120
device = torch.device("cpu")
if "RANK" in os.environ:  # started by torchrun
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
size = dist.get_world_size() if dist.is_initialized() else 1
mine = fl.distributed.shard(BATCH)

torch.manual_seed(0)  # on all ranks: the order of the data, and its noise
digits = fl.digits()[0].to(device)
model: nn.Module = nn.Sequential(
    *(nn.Conv2d(1, 16, 3, padding=1), nn.LeakyReLU(0.2)),
    *(nn.Conv2d(16, 32, 4, stride=2, padding=1), nn.LeakyReLU(0.2)),
    *(nn.Conv2d(32, 1, 4), nn.Flatten(0)),
).to(device)
if size > 1:
    model = DistributedDataParallel(model)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, betas=(0.0, 0.999))

recipe = fl.recipes.uva
sampler = fl.Langevin(log_density=model, seed=1, **recipe["sampler"])  # of the network within DDP
buffer = fl.ShardedReplayBuffer(shape=(1, 8, 8), bounds=(-1, 1), seed=2, device=device, **recipe["buffer"])

for _ in range(ITERATIONS):
    x_data = digits[torch.randint(len(digits), (BATCH,))[mine.rows]]
    x_data = x_data + 0.005 * torch.randn(BATCH, 1, 8, 8)[mine.rows].to(device)
    x = sampler(buffer.sample(BATCH).x, chain_offset=mine.chain_offset)
    buffer.store(x)

    f_data, f = model(torch.cat([x_data, x])).chunk(2)
    loss = (f.sum() - f_data.sum() + 0.1 * (f.square() + f_data.square()).sum()) / BATCH  # this rank's terms
    optimizer.zero_grad()
    (size * loss).backward()  # DDP divides by the number of ranks
    optimizer.step()

if mine.chain_offset == 0:  # the first rank alone: a chain does not wait for the others
    noise = 2 * torch.rand(200, 1, 8, 8, generator=torch.Generator().manual_seed(3)).to(device) - 1
    report_samples(digits, noise=noise, samples=sampler(noise, n_steps=240))
if dist.is_initialized():
    dist.destroy_process_group()
