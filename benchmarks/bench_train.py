"""A training iteration of the paper's minimal script, K = 100, with different chains; and `fl.train`, with its set-up.

Floor: the chain's, and three passes (forward, input gradient, weight gradient) over data and samples.
"""

from __future__ import annotations

import functools

import rooflines
import torch
from contenders import BASELINE, CONTENDERS, OURS
from contenders.training_scripts import Training, disagreement, fl_train, script
from works import BATCH, DEVICE, convnet, forward_multiply_adds

N_ITERATIONS, N_STEPS, NOISE_STD, DATA_NOISE = 3, 100, 0.01, 0.03
FL_TRAIN = "fl.train"


def test_train(compare):
    training = Training.of(convnet(8, 1, 32, N_STEPS) if DEVICE == "cpu" else convnet(32, 3, 64, N_STEPS))
    runs = {name: script(training, CONTENDERS[name].make(training.work)) for name in (OURS, BASELINE, "torch.compile")}
    runs[FL_TRAIN] = fl_train(training)
    calls, rows = {}, []
    for name, run in runs.items():
        torch.compiler.reset()
        why = disagreement(training, run)
        if why is None:
            calls[name] = functools.partial(run, N_ITERATIONS, N_STEPS, NOISE_STD, DATA_NOISE, None)
        else:
            rows.append({"contender": name, "status": "failed", "reason": why})
    multiply_adds = N_STEPS * training.work.lanes + 3 * 2 * BATCH * forward_multiply_adds(training.work.module)

    def floor(_: str) -> tuple[float, str]:
        rate, what = rooflines.multiply_adds(DEVICE, "fp32")
        return N_ITERATIONS * multiply_adds / rate, what

    title = f"training iteration, {training.work.title}, batch {BATCH}, K = {N_STEPS}"
    compare("train", title, calls, rows, floor)
