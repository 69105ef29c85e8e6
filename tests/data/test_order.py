"""The order in which items are visited."""

from __future__ import annotations

import pytest
import torch

from fastlangevin.data import order
from fastlangevin.data.order import batch_indices, epoch_order

pytestmark = pytest.mark.any_processor


@pytest.mark.parametrize("n", [1, 2, 100])
def test_an_epoch_visits_every_item_once(n):
    order = epoch_order(n, seed=3, epoch=5)
    assert order.dtype == torch.int64
    assert order.sort().values.tolist() == list(range(n))


def test_orders_differ_with_seed_and_epoch():
    # 2^32: torch's CPU generator would not distinguish it from 0
    orders = [epoch_order(50, seed=s, epoch=e) for s in (0, 1, 2**32, 2**64 - 1) for e in (0, 1, 2**32)]
    assert len({tuple(order.tolist()) for order in orders}) == len(orders)


def test_orders_are_uniform():
    firsts = torch.stack([epoch_order(4, seed=0, epoch=e) for e in range(2000)])
    for place in firsts.T:
        assert (place.bincount(minlength=4) - 500).abs().max() < 100


def test_the_order_does_not_use_the_global_random_state():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = epoch_order(50, seed=3, epoch=0), batch_indices(50, 7, seed=9, iteration=3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    order._recent_order.cache_clear()
    again = epoch_order(50, seed=3, epoch=0), batch_indices(50, 7, seed=9, iteration=3)
    assert all(map(torch.equal, first, again))


@pytest.mark.parametrize("n, batch_size", [(10, 1), (10, 3), (10, 5), (10, 10), (10, 11), (10, 37), (1, 4)])
def test_batches_are_consecutive_pieces_of_the_epochs(n, batch_size):
    batches = [batch_indices(n, batch_size, seed=3, iteration=i) for i in range(40)]
    assert all(batch.shape == (batch_size,) and batch.dtype == torch.int64 for batch in batches)
    epochs = [epoch_order(n, seed=3, epoch=e) for e in range(-(-40 * batch_size // n))]
    assert torch.equal(torch.cat(batches), torch.cat(epochs)[: 40 * batch_size])


def test_a_batch_follows_from_its_arguments_alone():
    forward = [batch_indices(100, 64, seed=3, iteration=i) for i in range(9)]
    kept = [batch.clone() for batch in forward]
    for batch in forward:
        batch.zero_()  # the caller's copy, not part of a cache
    epoch_order(100, seed=3, epoch=0).zero_()
    for i in reversed(range(9)):
        batch_indices(100, 64, seed=4, iteration=i)
        assert torch.equal(batch_indices(100, 64, seed=3, iteration=i), kept[i])
    assert not torch.equal(kept[0], batch_indices(100, 64, seed=4, iteration=0))
    far = batch_indices(1000, 64, seed=3, iteration=10**12)
    assert len(set(far.tolist())) == 64


def test_an_epochs_order_is_computed_once(monkeypatch):
    order._recent_order.cache_clear()
    for i in range(31):
        batch_indices(1000, 64, seed=3, iteration=i)
    assert order._recent_order.cache_info().misses == 2


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: epoch_order(0, seed=1, epoch=0), "n must be an int of at least 1, got 0"),
        (lambda: epoch_order(5, seed=1, epoch=-1), "epoch must be an int of at least 0, got -1"),
        (lambda: batch_indices(0, 4, seed=1, iteration=0), "n must be"),
        (lambda: batch_indices(5, 0, seed=1, iteration=0), "batch_size must be an int of at least 1, got 0"),
        (lambda: batch_indices(5, 4, seed=1, iteration=-2), "iteration must be an int of at least 0, got -2"),
        (lambda: batch_indices(5, 4.0, seed=1, iteration=0), "batch_size must be .* got 4.0"),
    ],
)
def test_bad_numbers(call, words):
    with pytest.raises(ValueError, match=words):
        call()
