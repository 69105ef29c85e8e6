"""A classifier of the data's labels, by which samples are judged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

_BATCH = 256


class FittedClassifier(NamedTuple):
    """Attributes:
    predict: images, (n, *event) in [-1, 1], to p(y|x), (n, C) float32 on the CPU.
    classes: the C labels that there are, in the order of p's columns.
    held_out: the numbers of the items that it was not fitted on, int64.
    accuracy: share of those that it names right, 0 … 1.
    """

    predict: Callable[[Tensor], Tensor]
    classes: list[int]
    held_out: Tensor
    accuracy: float


def fit(images: Tensor, labels: Tensor, n_fit: int, seed: int = 0) -> FittedClassifier:
    """scikit-learn's MLPClassifier((128, 64)) on pixels scaled to [0, 1], fitted on n_fit items drawn at random.

    Args:
        images: (n, *event) in [-1, 1].
        labels: (n,), whole numbers of 2 classes at least.
        n_fit: at least 2, below n; the others are held out.
        seed: of the draw and of the weights.

    Raises:
        ImportError: no scikit-learn (extra "eval").
        ValueError: fewer than 2 classes, or n_fit out of range.
    """
    try:
        from sklearn.neural_network import MLPClassifier
        from threadpoolctl import threadpool_limits
    except ImportError as error:
        raise ImportError(
            f"fitting a classifier needs scikit-learn ({error}): pip install 'fastlangevin[eval]'"
        ) from None
    classes = labels.unique()
    if len(classes) < 2:
        raise ValueError(f"labels must name at least 2 classes, got {classes.tolist()} for every item")
    if not 2 <= n_fit < len(images):
        raise ValueError(f"n_fit must lie in 2 … {len(images) - 1}, one less than there are items, got {n_fit}")
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    fitted, held_out = order[:n_fit], order[n_fit:]
    model = MLPClassifier((128, 64), random_state=seed % 2**32, max_iter=500)
    with threadpool_limits(1):  # products so small that a second thread makes them slower, tenfold on a busy machine
        model.fit(_pixels(images[fitted]), labels[fitted].numpy())
    known = torch.searchsorted(
        classes, torch.from_numpy(model.classes_)
    )  # a rare class may be in the held-out part only

    def predict(x: Tensor) -> Tensor:
        p = torch.zeros(len(x), len(classes))
        p[:, known] = torch.from_numpy(model.predict_proba(_pixels(x))).float()
        return p

    right = classes[predict(images[held_out]).argmax(1)] == labels[held_out]
    return FittedClassifier(predict, classes.tolist(), held_out, float(right.double().mean()))


def probabilities(classifier: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """p(y|x), (n, C) on the CPU, of images (n, *event), by a classifier that gives logits or probabilities.

    Rows that are not negative and sum to 1 (to 1e-3) are probabilities; else a softmax makes them so.

    Raises:
        TypeError: the classifier gives no tensor.
        ValueError: it gives another shape than (n, C) with C at least 2, or values that are not finite.
    """
    with torch.no_grad():
        p = torch.cat([_checked(classifier(x), len(x)) for x in _batches(images)])
    is_probability = bool((p >= 0).all()) and bool(((p.sum(1) - 1).abs() < 1e-3).all())
    return p if is_probability else p.softmax(1)


def _checked(p: object, n: int) -> Tensor:
    if not isinstance(p, Tensor):
        raise TypeError(f"classifier must return a tensor of logits or probabilities, got {type(p).__name__}")
    if p.dim() != 2 or len(p) != n or p.shape[1] < 2:
        raise ValueError(f"classifier must return ({n}, number of classes) for {n} images, got {tuple(p.shape)}")
    if not torch.isfinite(p).all():
        raise ValueError("classifier must return finite values, got NaN or infinity")
    return p.cpu().double()


def _batches(images: Tensor) -> Iterator[Tensor]:
    return iter(images.split(_BATCH))


def _pixels(images: Tensor) -> np.ndarray:
    return ((images.detach().cpu().float().clamp(-1, 1) + 1) / 2).flatten(1).numpy()
