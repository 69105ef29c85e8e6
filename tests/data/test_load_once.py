"""Data of several ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.ranks import Failed, on_ranks, unwrapped
from torch import Tensor
from torch.utils.data import Dataset

from fastlangevin.data import load_data
from fastlangevin.data.load_once import load_once
from fastlangevin.distributed.start import of_group


class Items(Dataset):
    def __len__(self) -> int:
        return 5

    def __getitem__(self, i: int) -> Tensor:
        return torch.full((3,), i / 5)


def _loaded(source: Any) -> tuple[int, str, Any, Tensor]:
    """How often this rank loaded, and what it has."""
    loads = []

    def load():
        loads.append(source)
        return load_data(source)

    data = load_once(of_group(), source, load)
    return len(loads), data.fingerprint, data.labels, data.batch(torch.arange(len(data)))


@pytest.fixture
def file(tmp_path) -> Path:
    values = (np.arange(7 * 12) % 251).astype(np.uint8).reshape(7, 12)
    np.savez(tmp_path / "items.npz", x=values, y=np.arange(7) % 2)
    return tmp_path / "items.npz"


def test_a_file_is_read_by_rank_0_and_sent(file):
    expected = load_data(file)
    found = unwrapped(on_ranks(3, _loaded, file))
    assert [loads for loads, *_ in found] == [1, 0, 0]
    for _, fingerprint, labels, items in found:
        assert fingerprint == expected.fingerprint and torch.equal(labels, expected.labels)
        assert torch.equal(items, expected.batch(torch.arange(7)))


@pytest.mark.parametrize("source", [torch.arange(12.0).view(6, 2), Items()])
def test_what_each_rank_has_been_given_is_its_own(source):
    found = unwrapped(on_ranks(2, _loaded, source))
    assert [loads for loads, *_ in found] == [1, 1]
    assert torch.equal(found[0][3], found[1][3])


def test_a_file_that_is_missing_is_an_error_of_all(tmp_path):
    found = on_ranks(2, _loaded, tmp_path / "missing.npy")
    assert all(isinstance(f, Failed) for f in found)
    assert [f.kind for f in found] == ["FileNotFoundError", "RankFailed"]
    assert "missing.npy" in found[1].message


def test_one_process_loads_once(file):
    assert _loaded(file)[0] == 1
