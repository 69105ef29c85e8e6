"""Optimisers of the caller, with schedules of their own."""

from __future__ import annotations

import json
from collections import Counter, deque

import numpy as np
import pytest
import torch
from support.training_runs import SMALL, assert_same_run, weights
from torch.optim import SGD, Adam, AdamW, lr_scheduler

import fastlangevin as fl
from fastlangevin.runs import checkpoint, plain_values

MADE = {
    "SGD": lambda p: SGD(p, lr=1e-3),
    "SGD with momentum": lambda p: SGD(p, lr=1e-3, momentum=0.9),
    "AdamW": lambda p: AdamW([{"params": p[:2], "lr": 1e-3}, {"params": p[2:], "weight_decay": 0.1}], lr=2e-3),
    "with a scheduler": lambda p: with_schedule(SGD(p, lr=1e-2)),
    "with milestones": lambda p: (o := SGD(p, lr=1e-2), lr_scheduler.MultiStepLR(o, [2, 4], gamma=0.5)),
    "Rprop": lambda p: torch.optim.Rprop(p, lr=1e-4),
}
SCHEDULERS = {
    "StepLR": lambda o: lr_scheduler.StepLR(o, 2),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, np.array([2, 4, 4])),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 1e-4, 1e-2, 3),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 1e-2, total_steps=9),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 5),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 2),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.9),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o),
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda i: 0.9**i),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda i: 1 / i),
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(o, total_iters=3), lr_scheduler.ExponentialLR(o, 0.9)]
    ),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, total_iters=2), lr_scheduler.MultiStepLR(o, [2, 3])], [2]
    ),
    "SWALR": lambda o: torch.optim.swa_utils.SWALR(o, 1e-3, anneal_epochs=4),
}


def with_schedule(optimizer):
    return optimizer, lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.5)


class Keeping(SGD):
    """From its first step on it keeps something for each parameter or, if that is None, for all of them."""

    def __init__(self, parameters, kept):
        super().__init__(parameters, lr=1e-3)
        self.kept = kept

    def step(self, closure=None):
        if self.kept is None:
            self.state["all"] = {"n": 1}
        else:
            self.state[self.param_groups[0]["params"][0]].update(self.kept)


class Recalling(lr_scheduler.LRScheduler):
    def get_lr(self):
        self.rates = deque([0.1])
        return [0.1]


@pytest.mark.parametrize("name", MADE)
def test_resume_is_bit_for_bit(tmp_path, name):
    options = {**SMALL, "optimizer": MADE[name], "log_every": 1}
    fl.train("digits", out=tmp_path / "whole", n_iterations=6, **options)
    fl.train("digits", out=tmp_path / "parts", n_iterations=3, **options)
    fl.train("digits", out=tmp_path / "parts", n_iterations=6, resume=True, **options)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_schedule_of_torch_survives_a_checkpoint(name):
    """Through the text of a checkpoint's header at each iteration, against the schedule that is never interrupted."""

    def made():
        optimizer = SGD([torch.nn.Parameter(torch.ones(2))], lr=1e-2, momentum=0.5)
        return optimizer, SCHEDULERS[name](optimizer)

    def stepped(optimizer, scheduler):
        optimizer.step()
        scheduler.step()
        return [(group["lr"], group["momentum"]) for group in optimizer.param_groups]

    whole, parts = made(), made()
    for _ in range(8):
        stored = json.loads(json.dumps(plain_values.to_json([part.state_dict() for part in parts], "state")))
        parts = made()
        for part, state in zip(parts, plain_values.from_json(stored), strict=True):
            part.load_state_dict(state)
        assert parts[1].state_dict() == whole[1].state_dict()
        assert stepped(*parts) == stepped(*whole)
    closed_form = getattr(parts[1], "_get_closed_form_lr", list)
    assert closed_form() == getattr(whole[1], "_get_closed_form_lr", list)()


@pytest.mark.parametrize(
    "value",
    [None, True, 3, 0.1, float("inf"), "x", [1, (2, [3])], {"a": {1: (2,)}}, Counter({3: 2}), {"__type__": "tuple"}],
)
def test_plain_values_return_as_they_were(value):
    restored = plain_values.from_json(json.loads(json.dumps(plain_values.to_json({"x": value}, "x"))))["x"]
    assert restored == value and repr(restored) == repr(value)


def test_sgd_against_its_formula():
    gradients, step = [], SGD.step

    def spy(self, *args):
        gradients.append(torch.cat([p.grad.flatten() for group in self.param_groups for p in group["params"]]))
        return step(self, *args)

    with torch.random.fork_rng(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(SGD, "step", spy)
        result = fl.train("digits", n_iterations=4, optimizer=lambda p: with_schedule(SGD(p, lr=2.0**-7)), **SMALL)
        torch.manual_seed(1)
        expected = weights(fl.models.ConvNet(8, 1, 4))
    for gradient, lr in zip(gradients, [2.0**-7, 2.0**-7, 2.0**-8, 2.0**-8], strict=True):
        expected = torch.add(expected, gradient, alpha=-lr)
    assert torch.equal(weights(result.model), expected)  # a power of two: each step rounds once


def test_a_rollback_halves_its_learning_rate(tmp_path):
    class Trap(fl.models.ConvNet):
        calls = 0

        def forward(self, x):
            f = super().forward(x)
            if torch.is_grad_enabled() and not x.requires_grad:
                self.calls += 1
                f = f * float("nan") if self.calls == 10 else f
            return f

    seen, step = [], SGD.step

    def spy(self, *args):
        seen.append(self.param_groups[0]["lr"])
        return step(self, *args)

    options = {**SMALL, "optimizer": lambda p: with_schedule(SGD(p, lr=2.0**-9)), "checkpoint_every": 4}
    options |= {"on_divergence": "rollback", "max_energy_gap": 1e30, "n_iterations": 6}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SGD, "step", spy)
        (record,) = fl.train("digits", Trap(8, 1, 4), out=tmp_path, **options).rollbacks
    # The first step is that which shows whether the state can be saved.
    assert [lr * 2**10 for lr in seen] == [2, 2, 2, 1, 1, 0.5, 0.25, 0.25] and record["lr"] == 2.0**-12


def test_what_is_recorded_and_refused_at_a_resume(tmp_path, capsys):
    options = {**SMALL, "optimizer": MADE["with a scheduler"], "progress": True}
    fl.train("digits", out=tmp_path, n_iterations=2, **options)
    assert "optimizer SGD+StepLR, with an lr of its own" in capsys.readouterr().out.replace("\n", " ")
    assert "optimizer: SGD+StepLR" in (tmp_path / "config.yaml").read_text()
    for other in (None, MADE["SGD"]):
        with pytest.raises(ValueError, match=r"optimizer= must be that of the run, SGD\+StepLR, at a resume, got"):
            fl.train("digits", out=tmp_path, n_iterations=3, resume=True, progress=False, optimizer=other)
    with pytest.raises(ValueError, match="lr has no effect in a run with an optimizer= of its own"):
        fl.train("digits", out=tmp_path, resume=True, resume_overrides={"lr": 1.0}, progress=False)
    new = {"out": tmp_path / "new", "from_checkpoint": tmp_path, "n_iterations": 1, "progress": False}
    assert fl.train("digits", **new).history  # starts Adam anew
    assert checkpoint.load(checkpoint.newest(tmp_path / "new" / "checkpoints"))[1]["optimizer"] == "Adam"


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda p: p, TypeError, "optimizer must return an optimiser of torch, or one and a scheduler, got list"),
        (lambda p: (SGD(p, lr=1.0), 3), TypeError, "got int for a scheduler"),
        (lambda p: torch.optim.LBFGS(p), TypeError, "LBFGS, whose step needs closure"),
        (
            lambda p: SGD(p, lr=torch.tensor(1.0)),
            ValueError,
            r"optimizer must have a state of dense .*, but .*state\['groups'\].*\['lr'\] is of type Tensor",
        ),
        (lambda p: Keeping(p, {"past": [torch.zeros(2)]}), ValueError, r"\['0.past'\]\[0\] is of type Tensor"),
        (lambda p: Keeping(p, {"seen": {1, 2}}), ValueError, r"\['0.seen'\] is of type set"),
        (lambda p: Keeping(p, {3: 4}), ValueError, "has 3, a name that is not a string"),
        (lambda p: Keeping(p, None), ValueError, r"state\['all'\] is not of a parameter"),
        (
            lambda p: (o := SGD(p, lr=1e-3), Recalling(o)),
            ValueError,
            r"the scheduler's state\['rates'\] is of type deque",
        ),
        (
            lambda p: (o := Adam(p), lr_scheduler.ReduceLROnPlateau(o)),
            TypeError,
            "ReduceLROnPlateau, whose step needs metrics",
        ),
    ],
)
def test_bad_optimisers(make, error, words, tmp_path):
    with pytest.raises(error, match=words):
        fl.train("digits", out=tmp_path / "run", n_iterations=1, optimizer=make, **SMALL)
    assert not (tmp_path / "run").exists()
