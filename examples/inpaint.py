"""Completes digits of which the upper half is given: `python examples/inpaint.py [picture.png]`.

Uses the model of `make demo` if it is there, and trains one otherwise, in about a minute on two CPU cores.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

import fastlangevin as fl

COMPLETIONS = 4
run = Path("runs/demo")
sampler = fl.load(run)[1] if run.is_dir() else fl.train("digits").sampler
digits, labels = fl.digits()  # (1797, 1, 8, 8) in [-1, 1]
truth = digits[torch.stack([(labels == c).nonzero()[0, 0] for c in range(10)])]  # one of each class

given = torch.zeros(8, 8, dtype=torch.bool)
given[:4] = True
x = truth.repeat(COMPLETIONS, 1, 1, 1)  # several chains per digit, each with noise of its own
completed = fl.inpaint(sampler, x, given)
assert torch.equal(completed[..., :4, :], x[..., :4, :])


def error(lower: torch.Tensor) -> float:
    return float((lower - truth[..., 4:, :]).square().mean())


mean = completed.view(COMPLETIONS, *truth.shape).mean(0)
print(f"mean squared error of the lower half: completions' mean {error(mean[..., 4:, :]):.3f}, ", end="")
print(f"the data's mean {error(digits.mean(0)[..., 4:, :]):.3f}, of variance {digits[..., 4:, :].var():.3f}")
picture = sys.argv[1] if len(sys.argv) > 1 else "inpaint.png"
shown = truth.masked_fill(~given, -1.0)
fl.save_grid(torch.cat((shown, completed, truth)), picture, columns=10)
print(f"{picture}: what is given, {COMPLETIONS} completions, and the digits")
