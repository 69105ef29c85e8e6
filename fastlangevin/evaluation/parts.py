"""The parts of an evaluation, one function each: what is measured of samples and data, in the form of the result."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..chains import schedule
from ..data.dataset import Data
from ..data.order import epoch_order
from ..data.ranges import UNIT, Range, rescaled
from ..display.pictures import is_drawable, save_stacked
from ..display.progress import Stages
from ..distributed.ranks import Ranks
from ..errors import ChainDiverged
from ..samplers.base import Sampler
from ..samplers.generator import reconstruct
from ..samplers.langevin import Langevin
from ..samplers.trace import Trace
from . import classifier as classifiers
from . import inception, metrics

_BATCH = 256  # chains, or items of the data, at a time
_TIMES_K = 10  # length of a traced chain, in lengths of a sample's chain
_RECORDS_PER_K = 10
_N_PICTURED = 32  # samples in the picture of nearest neighbours
_MAX_FITTED = 10_000  # items that a classifier is fitted on at most; half as many are held out


class Skipped(Exception):
    """A part is not available; the message is the reason."""


class Drawn(NamedTuple):
    """Samples and the data that they are compared with.

    Attributes:
        sampler: at step 0, with the evaluation's seed.
        data: in [-1, 1].
        range: interval of the sampler's states.
        seed: of everything random.
        stages: shows what is being done.
        states: (n, *event) samples as the sampler returns them.
        samples: the states scaled to [-1, 1]; images are clipped to it.
        indices: int64, up to n data items that represent the data where a part does not need all.
        classes: int64 (n,), those of the samples, if the network is f(x, y); else None.
    """

    sampler: Sampler
    data: Data
    range: Range
    seed: int
    stages: Stages
    states: Tensor
    samples: Tensor
    indices: Tensor
    classes: Tensor | None

    def classes_of_samples(self, n: int) -> tuple[Tensor, ...]:
        """The classes of the first n samples, as arguments of the network."""
        return () if self.classes is None else (self.classes[:n],)

    def classes_of_items(self, indices: Tensor) -> tuple[Tensor, ...]:
        """The classes of items of the data, as arguments of the network."""
        if self.classes is None:
            return ()
        if self.data.labels is None:
            raise Skipped(f"the network is f(x, y) of classes y, and {self.data.name} has no labels")
        return (self.data.labels[indices].to(self.states.device),)

    def items(self, indices: Tensor) -> Tensor:
        """Items of the data, on the samples' device."""
        return torch.cat([self.data.batch(i) for i in indices.split(_BATCH)]).to(self.states.device)

    def all_items(self, stage: str) -> Iterator[Tensor]:
        """All items of the data in batches, while `stages` shows the stage."""
        batches = torch.arange(len(self.data), device="cpu").split(_BATCH)
        for indices in self.stages.track(stage, batches, len(batches)):
            yield self.data.batch(indices).to(self.states.device)

    def all_samples(self, stage: str) -> Iterator[Tensor]:
        """All samples in batches, while `stages` shows the stage."""
        batches = self.samples.split(_BATCH)
        yield from self.stages.track(stage, batches, len(batches))


def draw(
    sampler: Sampler, data: Data, states_range: Range, n: int, seed: int, stages: Stages, ranks: Ranks
) -> Drawn | None:
    """Draws n samples. Each has the noise of its index, so that they do not depend on the size of a batch, nor on the
    number of ranks, each of which draws its part of them for rank 0. The others return None.

    Raises:
        ChainDiverged: a chain's state became NaN or infinite.
    """
    mine, indices = ranks.part(n), epoch_order(len(data), seed=seed, epoch=0)[:n]
    starts = range(mine.start, mine.stop, _BATCH)
    batches = []
    with ranks.together():
        classes, stage = _classes(sampler, data, indices, n), f"{n:,} samples of {sampler.n_steps} steps"
        for start in stages.track(stage, starts, len(starts)):
            stop = min(start + _BATCH, mine.stop)
            of_batch = () if classes is None else (classes[start:stop],)
            batches.append(sampler.sample((stop - start, *data.event_shape), *of_batch, chain_offset=start, step=0))
        sampler.check()
    states = ranks.collect(torch.cat(batches), [len(part) for part in ranks.parts(n)])
    if states is None:
        return None
    states = states.to(batches[0].device)
    samples = rescaled(states, states_range, UNIT)
    if len(data.event_shape) == 3:
        samples = samples.clamp(-1, 1)
    return Drawn(sampler, data, states_range, seed, stages, states, samples, indices, classes)


def _classes(sampler: Sampler, data: Data, indices: Tensor, n: int) -> Tensor | None:
    """The classes of n samples, if the network is f(x, y): those of the data items in turn, or 0 … C - 1 in turn."""
    n_classes = sampler.target.n_classes
    if n_classes is None:
        return None
    y = torch.arange(n_classes, device="cpu") if data.labels is None else data.labels[indices]
    if int(y.max()) >= n_classes:
        raise ValueError(f"labels must be of the network's classes, 0 … {n_classes - 1}, got {int(y.max())}")
    return y.repeat(-(-n // len(y)))[:n].to(sampler.target.device() or "cpu")


def pixels(drawn: Drawn) -> dict[str, Any]:
    """The Fréchet distance of pixels, between the samples and all data."""
    batches = (x.flatten(1) for x in drawn.all_items("pixels' Fréchet distance"))
    return {"frechet_distance": metrics.frechet_distance(drawn.samples.flatten(1), batches)}


def fid(drawn: Drawn, required: bool | None, features: Callable[[Tensor], Tensor] | None) -> dict[str, Any]:
    """The FID between the samples and all data, and the Inception Score if the features are Inception's."""
    if required is False:
        raise Skipped("fid=False")
    logits = None
    if features is None:
        features, logits = _load_inception(drawn, required)
    else:
        inception.check_torchmetrics()
    n_features = _n_features(features, drawn.samples[:2])
    real, samples = drawn.all_items("FID: the data"), drawn.all_samples("FID: the samples")
    result: dict[str, Any] = {
        "fid": inception.frechet_inception_distance(features, n_features, real, samples),
        "features": n_features,
    }
    if logits is not None:
        samples = drawn.all_samples("Inception Score")
        score, std = inception.inception_score(logits, samples, drawn.seed)
        result |= {"inception_score": score, "inception_score_std": std}
    return result


def note_on_classes(drawn: Drawn) -> dict[str, str]:
    """A remark on the classes of the samples, if they have any."""
    if drawn.classes is None:
        return {}
    which = "in turn, because the data has no labels" if drawn.data.labels is None else "of random data items"
    return {"classes": f"the samples are of classes {which}"}


def notes(result: dict[str, Any]) -> dict[str, str]:
    """Remarks on the parts of a result: an FID of too few images."""
    n_features = result.get("fid", {}).get("features", 0)
    if min(result["n"], result["n_data"]) > n_features:
        return {}
    return {
        "fid": f"{result['n']:,} samples and {result['n_data']:,} data items for {n_features:,} features: unless there "
        "are more of both than features, a covariance is singular and the FID is far too high; raise n"
    }


def coverage(drawn: Drawn, required: bool | None, classifier: Callable[[Tensor], Tensor] | None) -> dict[str, Any]:
    """The classes that a classifier sees in the samples, and its score of real data that it was not fitted on."""
    if required is False:
        raise Skipped("coverage=False")
    fitted, real = None, drawn.items(drawn.indices)
    if classifier is None:
        fitted, real = _fit_classifier(drawn, required)
        classifier = fitted.predict
    drawn.stages.say("coverage of classes")
    seen = metrics.coverage(classifiers.probabilities(classifier, drawn.samples))
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


def neighbours(drawn: Drawn, picture: str | Path | None) -> dict[str, Any]:
    """Distances of samples to their nearest data items, and of data items to their nearest others.

    Args:
        picture: a file to write, of the samples nearest to the data above their nearest items; None for none.
    """
    n = len(drawn.samples)
    queries = torch.cat([drawn.samples, drawn.items(drawn.indices)]).flatten(1)
    own = torch.cat([torch.full((n,), -1, device="cpu"), drawn.indices])
    batches = (x.flatten(1) for x in drawn.all_items("nearest neighbours"))
    found = metrics.nearest_neighbours(queries, batches, own)
    distance = found.distance.double()
    samples, data = distance[:n], distance[n:]
    if picture is not None:
        closest = samples.argsort()[:_N_PICTURED]
        rows = [drawn.samples[closest], drawn.items(found.item[closest].cpu())]
        save_stacked(rows, picture, labels=("sample", "nearest item"))
    data_median = float(data.median())
    return {
        "distance_median": float(samples.median()),
        "distance_min": float(samples.min()),
        "data_distance_median": data_median,
        "data_distance_min": float(data.min()),
        "ratio_median": float(samples.median()) / data_median if data_median else None,
        "ratio_min": float(samples.min()) / data_median if data_median else None,
        "share_closer_than_data": float((samples < data.quantile(0.01)).double().mean()),
    }


def energy(drawn: Drawn) -> dict[str, Any]:
    """Energies of data items and of samples."""
    if drawn.sampler.target.kind == "score":
        raise Skipped("the sampler was given a score, so the energy is unknown")
    drawn.stages.say("energies")

    def energies(states: Tensor, *classes: Tensor) -> Tensor:
        batches = zip(*(tensor.split(_BATCH) for tensor in (states, *classes)), strict=True)
        return torch.cat([drawn.sampler.energy(*batch) for batch in batches]).double()

    of_items = drawn.classes_of_items(drawn.indices)
    data = energies(rescaled(drawn.items(drawn.indices), UNIT, drawn.range), *of_items)
    samples = energies(drawn.states, *drawn.classes_of_samples(len(drawn.states)))
    return {
        "data_mean": float(data.mean()),
        "data_std": float(data.std()),
        "samples_mean": float(samples.mean()),
        "samples_std": float(samples.std()),
        "gap": float(data.mean() - samples.mean()),
        "auroc": metrics.auroc(data, samples),
    }


def reconstruction(drawn: Drawn, n: int) -> dict[str, Any]:
    """MSE per element of n data items by the best latents, in squared units of [-1, 1]."""
    if n == 0:
        raise Skipped("n_reconstruct=0")
    if not isinstance(drawn.sampler, Langevin):
        raise Skipped(f"the generator is a chain of Langevin dynamics, not of {type(drawn.sampler).__name__}")
    x = rescaled(drawn.items(drawn.indices[:n]), UNIT, drawn.range)
    classes = drawn.classes_of_items(drawn.indices[:n])
    drawn.stages.say(f"reconstruction of {len(x)} items")
    try:
        mse = reconstruct(drawn.sampler, x, *classes).mse.double()
    except ChainDiverged as error:
        raise Skipped(str(error)) from error
    lo, hi = drawn.range
    mse = mse * (2 / (hi - lo)) ** 2
    return {
        "n": len(x),
        "mse_mean": float(mse.mean()),
        "mse_median": float(mse.median()),
        "mse_max": float(mse.max()),
    }


def chain(drawn: Drawn, n_chains: int) -> dict[str, Any]:
    """Records of the first n_chains samples' chains, continued to 10 K steps."""
    if n_chains == 0:
        raise Skipped("n_chains=0")
    sampler = drawn.sampler
    length, every = _TIMES_K * sampler.n_steps, math.ceil(sampler.n_steps / _RECORDS_PER_K)
    try:
        for name in ("step_size", "noise_std", "temperature"):
            if (given := getattr(sampler, name, None)) is not None:
                schedule.resolve(name, given, length)
    except (ValueError, TypeError) as error:
        raise Skipped(f"the schedule does not cover {length} steps: {error}") from error
    shape = (min(n_chains, len(drawn.samples)), *drawn.data.event_shape)
    drawn.stages.say(f"{shape[0]} chains of {length} steps")
    x0 = sampler.initial(shape, step=0, device=drawn.states.device)
    classes = drawn.classes_of_samples(shape[0])
    trace, diverged_at = trace_until_divergence(sampler, x0, *classes, n_steps=length, every=every)
    elements = rescaled(trace.x.flatten(1).float(), drawn.range, UNIT)
    return {
        "n_chains": shape[0],
        "n_steps": sampler.n_steps,
        "diverged_at": diverged_at,
        "steps": trace.steps.tolist(),
        "energy": None if trace.energy is None else trace.energy.double().mean(1).tolist(),
        "score_norm": trace.score_norm.double().mean(1).tolist(),
        "mean_abs": elements.abs().mean(1, dtype=torch.float64).tolist(),
        "share_outside": (elements.abs() > 1).double().mean(1).tolist(),
    }


def trace_until_divergence(
    sampler: Sampler, x0: Tensor, *args: Tensor, n_steps: int, every: int
) -> tuple[Trace, int | None]:
    """Traces chains from the sampler's noise step 0 up to the last record in which all states are finite.

    Returns:
        The trace; and the number of steps after which a state was first not finite, or None. On CUDA, where divergence
        is detected late, it is the number of steps at the first record that is not finite.
    """
    trace = None
    try:
        trace = sampler.trace(x0, *args, every=every, n_steps=n_steps, step=0)
        sampler.check()
        return trace, None
    except ChainDiverged as error:
        if trace is not None:
            finite = torch.isfinite(trace.x).flatten(1).all(1).cpu()
            end = int(finite.int().argmin())
            energy = None if trace.energy is None else trace.energy[:end]
            statistics = {name: values[:end] for name, values in trace.statistics.items()}
            records = Trace(trace.x[:end], energy, trace.score_norm[:end], trace.steps[:end], statistics)
            return records, int(trace.steps[end])
        if not error.step:  # in the first step, or not found again by the second pass
            raise
        return sampler.trace(x0, *args, every=every, n_steps=error.step, step=0), error.step + 1


def _load_inception(drawn: Drawn, required: bool | None) -> inception.Networks:
    shape = drawn.data.event_shape
    if not is_drawable(shape):
        raise _skipped_unless(required, ValueError(f"Inception takes images of 1 or 3 channels, got shape {shape}"))
    try:
        inception.check_installed()
        drawn.stages.say("loading Inception")
        return inception.load(drawn.states.device)
    except inception.Unavailable as error:
        raise _skipped_unless(required, error) from error


def _n_features(features: Callable[[Tensor], Tensor], x: Tensor) -> int:
    with torch.no_grad():
        return inception.check_features(features(x), len(x)).shape[1]


def _fit_classifier(drawn: Drawn, required: bool | None) -> tuple[classifiers.FittedClassifier, Tensor]:
    """A classifier fitted on two thirds of the labelled data, and the images that were held out."""
    if drawn.data.labels is None:
        raise Skipped(f"{drawn.data.name} has no labels")
    indices = epoch_order(len(drawn.data), seed=drawn.seed, epoch=1)[: _MAX_FITTED * 3 // 2]
    images, labels = drawn.data.batch(indices).cpu(), drawn.data.labels[indices]
    n_fit = 2 * len(images) // 3
    drawn.stages.say(f"fitting a classifier on {n_fit:,} items")
    try:
        fitted = classifiers.fit(images, labels, n_fit, drawn.seed)
    except (ImportError, ValueError) as error:
        raise _skipped_unless(required, error) from error
    return fitted, images[fitted.held_out]


def _skipped_unless(required: bool | None, error: Exception) -> Exception:
    """The error if the part is required, else `Skipped` with its message."""
    return error if required else Skipped(str(error))
