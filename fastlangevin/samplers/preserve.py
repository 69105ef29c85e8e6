"""Contexts that restore torch's random state and the buffers of a network."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn


def own_randomness(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """Restores torch's random state, from which dropout draws, after the body."""
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])


@contextlib.contextmanager
def aside(model: nn.Module | None, device: torch.device) -> Iterator[None]:
    """Restores torch's random state and the model's buffers, which batch norm updates in train mode, after the body."""
    before = [] if model is None else [(buffer, buffer.clone()) for buffer in model.buffers()]
    with own_randomness(device):
        try:
            yield
        finally:
            with torch.no_grad():
                for buffer, value in before:
                    buffer.copy_(value)
