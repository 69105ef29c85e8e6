"""The figures of `figures.py` in pytest. Each does its own timing, so pytest-benchmark times the whole measurement."""

from __future__ import annotations

import pytest
import torch

from gpu import figures

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]


@pytest.mark.parametrize("name", figures.FIGURES)
def test_figure(benchmark, name):
    rows = benchmark.pedantic(figures.FIGURES[name], rounds=1)
    benchmark.extra_info["rows"] = rows
    print(*map(figures.text, rows), sep="\n")
    assert not figures.failures(rows)
