"""Devices as tensors name them."""

from __future__ import annotations

import torch

from fastlangevin.transfer import with_index


def test_the_current_gpu_has_an_index(monkeypatch):
    """Without one it would equal no tensor's device: a plan for "cuda" would find the weights elsewhere."""
    assert with_index(torch.device("cpu")) == with_index(torch.device("cpu:0")) == torch.zeros(1, device="cpu:0").device
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 2)
    assert with_index(torch.device("cuda")) == torch.device("cuda", 2)
    assert with_index(torch.device("cuda:1")) == torch.device("cuda", 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert with_index(torch.device("cuda")) == torch.device("cuda")
