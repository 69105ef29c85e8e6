"""Options compared with a plain loop, defaults, and bad options."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from support.chain_reference import chain
from support.error_bounds import Roundings, assert_within
from support.langevin_reference import FLOAT64, plain_loop, quadratic, small_net

import fastlangevin as fl
from fastlangevin.kernels.arguments import ChainArgs

CASES = {
    "plain": {},
    "constant step and noise": dict(step_size=0.3, noise_std=0.2),
    "no noise": dict(noise_std=0.0),
    "schedules": dict(step_size=[0.1, 0.2, 0.3, 0.1, 0.05, 0.4], noise_std=[0.3, 0.0, 0.1, 0.2, 0.5, 0.1]),
    "clip": dict(grad_clip=0.2),
    "bounds": dict(bounds=(-0.5, 0.7)),
    "clip and bounds": dict(grad_clip=0.3, bounds=(-0.9, 0.5)),
    "noise first": dict(noise_first=True, bounds=(-0.6, 0.6), noise_std=0.5),
    "noise first, clamped": dict(noise_first="clamp", bounds=(-0.6, 0.6), noise_std=0.5),
    "noise first, no noise, clamped": dict(noise_first="clamp", bounds=(-0.6, 0.6), noise_std=0.0),
}


def wavy(x: torch.Tensor) -> torch.Tensor:
    """|x|²/2 + Σ cos 3x / 8, each of whose operations, and those of its gradient, is rounded a few times at most."""
    return quadratic(x) + torch.cos(3 * x).sum(1) / 8


def wavy_score(r: Roundings, x: torch.Tensor) -> torch.Tensor:
    """3/8 sin 3x - x by float32's autograd: 3x is rounded, the sine within 2 units in the last place of itself, or of
    what its argument's is; then two products and the sum.
    """
    sine = r.relative(torch.sin(r.relative(3 * x)), 4)
    return r.relative(r.relative(3 / 8 * sine, 2) - x)


@pytest.mark.parametrize("case", CASES)
def test_options_against_a_plain_loop(backend, case):
    options = {"step_size": 0.25, "noise_std": 0.1, **CASES[case]}
    x0 = torch.randn(4, 5, generator=torch.Generator().manual_seed(1))
    loop = dict(
        n_steps=6,
        eta=options["step_size"],
        sigma=options["noise_std"],
        first=11,
        clip=options.get("grad_clip"),
        bounds=options.get("bounds"),
        noise_first=options.get("noise_first", False),
    )
    expected = plain_loop(x0, lambda x: 3 / 8 * torch.sin(3 * x) - x, **loop)
    etas, sigmas = (v if isinstance(v, list) else [v] * 6 for v in (loop["eta"], loop["sigma"]))
    place = (any(sigmas), 1, range(11, 17), 0)
    limits = (loop["clip"], *(loop["bounds"] or (None, None)), loop["noise_first"])
    written, bound, sure = chain(wavy_score, x0, ChainArgs(etas, sigmas, *place, *limits))
    torch.testing.assert_close(written, expected, rtol=1e-13, atol=1e-13)  # six steps of some ten roundings of 2^-53
    got = fl.Langevin(wavy, n_steps=6, seed=1, backend=backend, **options)(x0, step=11)
    assert_within(got, expected, bound, sure, tight=3e-6)


def test_cases_differ_from_one_another():
    """Each option changes the chain, so the comparison above can fail."""
    x0 = torch.randn(4, 5, generator=torch.Generator().manual_seed(1))
    ends = [
        fl.Langevin(quadratic, n_steps=6, seed=1, **{"step_size": 0.25, "noise_std": 0.1, **options})(x0, step=11)
        for options in CASES.values()
    ]
    for i, a in enumerate(ends):
        for b in ends[:i]:
            assert not torch.allclose(a, b, atol=1e-4)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_noise_last_leaves_the_bounds_by_its_noise(backend):
    x0, options = torch.randn(3, 2), dict(n_steps=1, step_size=0.5, bounds=(-0.1, 0.1), seed=1, backend=backend)
    moved = fl.Langevin(quadratic, noise_std=0.0, **options)(x0, step=7)
    expected = fl.langevin_update_(moved, None, None, 0.3, seed=1, step=7, backend=backend)
    sampler = fl.Langevin(quadratic, noise_std=0.3, noise_last=True, **options)
    assert torch.equal(sampler(x0, step=7), expected) and expected.abs().max() > 0.1
    assert sampler.replace(noise_std=0.0)(x0).abs().max() <= 0.1
    with pytest.raises(ValueError, match="noise_last=True needs bounds, and noise_first=False, got bounds=None"):
        sampler.replace(bounds=None)
    with pytest.raises(
        ValueError, match="noise_last=True needs bounds, and noise_first=False, got noise_first='clamp'"
    ):
        sampler.replace(noise_first="clamp")
    with pytest.raises(ValueError, match="noise_last must be one of"):
        sampler.replace(noise_last="clamp")


def test_schedules_may_be_sequences_and_callables():
    x0 = torch.randn(3, 2)
    values = [0.1, 0.4, 0.2]
    run = lambda schedule: fl.Langevin(quadratic, n_steps=3, step_size=schedule, noise_std=schedule, seed=1)(x0)
    expected = run(values)
    for schedule in (tuple(values), np.array(values), lambda k: values[k]):
        assert torch.equal(run(schedule), expected)
    for number in (np.float32(0.5), torch.tensor(0.5), 0.5):
        assert torch.equal(run(number), run([0.5] * 3))
    with pytest.raises(TypeError, match="step_size must be a number, got True"):
        run(True)


def test_default_noise_follows_step_size_and_temperature():
    x0 = torch.zeros(3, 2)
    a = fl.Langevin(quadratic, n_steps=2, step_size=[0.1, 0.3], noise_std=None, temperature=0.5, seed=1)(x0)
    sigma = [math.sqrt(2 * 0.1 * 0.5), math.sqrt(2 * 0.3 * 0.5)]
    assert torch.equal(a, fl.Langevin(quadratic, n_steps=2, step_size=[0.1, 0.3], noise_std=sigma, seed=1)(x0))


@pytest.mark.parametrize("over", ["steps", "chains", "both"])
@pytest.mark.parametrize("step_size", [0.3, [0.1, 0.3], torch.tensor([0.1, 0.2, 0.4], dtype=torch.float64)])
def test_a_temperature_over_steps_or_chains(over, step_size):
    x0, f64 = torch.randn(3, 2), {"dtype": torch.float64}
    values = {"steps": [0.5, 0.0], "chains": torch.tensor([0.5, 1.0, 0.0]), "both": torch.rand(2, 3)}[over]
    tempered = fl.Langevin(quadratic, n_steps=2, step_size=step_size, noise_std=None, temperature=values, seed=1)
    eta = step_size if isinstance(step_size, torch.Tensor) else torch.tensor(step_size, **f64).view(-1, 1)
    t = values if isinstance(values, torch.Tensor) else torch.tensor(values, **f64).view(-1, 1)
    sigma = (2 * eta * t.double()).sqrt().expand(2, 3)
    explicit = fl.Langevin(quadratic, n_steps=2, step_size=step_size, noise_std=sigma, seed=1)
    torch.testing.assert_close(tempered(x0.double()), explicit(x0.double()), **FLOAT64)
    cooled = tempered.replace(temperature=lambda k: 0.0)
    assert torch.equal(cooled(x0), tempered.replace(noise_std=0.0, temperature=1.0)(x0))


def test_bad_temperatures():
    for bad, error in (([0.5], ValueError), (-1.0, ValueError), ("hot", TypeError), (torch.tensor([-1.0]), ValueError)):
        with pytest.raises(error, match="temperature"):
            fl.Langevin(quadratic, n_steps=2, step_size=0.1, noise_std=None, temperature=bad)


def test_numpy_numbers_are_numbers():
    options = {"step_size": np.float32(0.5), "noise_std": np.float64(0.1), "grad_clip": np.float32(0.25)}
    a = fl.Langevin(quadratic, n_steps=np.int64(3), bounds=(np.float32(-1), np.float32(1)), seed=np.int64(1), **options)
    plain = {"step_size": 0.5, "noise_std": 0.1, "grad_clip": 0.25, "bounds": (-1, 1)}
    b = fl.Langevin(quadratic, n_steps=3, seed=1, **plain)
    shape = (np.int64(4), 2)
    assert torch.equal(a.sample(shape, chain_offset=np.int64(2)), b.sample((4, 2), chain_offset=2))


def test_plan_and_repr():
    sampler = fl.Langevin(log_density=small_net(), backend="reference", seed=3, bounds=(-1, 1))
    assert sampler.plan.backend == "reference" and sampler.plan.engine == "mlp" and sampler.plan.graph is False
    text = repr(sampler)
    for part in ("log_density=Sequential", "n_steps=100", "bounds=(-1.0, 1.0)", "seed=3", "backend='reference'"):
        assert part in text
    assert any(reason.startswith("graph not used: ") for reason in sampler.plan.reasons)


def test_repr_of_numbers_and_schedules():
    text = repr(fl.Langevin(quadratic, step_size=0.3, noise_std=[0.1] * 100, seed=1))
    assert "step_size=0.3" in text and "noise_std=…" in text


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"energy": None}, ValueError, "exactly one of energy, log_density and score must be given, got none"),
        ({"log_density": quadratic}, ValueError, "got energy and log_density"),
        ({"energy": 3}, TypeError, "energy must be callable, got int"),
        ({"energy": fl.models.MLP}, TypeError, "energy must be a function or a network, got the class MLP"),
        ({"n_steps": 0}, ValueError, "n_steps must be an int of at least 1, got 0"),
        ({"n_steps": 2.5}, ValueError, "n_steps must be an int"),
        (
            {"step_size": [0.1] * 99, "noise_std": 0.1},
            ValueError,
            "step_size as a sequence must have n_steps = 100 values, got 99",
        ),
        ({"step_size": -1.0, "noise_std": 0.1}, ValueError, "step_size must be finite and not negative, got -1.0"),
        ({"noise_std": -0.1}, ValueError, "noise_std must be finite and not negative"),
        ({"noise_std": lambda k: -k}, ValueError, "noise_std at step 1 must be finite and not negative"),
        ({"step_size": "big", "noise_std": 0.1}, (TypeError, ValueError), "step_size"),
        ({"step_size": object(), "noise_std": 0.1}, TypeError, "step_size must be a number, a sequence"),
        ({"temperature": -1.0}, ValueError, "temperature must be finite and not negative"),
        ({"grad_clip": -1.0}, ValueError, "grad_clip must be a positive number"),
        ({"bounds": (1.0, -1.0)}, ValueError, "bounds must have lo < hi, got \\(1.0, -1.0\\)"),
        ({"noise_first": "clip"}, ValueError, "noise_first must be one of.*'clamp'"),
        ({"noise_first": "clamp"}, ValueError, "noise_first='clamp' needs bounds"),
        ({"init": "unifrom"}, ValueError, "init must be one of.*did you mean 'uniform'"),
        ({"precision": "fp61"}, ValueError, "precision must be one of.*did you mean 'fp16'"),
        ({"engine": "autogard"}, ValueError, "engine must be one of.*did you mean 'autograd'"),
        ({"backend": "refrence"}, ValueError, "backend must be one of.*did you mean 'reference'"),
        ({"graph": "yes"}, ValueError, "graph must be one of"),
        ({"seed": -(2**64)}, ValueError, "seed must fit 64 bits"),
        ({"generator": torch.Generator()}, ValueError, "seed and generator are mutually exclusive"),
    ],
)
def test_bad_options(options, error, words):
    with pytest.raises(error, match=words):
        fl.Langevin(**{"energy": quadratic, "seed": 1, **options})


def test_explicit_choices_that_cannot_be_met_are_errors():
    with pytest.raises(fl.BackendUnavailable, match="graph=True cannot be met"):
        fl.Langevin(quadratic, graph=True, seed=1)(torch.zeros(3, 2))
    with pytest.raises(ValueError, match="precision='tf32' is a mode of NVIDIA GPUs"):
        fl.Langevin(quadratic, precision="tf32", seed=1)(torch.zeros(3, 2))


def test_defaults_are_the_paper_s():
    sampler = fl.Langevin(quadratic, seed=1)
    assert (sampler.n_steps, sampler.step_size, sampler.noise_std, sampler.temperature) == (100, 1.0, 0.01, 1.0)
    assert (sampler.grad_clip, sampler.bounds, sampler.noise_first, sampler.init) == (None, None, False, "uniform")
    assert (sampler.precision, sampler.engine, sampler.backend, sampler.graph) == ("fp32", "auto", "auto", "auto")


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        (
            {"step_size": [0.1] * 101, "noise_std": 0.1},
            ValueError,
            "step_size as a sequence must have n_steps = 100 values, got 101",
        ),
        ({"step_size": math.inf, "noise_std": 0.1}, ValueError, "step_size must be finite"),
        ({"step_size": lambda k: math.nan, "noise_std": 0.1}, ValueError, "step_size at step 0 must be finite"),
        ({"step_size": ["x"] * 100, "noise_std": 0.1}, TypeError, "step_size at step 0 must be a number, got 'x'"),
        ({"temperature": math.inf}, ValueError, "temperature must be finite"),
        ({"temperature": "hot"}, TypeError, "temperature must be a number, a sequence .*got 'hot'"),
    ],
)
def test_more_bad_options(options, error, words):
    with pytest.raises(error, match=words):
        fl.Langevin(**{"energy": quadratic, "seed": 1, **options})


def test_temperature_zero_is_gradient_descent():
    sampler = fl.Langevin(quadratic, n_steps=3, step_size=0.5, noise_std=None, temperature=0, seed=1)
    assert torch.equal(sampler(torch.ones(2, 2)), torch.full((2, 2), 0.125))


def test_bounds_on_one_side():
    x0, options = torch.randn(50, 2), dict(n_steps=3, step_size=0.1, noise_std=0.5, seed=1)
    below, above, free = (
        fl.Langevin(quadratic, bounds=bounds, **options)(x0) for bounds in ((0, None), (None, 0), None)
    )
    assert below.min() == 0 and below.max() > 0.5
    assert above.max() == 0 and above.min() < -0.5
    assert free.min() < -0.5 and free.max() > 0.5
    mixture = fl.energies.GaussianMixture(torch.zeros(1, 2))
    sampler = fl.Langevin(mixture, bounds=(0, None), **options)
    assert sampler(x0).min() == 0
    with pytest.raises(ValueError, match="init='uniform' needs bounds whose difference is finite"):
        sampler.sample((3, 2))
    assert sampler.replace(init="normal").sample((30, 2)).min() == 0
