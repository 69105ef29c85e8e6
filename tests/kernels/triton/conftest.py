from __future__ import annotations

import pytest
import torch


@pytest.fixture
def poisoned(monkeypatch):
    """torch.empty returns memory filled with NaNs, or with ones in every bit."""
    for name in ("empty", "empty_like"):
        make = getattr(torch, name)
        fill = lambda t: t.fill_(float("nan") if t.is_floating_point() else -1)
        monkeypatch.setattr(torch, name, lambda *a, make=make, fill=fill, **k: fill(make(*a, **k)))


@pytest.fixture
def own(monkeypatch):
    """The measurements of all GPUs: nothing is measured yet."""
    from fastlangevin.kernels.triton.convnet import measured

    monkeypatch.setattr(measured, "BY_GPU", {"": measured.Measured()})
    return measured.BY_GPU[""]
