"""Measures of samples as functions of tensors. `parts` defines what they are applied to."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor


def frechet_distance(a: Tensor, batches: Iterable[Tensor]) -> float:
    """The squared Fréchet (2-Wasserstein) distance between Gaussians with the means and covariances of two sets:

        |μ_a - μ_b|² + tr(Σ_a + Σ_b - 2 (Σ_a Σ_b)^½)

    (Dowson and Landau, J. Multivariate Analysis 12, 1982; of Inception's features it is the FID of Heusel et al.,
    NeurIPS 2017). In squared units of the elements, at least 0, computed in float64 with unbiased covariances. With
    Σ_a = FᵀF the trace of the root is Σ sqrt(λ(F Σ_b Fᵀ)), a symmetric eigenproblem with min(n, D) rows, so no D×D
    matrix is formed if n < D. Σ_b is accumulated batch by batch.

    Args:
        a: (n, D), n at least 2.
        batches: of the other set, (m, D) each, at least 2 items in total; read once.

    Raises:
        ValueError: sets that are not as above, or not finite in float32, whose squares fit float64.
    """
    _check_matrix("a", a)
    _check_finite("a", a)
    a = a.double()
    mean = a.mean(0)
    factor = (a - mean) / (len(a) - 1) ** 0.5
    trace_a = factor.square().sum()
    if len(factor) > factor.shape[1]:
        factor = torch.linalg.qr(factor, mode="r").R
    # Moments of b and of its projections F b about a's mean: about a point near b they do not lose digits.
    count, total, squares = 0, torch.zeros_like(mean), mean.new_zeros(())
    gram = mean.new_zeros((len(factor), len(factor)))
    for batch in batches:
        if batch.dim() != 2 or batch.shape[1] != a.shape[1]:
            raise ValueError(f"batches must be (m, {a.shape[1]}) like a, got {tuple(batch.shape)}")
        _check_finite("batches", batch)
        b = batch.to(a.device, torch.float64) - mean
        projected = b @ factor.T
        count, total, squares = count + len(b), total + b.sum(0), squares + b.square().sum()
        gram += projected.T @ projected
    if count < 2:
        raise ValueError(f"batches must hold at least 2 items, got {count}")
    shift = total / count
    trace_b = (squares - count * shift.square().sum()) / (count - 1)
    projected_shift = factor @ shift
    gram = (gram - count * torch.outer(projected_shift, projected_shift)) / (count - 1)
    trace_root = torch.linalg.eigvalsh(gram).clamp_min(0).sqrt().sum()
    return float((shift.square().sum() + trace_a + trace_b - 2 * trace_root).clamp_min(0))


class Neighbours(NamedTuple):
    """Attributes:
    distance: (n,) Euclidean distances to the nearest item, in units of an element, float32.
    item: (n,) int64 index of that item in the set.
    """

    distance: Tensor
    item: Tensor


def nearest_neighbours(queries: Tensor, batches: Iterable[Tensor], own: Tensor | None = None) -> Neighbours:
    """The nearest item of a set to each query. Uses memory for n × (the largest batch), not for n × N × D.

    Args:
        queries: (n, D).
        batches: of the set, (m, D) each, read once; at least 1 item other than the query's own.
        own: (n,) index in the set of each query itself, which is excluded (leave-one-out); -1 for none.
    """
    _check_matrix("queries", queries, least=1)
    best = queries.new_full((len(queries),), torch.inf)
    index = torch.zeros(len(queries), dtype=torch.int64, device=queries.device)
    centre, start = queries.mean(0), 0
    centred = queries - centre
    for batch in batches:
        items = batch.to(queries.device, queries.dtype)
        # Products find the nearest item; its distance is computed from the difference, exactly 0 for a copy.
        far = torch.cdist(centred, items - centre, compute_mode="use_mm_for_euclid_dist")
        if own is not None:
            column = own.to(queries.device) - start
            rows = ((column >= 0) & (column < len(items))).nonzero().squeeze(1)
            far[rows, column[rows]] = torch.inf
        found, nearest = far.min(1)
        exact = torch.linalg.vector_norm(queries - items[nearest], dim=1).masked_fill(found.isinf(), torch.inf)
        closer = exact < best
        best, index = torch.where(closer, exact, best), torch.where(closer, nearest + start, index)
        start += len(items)
    if not torch.isfinite(best).all():
        raise ValueError(f"batches must hold an item other than a query's own, and finite values, got {start} items")
    return Neighbours(best, index)


class Coverage(NamedTuple):
    """The classes of images according to a classifier, of C classes.

    Attributes:
        classes_hit: number of classes that are the most likely class of an image.
        rarest_share: share of images in the class with the fewest, 0 … 1/C.
        entropy: of the shares, in nats, 0 … log C.
        score: exp(mean KL(p(y|x) || p(y))), 1 … C.
        shares: (C,) of the images, by their most likely class.
    """

    classes_hit: int
    rarest_share: float
    entropy: float
    score: float
    shares: Tensor


def coverage(p: Tensor) -> Coverage:
    """Coverage of the classes from the probabilities p(y|x), (n, C), C at least 2.

    The score is the formula of the Inception Score (Salimans et al., NeurIPS 2016) with this classifier: 1 if it does
    not distinguish the images, C for C equally frequent classes of which it is certain. It equals
    exp(H(p(y)) - mean H(p(y|x))).
    """
    _check_matrix("p", p, least=1)
    p = p.double()
    shares = torch.bincount(p.argmax(1), minlength=p.shape[1]).double() / len(p)
    score = (_entropy(p.mean(0)) - _entropy(p).mean()).exp()
    return Coverage(int((shares > 0).sum()), float(shares.min()), float(_entropy(shares)), float(score), shares)


def auroc(low: Tensor, high: Tensor) -> float:
    """P(low < high) + ½ P(low = high) for a random pair: the area under the ROC curve of "smaller is low", 0 … 1.

    It is ½ for equal distributions (Mann and Whitney, Ann. Math. Statist. 18, 1947).
    """
    if len(low) == 0 or len(high) == 0:
        raise ValueError(f"low and high must hold at least 1 value, got {len(low)} and {len(high)}")
    ordered = high.double().sort().values
    low = low.to(ordered)
    greater = len(ordered) - torch.searchsorted(ordered, low, right=True)
    not_less = len(ordered) - torch.searchsorted(ordered, low, right=False)
    return float((greater + not_less).double().mean() / (2 * len(ordered)))


def _entropy(p: Tensor) -> Tensor:
    return torch.special.entr(p).sum(-1)


def _check_matrix(name: str, x: Tensor, least: int = 2) -> None:
    if x.dim() != 2 or len(x) < least or x.shape[1] == 0:
        raise ValueError(f"{name} must be (n, D) with n at least {least} and D at least 1, got {tuple(x.shape)}")


def _check_finite(name: str, x: Tensor) -> None:
    """Raises ValueError for values on which LAPACK may crash."""
    if not x.float().isfinite().all():
        raise ValueError(f"{name} must be finite, got NaN, infinite or enormous values")
