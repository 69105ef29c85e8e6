"""Trains an energy with PyTorch Lightning, on one rank or several, by the module that fastlangevin has for it.

    torchrun --nproc-per-node=2 examples/lightning_module.py          or: python examples/lightning_module.py

It needs pytorch-lightning (the extra "lightning"). Chains continue from a replay buffer. The data, the chains and, to
rounding, the weights are the same for any number of ranks that divides the batch. With a loader whose batches are cut
by Lightning's distributed sampler nothing of this example is about ranks.
"""

from __future__ import annotations

import os

import pytorch_lightning as pl
import torch
from side_by_side import report_samples
from torch import Tensor, nn
from torch.utils.data import DataLoader

import fastlangevin as fl
from fastlangevin.adapters.lightning import ShortRunEBM

BATCH, ITERATIONS = 64, 120

pl.seed_everything(0, verbose=False)  # on all ranks: the initial weights
recipe = fl.recipes.uva
model = ShortRunEBM(
    nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.LeakyReLU(0.2)),
        *(nn.Conv2d(16, 32, 4, stride=2, padding=1), nn.LeakyReLU(0.2)),
        *(nn.Conv2d(32, 1, 4), nn.Flatten(0)),
    ),
    sampler=recipe["sampler"],
    start="buffer",
    buffer=recipe["buffer"],
    data_noise=0.005,
    energy_penalty=0.1,
    lr=1e-3,
    adam_betas=(0.0, 0.999),
)


def own_part(items: list[Tensor]) -> Tensor:
    """This rank's part of a batch that all ranks read, so that the batches do not depend on the number of ranks."""
    return torch.stack(items)[fl.distributed.shard(len(items)).rows]


digits = fl.digits()[0]
order = torch.Generator().manual_seed(2)
batches = DataLoader(digits, batch_size=BATCH, shuffle=True, drop_last=True, generator=order, collate_fn=own_part)
ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
trainer = pl.Trainer(
    max_steps=ITERATIONS,
    devices=ranks,
    num_nodes=int(os.environ.get("GROUP_WORLD_SIZE", "1")),
    strategy="ddp" if ranks > 1 else "auto",
    use_distributed_sampler=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
    logger=False,
)
trainer.fit(model, batches)

if trainer.is_global_zero:  # the first rank alone: a chain does not wait for the others
    noise = 2 * torch.rand(200, 1, 8, 8) - 1
    report_samples(digits, noise=noise, samples=model.predict_step(noise.to(model.device)).cpu())
