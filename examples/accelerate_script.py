"""Trains an energy on several ranks with Hugging Face Accelerate.

    torchrun --nproc-per-node=2 examples/accelerate_script.py         or: python examples/accelerate_script.py

`accelerate launch` starts it too. It needs accelerate (the extra "distributed"). Chains continue from a replay buffer
that the ranks share. The data, the chains and, to rounding, the weights are the same for any number of ranks that
divides BATCH.
"""

from __future__ import annotations

import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, set_seed
from side_by_side import report_samples
from torch import nn
from torch.utils.data import DataLoader

import fastlangevin as fl

BATCH, ITERATIONS = 64, 120
# Batches of BATCH items in an order that does not depend on the number of ranks, each of which gets its part of them.
config = DataLoaderConfiguration(split_batches=True, use_seedable_sampler=True)
accelerator = Accelerator(cpu=not torch.cuda.is_available(), dataloader_config=config)
mine = fl.distributed.shard(BATCH)

set_seed(0)  # on all ranks
digits = fl.digits()[0]
f = nn.Sequential(
    *(nn.Conv2d(1, 16, 3, padding=1), nn.LeakyReLU(0.2)),
    *(nn.Conv2d(16, 32, 4, stride=2, padding=1), nn.LeakyReLU(0.2)),
    *(nn.Conv2d(32, 1, 4), nn.Flatten(0)),
)
batches = DataLoader(digits, batch_size=BATCH, shuffle=True, drop_last=True)
optimizer = torch.optim.Adam(f.parameters(), lr=1e-3, betas=(0.0, 0.999))
model, optimizer, batches = accelerator.prepare(f, optimizer, batches)

recipe = fl.recipes.uva
sampler = fl.Langevin(log_density=model, seed=1, **recipe["sampler"])  # of the network in what `prepare` returned
buffer = fl.ShardedReplayBuffer(shape=(1, 8, 8), bounds=(-1, 1), seed=2, device=accelerator.device, **recipe["buffer"])

iteration = 0
while iteration < ITERATIONS:
    for x_data in batches:
        x = sampler(buffer.sample(BATCH).x, chain_offset=mine.chain_offset)
        buffer.store(x)
        f_data, f_x = model(torch.cat([x_data, x])).chunk(2)
        loss = f_x.mean() - f_data.mean() + 0.1 * (f_x.square() + f_data.square()).mean()
        optimizer.zero_grad()
        accelerator.backward(loss)
        optimizer.step()
        iteration += 1
        if iteration == ITERATIONS:
            break

if accelerator.is_main_process:  # alone: a chain does not wait for the other ranks
    noise = 2 * torch.rand(200, 1, 8, 8, generator=torch.Generator().manual_seed(3)) - 1
    samples = sampler(noise.to(accelerator.device), n_steps=240)
    report_samples(digits, noise=noise, samples=samples.cpu())
accelerator.end_training()
