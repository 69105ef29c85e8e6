"""The figures of `gpu_figures.py` through pytest; each measures itself, so pytest-benchmark's time is of all of it."""

from __future__ import annotations

import gpu_figures
import pytest
import torch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]


@pytest.mark.parametrize("name", gpu_figures.FIGURES)
def test_figure(benchmark, name):
    rows = benchmark.pedantic(gpu_figures.FIGURES[name], rounds=1)
    benchmark.extra_info["rows"] = rows
    print(*map(gpu_figures.text, rows), sep="\n")
    assert not gpu_figures.failures(rows)
