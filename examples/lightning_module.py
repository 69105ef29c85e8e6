"""Trains an energy on several ranks as a module of PyTorch Lightning, with automatic optimisation.

    torchrun --nproc-per-node=2 examples/lightning_module.py          or: python examples/lightning_module.py

It needs pytorch-lightning (the extra "distributed"). The chains are short runs from noise, as in `fl.train`. The data,
the chains and, to rounding, the weights are the same for any number of ranks.
"""

from __future__ import annotations

import os
from typing import Any

import pytorch_lightning as pl
import torch
from side_by_side import report_samples
from torch import Tensor, nn
from torch.utils.data import DataLoader

import fastlangevin as fl

BATCH, ITERATIONS = 64, 120


class ShortRunEnergy(pl.LightningModule):
    """f of p(x) ∝ exp f(x), learned by short-run MCMC (Nijkamp et al., NeurIPS 2019)."""

    def __init__(self) -> None:
        super().__init__()
        self.f = nn.Sequential(
            *(nn.Conv2d(1, 16, 3, padding=1), nn.LeakyReLU(0.2)),
            *(nn.Conv2d(16, 32, 4, stride=2, padding=1), nn.LeakyReLU(0.2)),
            *(nn.Conv2d(32, 1, 4), nn.Flatten(0)),
        )
        self.sampler = fl.Langevin(log_density=self.f, n_steps=40, step_size=1.0, noise_std=0.01, seed=1)

    def on_fit_start(self) -> None:
        self.mine = fl.distributed.shard(BATCH)  # here the ranks have met

    def training_step(self, x_data: Tensor) -> Tensor:
        x_data = x_data[self.mine.rows]
        x = self.sampler.sample(x_data.shape, chain_offset=self.mine.chain_offset)
        f_data, f = self.f(torch.cat([x_data, x])).chunk(2)
        # Lightning's strategy "ddp" divides gradients by the number of ranks.
        return self.trainer.world_size * (f.sum() - f_data.sum()) / BATCH

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-3, betas=(0.5, 0.999))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["sampler"] = self.sampler.state_dict()  # the noise goes on where it was

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.sampler.load_state_dict(checkpoint["sampler"])


pl.seed_everything(0, verbose=False)  # on all ranks: the initial weights
digits = fl.digits()[0]
# Each rank reads the whole batch and takes its rows, so that the batches do not depend on the number of ranks.
order = torch.Generator().manual_seed(2)
batches = DataLoader(digits, batch_size=BATCH, shuffle=True, drop_last=True, generator=order)
model = ShortRunEnergy()
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
    report_samples(digits, noise=noise, samples=model.sampler(noise.to(model.device)).cpu())
