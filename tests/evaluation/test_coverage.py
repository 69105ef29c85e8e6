"""Coverage of classes, by a fitted or a user-defined classifier."""

from __future__ import annotations

import numpy as np
import torch
from support.judging import IMAGES, LABELS, halves, judged

from fastlangevin.evaluation import classifier, metrics


def test_a_custom_classifier_returns_logits_or_probabilities():
    seen = judged(IMAGES[:300], classifier=halves, coverage=None)["coverage"]
    expected = metrics.coverage(halves(IMAGES[:300]).double().softmax(1))
    assert seen["score"] == expected.score and seen["shares"] == expected.shares.tolist()
    assert seen["accuracy"] is None and seen["classes"] == [0, 1]
    seen = judged(IMAGES[:300], classifier=lambda x: halves(x).double().softmax(1), coverage=None)["coverage"]
    assert seen["score"] == expected.score


def test_custom_labels(tmp_path):
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


def test_coverage_is_skipped_without_labels():
    assert judged(IMAGES[:20], IMAGES, coverage=None)["skipped"]["coverage"] == "tensor has no labels"
    one = judged(IMAGES[:20], IMAGES[:50], labels=[4] * 50, coverage=None)["skipped"]["coverage"]
    assert "at least 2 classes, got [4]" in one


def test_the_default_device_does_not_matter():
    """The labels, and the indices that choose among them, are on the CPU."""
    expected = judged(IMAGES[:40], coverage=True)
    with torch.device("meta"):
        assert judged(IMAGES[:40], coverage=True) == expected
