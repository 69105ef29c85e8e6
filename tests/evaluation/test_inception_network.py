"""Inception's own architecture, with random weights in place of those that are downloaded, through `fl.evaluate`."""

from __future__ import annotations

import math

import pytest
import torch
from support.judging import IMAGES, judged

from fastlangevin.evaluation import inception

extractor = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3", exc_type=Exception)
pytestmark = pytest.mark.cuda_build


@pytest.fixture(autouse=True)
def random_weights(monkeypatch):
    monkeypatch.setattr(extractor, "load_state_dict_from_url", lambda *_, **__: {})
    monkeypatch.setattr(extractor.FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)


def test_features_and_logits():
    """Of images of one channel in [-1, 1]: 2048 and 1008 numbers, which depend on the image."""
    torch.manual_seed(0)
    features, logits = inception.load(torch.device("cpu"))
    with torch.no_grad():
        f, g = features(IMAGES[:2]), logits(IMAGES[:2])
    assert f.shape == (2, inception.N_FEATURES) and g.shape == (2, 1008)
    assert f.isfinite().all() and g.isfinite().all()
    assert not torch.equal(*f) and not torch.equal(*g)


def test_evaluate():
    torch.manual_seed(0)
    result = judged(IMAGES[:10].flip(3), data=IMAGES[20:32], fid=True)["fid"]
    assert result["features"] == inception.N_FEATURES
    assert math.isfinite(result["fid"]) and result["fid"] > 0
    assert 1 <= result["inception_score"] <= 1008
