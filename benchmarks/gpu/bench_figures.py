"""The figures of `figures.py` through pytest; each measures itself, so pytest-benchmark's time is of all of it."""

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
