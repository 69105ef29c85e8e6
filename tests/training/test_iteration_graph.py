"""Training iterations as one graph, with a stand-in for the capture on CPU tensors that replays by running again: the
same seed gives the same training as the loop that is not captured, bit for bit.
"""

from __future__ import annotations

import functools
import sys
import warnings

import pytest
import torch
from support.fake_capture import FakeCapture
from support.training_runs import SMALL, assert_same_run, weights
from torch import nn

import fastlangevin as fl
from fastlangevin.chains.cuda_capture import NotCapturable
from fastlangevin.data import digits
from fastlangevin.samplers import continued
from fastlangevin.samplers.device_call import DeviceCall
from fastlangevin.training import loop, optimizers
from fastlangevin.training.iteration_graph import IterationGraph
from fastlangevin.training.state import TrainingState

N = 7  # iterations: three before the capture
SHORT = {**SMALL, "sampler": {"n_steps": 3, "noise_std": 0.01}}


@pytest.fixture(autouse=True)
def capturable(monkeypatch):
    """Adam as on a GPU, where its state and its lr are on the device."""
    monkeypatch.setattr(optimizers, "CAPTURABLE_ON", ("cpu",))
    monkeypatch.setattr(sys.modules["torch.optim.adam"], "_get_capturable_supported_devices", lambda **_: ["cpu"])
    FakeCapture.made = []


@pytest.fixture
def capture(monkeypatch):
    """Lets trainings from now on be captured, by a stand-in with these options."""

    def install(kind=FakeCapture, **options):
        made = functools.partial(IterationGraph, capture=functools.partial(kind, **options), device_type="cpu")
        monkeypatch.setattr(loop, "IterationGraph", made)

    return install


def labelled():
    return digits()[0][:60], torch.arange(60) % 3


OPTIONS = {
    "noise": {},
    "from the data": {"start": "data", "data_noise": 0.1, "clamp_data": True, "bounds": (-1.0, 1.0)},
    "fifo": {"start": "buffer", "buffer": {"capacity": 20, "reinit": 0.3}},
    "reservoir of bytes": {
        "start": "buffer",
        "buffer": {"capacity": 12, "policy": "reservoir", "storage": "uint8"},
        "bounds": (-1.0, 1.0),
    },
    "indexed": {"start": "buffer", "buffer": {"capacity": 20, "policy": "indexed"}},
    "of a class": {"class_conditional": True, "start": "buffer", "buffer": {"capacity": 30}},
    "schedules": {"lr": [(0, 1e-3), (5, 1e-4)], "lr_decay": 0.5, "adam_betas": (0.5, 0.9), "max_grad_norm": 0.1},
    "an average": {"ema": 0.9, "energy_penalty": 0.1},
    "mala": {"kind": {"kind": "mala", "step_size": 1.0}, "start": "buffer", "buffer": {"capacity": 20}},
    "hmc": {"kind": {"kind": "hmc", "step_size": 0.5, "n_leapfrog": 2, "mass": 2.0}},
    "velocities": {
        "kind": {"kind": "underdamped", "step_size": 0.5},
        "start": "buffer",
        "buffer": {"capacity": 20, "policy": "indexed", "reinit": 0.3},
    },
}


def train(data="digits", **options):
    options = {**SHORT, "n_iterations": N, "log_every": 2, **options}
    bounds, kind = options.pop("bounds", None), options.pop("kind", None)
    if "class_conditional" in options:
        data = labelled()
    sampler = {"n_steps": 2, **kind} if kind else {**options["sampler"], "bounds": bounds}
    return fl.train(data, **options | {"sampler": sampler})


def assert_same(a, b):
    """Of trainings that were not written to a folder."""
    histories = [[{k: v for k, v in row.items() if k != "seconds"} for row in result.history] for result in (a, b)]
    assert histories[0] == histories[1] and a.sampler.state_dict() == b.sampler.state_dict()
    for name in ("model", "ema"):
        x, y = (getattr(result, name) for result in (a, b))
        assert (x is None and y is None) or torch.equal(weights(x), weights(y))


@pytest.mark.parametrize("options", OPTIONS)
def test_the_same_training_as_without_a_graph(capture, options):
    plain = train(**OPTIONS[options])
    capture()
    assert_same(plain, train(**OPTIONS[options]))
    (device,) = FakeCapture.made
    assert (device.bodies, device.replays) == (1, N - 3)
    assert device.cold == set(), "launched for the first time while capturing"


def test_data_that_are_read_item_by_item(capture):
    data = torch.utils.data.TensorDataset(digits()[0][:50])
    plain = train(data, value_range=(-1, 1))
    capture()
    assert_same(plain, train(data, value_range=(-1, 1)))
    assert FakeCapture.made[0].replays == N - 3


def test_a_steady_iteration_calls_nothing_but_the_graph(monkeypatch, capture):
    """But for two copies of its numbers."""
    launched = []

    class Spy(FakeCapture):
        def capture(self, body):
            replay = super().capture(body)
            return lambda: (launched.append("replay"), replay())

        def upload(self, values, to):
            launched.append("upload")
            super().upload(values, to)

    for name in ("step", "_first_states"):
        monkeypatch.setattr(TrainingState, name, lambda *_: pytest.fail("not captured"))
    monkeypatch.setattr(continued, "run", lambda *_, **__: pytest.fail("not captured"))
    capture(Spy)
    train(log_every=100)
    assert launched == ["upload"] * 2 * 3 + ["upload", "upload", "replay"] * (N - 3)


def test_a_changed_noise_on_the_data_is_captured_again(capture):
    options = {"data_noise": [(0, 0.1), (5, 0.03)], "n_iterations": 10}
    plain = train(**options)
    capture()
    assert_same(plain, train(**options))
    assert (FakeCapture.made[0].bodies, FakeCapture.made[0].replays) == (2, 4)


def test_a_resume_is_captured_again(tmp_path, capture):
    plain = train(n_iterations=9)
    capture()
    train(out=tmp_path / "run", n_iterations=5)
    resumed = fl.train("digits", out=tmp_path / "run", n_iterations=9, resume=True, progress=False)
    assert torch.equal(weights(plain.model), weights(resumed.model))
    assert [(device.bodies, device.replays) for device in FakeCapture.made] == [(1, 2), (1, 1)]


def test_a_rollback_is_captured_again(tmp_path, capture, monkeypatch):
    """The optimiser's state has other addresses after it is restored."""
    options = {"n_iterations": 10, "on_divergence": "rollback", "checkpoint_every": 4}
    average = TrainingState.add_data_noise_

    def diverging(self, x_data, z):
        average(self, x_data, z)
        if self.iteration == 5 and self.attempt == 0:
            x_data.fill_(torch.nan)

    monkeypatch.setattr(TrainingState, "add_data_noise_", diverging)
    plain = train(out=tmp_path / "plain", **options)
    capture()
    captured = train(out=tmp_path / "captured", **options)
    assert captured.rollbacks == plain.rollbacks and len(plain.rollbacks) == 1
    assert_same_run(tmp_path / "plain", tmp_path / "captured")
    assert [device.bodies for device in FakeCapture.made] == [1, 1]
    assert FakeCapture.made[0].waited >= 2, "a graph is freed once it is not running"


def test_chains_that_are_not_finite_are_counted(capture, monkeypatch):
    """In the graph; a call of the sampler raises once the number has arrived."""
    counts, run, settle = [], DeviceCall.run, DeviceCall.settle

    def diverging(self, x0, velocity):
        ends = run(self, x0, velocity)
        ends.x[1:3] = torch.nan
        return ends

    def spy(self, n_diverged):
        counts.append(int(n_diverged))
        settle(self, n_diverged)
        with pytest.raises(fl.ChainDiverged, match="2 of 8 chains"):
            self._sampler.check()

    monkeypatch.setattr(DeviceCall, "run", diverging)
    monkeypatch.setattr(DeviceCall, "settle", spy)
    capture()
    with pytest.raises(fl.TrainingDiverged, match="not finite"):
        train()
    assert counts == [2]


def test_chains_that_no_longer_move_are_counted():
    """In the graph; a warning once the number has arrived."""
    sampler = fl.MALA(lambda x: 1e6 * x.square().sum((1, 2, 3)), step_size=1.0, n_steps=100, seed=1)
    call = DeviceCall(sampler, torch.empty(3, 1, 2, 2), (), lambda values, to: to.copy_(values))
    call.begin()
    ends = call.run(call.initial())
    assert ends.acceptance == 0.0
    call.settle(torch.tensor(0))
    with pytest.warns(RuntimeWarning, match="3 of 3 chains rejected their last 100 proposals or more"):
        sampler.check()


class Failing(FakeCapture):
    def capture(self, body):
        raise NotCapturable("the capture failed: no")


class Counting(nn.Module):
    """Reads a Python number that is another at each call."""

    def __init__(self):
        super().__init__()
        self.inner, self.calls = nn.Linear(64, 1), 0

    def forward(self, x):
        self.calls += 1
        return self.inner(x.flatten(1)) * (1 + self.calls)


def hooked():
    net = fl.models.ConvNet(8, 1, 4)
    net.register_forward_hook(lambda *_: None)
    return net


DECLINED = {
    "a failed capture": ({}, {"kind": Failing}, "the capture failed: no"),
    "a wait": ({}, {"why": "it"}, "an iteration makes the host wait"),
    "hooks": ({"model": hooked}, {}, "has hooks"),
    "changes": ({"model": Counting, "n_iterations": 12}, {}, "changed at each of 8"),
}


@pytest.mark.filterwarnings("ignore:the chain runs eagerly")
@pytest.mark.parametrize("case", DECLINED)
def test_what_cannot_be_captured_trains_as_before(capture, case):
    options, how, words = DECLINED[case]
    make = options.get("model")
    options = {**SHORT, "n_iterations": 5, **options}
    if make:
        del options["model"], options["features"]

    def run():
        torch.manual_seed(1)
        return fl.train("digits", make() if make else None, **options)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plain = run()
    capture(**how)
    with pytest.warns(RuntimeWarning, match=f"iterations are not captured as a CUDA graph: .*{words}"):
        captured = run()
    assert torch.equal(weights(plain.model), weights(captured.model))


NEVER = {
    "kl_weight needs": {"kl_weight": 0.1},
    "the optimiser is the caller's": {"optimizer": lambda parameters: torch.optim.SGD(parameters, lr=0.01)},
    "disabled by graph=False": {"sampler": {**SHORT["sampler"], "graph": False}},
    "129 steps, more than 128": {"sampler": {"n_steps": 129, "noise_std": 0.01}},
}


@pytest.mark.parametrize("words", NEVER)
def test_what_is_never_captured(capture, monkeypatch, words):
    seen, step = [], IterationGraph.step
    monkeypatch.setattr(IterationGraph, "step", lambda self: (seen.append(self.declined), step(self))[1])
    capture()
    fl.train("digits", **{**SHORT, "n_iterations": 2, **NEVER[words]})
    assert len(seen) == 2 and all(words in why for why in seen)
    assert FakeCapture.made == []
