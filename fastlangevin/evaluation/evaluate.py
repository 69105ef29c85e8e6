"""`evaluate`: opens a model, draws samples, and measures them part by part."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..data.dataset import Data, with_labels
from ..data.load_once import load_once
from ..data.ranges import UNIT, Range
from ..data.sources import load_data, load_data_of_shape
from ..data.values import check_value_range
from ..display.pictures import is_drawable
from ..display.progress import Stages
from ..distributed.start import joined
from ..runs.opening import open_run
from ..runs.result import TrainResult
from ..runs.settings import Settings
from ..samplers.base import Sampler
from ..samplers.preserve import aside
from ..validation import check_int, check_positive
from . import parts


def evaluate(
    run: str | Path | TrainResult | tuple[nn.Module, Sampler],
    data: Any,
    *,
    model: nn.Module | None = None,
    n: int = 1024,
    n_steps: int | None = None,
    fid: bool | None = None,
    features: Callable[[Tensor], Tensor] | None = None,
    coverage: bool | None = None,
    classifier: Callable[[Tensor], Tensor] | None = None,
    labels: Any = None,
    n_reconstruct: int = 64,
    n_chains: int = 32,
    neighbours: str | Path | None = None,
    seed: int = 0,
    device: str | torch.device = "auto",
    image_size: int | None = None,
    value_range: tuple[float, float] | None = None,
    data_range: tuple[float, float] | None = None,
    progress: bool = True,
    timeout: float = 1800.0,
) -> dict[str, Any]:
    """Compares n samples of a model, short runs from fresh initial noise, with data.

    The samples of a class-conditional run are of the classes of random data items or, if the data has no labels, of all
    classes in turn. The network's energies are then those of the labels, and parts that need those of data without
    labels are skipped.

    All lengths are in units of elements scaled to [-1, 1]. Images are clipped to this interval, as in a picture, except
    for energies. The same call gives the same result, even for a network that draws random numbers. The sampler's step
    counter, the network's weights and buffers, and torch's random state are left unchanged.

    Args:
        run: a run's folder or checkpoint, the result of `train` or `load`, or another pair (model, sampler).
        data: as for `train`.
        model: of a run that is loaded, as for `load`.
        n: number of samples, at least 2.
        n_steps: K, the number of steps of a sample's chain. Default: the sampler's.
        fid: whether to compute the FID. None: if it is available. True: raise an error if it is not. On a CPU Inception
            takes about 0.1 s per image, and the FID means little unless n exceeds the number of features (2,048).
        features: maps images in [-1, 1], (B, *event), to (B, D), finite. Default: Inception's features.
        coverage: whether to compute the coverage of classes: False, True or None as for `fid`.
        classifier: maps images in [-1, 1], (B, *event), to logits or probabilities (B, C). Default: a classifier fitted
            on the labels.
        labels: of the data: one integer per item, or the path of an .npy file. Default: the data's own (`Data.labels`).
        n_reconstruct: number of data items to reconstruct, 0 for none. The slowest part: 200 chains and their
            gradients.
        n_chains: number of chains to trace past K steps, 0 for none. About 100 states of each are kept in memory.
        neighbours: a .png file to write, with the 32 samples nearest to the data above their nearest items. An existing
            file is replaced.
        seed: of the noise, the subsets of the data and the classifier.
        device: of a run that is loaded; "auto" as for `train`.
        image_size, value_range: of the data; see `load_data`.
        data_range: the interval of the model's states that corresponds to [-1, 1] of the data. Default: the run's, or
            (-1, 1) for a pair (model, sampler), which is an error if the sampler has other bounds.
        progress: whether to show progress.
        timeout: seconds that ranks wait for rank 0. Where torch.distributed is initialised, or torchrun has started
            several ranks, each draws its part of the samples, the same ones as in one process; rank 0 measures them,
            and all return its result.

    Returns:
        A dict of numbers, strings, lists and dicts that can be written as JSON; NaN and infinities are None. It has n,
        n_steps, seed, data (its name), n_data, trained_on_data, and an entry for each of these parts, a dict.
        docs/evaluation.md explains how to read them.

        - pixels: frechet_distance of Gaussians fitted to the pixels, of all data (`metrics.frechet_distance`).
        - fid: fid of all data, the number of features and, with Inception, inception_score and inception_score_std.
        - coverage: classes hit, rarest share, entropy in nats and classifier score (`metrics.coverage`), the score of
          real data, and the held-out accuracy of a fitted classifier.
        - neighbours: Euclidean distances from the samples to their nearest data items, and from up to n data items to
          their nearest other items.
        - energy: mean and standard deviation of U for up to n data items and for the samples, gap = mean U(data) - mean
          U(samples), and auroc = P(U(data) < U(sample)), which is ½ for equal distributions.
        - reconstruction: MSE per element of data items by the best latents (`reconstruct`).
        - chain: at `steps` up to 10 K, of n_chains chains: mean energy, mean score norm, mean |x| and the share of
          elements outside [-1, 1]; and diverged_at.
        - notes: remarks on parts, by name, and on the data (`Data.notes`).
        - skipped: the reason for each part that is missing, by name.

    Raises:
        ValueError, TypeError: an argument that is not as above; data of another shape than the run's; coverage=True
            without labels; ranks that disagree on n, n_steps or seed.
        FileNotFoundError: no such run, data or labels.
        CheckpointError: a damaged checkpoint.
        ImportError: fid=True or features, or coverage=True, without the libraries (extras "eval", "inception").
        ChainDiverged: a sample's chain diverged. Divergence past K steps or in a reconstruction is part of the result.

    Examples:
        >>> result = fl.train("digits", n_iterations=2, features=8, progress=False)
        >>> parts = {"fid": False, "coverage": False, "n_reconstruct": 0, "n_chains": 0}  # without the slow ones
        >>> report = fl.evaluate(result, "digits", n=64, **parts, progress=False)
        >>> report["n"], sorted(report["pixels"]), sorted(report["energy"])
        (64, ['frechet_distance'], ['auroc', 'data_mean', 'data_std', 'gap', 'samples_mean', 'samples_std'])
    """
    n, n_reconstruct = check_int("n", n, 2), check_int("n_reconstruct", n_reconstruct, 0)
    n_chains, seed = check_int("n_chains", n_chains, 0), check_int("seed", seed, 0)
    check_positive("timeout", timeout)
    _check_choices(fid, features, coverage, classifier)
    opened = _open(run, model, device)
    if opened.sampler.target.is_sharded:
        raise ValueError(
            "run must have a network whose parameters each rank has whole, because rank 0 alone measures, but "
            "fully_shard divided them: write the run (train(out=...)) and pass its folder"
        )
    sampler, trained, states_range = opened.sampler, opened.settings, _states_range(data_range, opened)
    options: dict[str, Any] = {"image_size": image_size, "value_range": value_range}
    where = sampler.target.device() or torch.device("cpu")

    def loaded() -> Data:
        shape = None if trained is None else tuple(trained.event_shape)
        source = load_data(data, **options) if shape is None else load_data_of_shape(data, shape, **options)
        _check_data(source, trained)
        if neighbours is not None and not is_drawable(source.event_shape):
            raise ValueError(f"neighbours needs images of 1 or 3 channels, got data of shape {source.event_shape}")
        if labels is not None:
            source = with_labels(source, labels)
        if coverage and classifier is None and source.labels is None:
            raise ValueError(
                f"coverage=True needs labels or a classifier, but {source.name} has no labels: pass labels="
            )
        return source

    def measured(drawn: parts.Drawn) -> dict[str, Any]:
        source = drawn.data
        result: dict[str, Any] = {
            "n": n,
            "n_steps": sampler.n_steps,
            "seed": seed,
            "data": source.name,
            "n_data": len(source),
            "trained_on_data": None if trained is None else trained.data_fingerprint == source.fingerprint,
        }
        functions: dict[str, Callable[[], dict[str, Any]]] = {
            "pixels": lambda: parts.pixels(drawn),
            "fid": lambda: parts.fid(drawn, fid, features),
            "coverage": lambda: parts.coverage(drawn, coverage, classifier),
            "neighbours": lambda: parts.neighbours(drawn, neighbours),
            "energy": lambda: parts.energy(drawn),
            "reconstruction": lambda: parts.reconstruction(drawn, n_reconstruct),
            "chain": lambda: parts.chain(drawn, n_chains),
        }
        skipped = {}
        for name, function in functions.items():
            try:
                result[name] = function()
            except parts.Skipped as reason:
                skipped[name] = str(reason)
        of_data = {"data": "; ".join(source.notes)} if source.notes else {}
        notes = {**of_data, **parts.note_on_classes(drawn), **parts.notes(result)}
        return _to_json({**result, "notes": notes, "skipped": skipped})

    with joined(where.type, timeout) as ranks, aside(sampler.target.module, where):
        if n_steps is not None:
            sampler = sampler.replace(n_steps=n_steps)
        ranks.check_agreement({"n": str(n), "n_steps": str(sampler.n_steps), "seed": str(seed)})
        if n < ranks.size:
            raise ValueError(f"n must be at least the number of ranks, {ranks.size}, got {n}")
        source = load_once(ranks, data, loaded)
        sampler.load_state_dict({**sampler.state_dict(), "seed": seed, "step": 0})
        torch.manual_seed(seed)
        drawn = parts.draw(sampler, source, states_range, n, seed, Stages(progress and ranks.is_main), ranks)
        result: dict[str, Any] = {}
        with ranks.together():
            if drawn is not None:
                result = measured(drawn)
        return ranks.of_main(result)


def _check_choices(fid: object, features: object, coverage: object, classifier: object) -> None:
    for name, value in (("fid", fid), ("coverage", coverage)):
        if value not in (None, True, False):
            raise ValueError(f"{name} must be True, False or None, got {value!r}")
    for name, function, part, wanted in (
        ("features", features, "fid", fid),
        ("classifier", classifier, "coverage", coverage),
    ):
        if function is not None and not callable(function):
            raise TypeError(f"{name} must be callable, got {type(function).__name__}")
        if function is not None and wanted is False:
            raise ValueError(f"{name} is used for {part} only, which {part}=False disables")


def _check_data(data: Data, settings: Settings | None) -> None:
    if len(data) < 2:
        raise ValueError(f"data must hold at least 2 items to compare with, got {len(data)}")
    if settings is not None and tuple(settings.event_shape) != data.event_shape:
        raise ValueError(
            f"data must have the run's shape {tuple(settings.event_shape)}, got {data.event_shape} "
            "(image_size= resizes the images of a folder)"
        )


class _Opened(NamedTuple):
    """A copy of the sampler, and of a run its settings and the interval of its states."""

    sampler: Sampler
    settings: Settings | None
    range: Range | None


def _open(run: Any, model: nn.Module | None, device: str | torch.device) -> _Opened:
    if isinstance(run, (str, Path)):
        opened = open_run(run, model=model, device=device)
        return _Opened(opened.sampler, opened.settings, opened.settings.range)
    sampler = run.sampler if isinstance(run, TrainResult) else run[-1] if isinstance(run, tuple) and run else None
    if not isinstance(sampler, Sampler):
        raise TypeError(
            "run must be a run's folder or checkpoint, a TrainResult, or a pair (model, sampler), got "
            f"{type(run).__name__}"
        )
    if model is not None:
        raise ValueError(f"model must be None unless run is a path, got a {type(run).__name__}, which has its model")
    if device != "auto":
        raise ValueError(f"device must be 'auto' unless run is a path, got {str(device)!r}: move the model instead")
    return _Opened(copy.copy(sampler), None, run.data_range if isinstance(run, TrainResult) else None)


def _states_range(data_range: tuple[float, float] | None, opened: _Opened) -> Range:
    """The interval of the model's states."""
    if data_range is not None:
        return check_value_range("data_range", data_range)
    if opened.range is not None:
        return opened.range
    if opened.sampler.bounds not in (None, UNIT):
        raise ValueError(
            "data_range must be given, the interval of the data that the model was trained on: a model and its sampler "
            f"do not specify it, got None and a sampler with bounds={opened.sampler.bounds}"
        )
    return UNIT


def _to_json(value: Any) -> Any:
    """Replaces NaN and infinities, which JSON does not have, by None."""
    if isinstance(value, dict):
        return {key: _to_json(v) for key, v in value.items()}
    if isinstance(value, list):
        return [_to_json(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
