"""A classifier fitted on the labels of data, and probabilities by any classifier."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

_BATCH = 256


class FittedClassifier(NamedTuple):
    """Attributes:
    predict: maps images in [-1, 1], (n, *event), to p(y|x), (n, C) float32 on the CPU.
    classes: the C distinct labels, in the order of the columns of p(y|x).
    held_out: int64 indices of the items that it was not fitted on.
    accuracy: share of these items that it classifies correctly, 0 … 1.
    """

    predict: Callable[[Tensor], Tensor]
    classes: list[int]
    held_out: Tensor
    accuracy: float


def fit(images: Tensor, labels: Tensor, n_fit: int, seed: int = 0) -> FittedClassifier:
    """Fits scikit-learn's MLPClassifier((128, 64)) to pixels scaled to [0, 1] of n_fit random items.

    Args:
        images: (n, *event) in [-1, 1].
        labels: (n,) integers of at least 2 classes.
        n_fit: at least 2 and less than n; the other items are held out.
        seed: of the choice of items and of the weights.

    Raises:
        ImportError: no scikit-learn (extra "eval"), or a broken one.
        ValueError: fewer than 2 classes, or n_fit out of range.
    """
    try:
        from sklearn.neural_network import MLPClassifier
        from threadpoolctl import threadpool_limits
    except Exception as error:  # a broken installation raises other errors than ImportError
        raise ImportError(
            f"fitting a classifier needs scikit-learn ({error}): pip install 'fastlangevin[eval]'"
        ) from error
    classes = labels.unique()
    if len(classes) < 2:
        raise ValueError(f"labels must name at least 2 classes, got {classes.tolist()} for every item")
    if not 2 <= n_fit < len(images):
        raise ValueError(f"n_fit must be at least 2 and less than the {len(images)} items, got {n_fit}")
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed), device="cpu")
    fitted, held_out = order[:n_fit], order[n_fit:]
    model = MLPClassifier((128, 64), random_state=seed % 2**32, max_iter=500)
    with threadpool_limits(1):  # for products this small a second thread is slower, tenfold on a busy machine
        model.fit(_pixels(images[fitted]), labels[fitted].numpy())
    # A rare class may be in the held-out part only.
    fitted_columns = torch.searchsorted(classes, torch.from_numpy(model.classes_))

    def predict(x: Tensor) -> Tensor:
        p = torch.zeros(len(x), len(classes), device="cpu")
        p[:, fitted_columns] = torch.from_numpy(model.predict_proba(_pixels(x))).float()
        return p

    right = classes[predict(images[held_out]).argmax(1)] == labels[held_out]
    return FittedClassifier(predict, classes.tolist(), held_out, float(right.double().mean()))


def probabilities(classifier: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """p(y|x), (n, C) on the CPU, of images (n, *event), by a classifier that returns logits or probabilities.

    If all rows are non-negative and sum to 1 within 1e-3 they are taken as probabilities, else a softmax is applied.

    Raises:
        TypeError: the classifier does not return a tensor.
        ValueError: it returns another shape than (n, C) with C at least 2, or values that are not finite.
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
