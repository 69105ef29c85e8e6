from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import fastlangevin as fl
from fastlangevin import classifier, evaluation, inception, metrics
from fastlangevin.data import digits
from fastlangevin.errors import ChainDiverged
from fastlangevin.sampler import Trace

IMAGES, LABELS = digits()
OFF = dict(fid=False, coverage=False, n_reconstruct=0, n_chains=0, progress=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("evaluation") / "run"
    options = dict(features=4, batch_size=8, sampler={"n_steps": 3}, sample_steps=5, n_iterations=2)
    fl.train("digits", out=out, progress=False, **options)
    return out


def brightness(x):
    return x.flatten(1).sum(1)


def gives(x, energy=brightness):
    """A model and a sampler whose samples are x: chains that start there and stay."""

    def init(shape, *, seed, step, chain_offset):
        return x[chain_offset : chain_offset + shape[0]].clone()

    return energy, fl.Langevin(energy, n_steps=2, step_size=0.0, noise_std=0.0, init=init)


def judged(x, data="digits", **options):
    return fl.evaluate(gives(x), data, n=len(x), **{**OFF, **options})


# what the numbers are


def test_data_are_like_themselves():
    result = judged(IMAGES, coverage=True)
    assert result["pixels"]["frechet_distance"] == pytest.approx(0, abs=1e-8)
    near, energy, seen = (result[name] for name in ("neighbours", "energy", "coverage"))
    assert near["distance_median"] == near["ratio_min"] == 0 and near["share_closer_than_data"] == 1
    assert energy["gap"] == pytest.approx(0, abs=1e-5) and energy["auroc"] == pytest.approx(0.5)
    assert seen["classes_hit"] == seen["n_classes"] == 10 and seen["classes"] == list(range(10))
    assert seen["accuracy"] > 0.94 and seen["n_held_out"] == 599 and 9 < seen["data_score"] < 9.6 < seen["score"]
    assert seen["entropy"] == pytest.approx(math.log(10), abs=0.01) and 0.09 < seen["rarest_share"] < 0.1


def test_noise_is_not():
    result = judged(torch.rand(600, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1, coverage=True)
    near, energy, seen = (result[name] for name in ("neighbours", "energy", "coverage"))
    assert result["pixels"]["frechet_distance"] > 30
    assert near["ratio_min"] > 2 and near["share_closer_than_data"] == 0
    assert energy["gap"] < -15 and energy["auroc"] > 0.95  # digits are dark: lower in brightness
    assert seen["score"] < 4


def test_one_class_is_seen_as_one():
    seen = judged(IMAGES[LABELS == 3].repeat(4, 1, 1, 1), coverage=True)["coverage"]
    assert (seen["classes_hit"], seen["rarest_share"]) == (1, 0) and seen["score"] < 1.1


def test_distances_to_other_data_are_the_datas_own():
    """Half of the data as samples, the rest as data: neither copies nor strangers."""
    result = judged(IMAGES[::2], IMAGES[1::2])
    assert result["neighbours"]["ratio_median"] == pytest.approx(1, abs=0.05)
    assert result["neighbours"]["share_closer_than_data"] < 0.03
    far = torch.cdist(IMAGES[1::2].flatten(1), IMAGES[1::2].flatten(1)).fill_diagonal_(torch.inf).amin(1)
    assert result["neighbours"]["data_distance_median"] == pytest.approx(float(far.median()), rel=1e-3)
    assert result["neighbours"]["data_distance_min"] == pytest.approx(float(far.min()), rel=1e-3)


def test_images_are_clipped_and_points_are_not():
    assert (
        judged(IMAGES * 2 - 1)["pixels"]["frechet_distance"]
        == judged((IMAGES * 2 - 1).clamp(-1, 1))["pixels"]["frechet_distance"]
    )
    points = torch.randn(400, 3, generator=torch.Generator().manual_seed(0))
    data = points / points.abs().max()
    result = judged(data * 2, data)
    expected = metrics.frechet_distance(data * 2, [data])
    assert result["pixels"]["frechet_distance"] == pytest.approx(expected) and expected > 0.05


def test_energies_are_the_samplers(run):
    model, sampler = fl.load(run)
    result = fl.evaluate((model, sampler), "digits", n=300, seed=5, **OFF)
    sampler.load_state_dict({**sampler.state_dict(), "seed": 5})
    energy = sampler.energy(sampler.sample((300, 1, 8, 8), step=0)).double()  # more than are drawn at a time
    rounding = 1e-5 * float(energy.abs().max())  # float32's in sums of some 100 terms, whose order the batch may decide
    assert result["energy"]["samples_mean"] == pytest.approx(float(energy.mean()), abs=rounding)
    assert result["energy"]["samples_std"] == pytest.approx(float(energy.std()), abs=rounding)
    assert result["n_steps"] == 5 and result["trained_on_data"] is None


def test_a_models_own_interval_changes_nothing():
    samples, shift = IMAGES[:200].flip(3), 7.0
    plain = judged(samples, n_chains=8)
    _, sampler = gives(samples * shift, lambda x: brightness(x / shift))
    other = fl.evaluate(
        (None, sampler), "digits", n=200, data_range=(-shift, shift), **{**OFF, "n_chains": 8, "n_reconstruct": 2}
    )
    mse = fl.reconstruct(sampler, IMAGES[evaluation.epoch_order(len(IMAGES), seed=0, epoch=0)[:2]] * shift).mse
    assert other["reconstruction"]["mse_mean"] == pytest.approx(float(mse.mean()) / shift**2, rel=1e-4)
    for part in ("pixels", "neighbours", "energy"):
        assert other[part] == pytest.approx(plain[part], rel=1e-4, abs=1e-6)
    assert other["chain"]["mean_abs"] == pytest.approx(plain["chain"]["mean_abs"], rel=1e-5)


def test_reconstruction_is_reconstructs(run):
    result = fl.evaluate(run, "digits", n=4, seed=2, **{**OFF, "n_reconstruct": 3})
    _, sampler = fl.load(run)
    sampler.load_state_dict({**sampler.state_dict(), "seed": 2, "step": 0})
    items = evaluation.epoch_order(len(IMAGES), seed=2, epoch=0)[:3]
    mse = fl.reconstruct(sampler, IMAGES[items]).mse
    assert result["reconstruction"] == pytest.approx(
        {"n": 3, "mse_mean": float(mse.mean()), "mse_median": float(mse.median()), "mse_max": float(mse.max())}
    )


# what a call leaves and repeats


def test_the_same_again_and_nothing_moved(run):
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


def test_steps_of_ones_own(run):
    result = fl.evaluate(run, IMAGES[:100], n=8, n_steps=7, **{**OFF, "n_chains": 2})
    assert result["n_steps"] == result["chain"]["n_steps"] == 7 and result["chain"]["steps"][-1] == 70
    assert result["trained_on_data"] is False


def test_what_train_returned():
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
    assert result["energy"] == pytest.approx(trace.energy.mean(1).tolist(), rel=1e-5)
    assert result["score_norm"] == pytest.approx(trace.score_norm.mean(1).tolist(), rel=1e-5)
    assert result["mean_abs"] == pytest.approx(trace.x.abs().flatten(1).mean(1).tolist(), rel=1e-5)
    outside = (trace.x.abs() > 1).float().flatten(1).mean(1)
    assert result["share_outside"] == pytest.approx(outside.tolist()) and outside[-1] > 0


def test_long_chains_are_recorded_now_and_then():
    sampler = fl.Langevin(brightness, n_steps=95, step_size=1e-3, noise_std=0.0, seed=0)
    steps = fl.evaluate((None, sampler), "digits", n=2, **{**OFF, "n_chains": 1})["chain"]["steps"]
    assert steps[:3] == [0, 10, 20] and steps[-2:] == [940, 950]


def explodes(x):
    return -(x**4).flatten(1).sum(1)


def test_divergence_past_k_is_a_finding():
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


def test_divergence_that_is_learnt_late_as_on_a_gpu():
    x = torch.zeros(4, 2, 3)
    x[2, 1, 1] = torch.nan
    trace = Trace(x, torch.zeros(4, 2), torch.zeros(4, 2), torch.tensor([0, 5, 10, 15]))

    def check():
        raise ChainDiverged("", step=None, n_chains=1)

    records, at = evaluation.trace_until_divergence(
        SimpleNamespace(trace=lambda *a, **k: trace, check=check), x[0], 15, 5
    )
    assert at == 10 and records.steps.tolist() == [0, 5] and len(records.x) == len(records.energy) == 2


def test_divergence_within_k_is_an_error():
    sampler = fl.Langevin(explodes, n_steps=200, step_size=0.04, noise_std=0.0, seed=0)
    with pytest.raises(ChainDiverged):
        fl.evaluate((None, sampler), "digits", n=8, **OFF)


@pytest.mark.parametrize("step_size, reaches", [([0.1, 0.2], False), (lambda k: 0.1 / (1 + k), True)])
def test_schedules_past_k(step_size, reaches):
    sampler = fl.Langevin(lambda x: x.square().flatten(1).sum(1), n_steps=2, step_size=step_size, seed=0)
    result = fl.evaluate((None, sampler), "digits", n=2, **{**OFF, "n_chains": 2})
    if reaches:
        assert result["chain"]["steps"] == list(range(21))
    else:
        assert "does not reach to 20 steps: step_size" in result["skipped"]["chain"]


def test_a_score_has_no_energy():
    sampler = fl.Langevin(score=lambda x: -x, n_steps=2, step_size=0.1, seed=0)
    result = fl.evaluate((None, sampler), "digits", n=8, **{**OFF, "n_chains": 2})
    assert "no energy is known" in result["skipped"]["energy"]
    assert result["chain"]["energy"] is None and len(result["chain"]["score_norm"]) == 21


# coverage


def halves(x):
    """Logits of two classes: is the upper half the brighter?"""
    upper, lower = x.chunk(2, 2)
    return torch.stack([upper.flatten(1).sum(1), lower.flatten(1).sum(1)], 1)


def test_a_classifier_of_ones_own_gives_logits_or_probabilities():
    seen = judged(IMAGES[:300], classifier=halves, coverage=None)["coverage"]
    expected = metrics.coverage(halves(IMAGES[:300]).double().softmax(1))
    assert seen["score"] == pytest.approx(expected.score) and seen["shares"] == expected.shares.tolist()
    assert seen["accuracy"] is None and seen["classes"] == [0, 1]
    assert judged(IMAGES[:300], classifier=lambda x: halves(x).softmax(1), coverage=None)["coverage"]["score"] == (
        pytest.approx(expected.score)
    )


def test_labels_of_ones_own(tmp_path):
    halved = (LABELS >= 5).long() * 7 + 2
    np.save(tmp_path / "y.npy", halved.numpy())
    for labels in (halved, halved.tolist(), tmp_path / "y.npy", str(tmp_path / "y.npy")):
        seen = judged(IMAGES[:50], IMAGES, labels=labels, coverage=None)["coverage"]
        assert seen["classes"] == [2, 9] and seen["accuracy"] > 0.9


def test_a_class_that_was_not_drawn_is_counted():
    labels = torch.tensor([0, 9] * 29 + [5, 0])
    fitted = classifier.fit(IMAGES[:60], labels, 20)
    assert fitted.classes == [0, 5, 9] and fitted.predict(IMAGES[:7]).shape == (7, 3)
    drawn = set(range(60)) - set(fitted.held_out.tolist())
    assert len(drawn) == 20 and 58 not in drawn and (fitted.predict(IMAGES[:60])[:, 1] == 0).all()


def test_without_labels_coverage_is_left_out():
    assert judged(IMAGES[:20], IMAGES, coverage=None)["skipped"]["coverage"] == "tensor has no labels"
    one = judged(IMAGES[:20], IMAGES[:50], labels=[4] * 50, coverage=None)["skipped"]["coverage"]
    assert "at least 2 classes, got [4]" in one


# FID


def pooled(x):
    return nn.functional.avg_pool2d(x, 2).flatten(1)


def test_fid_by_features_of_ones_own():
    result = judged(IMAGES[:700].flip(3), features=pooled, fid=None)
    expected = metrics.frechet_distance(pooled(IMAGES[:700].flip(3)), [pooled(IMAGES)])
    assert result["fid"] == {"fid": pytest.approx(expected, rel=1e-4), "features": 16} and expected > 0.5
    assert "fid" not in result["notes"]
    assert "no more of either" in judged(IMAGES[:16], features=pooled, fid=None)["notes"]["fid"]
    assert judged(IMAGES, features=nn.Sequential(nn.Flatten()), fid=True)["fid"]["fid"] == pytest.approx(0, abs=1e-4)


def test_inception_score_is_its_formula():
    logits = IMAGES[:400].flatten(1)[:, 20:26] * 3
    random = torch.get_rng_state()
    mean, std = inception.inception_score(lambda x: x, logits.split(64), seed=1)
    assert torch.equal(torch.get_rng_state(), random)
    torch.rand(1)  # the caller's random state is another by then
    assert (mean, std) == inception.inception_score(lambda x: x, logits.split(400), seed=1)
    assert mean == pytest.approx(metrics.coverage(logits.softmax(1)).score, rel=0.1) and 0 < std < 0.3


def test_with_inception_there_are_both(monkeypatch):
    monkeypatch.setattr(inception, "check_installed", lambda: None)
    monkeypatch.setattr(inception, "load", lambda device: inception.Networks(pooled, halves))
    result = judged(IMAGES[:64], fid=True)["fid"]
    assert result["features"] == 16 and 1 <= result["inception_score"] <= 2 and result["inception_score_std"] >= 0


def test_what_inception_is_shown():
    x = torch.tensor([[-1.5, -1.0, 0.0, 0.999, 3.0]]).reshape(1, 1, 1, 5)
    shown = inception._bytes(x)
    assert shown.dtype == torch.uint8 and shown.shape == (1, 3, 1, 5)
    assert shown[0, :, 0].tolist() == [[0, 0, 128, 255, 255]] * 3


@pytest.mark.parametrize(
    "missing, words", [("torch_fidelity", "[inception]"), ("torchmetrics", "[eval]"), ("weights", "no network")]
)
def test_fid_that_cannot_be_had(monkeypatch, missing, words):
    real = inception.importlib.util.find_spec
    there = lambda name, *rest: (
        None if name == missing else SimpleNamespace() if name == "torch_fidelity" else real(name, *rest)
    )
    monkeypatch.setattr(inception.importlib.util, "find_spec", there)
    if missing == "weights":

        def fails(*arguments):
            raise OSError("no network")

        monkeypatch.setattr("torchmetrics.image.fid.NoTrainInceptionV3", fails)
    result = judged(IMAGES[:8], fid=None)
    assert "fid" not in result and words in result["skipped"]["fid"]
    with pytest.raises(ImportError) as error:
        judged(IMAGES[:8], fid=True)
    assert words in str(error.value)
    if missing == "torchmetrics":
        with pytest.raises(ImportError, match="torchmetrics"):
            judged(IMAGES[:8], features=pooled, fid=None)


def test_inception_takes_images():
    points = torch.rand(30, 3)
    assert "takes images" in judged(points[:4], points, fid=None)["skipped"]["fid"]
    with pytest.raises(ValueError, match=r"Inception takes images of 1 or 3 channels, got \(3,\)"):
        judged(points[:4], points, fid=True)


# errors


class Restless(nn.Module):
    """A network that in train mode draws random numbers and moves its averages at each evaluation."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Dropout(0.3), nn.Linear(64, 1))

    def forward(self, x):
        return self.layers(x)


def test_a_restless_network_of_one_s_own(tmp_path):
    """Its averages and torch's random state stay, and the same call gives the same numbers, from a run as from a result
    that knows the interval of its data."""
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
        (dict(data=torch.rand(5, 3, 8, 8)), ValueError, "data must be of the run's shape (1, 8, 8), got (3, 8, 8)"),
        (dict(data=IMAGES[:1]), ValueError, "data must hold at least 2 items to compare with, got 1"),
        (dict(data=IMAGES, coverage=True), ValueError, "coverage=True needs labels or a classifier, and tensor has no"),
        (dict(labels=[1, 2, 3]), ValueError, "labels must be one an item, shape (1797,), got (3,)"),
        (dict(labels=LABELS.double()), TypeError, "labels must be whole numbers, got dtype torch.float64"),
        (dict(labels=LABELS - 1), ValueError, "labels must not be negative, got -1 for item 0"),
        (dict(labels="nowhere.npy"), FileNotFoundError, "labels='nowhere.npy': no such file"),
        (dict(labels=[0] * 1797, coverage=True), ValueError, "at least 2 classes, got [0]"),
        (dict(coverage=True, classifier=brightness), ValueError, "classifier must return (4, number of classes) for 4"),
        (dict(coverage=True, classifier=lambda x: 1), TypeError, "classifier must return a tensor of logits"),
        (dict(coverage=True, classifier=lambda x: halves(x) / 0), ValueError, "classifier must return finite values"),
        (dict(coverage=True, classifier=5), TypeError, "classifier must be callable, got int"),
        (dict(coverage=False, classifier=halves), ValueError, "coverage=False leaves it out"),
        (dict(coverage="yes"), ValueError, "coverage must be True, False or None, got 'yes'"),
        (dict(fid=True, features=brightness), ValueError, "features must return (2, D) for 2 images, got (2,)"),
        (dict(fid=False, features=pooled), ValueError, "features is for fid, and fid=False leaves it out"),
        (dict(n_steps=0), ValueError, "n_steps must be an int of at least 1, got 0"),
        (dict(data_range=(1, 0)), ValueError, "data_range must be two finite numbers"),
        (
            dict(run=(None, fl.Langevin(brightness, bounds=(0, 1)))),
            ValueError,
            "data_range must say what interval the model learned its data in",
        ),
        (
            dict(run=gives(IMAGES), model=nn.Flatten()),
            ValueError,
            "model is for a run that is loaded, and run is a tuple",
        ),
        (dict(run="nowhere"), FileNotFoundError, "run='nowhere' is neither a run's folder nor a checkpoint"),
        (dict(run=nn.Linear(2, 2)), TypeError, "run must be a run's folder or checkpoint, a TrainResult, or a pair"),
        (dict(run=(1, 2)), TypeError, "run must be a run's folder"),
        (dict(run=gives(IMAGES), device="cpu"), ValueError, "device='cpu' is for a run that is loaded"),
        (dict(seed=-1), ValueError, "seed must be an int of at least 0, got -1"),
        (
            dict(run=gives(torch.rand(9, 3)), data=torch.rand(9, 3), neighbours="x.png"),
            ValueError,
            "neighbours draws images of 1 or 3 channels, and the data are (3,)",
        ),
    ],
)
def test_errors(run, options, kind, words):
    options = {**OFF, "n": 4, "run": run, "data": "digits", **options}
    with pytest.raises(kind) as error:
        fl.evaluate(options.pop("run"), options.pop("data"), **options)
    assert words in str(error.value)


# the command


def command(*arguments, code=0):
    """In as many threads as the tests."""
    done = subprocess.run(
        [sys.executable, "-m", "fastlangevin", "evaluate", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


def assert_same_numbers(a, b):
    """Of two processes: whole numbers and words equal, others but for float32's roundings in sums of some 100 terms: a
    library's sums may begin elsewhere where memory lies otherwise.
    """
    assert type(a) is type(b), (a, b)
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for name in a:
            assert_same_numbers(a[name], b[name])
    elif isinstance(a, list):
        assert len(a) == len(b)
        for pair in zip(a, b, strict=True):
            assert_same_numbers(*pair)
    else:
        assert a == (pytest.approx(b, rel=1e-4, abs=1e-6) if isinstance(b, float) else b)


def test_the_command(run, tmp_path):
    out, plot, near = tmp_path / "deep" / "e.json", tmp_path / "plots" / "e.png", tmp_path / "near" / "n.png"
    quick = ("--data", "digits", "-n", 20, "--reconstruct", 1, "--chains", 2, "--no-fid")
    done = command(run, *quick, "-o", out, "--plot", plot, "--neighbours", near)
    for words in ("20 samples of 5 steps", "Fréchet distance", "classes hit", "AUROC", "reconstruction MSE", "no fid"):
        assert words in done.stdout
    numbers = json.loads(out.read_text())
    options = dict(n=20, n_reconstruct=1, n_chains=2, fid=False, progress=False)
    assert_same_numbers(numbers, {"run": str(run), **fl.evaluate(run, "digits", **options)})
    assert Image.open(plot).width > 500 and Image.open(near).width >= 640
    assert "exists: say --overwrite" in command(run, *quick, "-o", out, code=1).stderr
    assert "--plot" in command(run, *quick, "--plot", plot, code=1).stderr


@pytest.mark.parametrize(
    "arguments, code, words",
    [
        (["nowhere", "--data", "digits"], 1, "run='nowhere' is neither"),
        (["RUN"], 2, "Missing option '--data'"),
        (["RUN", "--data", "digist"], 1, "did you mean 'digits'"),
        (["RUN", "--data", "digits", "-n", 1], 2, "-n"),
        (["RUN", "--data", "digits", "-o", "x.txt"], 1, "--out must end in .json"),
        (["RUN", "--data", "digits", "--plot", "x.png", "--chains", "0"], 1, "--chains 0 leaves them out"),
        (["RUN", "--data", "digits", "--labels", "none.npy"], 1, "labels='none.npy': no such file"),
        (["RUN", "--data", "digits", "--fid"], 1, "pip install 'fastlangevin[inception]'"),
    ],
)
def test_errors_of_the_command(run, arguments, code, words):
    if "--fid" in arguments and inception.importlib.util.find_spec("torch_fidelity"):
        pytest.skip("torch-fidelity is installed")
    done = command(*[run if a == "RUN" else a for a in arguments], code=code)
    assert words in done.stderr and "Traceback" not in done.stderr
