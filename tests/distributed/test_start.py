"""How a program finds its ranks."""

from __future__ import annotations

import pytest
from torch import distributed as dist

from fastlangevin.distributed import start
from fastlangevin.errors import BackendUnavailable

TORCHRUN = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}


@pytest.mark.parametrize(("device", "missing"), [("cuda", "nccl"), ("cpu", "gloo")])
def test_a_missing_backend_is_named(monkeypatch, device, missing):
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(dist, "is_backend_available", lambda backend: backend != missing)
    why = f"several ranks on {device} need {missing}, which this torch does not have"
    with pytest.raises(BackendUnavailable, match=why), start.joined(device, timeout=1.0):
        pass


@pytest.mark.parametrize("name", ["RANK", "MASTER_ADDR"])
def test_an_incomplete_environment_is_an_error(monkeypatch, name):
    for other, value in TORCHRUN.items():
        monkeypatch.setenv(other, value)
    monkeypatch.delenv(name)
    why = f"WORLD_SIZE=2 makes this one of 2 processes, which lacks {name}: start them with torchrun, or unset WORLD"
    with pytest.raises(ValueError, match=why), start.joined("cpu", timeout=1.0):
        pass


def test_one_process_needs_no_group(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "1")
    with start.joined("cpu", timeout=1.0) as ranks:
        assert (ranks.rank, ranks.size, ranks.is_main) == (0, 1, True)
    assert not dist.is_initialized()
