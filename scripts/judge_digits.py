"""The quality of a run's digits, judged by a classifier of real digits.

    python scripts/judge_digits.py runs/demo [another run …]        (needs the extra "eval": scikit-learn)

A classifier (`fastlangevin.evaluation.classifier.fit`) is fitted on 1,200 of the 1,797 real digits. It gives the score
of `fastlangevin.evaluation.metrics.coverage`: 1 for noise, 10 for ten equally frequent and unmistakable classes.
`frechet_distance`, of the pixels in [0, 1] of samples and of all real digits, is 0 for the same mean and covariance.
`fastlangevin evaluate` reports more about one run. This script judges each run at two numbers of steps, with four draws
that show how much the score varies.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor

import fastlangevin as fl
from fastlangevin.data import digits
from fastlangevin.evaluation import classifier, metrics

N_SAMPLES, N_DRAWS = 512, 4


def main() -> None:
    images, labels = digits()
    try:
        fitted = classifier.fit(images, labels, 1200)
    except ImportError as error:
        sys.exit(f"judge_digits.py: {error}")
    real = metrics.coverage(fitted.predict(images[fitted.held_out]))
    print(
        f"classifier: accuracy {fitted.accuracy:.1%} on the other {len(fitted.held_out)} digits, "
        f"whose score is {real.score:.2f}"
    )
    for run in sys.argv[1:]:
        _, sampler = fl.load(run)
        for n_steps in (10, sampler.n_steps):
            draws = [sampler.sample((N_SAMPLES, 1, 8, 8), n_steps=n_steps) for _ in range(N_DRAWS)]
            seen = [metrics.coverage(fitted.predict(x)) for x in draws]
            rarest = round(min(c.rarest_share for c in seen) * N_SAMPLES)
            print(f"{run}, {n_steps} steps, draws of {N_SAMPLES}: {', '.join(f'{c.score:.2f}' for c in seen)}", end="")
            distance = metrics.frechet_distance(pixels(torch.cat(draws)), [pixels(images)])
            print(f"; rarest class {rarest} of {N_SAMPLES}; pixels' Fréchet distance {distance:.2f}")


def pixels(images: Tensor) -> Tensor:
    return ((images.clamp(-1, 1) + 1) / 2).flatten(1)


if __name__ == "__main__":
    main()
