"""FID and the Inception score."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from support.error_bounds import U, gamma
from support.judging import IMAGES, halves, judged, pooled
from torch import nn

from fastlangevin.evaluation import inception, metrics


def test_fid_of_custom_features():
    """In float64, and the result rounded to float32: where no eigenvalue is small beside the largest, the roots lose
    far fewer digits than that.
    """
    samples, data = pooled(IMAGES[:700].flip(3)), pooled(IMAGES)
    for x in (samples, data):
        eigenvalues = torch.linalg.eigvalsh(x.double().T.cov())
        assert eigenvalues[0] > 1e-3 * eigenvalues[-1]
    result = judged(IMAGES[:700].flip(3), features=pooled, fid=None)
    expected = metrics.frechet_distance(samples, [data])
    assert result["fid"] == {"fid": pytest.approx(expected, rel=2 * U), "features": 16} and expected > 0.5
    assert "fid" not in result["notes"]
    assert "a covariance is singular" in judged(IMAGES[:16], features=pooled, fid=None)["notes"]["fid"]


def test_fid_to_itself_is_zero():
    """But for the roots of Σ²'s eigenvalues, each off by at most √(γ tr(Σ)²), most where an eigenvalue is 0."""
    found = judged(IMAGES, features=nn.Sequential(nn.Flatten()), fid=True)["fid"]["fid"]
    size = IMAGES.flatten(1).double().var(0).sum()
    assert abs(found) <= 2 * 64 * math.sqrt(gamma(len(IMAGES) + 64**2, torch.float64)) * size < 1e-3 * size


@pytest.mark.parametrize(
    "damage, words",
    [
        (lambda h: h.masked_fill(h == h.max(), torch.nan), "values.* for [0-9]+ of 256 images"),
        (lambda h: h.masked_fill(h == h.max(), torch.inf), "finite"),
        (lambda h: h.double() * 1e200, "infinite or enormous ones for 256 of 256 images"),
        (lambda h: h[:, :3], r"\(256, 16\) for 256 images, got torch.float32 \(256, 3\)"),
        (lambda h: h[:1], r"\(256, 16\) for 256 images"),
        (lambda h: h.tolist(), "a tensor, got list"),
    ],
)
def test_features_that_torchmetrics_must_not_see(damage, words):
    """A NaN in a covariance may end the process in LAPACK."""
    features = lambda x: damage(pooled(x)) if len(x) > 2 else pooled(x)  # the first two images give their number
    with pytest.raises((ValueError, TypeError), match=f"features must return .*{words}"):
        judged(IMAGES[:256].flip(3), features=features, fid=None)


def test_inception_score_is_its_formula():
    """In float64: the 10^-6 of `pytest.approx` is 10^9 of its roundings."""
    logits = IMAGES[:400].flatten(1)[:, 20:26].double() * 3
    random = torch.get_rng_state()
    mean, std = inception.inception_score(lambda x: x, logits.split(64), seed=1)
    assert torch.equal(torch.get_rng_state(), random)
    torch.rand(1)  # changes the caller's random state
    assert (mean, std) == inception.inception_score(lambda x: x, logits.split(400), seed=1)
    order = torch.randperm(400, generator=torch.Generator().manual_seed(1))
    scores = torch.tensor([metrics.coverage(p).score for p in logits[order].softmax(1).chunk(10)])
    assert mean == pytest.approx(float(scores.mean())) and std == pytest.approx(float(scores.std()))


def test_with_inception_there_are_both(monkeypatch):
    monkeypatch.setattr(inception, "check_installed", lambda: None)
    monkeypatch.setattr(inception, "load", lambda device: inception.Networks(pooled, halves))
    result = judged(IMAGES[:64], fid=True)["fid"]
    assert result["features"] == 16 and 1 <= result["inception_score"] <= 2 and result["inception_score_std"] >= 0


def test_input_of_inception():
    x = torch.tensor([[-1.5, -1.0, 0.0, 0.999, 3.0]]).reshape(1, 1, 1, 5)
    shown = inception._bytes(x)
    assert shown.dtype == torch.uint8 and shown.shape == (1, 3, 1, 5)
    assert shown[0, :, 0].tolist() == [[0, 0, 128, 255, 255]] * 3


@pytest.mark.parametrize(
    "missing, words", [("torch_fidelity", "[inception]"), ("torchmetrics", "[eval]"), ("weights", "no network")]
)
def test_fid_that_is_not_available(monkeypatch, missing, words):
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
    with pytest.raises(ValueError, match=r"Inception takes images of 1 or 3 channels, got shape \(3,\)"):
        judged(points[:4], points, fid=True)
