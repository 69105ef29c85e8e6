from __future__ import annotations

import time

import pytest
import torch
from support.ranks import Failed, on_ranks, unwrapped
from torch import distributed as dist

from fastlangevin.distributed.ranks import Ranks
from fastlangevin.distributed.start import joined, of_group
from fastlangevin.errors import ChainDiverged, RankFailed, TrainingDiverged


def _values() -> dict:
    ranks, n = of_group(), dist.get_rank()
    summed = [torch.full((2, 3), n + 1.0), torch.full((2,), n + 1), torch.full((), n + 0.5)]
    ranks.sum_(summed)
    copied = [torch.full((4, 2), float(n)).T, torch.tensor(n)]
    ranks.copy_from_main_(copied)
    # Rank r sends r + s rows (r, s) to rank s.
    sizes = [n + s for s in range(3)]
    x = torch.tensor([[n, s] for s in range(3) for _ in range(n + s)])
    received = ranks.exchange(x, sizes, [r + n for r in range(3)])
    return {
        "most": [ranks.most(int(n == r)) for r in range(3)] + [ranks.most(2 * n)],
        "gather": ranks.gather({"rank": n}),
        "of_main": ranks.of_main(("a", n)),
        "sum": summed,
        "copied": copied,
        "received": received,
        "collected": ranks.collect(torch.full((n, 2), n), [0, 1, 2]),
        "part": (ranks.part(7), ranks.is_main),
    }


def test_three_ranks():
    for n, found in enumerate(unwrapped(on_ranks(3, _values))):
        assert found["most"] == [1, 1, 1, 4]
        assert found["gather"] == [{"rank": 0}, {"rank": 1}, {"rank": 2}]
        assert found["of_main"] == ("a", 0)
        for got, value in zip(found["sum"], (6.0, 6, 4.5), strict=True):
            assert torch.equal(got, torch.full_like(got, value))
        assert [t.shape for t in found["sum"]] == [(2, 3), (2,), ()]
        assert all(torch.equal(t, torch.zeros_like(t)) for t in found["copied"])
        rows = [row for r in range(3) for row in [[r, n]] * (r + n)]
        assert found["received"].tolist() == rows
        assert found["part"] == (range(7 * n // 3, 7 * (n + 1) // 3), n == 0)
        if n:
            assert found["collected"] is None
        else:
            assert found["collected"].tolist() == [[1, 1], [2, 2], [2, 2]]


def test_one_process_alone():
    ranks, x = Ranks(), torch.arange(3.0)
    with ranks.together():
        ranks.sum_([x])
        ranks.copy_from_main_([x])
    assert torch.equal(ranks.exchange(x, [3], [3]), torch.arange(3.0))
    assert torch.equal(ranks.collect(x, [3]), torch.arange(3.0))
    assert (ranks.most(3), ranks.gather(1), ranks.of_main(2)) == (3, [1], 2)
    with pytest.raises(KeyError), ranks.together():
        raise KeyError


def _raised(errors: dict[int, BaseException], inner: bool) -> tuple:
    """What each rank raises where these ranks' bodies raise these errors, and that they are in step afterwards."""
    ranks, mine = of_group(), errors.get(dist.get_rank())
    caught: BaseException | None = None
    try:
        with ranks.together():
            if inner:
                with ranks.together():
                    if mine is not None:
                        raise mine
            elif mine is not None:
                raise mine
    except BaseException as error:
        caught = error
    after = ranks.gather(dist.get_rank())
    step = caught.step if isinstance(caught, ChainDiverged) else None
    return type(caught).__name__, str(caught), step, after


@pytest.mark.parametrize("inner", [False, True])
def test_an_error_on_one_rank_is_raised_on_all(inner):
    assert on_ranks(3, _raised, {1: FileNotFoundError("no data")}, inner) == [
        ("RankFailed", "rank 1 of 3 failed: FileNotFoundError: no data", None, [0, 1, 2]),
        ("FileNotFoundError", "no data", None, [0, 1, 2]),
        ("RankFailed", "rank 1 of 3 failed: FileNotFoundError: no data", None, [0, 1, 2]),
    ]


def test_a_divergence_is_the_first_rank_s_on_all():
    errors = {2: ChainDiverged("c", step=3, n_chains=1), 1: ChainDiverged("b", step=5, n_chains=2)}
    assert on_ranks(3, _raised, errors, False) == [("ChainDiverged", "b", 5, [0, 1, 2])] * 3


def test_another_error_comes_before_a_divergence():
    errors = {0: ChainDiverged("a", step=3, n_chains=1), 2: ValueError("x")}
    assert on_ranks(3, _raised, errors, True) == [
        ("RankFailed", "rank 2 of 3 failed: ValueError: x", None, [0, 1, 2]),
        ("RankFailed", "rank 2 of 3 failed: ValueError: x", None, [0, 1, 2]),
        ("ValueError", "x", None, [0, 1, 2]),
    ]


def _told_to_stop() -> list[bool]:
    ranks, seen = of_group(), []
    for step in range(3):
        ranks.wants_to_stop = lambda step=step: ranks.rank == 1 and step == 1
        with ranks.together():
            pass
        seen.append(ranks.stops)
    return seen


def test_all_ranks_stop_where_one_is_told_to():
    assert on_ranks(3, _told_to_stop) == [[False, True, True]] * 3


def _differing() -> str:
    ranks, n = of_group(), dist.get_rank()
    ranks.check_agreement({"lr": "0.1"})
    try:
        ranks.check_agreement({"batch_size": "8", "lr": "0.1" if n < 2 else "0.2", **({"x": "1"} if n == 1 else {})})
    except ValueError as error:
        return str(error)
    return ""


def test_the_setting_that_differs_is_named_on_all_ranks():
    found = unwrapped(on_ranks(3, _differing))
    assert found == ["x must be the same on all ranks, got nothing on rank 0 and 1 on rank 1"] * 3


def _left() -> None:
    """Rank 1 leaves by an error of its own, while the others wait for it."""
    with joined("cpu", timeout=60.0) as ranks:
        if ranks.rank == 1:
            raise KeyError("left")
        ranks.most(0)


def test_a_rank_that_leaves_wakes_the_others():
    started = time.monotonic()
    found = on_ranks(3, _left)
    assert time.monotonic() - started < 30
    assert [type(f) for f in found] == [Failed] * 3
    assert [f.kind for f in found] == ["RankFailed", "KeyError", "RankFailed"]
    assert "a rank ended, or did not answer in time, while rank 2 of 3 waited for it" in found[2].message


def test_errors_cross_processes_whole():
    """A `TrainingDiverged` of one rank is raised on the others."""
    error = TrainingDiverged("energies", "lower lr", 7, since=5)
    found = unwrapped(on_ranks(2, _diverged, error))
    assert found == [("TrainingDiverged", str(error), "energies", "lower lr", 7, 5)] * 2


def _diverged(error: TrainingDiverged) -> tuple:
    ranks = of_group()
    try:
        with ranks.together():
            if ranks.rank == 1:
                raise error
    except TrainingDiverged as caught:
        return type(caught).__name__, str(caught), caught.reason, caught.advice, caught.iteration, caught.since
    except RankFailed as failed:
        return (str(failed),)
    return ()
