"""Energies that are recognised as sequences of supported layers, and what recognition leaves unchanged."""

from __future__ import annotations

import functools
import gc
import math
import random
import threading

import pytest
import torch
import torch.nn.functional as F
from support.activations import ACTIVATIONS
from support.error_bounds import gamma
from support.traced_energies import MODEL, Energy, Lambda, body, net, read, why
from torch import nn
from torch.nn.utils import parametrizations

import fastlangevin as fl
from fastlangevin.network.recorder import RecordingTensor
from fastlangevin.network.tracing import uncompiled
from fastlangevin.network.walk import log_density


def method_owner():
    class Owner:
        def __init__(self):
            self.net = net()
            self.sign = -1.0

        def energy(self, x):
            return self.sign * self.net(x)

    return Owner()


WIDE, LABELS = nn.Sequential(*body()[:-1], nn.Linear(64, 5)), torch.tensor([4, 0, 2])
RECOGNISED = {
    "sequential": net(),
    "nested": nn.Sequential(nn.Sequential(*body()[:2]), nn.Sequential(nn.Sequential(nn.Identity()), *body()[2:])),
    "in place": nn.Sequential(nn.Conv2d(2, 4, 3), nn.LeakyReLU(0.2, inplace=True), nn.Flatten(), nn.Linear(64, 1)),
    "dropout in eval": net(nn.Dropout(0.5), nn.Dropout2d(0.5)).eval(),
    "dropout of 0": net(nn.Dropout(0.0)).train(),
    "average pool": nn.Sequential(nn.Conv2d(2, 4, 3), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16, 1)),
    "same padding": nn.Sequential(nn.Conv2d(2, 4, 3, padding="same"), nn.ReLU(), nn.Flatten(), nn.Linear(144, 1)),
    "valid padding": nn.Sequential(nn.Conv2d(2, 4, 3, padding="valid"), nn.ReLU(), nn.Flatten(), nn.Linear(64, 1)),
    "spectral norm": nn.Sequential(parametrizations.spectral_norm(nn.Conv2d(2, 4, 3)), *body()[1:]).eval(),
    "weight norm": nn.Sequential(parametrizations.weight_norm(nn.Conv2d(2, 4, 3)), *body()[1:]),
    "own module": Energy(),
    "lambda": lambda x: -MODEL(x),
    "lambda of a scale": lambda x: 0.5 * MODEL(x).squeeze(1) / 2,
    "column": lambda x: MODEL(x)[:, 0],
    "closure": (lambda model: lambda x: -model(x))(net()),
    "method": method_owner().energy,
    "partial": functools.partial(lambda scale, x, *, model: scale * model(x), 2.0, model=net()),
    "partial of a module": functools.partial(functools.partial(net())),
    "square root": lambda x: MODEL(x) / math.sqrt(2),
    "functional": lambda x: F.linear(F.relu(x.flatten(1)), torch.ones(1, 72)),
    "compiled": torch.compile(net(), backend="eager"),
    "reads the device": lambda x: MODEL(x) * (1.0 if x.device.type == "cpu" and not x.is_cuda else 2.0),
    "small list": lambda x, table=(1.0, 2.0): MODEL(x) * table[1],
    "lambda modules": nn.Sequential(Lambda(lambda h: h), net(), Lambda(lambda h: -h)),
    "prior": lambda x: MODEL(x).squeeze(1) - 0.5 * x.square().sum(dim=(1, 2, 3)),
    "prior first": lambda x: -((x**2).flatten(1).sum(-1) / 2 - MODEL(x)[:, 0]),
    "prior, keepdim": lambda x: 3 * (MODEL(x) + -(x * x).reshape(3, -1).sum(1, keepdim=True) * 0.5),
    "two priors": lambda x: x.square().sum((1, 2, 3)) - (MODEL(x)[:, 0] + 3 * x.square().flatten(1).sum(1)),
    "prior of a view": lambda x: MODEL(x).squeeze() - 0.5 * (x.flatten(1) ** 2).sum(1),
    "prior of views": lambda x: (
        (x.flatten(1) * x.view(3, -1)).sum(1) - F.linear(x.reshape(3, -1), torch.ones(1, 72))[:, 0]
    ),
    "the first element's view": lambda x: F.linear(x.view(3, 72).flatten(1), torch.ones(1, 72)).view(-1),
    "linear after two views": lambda x: F.linear(F.relu(x.view(3, 2, 36).view(3, 72)), torch.ones(1, 72)),
    "log-sum-exp": lambda x: WIDE(x).logsumexp(1),
    "log-sum-exp of a classifier": lambda x: -torch.logsumexp(WIDE(x), dim=-1, keepdim=True) / 2,
    "log-sum-exp of the state": lambda x: x.flatten(1).logsumexp((1,)),
    "gather": lambda x: WIDE(x).gather(1, LABELS[:, None]),
    "gather, then squeezed": lambda x: -torch.gather(WIDE(x), -1, LABELS.unsqueeze(1)).squeeze(1),
    "index by label": lambda x: WIDE(x)[torch.arange(x.size(0)), LABELS],
    "index from behind": lambda x: WIDE(x)[torch.arange(len(x)), LABELS - 5] + x.square().sum((1, 2, 3)),
    "prior before": lambda x: x.square().flatten(1).sum(1) + MODEL(x)[:, 0],
}


def assert_same(a, b, x):
    """Both in float32, of the same weights and some 10 operations: sums of at most 144 terms, whose absolute values add
    up to some 10 in the networks and to 5 times |x|² at most in the quadratic terms.
    """
    most = gamma(144 + 10) * (10 + 5 * x.detach().square().flatten(1).sum(1).max())
    assert a.shape == b.shape and (a - b).abs().max() <= most < 1e-3


@pytest.mark.parametrize("name", RECOGNISED)
def test_recognised(name):
    function = RECOGNISED[name]
    network = read(function)
    x = 0.25 * torch.randn(3, 2, 6, 6)
    assert_same(log_density(network, x), function(x).reshape(3), x)
    assert network.shapes[0] == (2, 6, 6)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name):
    module, activation = ACTIVATIONS[name]
    assert read(nn.Sequential(nn.Linear(2, 3), module(), nn.Linear(3, 1)), (3, 2)).layers[1] == activation


def test_the_sign_of_an_energy():
    x = 0.25 * torch.randn(3, 2, 6, 6)
    assert_same(log_density(read(MODEL, kind="energy"), x), -MODEL(x).reshape(3), x)


def test_models_of_the_library():
    """In float64: five layers of sums of at most 512 terms, each of them rounded to 2^-53."""
    for size in (8, 32):
        model = fl.models.ConvNet(size, 3, 8).double()
        x = torch.randn(2, 3, size, size, dtype=torch.float64)
        network = read(model, x.shape, dtype=torch.float64)
        torch.testing.assert_close(log_density(network, x), model(x), rtol=1e-12, atol=1e-12)


def test_current_weights_are_read():
    model = net()
    before = read(model)
    with torch.no_grad():
        model[0].weight.mul_(2)
    x = 0.25 * torch.randn(3, 2, 6, 6)
    assert_same(log_density(before, x), model(x)[:, 0], x)  # the very tensors
    model[0].weight = nn.Parameter(torch.randn(4, 2, 3, 3))
    assert_same(log_density(read(model), x), model(x)[:, 0], x)


def test_no_chains():
    """A dimension of -1 cannot be inferred without elements, so one chain is traced instead of none."""
    assert read(Energy(), shape=(0, 2, 6, 6)).shapes == read(Energy(), shape=(1, 2, 6, 6)).shapes


def test_extra_arguments_are_given():
    def conditional(x, scale):
        return MODEL(x) * scale

    assert read(conditional, args=(2.0,)).factor == 2.0
    assert "not a finite number" in why(conditional, args=(torch.ones(1),))
    assert "extra argument 0 is a Random" in why(lambda x, r: MODEL(x) * r.gauss(0, 1), args=(random.Random(0),))


def test_state_without_weights_keeps_its_type():
    network = read(lambda x: F.silu(x[:, 0]), shape=(4, 1), dtype=torch.float64)
    x = torch.randn(4, 1, dtype=torch.float64)
    assert network.dtype == torch.float64 and torch.equal(log_density(network, x), F.silu(x[:, 0]))


def test_concurrent_traces_leave_torch_compile_enabled():
    """Each thread leaves while another is inside."""
    inside, leave = threading.Barrier(2), [threading.Event(), threading.Event()]

    def slow(number):
        with uncompiled:
            inside.wait()
            leave[number].wait()

    RECOGNISED["compiled"](torch.zeros(1, 2, 6, 6))  # loads the compiler
    threads = [threading.Thread(target=slow, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    runs = []

    def backend(graph, inputs):
        runs.append(1)
        return graph.forward

    compiled = torch.compile(lambda x: x + 1, backend=backend)
    for number, thread in enumerate(threads):
        leave[number].set()
        thread.join()
        compiled(torch.zeros(2))
        assert len(runs) == number  # uncompiled while the second thread is inside


def test_nothing_is_held_afterwards():
    gc.collect()
    gc.disable()
    try:
        read(MODEL)
        assert not [o for o in gc.get_objects() if type(o) is RecordingTensor]
    finally:
        gc.enable()
