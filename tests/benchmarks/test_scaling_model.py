"""The arithmetic of scaling, and the page that has its tables."""

from __future__ import annotations

from pathlib import Path

import pytest
import scaling_model
from scaling_model import Iteration, Training, all_reduce

PAGE = Path(__file__).parents[2] / "docs" / "distributed.md"
SMALL = Training("small", parameters=1_000_000, n_steps=10, step=100.0, n_kernels=5)


def test_the_page_has_the_tables_that_the_script_prints():
    page = PAGE.read_text()
    for table in "\n".join(scaling_model.tables()).split("\n\n"):
        assert f"\n{table}\n" in page, "python benchmarks/scaling_model.py"


def test_the_networks_are_those_of_the_papers():
    """2.76 M parameters, and the 36.5 M of WRN-28-10 (Zagoruyko and Komodakis, arXiv:1605.07146, Table 5)."""
    paper, wide = scaling_model.trainings()
    assert round(paper.parameters / 1e6, 2) == 2.76 and round(wide.parameters / 1e6, 1) == 36.5


def test_a_step_is_launches_weights_and_work():
    assert SMALL.floor == pytest.approx(5 * 2 + 2 * 2e6 / 5.5e6)
    assert SMALL.step_of(64) == 100.0 and SMALL.step_of(0) == SMALL.floor
    assert SMALL.step_of(32) == pytest.approx((100 + SMALL.floor) / 2)
    assert SMALL.loss(64) == pytest.approx(3 * (10 + 2 * 90))
    alone = Iteration(SMALL, 1, 64)
    assert alone.time == pytest.approx(10 * 100 + 570 + 44e6 / 3e6)
    assert alone.efficiency(alone.time) == 1.0
    beyond_l2 = Training("", parameters=30_000_000, n_steps=1, step=1e4, n_kernels=1)
    assert beyond_l2.floor == pytest.approx(2 + 2 * 60e6 / 3e6)


def test_an_all_reduce_is_a_ring_or_a_tree():
    assert all_reduce(1e6, 1) == 0
    # A tree within a node, for its latency; a ring for its bytes.
    assert all_reduce(0, 8) == pytest.approx(4.4 + 2 * 7 * 1.2)
    assert all_reduce(1e9, 8) == pytest.approx(10 + 2 * 7 * 1.9 + 2 * 7 / 8 * 1e9 / 360e3)
    assert all_reduce(0, 512) == pytest.approx(4.4 + 2 * (7 * 1.2 + 6 * 8.5))
    assert all_reduce(1e9, 16) == pytest.approx(10 + 2 * 14 * 1.9 + 2 * 1 * 4.0 + 2 * 15 / 16 * 1e9 / 320e3)


def test_an_iteration_takes_as_long_as_the_longer_of_gpu_and_votes():
    few, many = Iteration(SMALL, 2, 64), Iteration(SMALL, 512, 64)
    assert few.time == few.on_gpu > scaling_model.votes(2) == 2 * 50
    assert many.time == scaling_model.votes(512) == 2 * 511 * 50


@pytest.mark.parametrize("with_votes", [False, True])
def test_the_least_number_of_images(with_votes):
    n = scaling_model.least_images(SMALL, 8, 0.5, with_votes)

    def share(images):
        i = Iteration(SMALL, 8, images)
        return i.efficiency(i.time if with_votes else i.on_gpu)

    assert n > 1 and share(n) >= 0.5 > share(n - 1)
