"""Which contenders are timed in the benchmarks: those that run the work. Nothing is timed here."""

from __future__ import annotations

import dataclasses
import types

import checks
import comparison
import pytest
import torch
import works
from contenders import BASELINE, CONTENDERS, OURS, UPDATES, Contender, eager, training_scripts

WORKS = {
    "double well": lambda: dataclasses.replace(works.double_well("cpu"), n_steps=20),
    "mlp": lambda: works.mlp((2, 16), "silu", 10, "cpu"),
    "convnet": lambda: works.convnet(8, 1, 4, 5, "cpu"),
}


@pytest.fixture(scope="module", params=WORKS)
def work(request):
    return WORKS[request.param]()


@pytest.fixture(scope="module")
def expected(work):
    return checks.Expected.of(work)


def eager_with(work, **changes):
    """The eager loop of a different work: other numbers, or another network."""
    return eager.make(dataclasses.replace(work, **changes))


@pytest.mark.parametrize("name", [n for n in CONTENDERS if not n.startswith("torch.compile")])
def test_contenders_run_the_work(work, expected, name):
    contender = CONTENDERS[name]
    why = contender.missing or contender.supports(work)
    if why:
        pytest.skip(why)
    assert checks.disagreement(work, contender.make(work), expected, contender.precision) is None


@pytest.mark.compiled
def test_compiled_steps_run_the_work():
    work = WORKS["double well"]()
    chain = CONTENDERS["torch.compile 10 steps"].make(work)
    assert checks.disagreement(work, chain, checks.Expected.of(work)) is None
    with pytest.raises(ValueError, match="multiple of 10, got 15"):
        chain(work.x0, 15, 0.0)


def test_a_wrong_step_is_rejected(work, expected):
    why = checks.disagreement(work, eager_with(work, step_size=1.01 * work.step_size), expected)
    assert "steps without noise" in why and "away from the eager loop's" in why


@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_wrong_noise_is_rejected(work, expected, factor):
    chain = eager.make(work)
    why = checks.disagreement(work, lambda x0, n, sigma: chain(x0, n, factor * sigma), expected)
    assert "standard errors apart" in why


def test_noise_that_repeats_at_every_step_is_rejected(work, expected):
    chain = eager.make(work)

    def repeating(x0, n_steps, noise_std):
        for _ in range(n_steps):
            torch.manual_seed(5)
            x0 = chain(x0, 1, noise_std)
        return x0

    assert "squared noise" in checks.disagreement(work, repeating, expected)


@pytest.mark.parametrize(
    ("change", "says"),
    [(lambda x: x * torch.nan, "nan away"), (lambda x: x[:1], "the state has shape"), (lambda x: x + 1, "away from")],
)
def test_a_state_that_differs_from_the_eager_loop_is_rejected(work, expected, change, says):
    chain = eager.make(work)
    assert says in checks.disagreement(work, lambda *a: change(chain(*a)), expected)


def test_admitted_contenders(work):
    def broken(**changes):
        make = lambda work: lambda x0, n, sigma: eager_with(work, **changes)(x0, n, sigma)
        return Contender(types.SimpleNamespace(MISSING=None, supports=lambda work: None, make=make))

    def raising(work):
        raise RuntimeError("first line\nsecond")

    module = types.SimpleNamespace
    contenders = {
        BASELINE: CONTENDERS[BASELINE],
        "not here": Contender(module(MISSING="no such library")),
        "not able": Contender(module(MISSING=None, supports=lambda work: "only for cats")),
        "raising": Contender(module(MISSING=None, supports=lambda work: None, make=raising)),
        "wrong": broken(step_size=2 * work.step_size),
    }
    calls, rows = comparison.admit(work, contenders)
    assert list(calls) == [BASELINE] and calls[BASELINE]().shape == work.x0.shape
    assert [(row["contender"], row["status"]) for row in rows] == [
        ("not here", "missing"),
        ("not able", "unsupported"),
        ("raising", "failed"),
        ("wrong", "failed"),
    ]
    assert rows[0]["reason"] == "no such library" and rows[1]["reason"] == "only for cats"
    assert rows[2]["reason"] == "RuntimeError: first line"
    assert not any("seconds" in row or "ratio" in row for row in rows)


@pytest.mark.parametrize("name", UPDATES)
def test_updates_are_checked(name):
    module = UPDATES[name]
    if module.MISSING or name == "torch.compile":
        pytest.skip(module.MISSING or "compiling is for the benchmark")
    assert checks.update_disagreement(4096, module.make_update(4096, "cpu"), 1e-3, 1e-2) is None
    for step, noise, says in ((1.01, 1.0, "without noise"), (1.0, 1.2, "mean square"), (1.0, 0.0, "mean square")):
        update = module.make_update(4096, "cpu")
        wrong = lambda a, b, update=update, step=step, noise=noise: update(step * a, noise * b)
        assert says in checks.update_disagreement(4096, wrong, 1e-3, 1e-2)


@pytest.mark.compiled
def test_compiled_noise_is_torch_s_own():
    """At every call: inductor's own random numbers, ten times slower on a CPU, would make this peer a straw man."""
    update = UPDATES["torch.compile"].make_update(64, "cpu")
    update(1e-3, 0.0), update(1e-3, 1e-2)
    before = update(0.0, 0.0).clone()
    torch.manual_seed(3)
    after = update(0.0, 1.0).clone()
    torch.manual_seed(3)
    # The state is rounded where the noise is added, and the difference is exact or rounded once more.
    assert ((after - before - torch.randn(64)).abs() <= 2.0**-24 * 2 * (after.abs() + before.abs())).all()


def test_training_iterations_are_checked():
    training = training_scripts.Training.of(works.convnet(8, 1, 4, 5, "cpu"))
    ours = training_scripts.script(training, CONTENDERS[OURS].make(training.work))
    for run in (ours, training_scripts.fl_train(training)):
        assert training_scripts.disagreement(training, run) is None
    opposite = training_scripts.script(training, lambda x0, n, sigma: -x0)
    assert "away from the eager script's" in training_scripts.disagreement(training, opposite)
