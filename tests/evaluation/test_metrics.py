"""Measures of samples against their formulas, in float64: the 10^-6 of `pytest.approx` is 10^9 of its roundings."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from support.error_bounds import gamma

from fastlangevin.evaluation import metrics


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def assert_is_frechet_distance(a, b):
    """|μ_a - μ_b|² + |A|² + |B|² - 2 Σσ_i, σ_i the singular values of A Bᵀ, of sets A and B about their means over
    √(n - 1): to within the rounding errors of both.

    With at most r roundings in a row `frechet_distance`'s eigenvalues σ_i² are off by δ = γ_r |A|² |B|², with B about
    A's mean (Weyl), and their roots by at most √δ and δ / σ_i. Singular values are off by γ_r |A| |B|.
    """
    (n, d), m = a.shape, len(b)
    factor, other, apart = (a - a.mean(0)) / (n - 1) ** 0.5, (b - b.mean(0)) / (m - 1) ** 0.5, a.mean(0) - b.mean(0)
    sigma = torch.zeros(min(n, d), dtype=torch.float64)
    values = torch.linalg.svdvals(factor @ other.T)[: len(sigma)]
    sigma[: len(values)] = values
    sizes = factor.square().sum(), (b - a.mean(0)).square().sum() / (m - 1)
    expected = apart.square().sum() + sizes[0] + other.square().sum() - 2 * sigma.sum()

    r = gamma(n + m + d + len(sigma) ** 2 + (n * d if n > d else 0), torch.float64)  # the last: of a QR decomposition
    delta = r * sizes[0] * sizes[1]
    roots = torch.minimum(delta.sqrt(), delta / sigma) + r * (sizes[0] * sizes[1]).sqrt()
    mean = gamma(n + m, torch.float64) * (a.abs().max() + b.abs().max()) * d**0.5
    bound = 2 * roots.sum() + 2 * r * sum(sizes) + 2 * mean * (2 * apart.norm() + mean)
    assert abs(metrics.frechet_distance(a, b.split(7)) - expected) <= bound < 1e-4 * sum(sizes)


# frechet_distance


@pytest.mark.parametrize("n, m, d", [(200, 300, 5), (50, 40, 16), (12, 300, 20), (300, 12, 20), (9, 8, 40), (7, 9, 2)])
def test_frechet_distance_is_its_formula(n, m, d):
    a, b = normal(n, d) @ normal(d, d, seed=1), normal(m, d, seed=2) @ normal(d, d, seed=3) + 3
    assert_is_frechet_distance(a, b)


def test_frechet_distance_of_known_gaussians():
    a = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0], [1.0, 1.0], [0.0, 0.0]])  # covariance 1, unbiased
    assert metrics.frechet_distance(a, [a + torch.tensor([3.0, 4.0])]) == pytest.approx(25)
    assert metrics.frechet_distance(a, [a * 3]) == pytest.approx(2 * (3 - 1) ** 2)


@pytest.mark.parametrize("n, d", [(100, 10), (10, 100)])
def test_frechet_distance_to_itself_is_zero_far_from_the_origin(n, d):
    a = normal(n, d) + 1e4
    assert_is_frechet_distance(a, a)
    assert_is_frechet_distance(a, a + 0.5)


@pytest.mark.parametrize(
    "a, batches, words",
    [
        (torch.zeros(1, 3), [torch.zeros(5, 3)], "a must be (n, D) with n at least 2"),
        (torch.zeros(4, 3, 2), [torch.zeros(5, 3)], "got (4, 3, 2)"),
        (torch.zeros(4, 3), [torch.zeros(5, 4)], "batches must be (m, 3) like a, got (5, 4)"),
        (torch.zeros(4, 3), [torch.zeros(1, 3)], "at least 2 items, got 1"),
        (torch.zeros(4, 3).fill_(torch.nan), [torch.zeros(5, 3)], "a must be finite, got NaN"),
        (torch.zeros(4, 3), [torch.zeros(5, 3), torch.full((5, 3), torch.inf)], "batches must be finite, got NaN, inf"),
        (normal(4, 3) * 1e200, [torch.zeros(5, 3)], "a must be finite, got NaN, infinite or enormous values"),
    ],
)
def test_frechet_distance_of_bad_input(a, batches, words):
    with pytest.raises(ValueError) as error:
        metrics.frechet_distance(a, batches)
    assert words in str(error.value)


def test_frechet_distance_of_one_batch_of_two_items():
    assert metrics.frechet_distance(normal(9, 3), [normal(2, 3, seed=1)]) > 0


# nearest_neighbours


@pytest.mark.parametrize("batch", [1, 7, 50, 1000])
def test_nearest_neighbours_are_those_of_all_pairs(batch):
    queries, items = normal(33, 6).float(), normal(150, 6, seed=1).float() + 0.5
    far = torch.linalg.vector_norm((queries[:, None] - items[None]).double(), dim=2)
    found = metrics.nearest_neighbours(queries, items.split(batch))
    assert torch.equal(found.item, far.argmin(1))
    # Of the same six differences: squares, their sums and a root, which halves their error.
    assert ((found.distance - far.amin(1)).abs() <= gamma(5) * far.amin(1)).all()


@pytest.mark.parametrize("batch", [1, 10, 64])
def test_a_querys_own_item_is_excluded(batch):
    items = normal(40, 6).float()
    own = torch.tensor([3, 39, 0, -1])
    queries = items[[3, 39, 0, 5]]
    far = torch.linalg.vector_norm(queries[:, None] - items[None], dim=2)
    far[[0, 1, 2], own[:3]] = torch.inf
    found = metrics.nearest_neighbours(queries, items.split(batch), own)
    assert torch.equal(found.item, far.argmin(1))
    assert found.distance[3] == 0 and (found.distance[:3] > 0).all()


def test_a_copy_is_at_distance_zero_far_from_the_origin():
    items = normal(500, 64).float() + 1000
    found = metrics.nearest_neighbours(items.flip(0), items.split(99))
    assert (found.distance == 0).all() and torch.equal(found.item, torch.arange(500).flip(0))


def test_nearest_neighbours_of_bad_input():
    with pytest.raises(ValueError, match="an item other than a query's own"):
        metrics.nearest_neighbours(torch.zeros(1, 3), [torch.zeros(1, 3)], torch.tensor([0]))
    with pytest.raises(ValueError, match="finite values"):
        metrics.nearest_neighbours(torch.zeros(2, 3), [torch.full((1, 3), torch.nan)])


@pytest.mark.parametrize("queries", [torch.zeros(0, 3), torch.zeros(3), torch.zeros(2, 0)])
def test_nearest_neighbours_of_bad_queries(queries):
    with pytest.raises(ValueError, match="queries must be"):
        metrics.nearest_neighbours(queries, [torch.zeros(4, 3)])


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_of_equally_near_items_the_first_is_taken(batch):
    items = torch.tensor([[1.0, 0.0], [5.0, 5.0], [1.0, 0.0]])
    assert metrics.nearest_neighbours(torch.zeros(1, 2), items.split(batch)).item.tolist() == [0]


# coverage


def test_coverage_of_unmistakable_classes():
    seen = metrics.coverage(torch.eye(4).repeat(5, 1))
    assert (seen.classes_hit, seen.rarest_share) == (4, 0.25)
    assert seen.entropy == pytest.approx(math.log(4)) and seen.score == pytest.approx(4)


def test_coverage_of_one_class():
    seen = metrics.coverage(torch.tensor([[0.9, 0.1, 0.0]]).repeat(6, 1))
    assert (seen.classes_hit, seen.rarest_share, seen.entropy) == (1, 0, 0)
    assert seen.score == pytest.approx(1) and seen.shares.tolist() == [1, 0, 0]


def test_classifier_score_is_its_formula():
    p = normal(50, 6).mul(2).softmax(1)
    kl = (p * (p.log() - p.mean(0).log())).sum(1)
    assert metrics.coverage(p).score == pytest.approx(float(kl.mean().exp()))
    shares = torch.bincount(p.argmax(1), minlength=6).double() / 50
    assert metrics.coverage(p).rarest_share == float(shares.min())
    assert metrics.coverage(p).entropy == pytest.approx(float(-(shares * shares.log()).nan_to_num().sum()))


# auroc


def test_auroc_is_scikit_learns_with_ties():
    low, high = normal(40).mul(3).round(), normal(25, seed=1).mul(3).round() + 1
    is_low = np.r_[np.ones(40), np.zeros(25)]
    expected = roc_auc_score(is_low, -torch.cat([low, high]).numpy())
    assert metrics.auroc(low, high) == pytest.approx(expected) and expected > 0.5


def test_auroc_at_its_ends():
    low, high = torch.arange(3.0), torch.arange(10.0, 14.0)
    assert [metrics.auroc(*pair) for pair in ((low, high), (high, low), (low, low))] == [1, 0, 0.5]
    with pytest.raises(ValueError, match="got 0 and 4"):
        metrics.auroc(low[:0], high)
