"""How good a run's digits are, judged by a classifier of real ones.

    python scripts/judge_digits.py runs/demo [another run …]        (needs the extra "test": scikit-learn, scipy)

A scikit-learn MLPClassifier((128, 64)) is fitted on 1,200 of the 1,797 real digits. For samples x it gives p(y|x), and
the score is exp(mean KL(p(y|x) || p(y))), the Inception Score's formula (Salimans et al., 2016) with this classifier:
1 for noise, 10 for ten equally frequent and unmistakable classes. Beside it the Fréchet distance of Gaussians fitted to
the pixels of samples and of all real digits: 0 for the same mean and covariance.
"""

from __future__ import annotations

import sys

import numpy as np
import scipy.linalg
import torch
from sklearn.neural_network import MLPClassifier

import fastlangevin as fl
from fastlangevin.data import digits

N_SAMPLES, N_DRAWS = 512, 4


def score(classifier: MLPClassifier, images: torch.Tensor) -> tuple[float, np.ndarray]:
    """The score, and how many images of each class were seen."""
    p = classifier.predict_proba(pixels(images))
    divergence = (p * (np.log(p + 1e-12) - np.log(p.mean(0) + 1e-12))).sum(1)
    return float(np.exp(divergence.mean())), np.bincount(p.argmax(1), minlength=10)


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """|μa - μb|² + tr(Σa + Σb - 2 (Σa Σb)^½) of pixels (n, d)."""
    cov_a, cov_b = np.cov(a.T), np.cov(b.T)
    root = scipy.linalg.sqrtm(cov_a @ cov_b + 1e-10 * np.eye(len(cov_a))).real
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(cov_a + cov_b - 2 * root))


def pixels(images: torch.Tensor) -> np.ndarray:
    return ((images.clamp(-1, 1) + 1) / 2).flatten(1).numpy()


def main() -> None:
    images, labels = digits()
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    images, labels = images[order], labels[order]
    classifier = MLPClassifier((128, 64), random_state=0, max_iter=500).fit(pixels(images[:1200]), labels[:1200])
    accuracy = classifier.score(pixels(images[1200:]), labels[1200:])
    real, _ = score(classifier, images[1200:])
    print(f"classifier: {accuracy:.1%} right on the other {len(images) - 1200}, whose score is {real:.2f}")
    for run in sys.argv[1:]:
        _, sampler = fl.load(run)
        for n_steps in (10, sampler.n_steps):
            draws = [sampler.sample((N_SAMPLES, 1, 8, 8), n_steps=n_steps) for _ in range(N_DRAWS)]
            scores, counts = zip(*(score(classifier, x) for x in draws), strict=True)
            rarest = min(int(c.min()) for c in counts)
            print(f"{run}, {n_steps} steps, draws of {N_SAMPLES}: {', '.join(f'{s:.2f}' for s in scores)}", end="")
            distance = frechet(pixels(torch.cat(draws)), pixels(images))
            print(f"; rarest class {rarest} of {N_SAMPLES}; pixels' Fréchet distance {distance:.2f}")


if __name__ == "__main__":
    main()
