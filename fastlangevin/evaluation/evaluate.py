"""`evaluate`: how good a trained model's samples are, by which measure, in which order."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..chains.schedule import resolve
from ..data import labels as class_labels
from ..data.order import epoch_order
from ..data.ranges import UNIT, Range, rescaled
from ..data.sources import Data, check_value_range, load_data
from ..display.pictures import is_drawable, save_stacked
from ..display.progress import Stages
from ..errors import ChainDiverged
from ..runs.opening import open_run
from ..runs.result import TrainResult
from ..runs.settings import Settings
from ..samplers.generator import reconstruct
from ..samplers.langevin import Langevin, Trace
from ..samplers.preserve import aside
from ..validation import check_int
from . import classifier as classifiers
from . import inception, metrics

_BATCH = 256  # chains, or items of the data, at a time
_TIMES_K = 10  # how many times as long as a sample's chain the traced ones are
_RECORDS_PER_K = 10
_PICTURED = 32  # samples beside their nearest items
_FIT_ON = 10_000  # items that a classifier is fitted on at most, and half as many held out


def evaluate(
    run: str | Path | TrainResult | tuple[nn.Module, Langevin],
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
) -> dict[str, Any]:
    """Compares n samples of a model, short runs from fresh initial noise, with data.

    All lengths are of elements scaled to [-1, 1]; images are clipped to it, as in a picture, except where the energy is
    concerned. The result is a dict that JSON can hold, with these entries, each a dict; docs/evaluation.md says how to
    read them:

        pixels          frechet_distance: of Gaussians fitted to the pixels (`metrics.frechet_distance`), all data
        fid             fid, features, and for Inception inception_score and its std (`inception`), all data
        coverage        of classes: hit, rarest share, entropy in nats, classifier score (`metrics.coverage`), beside
                        the score of real data, and the held-out accuracy of a classifier that was fitted here
        neighbours      Euclidean distances of the samples to their nearest items of the data, beside those of up to n
                        items of the data to their nearest others
        energy          U of up to n items of the data and of the samples: means, standard deviations, gap
                        mean U(data) - mean U(samples), and auroc = P(U(data) < U(sample)), ½ where they look alike
        reconstruction  MSE per element of data by the best of latents (`reconstruct`)
        chain           what happens past K: mean energy and score norm, mean |x|, and the share of elements outside
                        [-1, 1], of n_chains chains at `steps` up to 10 K, and diverged_at

    "skipped" says which of these are not there and why, "notes" what to know of those that are. The rest are numbers
    that say what was compared. The same call gives the same result, what a network draws at random included; the run's
    own counter and weights, a network's buffers and torch's random state stay as they were.

    Args:
        run: a run's folder or checkpoint, what `train` or `load` returned, or another model and its sampler.
        data: as for `train`.
        model: of a run that is loaded: as for `load`.
        n: samples, at least 2.
        n_steps: K of the samples' chains; None: the sampler's.
        fid: False leaves it out; True makes it an error that it cannot be had. None: where it can. On a CPU Inception
            takes about 0.1 s an image, and FID means little unless n is above the number of features (2,048).
        features: of images in [-1, 1], (B, *event) to (B, D), in place of Inception's.
        coverage: of classes; False, True and None as for `fid`.
        classifier: of images in [-1, 1], (B, *event) to logits or probabilities (B, C). None: one is fitted on labels.
        labels: of the data, n whole numbers or the path of an .npy file; None: the data's own (`data.Data.labels`).
        n_reconstruct: items of the data to reconstruct; 0: none. The slowest part: 200 chains and their gradients.
        n_chains: that are traced past K; 0: none. Their states are kept, about 100 times.
        neighbours: a .png to write, of the 32 samples that are nearest to the data, above their nearest items; replaced
            where there is one.
        seed: of the noise, the data's subsets and the classifier.
        device: of a run that is loaded; "auto" as for `train`.
        image_size, value_range: of the data; see `data.load_data`.
        data_range: what interval the model's states have for the data's [-1, 1]. None: the run's; of a model and its
            sampler (-1, 1), unless the sampler's bounds are others, which is an error.
        progress: show it.

    Raises:
        ValueError, TypeError: an argument that is not as above, data of another shape than the run's, coverage=True
            without labels.
        FileNotFoundError, CheckpointError: no such run, data or labels, or a damaged checkpoint.
        ImportError: fid=True or features, or coverage=True, without the libraries (extras "eval", "inception").
        ChainDiverged: a sample's chain. One that does past K, or in reconstruction, is a finding and no error.
    """
    check_int("n", n, 2)
    check_int("n_reconstruct", n_reconstruct, 0)
    check_int("n_chains", n_chains, 0)
    check_int("seed", seed, 0)
    _check_choices(fid, features, coverage, classifier)
    opened = _open(run, model, device)
    sampler, settings, states = opened.sampler, opened.settings, _range(data_range, opened)
    source = load_data(data, image_size=image_size, value_range=value_range)
    if len(source) < 2:
        raise ValueError(f"data must hold at least 2 items to compare with, got {len(source)}")
    if settings is not None and tuple(settings.event_shape) != source.event_shape:
        raise ValueError(
            f"data must be of the run's shape {tuple(settings.event_shape)}, got {source.event_shape} "
            "(image_size= resizes the pictures of a folder)"
        )
    if neighbours is not None and not is_drawable(source.event_shape):
        raise ValueError(f"neighbours draws images of 1 or 3 channels, and the data are {source.event_shape}")
    if labels is not None:
        source = with_labels(source, labels)
    if coverage and classifier is None and source.labels is None:
        raise ValueError(f"coverage=True needs labels or a classifier, and {source.name} has no labels: give labels=")
    if n_steps is not None:
        sampler.n_steps = check_int("n_steps", n_steps)
    sampler.load_state_dict({**sampler.state_dict(), "seed": seed, "step": 0})
    with aside(sampler.target.module, sampler.target.device() or torch.device("cpu")):
        torch.manual_seed(seed)
        evaluation = _Evaluation(sampler, source, states, n, seed, Stages(progress))
        result: dict[str, Any] = {
            "n": n,
            "n_steps": sampler.n_steps,
            "seed": seed,
            "data": source.name,
            "n_data": len(source),
            "trained_on_data": None if settings is None else settings.data_fingerprint == source.fingerprint,
            "pixels": {"frechet_distance": evaluation.frechet()},
        }
        parts: dict[str, Callable[[], dict[str, Any]]] = {
            "fid": lambda: evaluation.fid(fid, features),
            "coverage": lambda: evaluation.coverage(coverage, classifier),
            "neighbours": lambda: evaluation.neighbours(None if neighbours is None else Path(neighbours)),
            "energy": evaluation.energy,
            "reconstruction": lambda: evaluation.reconstruction(n_reconstruct),
            "chain": lambda: evaluation.chain(n_chains),
        }
        skipped = {}
        for name, part in parts.items():
            try:
                result[name] = part()
            except _Skipped as why:
                skipped[name] = str(why)
        result |= {"notes": evaluation.notes, "skipped": skipped}
        return _plain(result)


class _Skipped(Exception):
    """A part that is not there; the message says why."""


@dataclass
class _Evaluation:
    """What the parts share: the samples, and the items of the data that stand for all where a part need not see all."""

    sampler: Langevin
    data: Data
    range: Range
    n: int
    seed: int
    stages: Stages

    def __post_init__(self) -> None:
        self.notes: dict[str, str] = {}
        self.items = epoch_order(len(self.data), seed=self.seed, epoch=0)[: self.n]
        self.states = self._sample()
        self.device = self.states.device
        self.samples = self._shown(rescaled(self.states, self.range, UNIT))

    def frechet(self) -> float:
        pixels = (x.flatten(1) for x in self._all_data("pixels' Fréchet distance"))
        return metrics.frechet_distance(self.samples.flatten(1), pixels)

    def fid(self, asked: bool | None, features: Callable[[Tensor], Tensor] | None) -> dict[str, Any]:
        if asked is False:
            raise _Skipped("fid=False")
        networks = None
        try:
            if features is not None:
                inception.check_torchmetrics()
            elif not is_drawable(self.data.event_shape):
                raise _unless(
                    asked, ValueError(f"Inception takes images of 1 or 3 channels, got {self.data.event_shape}")
                )
            else:
                inception.check_installed()
                self.stages.say("loading Inception")
                networks = inception.load(self.device)
        except inception.Unavailable as error:
            raise _unless(asked or features is not None, error) from error
        network = features if networks is None else networks.features
        assert network is not None
        n_features = _n_features(network, self.samples[:2])
        result: dict[str, Any] = {
            "fid": inception.frechet_inception_distance(
                network, n_features, self._all_data("FID: the data"), self._all_samples("FID: the samples")
            ),
            "features": n_features,
        }
        if min(self.n, len(self.data)) <= n_features:
            self.notes["fid"] = (
                f"{self.n:,} samples and {len(self.data):,} items of the data for {n_features:,} features: with no "
                "more of either than there are features a covariance is singular and the FID far too high; raise n"
            )
        if networks is not None:
            score, std = inception.inception_score(networks.logits, self._all_samples("Inception Score"), self.seed)
            result |= {"inception_score": score, "inception_score_std": std}
        return result

    def coverage(self, asked: bool | None, classifier: Callable[[Tensor], Tensor] | None) -> dict[str, Any]:
        if asked is False:
            raise _Skipped("coverage=False")
        fitted, real = None, self._data(self.items)
        if classifier is None:
            fitted, real = self._fit(asked)
            classifier = fitted.predict
        self.stages.say("coverage of classes")
        seen = metrics.coverage(classifiers.probabilities(classifier, self.samples))
        return {
            "n_classes": len(seen.shares),
            "classes_hit": seen.classes_hit,
            "rarest_share": seen.rarest_share,
            "entropy": seen.entropy,
            "score": seen.score,
            "data_score": metrics.coverage(classifiers.probabilities(classifier, real)).score,
            "accuracy": None if fitted is None else fitted.accuracy,
            "n_held_out": None if fitted is None else len(fitted.held_out),
            "classes": list(range(len(seen.shares))) if fitted is None else fitted.classes,
            "shares": seen.shares.tolist(),
        }

    def neighbours(self, picture: Path | None) -> dict[str, Any]:
        queries = torch.cat([self.samples, self._data(self.items)]).flatten(1)
        own = torch.cat([torch.full((self.n,), -1), self.items])
        pixels = (x.flatten(1) for x in self._all_data("nearest neighbours"))
        found = metrics.nearest_neighbours(queries, pixels, own)
        distance = found.distance.double()
        samples, data = distance[: self.n], distance[self.n :]
        if picture is not None:
            closest = samples.argsort()[:_PICTURED]
            save_stacked([self.samples[closest], self._data(found.item[closest].cpu())], picture)
        usual = float(data.median())
        return {
            "distance_median": float(samples.median()),
            "distance_min": float(samples.min()),
            "data_distance_median": usual,
            "data_distance_min": float(data.min()),
            "ratio_median": float(samples.median()) / usual if usual else None,
            "ratio_min": float(samples.min()) / usual if usual else None,
            "share_closer_than_data": float((samples < data.quantile(0.01)).double().mean()),
        }

    def energy(self) -> dict[str, Any]:
        if self.sampler.target.kind == "score":
            raise _Skipped("the sampler was given a score, of which no energy is known")
        self.stages.say("energies")
        data = self._energies(rescaled(self._data(self.items), UNIT, self.range))
        samples = self._energies(self.states)
        return {
            "data_mean": float(data.mean()),
            "data_std": float(data.std()),
            "samples_mean": float(samples.mean()),
            "samples_std": float(samples.std()),
            "gap": float(data.mean() - samples.mean()),
            "auroc": metrics.auroc(data, samples),
        }

    def reconstruction(self, n: int) -> dict[str, Any]:
        if n == 0:
            raise _Skipped("n_reconstruct=0")
        x = rescaled(self._data(self.items[:n]), UNIT, self.range)
        self.stages.say(f"reconstruction of {len(x)} items")
        try:
            mse = reconstruct(self.sampler, x).mse.double()
        except ChainDiverged as error:
            raise _Skipped(str(error)) from error
        mse = mse * (2 / (self.range[1] - self.range[0])) ** 2
        return {
            "n": len(x),
            "mse_mean": float(mse.mean()),
            "mse_median": float(mse.median()),
            "mse_max": float(mse.max()),
        }

    def chain(self, n_chains: int) -> dict[str, Any]:
        if n_chains == 0:
            raise _Skipped("n_chains=0")
        length, every = _TIMES_K * self.sampler.n_steps, math.ceil(self.sampler.n_steps / _RECORDS_PER_K)
        try:
            for name in ("step_size", "noise_std"):
                if (schedule := getattr(self.sampler, name)) is not None:
                    resolve(name, schedule, length)
        except (ValueError, TypeError) as error:
            raise _Skipped(f"the schedule does not reach to {length} steps: {error}") from error
        shape = (min(n_chains, self.n), *self.data.event_shape)
        self.stages.say(f"{shape[0]} chains of {length} steps")
        x0 = self.sampler.initial(shape, step=0, device=self.device)
        trace, diverged_at = trace_until_divergence(self.sampler, x0, length, every)
        elements = rescaled(trace.x.flatten(1).float(), self.range, UNIT)
        return {
            "n_chains": shape[0],
            "n_steps": self.sampler.n_steps,
            "diverged_at": diverged_at,
            "steps": trace.steps.tolist(),
            "energy": None if trace.energy is None else trace.energy.double().mean(1).tolist(),
            "score_norm": trace.score_norm.double().mean(1).tolist(),
            "mean_abs": elements.abs().mean(1, dtype=torch.float64).tolist(),
            "share_outside": (elements.abs() > 1).double().mean(1).tolist(),
        }

    def _sample(self) -> Tensor:
        """The states of n chains; each has the noise of its place, so that batches are one call in pieces."""
        stage = f"{self.n:,} samples of {self.sampler.n_steps} steps"
        begins = range(0, self.n, _BATCH)
        x = torch.cat(
            [
                self.sampler.sample((min(_BATCH, self.n - i), *self.data.event_shape), chain_offset=i, step=0)
                for i in self.stages.track(stage, begins, len(begins))
            ]
        )
        self.sampler.check()
        return x

    def _fit(self, asked: bool | None) -> tuple[classifiers.FittedClassifier, Tensor]:
        """A classifier of the data's labels, and the images that it has not seen."""
        if self.data.labels is None:
            raise _Skipped(f"{self.data.name} has no labels")
        chosen = epoch_order(len(self.data), seed=self.seed, epoch=1)[: _FIT_ON * 3 // 2]
        images, labels = self.data.batch(chosen).cpu(), self.data.labels[chosen]
        self.stages.say(f"fitting a classifier on {2 * len(images) // 3:,} items")
        try:
            fitted = classifiers.fit(images, labels, 2 * len(images) // 3, self.seed)
        except (ImportError, ValueError) as error:
            raise _unless(asked, error) from error
        return fitted, images[fitted.held_out]

    def _energies(self, states: Tensor) -> Tensor:
        return torch.cat([self.sampler.energy(x) for x in states.split(_BATCH)]).double()

    def _data(self, indices: Tensor) -> Tensor:
        return torch.cat([self.data.batch(i) for i in indices.split(_BATCH)]).to(self.device)

    def _all_data(self, stage: str) -> Iterator[Tensor]:
        pieces = torch.arange(len(self.data)).split(_BATCH)
        for indices in self.stages.track(stage, pieces, len(pieces)):
            yield self.data.batch(indices).to(self.device)

    def _all_samples(self, stage: str) -> Iterator[Tensor]:
        pieces = self.samples.split(_BATCH)
        yield from self.stages.track(stage, pieces, len(pieces))

    def _shown(self, x: Tensor) -> Tensor:
        """Samples of images as a picture has them; of points, as they are."""
        return x.clamp(-1, 1) if len(self.data.event_shape) == 3 else x


def trace_until_divergence(sampler: Langevin, x0: Tensor, n_steps: int, every: int) -> tuple[Trace, int | None]:
    """A trace from the sampler's noise step 0, up to the last record before chains stop being finite.

    Returns:
        The trace; and the number of steps after which a state was first not finite, or None. (On CUDA, where that is
        learnt late, it is the number at the first record that is not finite.)
    """
    trace = None
    try:
        trace = sampler.trace(x0, every=every, n_steps=n_steps, step=0)
        sampler.check()
        return trace, None
    except ChainDiverged as error:
        if trace is not None:
            finite = torch.isfinite(trace.x).flatten(1).all(1).cpu()
            end = int(finite.int().argmin())
            energy = None if trace.energy is None else trace.energy[:end]
            records = Trace(trace.x[:end], energy, trace.score_norm[:end], trace.steps[:end])
            return records, int(trace.steps[end])
        if not error.step:  # at once, or not met again in a second pass
            raise
        return sampler.trace(x0, every=every, n_steps=error.step, step=0), error.step + 1


def _check_choices(fid: object, features: object, coverage: object, classifier: object) -> None:
    for name, value in (("fid", fid), ("coverage", coverage)):
        if value not in (None, True, False):
            raise ValueError(f"{name} must be True, False or None, got {value!r}")
    for name, function, choice, chosen in (
        ("features", features, "fid", fid),
        ("classifier", classifier, "coverage", coverage),
    ):
        if function is not None and not callable(function):
            raise TypeError(f"{name} must be callable, got {type(function).__name__}")
        if function is not None and chosen is False:
            raise ValueError(f"{name} is for {choice}, and {choice}=False leaves it out")


class _Opened(NamedTuple):
    """A sampler of the evaluation's own, of the same network; and of a run its settings and its states' interval."""

    sampler: Langevin
    settings: Settings | None
    range: Range | None


def _open(run: Any, model: nn.Module | None, device: str | torch.device) -> _Opened:
    if isinstance(run, (str, Path)):
        opened = open_run(run, model=model, device=device)
        return _Opened(opened.sampler, opened.settings, opened.settings.range)
    sampler = run.sampler if isinstance(run, TrainResult) else run[-1] if isinstance(run, tuple) and run else None
    if not isinstance(sampler, Langevin):
        raise TypeError(
            "run must be a run's folder or checkpoint, a TrainResult, or a pair (model, sampler) with a Langevin, got "
            f"{type(run).__name__}"
        )
    if model is not None:
        raise ValueError(f"model is for a run that is loaded, and run is a {type(run).__name__}, which has its own")
    if device != "auto":
        raise ValueError(f"device={str(device)!r} is for a run that is loaded: move the model yourself")
    return _Opened(copy.copy(sampler), None, run.data_range if isinstance(run, TrainResult) else None)


def with_labels(data: Data, labels: Any) -> Data:
    """The data with labels: whole numbers, or the path of an .npy file."""
    given = class_labels.read(Path(labels)) if isinstance(labels, (str, Path)) else labels
    return replace(data, labels=class_labels.check(given, len(data)))


def _range(given: tuple[float, float] | None, opened: _Opened) -> Range:
    """The interval of the model's states."""
    if given is not None:
        return check_value_range("data_range", given)
    if opened.range is not None:
        return opened.range
    if opened.sampler.bounds not in (None, UNIT):
        raise ValueError(
            "data_range must say what interval the model learned its data in, which a model and its sampler do not: "
            f"got None, and a sampler with bounds={opened.sampler.bounds}"
        )
    return UNIT


def _n_features(features: Callable[[Tensor], Tensor], x: Tensor) -> int:
    with torch.no_grad():
        found = features(x)
    if not isinstance(found, Tensor) or found.dim() != 2 or len(found) != len(x):
        got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(f"features must return ({len(x)}, D) for {len(x)} images, got {got}")
    return found.shape[1]


def _unless(asked: bool | None, error: Exception) -> Exception:
    """The error where the part was asked for, else why it is left out."""
    return error if asked else _Skipped(str(error))


def _plain(value: Any) -> Any:
    """For JSON, which has no NaN and no infinity: None in their place."""
    if isinstance(value, dict):
        return {key: _plain(v) for key, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
