"""The layout of data that a network takes: images, or items as they are given."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..data.dataset import Data
from ..data.sources import load_data, load_data_that
from ..data.values import Layout
from ..distributed.sharded_module import is_sharded
from ..samplers.preserve import aside, own_randomness


def load_for(model: nn.Module | None, data: Any, layout: Layout | None, **options: Any) -> Data:
    """Loads data for a network: with layout None as images or, if the network takes only that, as given.

    A sharded network is not tried, since rank 0 may load alone: layout None is then images.
    """
    if layout is not None or not isinstance(model, nn.Module) or is_sharded(model):
        return load_data(data, layout=layout or "images", **options)
    return load_data_that(lambda source: _takes(model, source), data, **options)


def _takes(model: nn.Module, data: Data) -> bool:
    """Whether the network gives one number for each of three items, with or without their labels."""
    indices = torch.arange(3, device="cpu") % len(data)
    parameter = next(model.parameters(), torch.empty(0))
    with own_randomness(parameter.device):
        x = data.batch(indices).to(parameter.device, parameter.dtype)
    calls = [(x,), *([] if data.labels is None else [(x, data.labels[indices].to(parameter.device))])]
    for arguments in calls:
        try:
            with aside(model, parameter.device), torch.no_grad():
                if model(*arguments).numel() == len(x):
                    return True
        except Exception:  # a network's errors are of any kind; training shows them
            continue
    return False
