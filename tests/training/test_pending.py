"""Rows of metrics whose values arrive late."""

from __future__ import annotations

import json

import pytest
import torch
from support.training_runs import SMALL, assert_same_run

import fastlangevin as fl
from fastlangevin.runs import checkpoint
from fastlangevin.training import pending


class Late:
    """Replaces a copy from a GPU by one whose values arrive only when they are waited for."""

    def __init__(self, x: torch.Tensor) -> None:
        self._x = x

    def arrived(self) -> bool:
        return False

    def value(self) -> torch.Tensor:
        return self._x


class Stepwise(Late):
    """Arrives at the third query, and must not be waited for."""

    asked = 0

    def arrived(self) -> bool:
        self.asked += 1
        return self.asked >= 3

    def value(self) -> torch.Tensor:
        assert self.asked >= 3
        return self._x


def test_rows_are_shown_in_order_once_they_have_arrived(monkeypatch):
    monkeypatch.setattr(pending, "ToHost", Stepwise)
    shown = []
    rows = pending.PendingRows(shown.append)
    counts = []
    for i in range(1, 4):
        data, samples, *others = torch.tensor([3.0, 1.0, 7.0, 5.0]) * i
        rows.add(i, 0.5 * i, 0.1 * i, data, samples, dict(zip(("score_norm", "acceptance"), others, strict=True)))
        rows.show_arrived()
        counts.append(len(shown))
    assert counts == [0, 0, 1]  # the second is queried only after the first has been shown
    for _ in range(4):
        rows.show_arrived()
    assert [row["iteration"] for row in shown] == [1, 2, 3]
    expected = {"energy_data": 6, "energy_samples": 2, "energy_gap": 4, "score_norm": 14, "acceptance": 10}
    assert shown[1] == {"iteration": 2, "seconds": 1.0, "lr": 0.2, **expected}


def test_late_rows_are_the_same_and_none_is_lost(tmp_path, monkeypatch):
    options = {"n_iterations": 7, "log_every": 2, "checkpoint_every": 5, **SMALL}
    fl.train("digits", out=tmp_path / "a", **options)
    monkeypatch.setattr(pending, "ToHost", Late)
    written = []  # number of rows in the file at each checkpoint
    save = checkpoint.save

    def spy(path, tensors, meta):
        metrics = tmp_path / "b" / "metrics.jsonl"
        written.append(len(metrics.read_text().splitlines()))
        return save(path, tensors, meta)

    monkeypatch.setattr(checkpoint, "save", spy)
    fl.train("digits", out=tmp_path / "b", **options)
    assert_same_run(tmp_path / "a", tmp_path / "b")
    assert written == [0, 2, 4]


def test_late_rows_are_written_if_training_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(pending, "ToHost", Late)

    class Failing(fl.models.ConvNet):
        calls = 0

        def forward(self, x):
            self.calls += 1
            if self.calls > 60:
                raise RuntimeError("no more")
            return super().forward(x)

    with pytest.raises(RuntimeError, match="no more"):
        fl.train("digits", Failing(8, 1, 4), out=tmp_path, n_iterations=99, log_every=1, **SMALL | {"features": None})
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) > 2 and [row["iteration"] for row in rows] == list(range(1, len(rows) + 1))
