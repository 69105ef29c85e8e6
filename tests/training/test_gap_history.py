"""Gaps out of proportion to a run's own: the limit, its patience, and runs that do not diverge."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import fastlangevin as fl
from fastlangevin.training.gap_history import GapHistory

# The gaps of runs on the digits that did not diverge, written by scripts/record_gaps.py: the demo (1,400 iterations of
# `digits`), `digits_by_class`, and the first hundreds of other recipes, with fewer features.
RECORDED = json.loads((Path(__file__).parent.parent / "fixtures" / "energy_gaps.json").read_text())


def filled(gaps) -> GapHistory:
    history = GapHistory()
    assert not any(history.add(float(gap), np.inf) for gap in gaps)
    return history


def test_limit():
    gaps = 5 * np.random.default_rng(0).standard_normal(450)
    history, last = filled(gaps), np.abs(gaps[-300:])
    m = np.median(last)
    assert history.limit(7.0) == pytest.approx(m + 7 * np.median(np.abs(last - m)), rel=1e-12)
    assert filled(gaps[:99]).limit(7.0) is None and filled(gaps[:100]).limit(7.0) is not None
    assert filled(1e-3 * gaps).limit(7.0) == 1.0


def test_ten_in_a_row_are_out_of_proportion():
    history = filled(np.tile([3.0, -4.0, 5.0, -3.5], 50))
    limit = history.limit(20.0)
    assert [history.add(sign * 1.001 * limit, 20.0) for sign in (1, -1) * 6] == [0] * 9 + [10, 11, 12]
    assert history.limit(20.0) == limit


def test_a_peak_counts_to_the_history():
    history = filled(np.tile([3.0, -4.0, 5.0, -3.5], 75))
    before = history.limit(20.0)
    assert not any(history.add(1e3, 20.0) for _ in range(9)) and history.limit(20.0) == before
    assert history.add(3.0, 20.0) == 0 and history.limit(20.0) > before
    assert history.add(1e3, 20.0) == 0


@pytest.mark.parametrize("start", [0.01, 50.0])
def test_growth_is_noticed_long_before_the_absolute_limit(start):
    history = filled(start * np.random.default_rng(1).standard_normal(300))
    growing = start * 1.1 ** np.arange(200)
    assert max(start, 1.0) < next(gap for gap in growing if history.add(gap, 20.0)) < 1e4


def test_the_state_continues():
    gaps = np.concatenate([np.random.default_rng(2).standard_normal(250), np.full(15, 40.0)])
    whole = GapHistory()
    expected = [whole.add(gap, 20.0) for gap in gaps]
    for cut in (30, 255, 260):
        first, second = GapHistory(), GapHistory()
        got = [first.add(gap, 20.0) for gap in gaps[:cut]]
        second.load_state_dict(json.loads(json.dumps(first.state_dict())))
        assert got + [second.add(gap, 20.0) for gap in gaps[cut:]] == expected
    second.load_state_dict({})
    assert second.limit(20.0) is None


@pytest.mark.parametrize("recipe", fl.recipes.BY_NAME)
def test_runs_that_do_not_diverge(recipe):
    """Ten in a row never exceed a quarter of the default limit, though the demo's gap crosses zero."""
    history = GapHistory()
    assert not any(history.add(gap, 5.0) for gap in RECORDED[recipe])
