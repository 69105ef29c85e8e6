"""What an evaluation finds: of the digits, whole multiples of 1/8, most of it to the bit."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import pytest
import torch
from support.judging import IMAGES, LABELS, OFF, brightness, gives, halves, judged, pooled
from torch import nn

import fastlangevin as fl
from fastlangevin.data.order import epoch_order
from fastlangevin.errors import ChainDiverged
from fastlangevin.evaluation import metrics, parts
from fastlangevin.samplers.trace import Trace


def frechet_distance(a, b):
    """With b in an evaluation's batches, for the same bits."""
    return metrics.frechet_distance(a.flatten(1), b.flatten(1).split(parts._BATCH))


# values


def test_data_compared_with_themselves():
    result = judged(IMAGES, coverage=True)
    assert result["pixels"]["frechet_distance"] == frechet_distance(IMAGES, IMAGES)
    near, energy, seen = (result[name] for name in ("neighbours", "energy", "coverage"))
    assert near["distance_median"] == near["ratio_min"] == 0 and near["share_closer_than_data"] == 1
    assert energy["gap"] == 0 and energy["auroc"] == 0.5
    assert seen["classes_hit"] == seen["n_classes"] == 10 and seen["classes"] == list(range(10))
    assert seen["accuracy"] > 0.94 and seen["n_held_out"] == 599 and 9 < seen["data_score"] < 9.6 < seen["score"]
    shares = torch.tensor(seen["shares"], dtype=torch.float64)
    assert seen["rarest_share"] == shares.min() and 0.09 < seen["rarest_share"] < 0.1
    assert seen["entropy"] == float(torch.special.entr(shares).sum())


def test_noise_differs_from_data():
    result = judged(torch.rand(600, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1, coverage=True)
    near, energy, seen = (result[name] for name in ("neighbours", "energy", "coverage"))
    assert result["pixels"]["frechet_distance"] > 30
    assert near["ratio_min"] > 2 and near["share_closer_than_data"] == 0
    assert energy["gap"] < -15 and energy["auroc"] > 0.95  # digits are darker than noise
    assert seen["score"] < 4


def test_one_class_is_seen_as_one():
    seen = judged(IMAGES[LABELS == 3].repeat(4, 1, 1, 1), coverage=True)["coverage"]
    assert (seen["classes_hit"], seen["rarest_share"]) == (1, 0) and seen["score"] < 1.1


def test_distances_of_held_out_data_equal_those_of_the_data():
    """Half of the data as samples, the rest as data: neither copies nor outliers, to four standard errors of the shares
    of two samples.
    """
    near = judged(IMAGES[::2], IMAGES[1::2])["neighbours"]
    data = IMAGES[1::2].flatten(1).double()
    far = torch.cdist(data, data, compute_mode="donot_use_mm_for_euclid_dist").fill_diagonal_(torch.inf).amin(1)
    far = far.float().double()  # squares are exact in float32 too, and their roots the nearest
    assert near["data_distance_median"] == far.median() and near["data_distance_min"] == far.min()
    low, high = (far.quantile(0.5 + sign * 4 * math.sqrt(0.5 * 0.5 * 2 / len(far))) for sign in (-1, 1))
    assert low < near["distance_median"] < high
    assert near["ratio_median"] == near["distance_median"] / near["data_distance_median"]
    assert near["share_closer_than_data"] < 0.01 + 4 * math.sqrt(0.01 * 0.99 * 2 / len(far))


def test_images_are_clipped_and_points_are_not():
    assert (
        judged(IMAGES * 2 - 1)["pixels"]["frechet_distance"]
        == judged((IMAGES * 2 - 1).clamp(-1, 1))["pixels"]["frechet_distance"]
    )
    points = torch.randn(400, 3, generator=torch.Generator().manual_seed(0))
    data = points / points.abs().max()
    result = judged(data * 2, data)
    assert result["pixels"]["frechet_distance"] == frechet_distance(data * 2, data) > 0.05


def test_energies_are_the_samplers(run):
    model, sampler = fl.load(run)
    result = fl.evaluate((model, sampler), "digits", n=300, seed=5, **OFF)
    sampler.load_state_dict({**sampler.state_dict(), "seed": 5})
    states = [sampler.sample((n, 1, 8, 8), step=0, chain_offset=start) for start, n in ((0, 256), (256, 44))]
    energy = torch.cat([sampler.energy(x) for x in states]).double()
    assert result["energy"]["samples_mean"] == energy.mean() and result["energy"]["samples_std"] == energy.std()
    assert result["n_steps"] == 5 and result["trained_on_data"] is None


def test_results_do_not_depend_on_the_models_interval():
    """Which is a power of two as wide: no operation is rounded differently."""
    samples, shift = IMAGES[:200].flip(3), 8.0
    plain = judged(samples, n_chains=8)
    _, sampler = gives(samples * shift, lambda x: brightness(x / shift))
    other = fl.evaluate(
        (None, sampler), "digits", n=200, data_range=(-shift, shift), **{**OFF, "n_chains": 8, "n_reconstruct": 2}
    )
    mse = fl.reconstruct(sampler, IMAGES[epoch_order(len(IMAGES), seed=0, epoch=0)[:2]] * shift).mse
    assert other["reconstruction"]["mse_mean"] == float(mse.double().mean()) / shift**2
    for part in ("pixels", "neighbours", "energy"):
        assert other[part] == plain[part]
    assert other["chain"]["mean_abs"] == plain["chain"]["mean_abs"]


def test_reconstruction_is_reconstructs(run):
    result = fl.evaluate(run, "digits", n=4, seed=2, **{**OFF, "n_reconstruct": 3})
    _, sampler = fl.load(run)
    sampler.load_state_dict({**sampler.state_dict(), "seed": 2, "step": 0})
    items = epoch_order(len(IMAGES), seed=2, epoch=0)[:3]
    mse = fl.reconstruct(sampler, IMAGES[items]).mse.double()
    expected = {"mse_mean": float(mse.mean()), "mse_median": float(mse.median()), "mse_max": float(mse.max())}
    assert result["reconstruction"] == {"n": 3, **expected}


# side effects and repeated calls


def test_a_repeated_call_is_the_same_and_has_no_side_effects(run):
    model, sampler = fl.load(run)
    sampler.sample((2, 1, 8, 8))
    before, weights = sampler.state_dict(), [p.clone() for p in model.parameters()]
    random = torch.get_rng_state()
    options = dict(n=50, n_chains=4, n_reconstruct=0, fid=False, progress=False)
    first = fl.evaluate((model, sampler), "digits", **options)
    assert sampler.state_dict() == before and sampler.n_steps == 5
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(p, w) and p.grad is None for p, w in zip(model.parameters(), weights, strict=True))
    assert fl.evaluate((model, sampler), "digits", **options) == first
    loaded = fl.evaluate(run, "digits", **options)
    assert loaded.pop("trained_on_data") is True and first.pop("trained_on_data") is None
    assert loaded == first == json.loads(json.dumps(first, allow_nan=False))
    assert fl.evaluate((model, sampler), "digits", **{**options, "seed": 1})["energy"] != first["energy"]


def test_custom_number_of_steps(run):
    result = fl.evaluate(run, IMAGES[:100], n=8, n_steps=7, **{**OFF, "n_chains": 2})
    assert result["n_steps"] == result["chain"]["n_steps"] == 7 and result["chain"]["steps"][-1] == 70
    assert result["trained_on_data"] is False


def test_a_train_result():
    options = dict(features=4, batch_size=4, sampler={"n_steps": 2}, n_iterations=1, progress=False)
    trained = fl.train("digits", **options)
    assert math.isfinite(fl.evaluate(trained, "digits", n=4, **OFF)["energy"]["gap"])


# chains past K


def test_records_of_the_chain_are_those_of_a_trace(run):
    result = fl.evaluate(run, "digits", n=6, **{**OFF, "n_chains": 4})["chain"]
    _, sampler = fl.load(run)
    sampler.load_state_dict({**sampler.state_dict(), "seed": 0, "step": 0})
    trace = sampler.trace(sampler.initial((4, 1, 8, 8)), n_steps=50)
    assert result["steps"] == list(range(51)) and result["diverged_at"] is None and result["n_chains"] == 4
    assert result["energy"] == trace.energy.double().mean(1).tolist()
    assert result["score_norm"] == trace.score_norm.double().mean(1).tolist()
    assert result["mean_abs"] == trace.x.abs().flatten(1).mean(1, dtype=torch.float64).tolist()
    outside = (trace.x.abs() > 1).double().flatten(1).mean(1)
    assert result["share_outside"] == outside.tolist() and outside[-1] > 0


def test_long_chains_are_recorded_at_intervals():
    sampler = fl.Langevin(brightness, n_steps=95, step_size=1e-3, noise_std=0.0, seed=0)
    steps = fl.evaluate((None, sampler), "digits", n=2, **{**OFF, "n_chains": 1})["chain"]["steps"]
    assert steps[:3] == [0, 10, 20] and steps[-2:] == [940, 950]


def explodes(x):
    return -(x**4).flatten(1).sum(1)


def test_divergence_past_k_is_part_of_the_result():
    sampler = fl.Langevin(explodes, n_steps=4, step_size=0.04, noise_std=0.0, seed=0)
    result = fl.evaluate((None, sampler), "digits", n=8, **{**OFF, "n_chains": 8})
    x, step = sampler.initial((8, 1, 8, 8), step=0), 0
    sampler.load_state_dict({**sampler.state_dict(), "seed": 0})
    while x.isfinite().all():
        x, step = x + 0.04 * 4 * x**3, step + 1
    chain = result["chain"]
    assert 4 < step < 40 and chain["diverged_at"] == step and chain["steps"] == list(range(step))
    assert all(value is not None for value in chain["mean_abs"])
    json.dumps(result, allow_nan=False)  # energies overflow before states do


def test_divergence_that_is_detected_late_as_on_a_gpu():
    x = torch.zeros(4, 2, 3)
    x[2, 1, 1] = torch.nan
    trace = Trace(x, torch.zeros(4, 2), torch.zeros(4, 2), torch.tensor([0, 5, 10, 15]))

    def check():
        raise ChainDiverged("", step=None, n_chains=1)

    sampler = SimpleNamespace(trace=lambda *a, **k: trace, check=check)
    records, at = parts.trace_until_divergence(sampler, x[0], n_steps=15, every=5)
    assert at == 10 and records.steps.tolist() == [0, 5] and len(records.x) == len(records.energy) == 2


def test_divergence_within_k_is_an_error():
    sampler = fl.Langevin(explodes, n_steps=200, step_size=0.04, noise_std=0.0, seed=0)
    with pytest.raises(ChainDiverged):
        fl.evaluate((None, sampler), "digits", n=8, **OFF)


@pytest.mark.parametrize("step_size, reaches", [([0.1, 0.2], False), (lambda k: 0.1 / (1 + k), True)])
def test_schedules_past_k(step_size, reaches):
    sampler = fl.Langevin(
        lambda x: x.square().flatten(1).sum(1), n_steps=2, step_size=step_size, noise_std=0.01, seed=0
    )
    result = fl.evaluate((None, sampler), "digits", n=2, **{**OFF, "n_chains": 2})
    if reaches:
        assert result["chain"]["steps"] == list(range(21))
    else:
        assert "does not cover 20 steps: step_size" in result["skipped"]["chain"]


def test_a_score_has_no_energy():
    sampler = fl.Langevin(score=lambda x: -x, n_steps=2, step_size=0.1, noise_std=0.01, seed=0)
    result = fl.evaluate((None, sampler), "digits", n=8, **{**OFF, "n_chains": 2})
    assert "the energy is unknown" in result["skipped"]["energy"]
    assert result["chain"]["energy"] is None and len(result["chain"]["score_norm"]) == 21


# errors


class Restless(nn.Module):
    """A network that in train mode draws random numbers and updates its averages at each evaluation."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Dropout(0.3), nn.Linear(64, 1))

    def forward(self, x):
        return self.layers(x)


def test_a_network_with_random_numbers_and_buffers(tmp_path):
    """Its averages and torch's random state are unchanged, and the same call gives the same numbers, for a run as for a
    `TrainResult`, which has the interval of its data.
    """
    options = dict(batch_size=8, ema=0.9, data_range=(0, 1), sampler={"n_steps": 2}, n_iterations=2, progress=False)
    result = fl.train("digits", Restless(), out=tmp_path / "run", **options)
    before = {name: value.clone() for name, value in result.ema.state_dict().items()}
    random_state = torch.get_rng_state()
    choice = {**OFF, "n": 16, "n_chains": 2, "n_reconstruct": 2}
    first, second = (fl.evaluate(result, "digits", **choice) for _ in range(2))
    assert first == second
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(value, before[name]) for name, value in result.ema.state_dict().items())
    loaded = fl.evaluate(tmp_path / "run", "digits", model=Restless(), **choice)
    assert loaded == {**first, "trained_on_data": True}


@pytest.mark.parametrize(
    "options, kind, words",
    [
        (dict(n=1), ValueError, "n must be an int of at least 2, got 1"),
        (dict(data=torch.rand(5, 3, 8, 8)), ValueError, "data must have the run's shape (1, 8, 8), got (3, 8, 8)"),
        (dict(data=IMAGES[:1]), ValueError, "data must hold at least 2 items to compare with, got 1"),
        (dict(data=IMAGES, coverage=True), ValueError, "coverage=True needs labels or a classifier, but tensor has no"),
        (dict(labels=[1, 2, 3]), ValueError, "labels must have shape (1797,), one per item, got (3,)"),
        (dict(labels=LABELS.double()), TypeError, "labels must be integers, got dtype torch.float64"),
        (dict(labels=LABELS - 1), ValueError, "labels must not be negative, got -1 for item 0"),
        (dict(labels="nowhere.npy"), FileNotFoundError, "labels='nowhere.npy': no such file"),
        (dict(labels=[0] * 1797, coverage=True), ValueError, "at least 2 classes, got [0]"),
        (dict(coverage=True, classifier=brightness), ValueError, "classifier must return (4, number of classes) for 4"),
        (dict(coverage=True, classifier=lambda x: 1), TypeError, "classifier must return a tensor of logits"),
        (dict(coverage=True, classifier=lambda x: halves(x) / 0), ValueError, "classifier must return finite values"),
        (dict(coverage=True, classifier=5), TypeError, "classifier must be callable, got int"),
        (dict(coverage=False, classifier=halves), ValueError, "coverage only, which coverage=False disables"),
        (dict(coverage="yes"), ValueError, "coverage must be True, False or None, got 'yes'"),
        (dict(fid=True, features=brightness), ValueError, "features must return (2, D) for 2 images, got torch.flo"),
        (dict(fid=False, features=pooled), ValueError, "features is used for fid only, which fid=False disables"),
        (dict(n_steps=0), ValueError, "n_steps must be an int of at least 1, got 0"),
        (dict(data_range=(1, 0)), ValueError, "data_range must be two finite numbers"),
        (
            dict(run=(None, fl.Langevin(brightness, bounds=(0, 1)))),
            ValueError,
            "data_range must be given, the interval of the data that the model was trained on",
        ),
        (
            dict(run=gives(IMAGES), model=nn.Flatten()),
            ValueError,
            "model must be None unless run is a path, got a tuple",
        ),
        (dict(run="nowhere"), FileNotFoundError, "run='nowhere' is neither a run's folder nor a checkpoint"),
        (dict(run=nn.Linear(2, 2)), TypeError, "run must be a run's folder or checkpoint, a TrainResult, or a pair"),
        (dict(run=(1, 2)), TypeError, "run must be a run's folder"),
        (dict(run=gives(IMAGES), device="cpu"), ValueError, "device must be 'auto' unless run is a path, got 'cpu'"),
        (dict(seed=-1), ValueError, "seed must be an int of at least 0, got -1"),
        (
            dict(run=gives(torch.rand(9, 3)), data=torch.rand(9, 3), neighbours="x.png"),
            ValueError,
            "neighbours needs images of 1 or 3 channels, got data of shape (3,)",
        ),
    ],
)
def test_errors(run, options, kind, words):
    options = {**OFF, "n": 4, "run": run, "data": "digits", **options}
    with pytest.raises(kind) as error:
        fl.evaluate(options.pop("run"), options.pop("data"), **options)
    assert words in str(error.value)
