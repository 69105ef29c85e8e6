"""FID and Inception Score by torchmetrics, on the features of Inception v3 or of a user-defined network.

torchmetrics (extra "eval") needs only torch. Inception v3 with the weights of the original FID code is part of
torch-fidelity (extra "inception"), which needs a torchvision built for the installed torch and downloads 91 MB once
into torch.hub's folder (TORCH_HOME).
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..validation import dtype_and_shape

N_FEATURES = 2048  # of Inception's last pooling layer

Network = Callable[[Tensor], Tensor]


class Unavailable(ImportError):
    """A library or the weights of Inception are not available; the message is the reason."""


class Networks(NamedTuple):
    """Inception v3 up to its features and up to its logits without bias, of images in [-1, 1], (n, 1 or 3, H, W)."""

    features: Network
    logits: Network


def check_torchmetrics() -> None:
    """Raises `Unavailable` if torchmetrics is not installed or cannot be imported."""
    if importlib.util.find_spec("torchmetrics") is None:
        raise Unavailable("FID needs torchmetrics, which is not installed: pip install 'fastlangevin[eval]'")
    try:
        import torchmetrics.image.fid
        import torchmetrics.image.inception  # noqa: F401
    except Exception as error:  # a torchvision built for another torch raises other errors than ImportError
        raise Unavailable(f"torchmetrics cannot be imported ({type(error).__name__}: {error})") from error


def check_installed() -> None:
    """Raises `Unavailable` if torchmetrics or torch-fidelity (which has Inception) is not installed."""
    if importlib.util.find_spec("torch_fidelity") is None:
        raise Unavailable(
            "Inception needs torch-fidelity, which is not installed: pip install 'fastlangevin[inception]'"
        )
    check_torchmetrics()


def load(device: torch.device) -> Networks:
    """Loads Inception v3 to a device.

    Raises:
        Unavailable: the weights cannot be downloaded.
    """
    try:
        from torchmetrics.image.fid import NoTrainInceptionV3

        made = [NoTrainInceptionV3("inception-v3-compat", [name]) for name in (str(N_FEATURES), "logits_unbiased")]
    except Exception as error:  # no network, a server's answer, a damaged file: each raises other errors
        raise Unavailable(f"Inception cannot be loaded ({type(error).__name__}: {error})") from error
    features, logits = (network.to(device) for network in made)
    return Networks(lambda x: features(_bytes(x)), lambda x: logits(_bytes(x)))


def frechet_inception_distance(
    features: Network, n_features: int, real: Iterable[Tensor], samples: Iterable[Tensor]
) -> float:
    """The FID (Heusel et al., NeurIPS 2017) between batches of images: `metrics.frechet_distance` of features.

    In squared units of the features; 0 for equal means and covariances. The value depends on the number of images on
    both sides and means little unless both exceed the number of features.

    Args:
        features: maps a batch of images, (n, *event), to (n, n_features).

    Raises:
        TypeError, ValueError: features that are not as above, or not finite in float32.
    """
    from torchmetrics.image.fid import FrechetInceptionDistance

    distance = FrechetInceptionDistance(feature=_Module(features, n_features))
    for is_real, batches in ((True, real), (False, samples)):
        for batch in batches:
            distance.to(batch.device).update(batch, real=is_real)
    return max(0.0, float(distance.compute()))


def inception_score(logits: Network, samples: Iterable[Tensor], seed: int) -> tuple[float, float]:
    """The Inception Score (Salimans et al., NeurIPS 2016), exp(mean KL(p(y|x) || p(y))): mean and std of 10 splits.

    It is 1 if the network does not distinguish the images, and at most the number of classes. Needs at least 2 samples.
    """
    from torchmetrics.image.inception import InceptionScore

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Metric `InceptionScore` will save all extracted features")
        score = InceptionScore(feature=_Module(logits, None))
    for batch in samples:
        score.to(batch.device).update(batch)
    with torch.random.fork_rng(devices=()):  # it shuffles before it splits
        torch.default_generator.manual_seed(seed)
        mean, std = score.compute()
    return float(mean), float(std)


def check_features(found: object, n: int, n_features: int | None = None) -> Tensor:
    """Returns what `features` gave for n images. LAPACK, which reads them, may crash on NaN and infinities.

    Raises:
        TypeError: not a tensor.
        ValueError: not (n, D), of another D than n_features, or not finite in float32, whose squares fit float64.
    """
    if not isinstance(found, Tensor):
        raise TypeError(f"features must return a tensor, got {type(found).__name__}")
    if found.dim() != 2 or len(found) != n or (n_features is not None and found.shape[1] != n_features):
        wanted = "D" if n_features is None else n_features
        raise ValueError(f"features must return ({n}, {wanted}) for {n} images, got {dtype_and_shape(found)}")
    n_bad = n - int(found.float().isfinite().all(dim=1).sum())
    if n_bad:
        raise ValueError(
            f"features must return finite values, got NaN, infinite or enormous ones for {n_bad} of {n} images"
        )
    return found


class _Module(nn.Module):
    """Wraps a function in the module that torchmetrics needs, and checks what it returns."""

    def __init__(self, function: Network, n_features: int | None) -> None:
        super().__init__()
        self.function = [function]  # in a list, so that a module's mode and device are not changed from here
        self.num_features = n_features

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return check_features(self.function[0](x), len(x), self.num_features)


def _bytes(x: Tensor) -> Tensor:
    """Images in [-1, 1] as uint8 with three channels, rounded as in an image file."""
    return ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).expand(-1, 3, -1, -1)
