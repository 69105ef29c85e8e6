"""The sampler: its mathematics, every option against a plain loop, and what it must leave alone."""

from __future__ import annotations

import copy
import math
import pickle
import threading

import numpy as np
import pytest
import torch
from activation_bounds import NATIVE_MLP
from chain_reference import arguments, chain
from error_bounds import UNIT, Roundings, U, assert_within, gamma
from network_bounds import Arithmetic
from network_bounds import score as network_score
from torch import nn

import fastlangevin as fl


def quadratic(x: torch.Tensor) -> torch.Tensor:
    """U = |x|²/2: the score is -x."""
    return x.flatten(1).square().sum(1) / 2


def normal(shape, step, seed=1, stream=0, offset=0):
    return fl.noise.normal(shape, seed=seed, step=step, stream=stream, offset=offset, backend="reference")


def plain_loop(x, score, *, n_steps, eta, sigma, first=0, clip=None, bounds=None, noise_first=False):
    """The updates as the docstring of `Langevin` writes them, in float64."""
    x = x.double()
    for k in range(n_steps):
        z = normal(x.shape, first + k).double()
        e = eta[k] if isinstance(eta, list) else eta
        s = sigma[k] if isinstance(sigma, list) else sigma
        if noise_first:
            x = x + s * z
            if noise_first == "clamp":
                x = x.clamp(*bounds)
        g = score(x)
        if clip is not None:
            g = g.clamp(-clip, clip)
        x = x + e * g
        if not noise_first:
            x = x + s * z
        if bounds is not None:
            x = x.clamp(*bounds)
    return x


# Of float64, where energies are around 1 and sums of at most 16 terms: far more than their roundings, 16 · 2^-53 each.
FLOAT64 = dict(rtol=1e-12, atol=1e-13)


def in_16_bits(precision: str) -> Arithmetic:
    """Factors, sums, activations and their derivatives are rounded to the type."""
    half = UNIT[{"bf16": torch.bfloat16, "fp16": torch.float16}[precision]]
    rounded = lambda name, z, value, derivative, *_: (half * value.abs() + 8 * U, half * derivative.abs() + 8 * U)
    return Arithmetic(rounded, half=half)


def small_net(seed=0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 1))


# Mathematics


@pytest.mark.parametrize("eta", [0.1, 0.5, 1.0])
def test_stationary_variance_is_that_of_the_discretised_chain(eta):
    """ULA on a unit Gaussian, x' = (1 - η)x + sqrt(2η)z: variance 2η / (1 - (1 - η)²) = 1 / (1 - η/2), not 1."""
    n = 40_000
    sampler = fl.Langevin(quadratic, n_steps=150, step_size=eta, noise_std=None, seed=7)
    x = sampler(torch.zeros(n, 1))
    expected = 1 / (1 - eta / 2)
    error = expected * math.sqrt(2 / n)
    assert abs(x.var() - expected) < 4 * error
    assert abs(x.mean()) < 4 * math.sqrt(expected / n)
    if eta >= 0.5:
        assert abs(x.var() - 1) > 20 * error


def test_stationary_covariance_of_a_correlated_gaussian():
    """U = xᵀΛx/2: the chain's stationary covariance solves Σ = (I - ηΛ)Σ(I - ηΛ) + 2ηT·I."""
    precision = torch.tensor([[1.2, 0.5], [0.5, 0.8]])
    mean = torch.tensor([1.0, -2.0])
    eta, temperature, n = 0.4, 0.7, 60_000
    u = lambda x: 0.5 * ((x - mean) @ precision * (x - mean)).sum(1)
    sampler = fl.Langevin(u, n_steps=120, step_size=eta, noise_std=None, temperature=temperature, seed=3)
    x = sampler(mean.expand(n, 2)).double()
    a = torch.eye(2, dtype=torch.float64) - eta * precision.double()
    covariance = torch.zeros(2, 2, dtype=torch.float64)
    for _ in range(500):
        covariance = a @ covariance @ a.T + 2 * eta * temperature * torch.eye(2, dtype=torch.float64)
    got = x.T.cov()
    error = torch.sqrt((covariance.diag()[:, None] * covariance.diag()[None] + covariance**2) / n)
    assert ((got - covariance).abs() < 4 * error).all(), (got, covariance)
    assert ((x.mean(0) - mean).abs() < 4 * (covariance.diag() / n).sqrt()).all()


def test_energy_log_density_and_score_give_the_same_chain():
    net = small_net()
    x0 = torch.randn(5, 3)

    def score(x):
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            return torch.autograd.grad(-net(x).sum(), x)[0]

    options = dict(n_steps=20, step_size=0.1, noise_std=0.05, seed=1)
    from_energy = fl.Langevin(net, **options)(x0)
    assert torch.equal(from_energy, fl.Langevin(log_density=lambda x: -net(x), **options)(x0))
    tail = arguments([0.1] * 20, [0.05] * 20, seed=1, steps=range(20), offset=0)
    expected = chain(lambda r, x: network_score(r, list(net), x, NATIVE_MLP, factor=-1), x0, *tail)
    assert_within(from_energy, *expected, tight=1e-5)
    step_by_step = fl.Langevin(net, engine="autograd", **options)(x0)
    assert torch.equal(step_by_step, fl.Langevin(score=score, **options)(x0))
    net.double()
    wide = fl.Langevin(score=score, **options)(x0.double())
    torch.testing.assert_close(wide, expected[0], rtol=1e-12, atol=1e-12)
    opposite = fl.Langevin(log_density=net, **options)(x0.double())
    assert not torch.allclose(wide, opposite, atol=0.01)


# Options, each against the plain loop


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
    written, bound, sure = chain(wavy_score, x0, etas, sigmas, *place, *limits)
    torch.testing.assert_close(written, expected, rtol=1e-13, atol=1e-13)
    got = fl.Langevin(wavy, n_steps=6, seed=1, backend=backend, **options)(x0, step=11)
    assert_within(got, expected, bound, sure, tight=3e-6)


def test_cases_differ_from_one_another():
    """Each option moves the chain, so the comparison above can fail."""
    x0 = torch.randn(4, 5, generator=torch.Generator().manual_seed(1))
    ends = [
        fl.Langevin(quadratic, n_steps=6, seed=1, **{"step_size": 0.25, "noise_std": 0.1, **options})(x0, step=11)
        for options in CASES.values()
    ]
    for i, a in enumerate(ends):
        for b in ends[:i]:
            assert not torch.allclose(a, b, atol=1e-4)


def test_schedules_may_be_sequences_callables_and_tensors():
    x0 = torch.randn(3, 2)
    values = [0.1, 0.4, 0.2]
    run = lambda schedule: fl.Langevin(quadratic, n_steps=3, step_size=schedule, noise_std=schedule, seed=1)(x0)
    expected = run(values)
    for schedule in (tuple(values), np.array(values), torch.tensor(values, dtype=torch.float64), lambda k: values[k]):
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


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_state_keeps_its_dtype(backend, dtype):
    x0 = torch.randn(4, 3, dtype=torch.float64).to(dtype)
    sampler = fl.Langevin(quadratic, n_steps=5, step_size=0.1, noise_std=0.1, seed=1, backend=backend)
    x = sampler(x0)
    assert x.dtype == dtype
    expected = plain_loop(x0, lambda v: -v, n_steps=5, eta=0.1, sigma=0.1)
    # At each step three roundings by the arithmetic and one to the state's type, of at most 5; later steps shrink them.
    arithmetic = UNIT[dtype if dtype == torch.float64 else torch.float32]
    most = 5 * 5 * (3 * arithmetic + (0 if dtype == torch.float64 else UNIT[dtype]))
    assert (x.double() - expected).abs().max() <= most and expected.abs().max() < 5


def test_network_runs_in_its_parameters_dtype():
    seen = []
    net = small_net().double()
    net[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].dtype))
    x = fl.Langevin(net, n_steps=2, seed=1)(torch.randn(2, 3))
    assert x.dtype == torch.float32 and set(seen) == {torch.float64}


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_precision_lowers_the_network_only(precision):
    net = small_net()
    x0 = torch.randn(64, 3)
    options = dict(n_steps=3, step_size=0.1, noise_std=0.1, seed=1)
    tail = arguments([0.1] * 3, [0.1] * 3, seed=1, steps=range(3), offset=0)
    expected = chain(lambda r, x: network_score(r, list(net), x, in_16_bits(precision), factor=-1), x0, *tail)
    lower = fl.Langevin(net, precision=precision, **options)(x0)
    assert lower.dtype == torch.float32
    assert_within(lower, *expected, tight=0.01)
    assert (lower - expected[0]).abs().max() > 100 * U  # not float32


def test_fp32_is_strict_and_flags_are_restored():
    seen = []

    def energy(x):
        seen.append((torch.backends.mkldnn.matmul.fp32_precision, torch.is_autocast_enabled("cpu")))
        return quadratic(x)

    before = torch.backends.mkldnn.matmul.fp32_precision
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"
    try:
        with torch.autocast("cpu", torch.bfloat16):
            fl.Langevin(energy, n_steps=1, seed=1)(torch.zeros(1, 2))
        assert seen == [("ieee", False)]
        assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"
    finally:
        torch.backends.mkldnn.matmul.fp32_precision = before


# Noise: counter, shards, copies


def test_counter_advances_and_override_leaves_it_alone():
    sampler = fl.Langevin(quadratic, n_steps=4, step_size=0.0, noise_std=1.0, seed=1)
    x0 = torch.zeros(2, 3)
    first = sampler(x0)
    assert sampler.step == 4
    second = sampler(x0)
    assert torch.equal(
        first, sum(normal((2, 3), k) for k in range(4))
    )  # a step of 0 and noise of 1: one rounding a sum
    assert torch.equal(second, sum(normal((2, 3), k) for k in range(4, 8)))
    assert torch.equal(sampler(x0, step=4), second) and sampler.step == 8
    sampler.trace(x0)
    sampler.sample((1, 3))
    sampler(x0, n_steps=2)
    assert sampler.step == 18


def test_micro_batches_equal_the_whole_batch(backend):
    sampler = fl.Langevin(quadratic, n_steps=5, seed=9, backend=backend)
    whole = sampler.sample((7, 3, 5), step=2)
    parts = [sampler.sample((n, 3, 5), step=2, chain_offset=o) for o, n in ((0, 2), (2, 1), (3, 4))]
    assert torch.equal(whole, torch.cat(parts))


@pytest.mark.parametrize("bounds", [None, (0.0, 1.0), (-2.0, 3.0)])
def test_initial_state(backend, bounds):
    options = dict(n_steps=1, step_size=0.0, noise_std=0.0, seed=5, bounds=bounds, backend=backend)
    u = fl.noise.uniform((4000, 2), seed=5, step=3, stream=1)
    lo, hi = bounds or (-1.0, 1.0)
    x = fl.Langevin(quadratic, **options).sample((4000, 2), step=3)
    exact = lo + (hi - lo) * u.double()
    assert ((x - exact).abs() <= 2 * U * (max(abs(lo), abs(hi)) + (hi - lo))).all()  # of the product and of the sum
    assert abs(x.min() - lo) < 0.01 * (hi - lo) and abs(x.max() - hi) < 0.01 * (hi - lo)
    z = fl.noise.normal((4000, 2), seed=5, step=3, stream=1)
    x = fl.Langevin(quadratic, init="normal", **options).sample((4000, 2), step=3)
    assert torch.equal(x, z if bounds is None else z.clamp(lo, hi))


def test_initial_state_by_a_function():
    seen = {}

    def init(shape, *, seed, step, chain_offset):
        seen.update(shape=shape, seed=seed, step=step, chain_offset=chain_offset)
        return torch.full(shape, 2.0)

    x = fl.Langevin(quadratic, n_steps=1, step_size=0, noise_std=0, init=init, seed=2**64 - 1).sample(
        (3, 2), chain_offset=5
    )
    assert (x == 2).all()
    assert seen == dict(shape=(3, 2), seed=2**64 - 1, step=0, chain_offset=5)
    with pytest.raises(ValueError, match="init must return a tensor of shape \\(3, 2\\)"):
        fl.Langevin(quadratic, init=lambda shape, **_: torch.zeros(1), seed=1).sample((3, 2))


def test_seed_none_comes_from_torch_s_generator():
    torch.manual_seed(3)
    a = fl.Langevin(quadratic)
    torch.manual_seed(3)
    b = fl.Langevin(quadratic)
    assert a.seed == b.seed != fl.Langevin(quadratic).seed


def test_seed_and_generator_leave_the_global_state_alone():
    before = torch.get_rng_state()
    sampler = fl.Langevin(quadratic, n_steps=3, generator=torch.Generator().manual_seed(1))
    assert sampler.seed == fl.Langevin(quadratic, generator=torch.Generator().manual_seed(1)).seed
    sampler.sample((3, 2))
    fl.Langevin(quadratic, n_steps=3, seed=1).sample((3, 2))
    assert torch.equal(before, torch.get_rng_state())


def test_state_dict_round_trip():
    a = fl.Langevin(quadratic, n_steps=3, seed=2**64 - 2)
    a.sample((2, 2))
    b = fl.Langevin(quadratic, n_steps=3, seed=1)
    b.load_state_dict(a.state_dict())
    assert a.state_dict() == {"seed": 2**64 - 2, "step": 3, "stream_version": 1}
    assert torch.equal(a.sample((2, 2)), b.sample((2, 2)))
    with pytest.raises(ValueError, match="noise stream version 2"):
        b.load_state_dict({"seed": 1, "step": 0, "stream_version": 2})
    with pytest.raises(ValueError, match="state lacks step"):
        b.load_state_dict({"seed": 1, "stream_version": 1})


def test_copies_have_the_counter_s_value_not_the_counter():
    a = fl.Langevin(small_net(), n_steps=3, seed=1)
    a.sample((2, 3))
    for b in (copy.deepcopy(a), pickle.loads(pickle.dumps(a))):
        assert b.step == 3
        c = copy.deepcopy(a)
        assert torch.equal(b.sample((2, 3)), c.sample((2, 3)))
        assert a.step == 3


def test_threads_share_one_counter():
    sampler = fl.Langevin(quadratic, n_steps=3, step_size=0.0, noise_std=1.0, seed=1)
    results = []
    work = lambda: results.extend(sampler(torch.zeros(1, 4)) for _ in range(20))
    workers = [threading.Thread(target=work) for _ in range(4)]
    [w.start() for w in workers]
    [w.join() for w in workers]
    assert sampler.step == 240
    expected = {
        tuple(
            fl.Langevin(quadratic, n_steps=3, step_size=0.0, noise_std=1.0, seed=1)(torch.zeros(1, 4), step=3 * i)[
                0
            ].tolist()
        )
        for i in range(80)
    }
    assert {tuple(r[0].tolist()) for r in results} == expected


def test_counter_that_would_pass_its_end_raises():
    sampler = fl.Langevin(quadratic, n_steps=3, seed=1)
    sampler.load_state_dict({"seed": 1, "step": 2**32 - 3, "stream_version": 1})
    sampler(torch.zeros(1, 2))
    assert sampler.step == 2**32
    with pytest.raises(OverflowError, match="another seed"):
        sampler(torch.zeros(1, 2))
    with pytest.raises(OverflowError):
        sampler(torch.zeros(1, 2), step=2**32 - 2)


# What is left as it was


def test_the_caller_s_things_are_left_alone():
    net = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.0), nn.Tanh(), nn.Linear(8, 1))
    net[0].weight.requires_grad_(False)
    net.train()
    net[1].eval()
    net[3].bias.grad = torch.full((1,), 7.0)
    x0 = torch.randn(4, 3, requires_grad=True)
    before = x0.detach().clone()
    x = fl.Langevin(net, n_steps=3, seed=1)(x0)
    assert torch.equal(x0, before) and x0.requires_grad and x0.grad is None and x0.is_leaf
    assert x.requires_grad and x.data_ptr() != x0.data_ptr()
    with torch.no_grad():
        assert not fl.Langevin(net, n_steps=3, seed=1)(x0).requires_grad
    assert [p.requires_grad for p in net.parameters()] == [False, True, True, True]
    assert [m.training for m in net] == [True, False, True, True]
    assert net[0].bias.grad is None and net[3].bias.grad.item() == 7.0
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_works_where_gradients_are_off(mode):
    expected = fl.Langevin(quadratic, n_steps=3, seed=1)(torch.ones(2, 2))
    with mode():
        got = fl.Langevin(quadratic, n_steps=3, seed=1)(torch.ones(2, 2))
        assert not torch.is_grad_enabled()
    assert torch.equal(got, expected) and not got.is_inference()


def test_layout_is_kept_and_does_not_matter():
    x0 = torch.randn(2, 3, 4, 5)
    expected = fl.Langevin(quadratic, n_steps=3, seed=1)(x0)
    got = fl.Langevin(quadratic, n_steps=3, seed=1)(x0.to(memory_format=torch.channels_last))
    assert got.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(got, expected)  # the gradient, 2x / 2, is exact


def test_extra_inputs_and_column_energies():
    centres = torch.tensor([[5.0, 0.0], [-5.0, 0.0]])

    def energy(x, label):
        return (x - centres[label]).square().sum(1, keepdim=True) / 2

    labels = torch.tensor([0, 1, 0, 1])
    sampler = fl.Langevin(energy, n_steps=100, step_size=0.2, noise_std=0.1, seed=1)
    x = sampler(torch.zeros(4, 2), labels)
    assert (x[:, 0].sign() == torch.tensor([1, -1, 1, -1])).all()
    assert sampler.sample((4, 2), labels).shape == (4, 2)
    assert sampler.trace(torch.zeros(4, 2), labels, every=50).energy.shape == (3, 4)


def test_no_chains_and_no_elements():
    assert fl.Langevin(quadratic, n_steps=2, seed=1)(torch.empty(0, 3)).shape == (0, 3)
    assert fl.Langevin(quadratic, n_steps=2, seed=1).sample((0, 3)).shape == (0, 3)


def test_inference_tensors_as_further_inputs():
    with torch.inference_mode():
        labels = torch.ones(2, 3)
        x = fl.Langevin(lambda x, y: (x * y).square().sum(1), n_steps=2, seed=1)(torch.zeros(2, 3), labels)
    assert torch.equal(x, fl.Langevin(lambda x: x.square().sum(1), n_steps=2, seed=1)(torch.zeros(2, 3)))


def test_numpy_numbers_are_numbers():
    options = {"step_size": np.float32(0.5), "noise_std": np.float64(0.1), "grad_clip": np.float32(0.25)}
    a = fl.Langevin(quadratic, n_steps=np.int64(3), bounds=(np.float32(-1), np.float32(1)), seed=np.int64(1), **options)
    plain = {"step_size": 0.5, "noise_std": 0.1, "grad_clip": 0.25, "bounds": (-1, 1)}
    b = fl.Langevin(quadratic, n_steps=3, seed=1, **plain)
    shape = (np.int64(4), 2)
    assert torch.equal(a.sample(shape, chain_offset=np.int64(2)), b.sample((4, 2), chain_offset=2))


def test_chains_of_scalars():
    sampler = fl.Langevin(lambda x: x.square() / 2, n_steps=3, seed=1)
    trace = sampler.trace(torch.ones(5), step=0)
    assert torch.equal(trace.x[-1], sampler(torch.ones(5), step=0)) and torch.equal(trace.score_norm[0], torch.ones(5))


def test_threads_hold_their_precision_together():
    """A strict chain that ends while another runs must not take the flags away under it."""
    before = torch.backends.mkldnn.matmul.fp32_precision
    inside, go_on = threading.Event(), threading.Event()
    seen = []

    def slow(x):
        inside.set()
        go_on.wait(10)
        seen.append(torch.backends.mkldnn.matmul.fp32_precision)
        return quadratic(x)

    torch.backends.mkldnn.matmul.fp32_precision = "bf16"
    try:
        worker = threading.Thread(target=lambda: fl.Langevin(slow, n_steps=1, seed=1)(torch.zeros(1, 2)))
        worker.start()
        assert inside.wait(10)
        fl.Langevin(quadratic, n_steps=1, seed=1)(torch.zeros(1, 2))
        go_on.set()
        worker.join()
        assert seen == ["ieee"] and torch.backends.mkldnn.matmul.fp32_precision == "bf16"
    finally:
        torch.backends.mkldnn.matmul.fp32_precision = before


def test_flags_that_follow_their_parent_still_do():
    backend = torch.backends.mkldnn
    before = backend.fp32_precision
    try:
        backend.fp32_precision = "bf16"
        fl.Langevin(quadratic, n_steps=1, seed=1)(torch.zeros(1, 2))
        assert backend.matmul.fp32_precision == "bf16"
        backend.fp32_precision = "ieee"
        assert backend.matmul.fp32_precision == "ieee"
    finally:
        backend.fp32_precision = before


def test_an_energy_may_read_torch_s_older_flags():
    def energy(x):
        with torch.backends.cudnn.flags(enabled=False):
            assert isinstance(torch.backends.cuda.matmul.allow_tf32, bool)
            return quadratic(x)

    fl.Langevin(energy, n_steps=1, seed=1)(torch.zeros(1, 2))


def test_energies_that_the_caller_keeps_are_safe():
    """In-place steps must not silently change what an energy's graph has saved."""
    kept = []

    def energy(x):
        u = (x**2).sum(1)
        kept.append((x, u))
        return u

    fl.Langevin(energy, n_steps=2, seed=1)(torch.ones(1, 2))
    assert len(kept) == 2 and kept[0][1].item() == 2.0


# Trace


@pytest.mark.parametrize("noise_first", [False, True])
def test_trace(noise_first):
    net = small_net().double()
    sampler = fl.Langevin(net, n_steps=7, step_size=0.1, noise_std=0.1, noise_first=noise_first, grad_clip=0.05, seed=1)
    x0 = torch.randn(4, 3, dtype=torch.float64)
    trace = sampler.trace(x0, every=3, step=5)
    assert trace.steps.tolist() == [0, 3, 6, 7]
    assert torch.equal(trace.x[0], x0)
    for i, k in enumerate(trace.steps.tolist()):
        x = sampler(x0, step=5, n_steps=k) if k else x0
        assert torch.equal(trace.x[i], x)
        leaf = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(net(leaf).sum(), leaf)
        torch.testing.assert_close(trace.energy[i], net(x)[:, 0].detach(), **FLOAT64)
        # Norms are float32's, of three elements: each rounded, squared, added, and the root halves their error.
        norm = gradient.norm(dim=1)
        assert ((trace.score_norm[i] - norm).abs() <= gamma(5) * norm).all()
    log_trace = fl.Langevin(log_density=net, n_steps=1, seed=1).trace(x0)
    torch.testing.assert_close(log_trace.energy[0], -net(x0)[:, 0].detach(), **FLOAT64)
    assert fl.Langevin(score=lambda x: -x, n_steps=1, seed=1).trace(x0).energy is None


def test_energy_and_score_methods():
    net = small_net().double()
    x = torch.randn(4, 3, dtype=torch.float64)
    sampler = fl.Langevin(log_density=net, grad_clip=1e-3, seed=1)
    torch.testing.assert_close(sampler.energy(x), -net(x)[:, 0].detach(), **FLOAT64)
    leaf = x.clone().requires_grad_()
    torch.testing.assert_close(sampler.score(x), torch.autograd.grad(net(leaf).sum(), leaf)[0], **FLOAT64)
    with pytest.raises(ValueError, match="given a score"):
        fl.Langevin(score=lambda x: -x, seed=1).energy(x)


# Divergence


def test_divergence_names_step_and_chains():
    """U = -x⁴ from 1, η = 1, no noise: 1 → 5 → 505 → 5.2e8 → 5.5e26 → overflow at step 4. The chain at 0 stays."""
    sampler = fl.Langevin(lambda x: -(x**4).sum(1), n_steps=9, step_size=1.0, noise_std=0.0, seed=1)
    x0 = torch.tensor([[1.0], [0.0], [1.0]])
    with pytest.raises(fl.ChainDiverged, match="2 of 3 chains are not finite, first at step 4 ") as caught:
        sampler(x0)
    assert caught.value.step == 4 and caught.value.n_chains == 2
    with pytest.raises(fl.ChainDiverged, match="first at step 4 "):
        sampler.trace(x0)
    assert torch.equal(x0, torch.tensor([[1.0], [0.0], [1.0]]))
    sampler.check()


def test_bounds_do_not_hide_nan():
    sampler = fl.Langevin(score=lambda x: torch.full_like(x, math.nan), n_steps=2, bounds=(-1, 1), seed=1)
    with pytest.raises(fl.ChainDiverged, match="first at step 0"):
        sampler(torch.zeros(2, 2))


# Plan and repr


def test_plan_and_repr():
    sampler = fl.Langevin(log_density=small_net(), backend="reference", seed=3, bounds=(-1, 1))
    assert sampler.plan.backend == "reference" and sampler.plan.engine == "mlp" and sampler.plan.graph is False
    text = repr(sampler)
    for part in ("log_density=Sequential", "n_steps=100", "bounds=(-1.0, 1.0)", "seed=3", "backend='reference'"):
        assert part in text


# Bad input


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"energy": None}, ValueError, "exactly one of energy, log_density and score must be given, got none"),
        ({"log_density": quadratic}, ValueError, "got energy and log_density"),
        ({"energy": 3}, TypeError, "energy must be callable, got int"),
        ({"n_steps": 0}, ValueError, "n_steps must be an int of at least 1, got 0"),
        ({"n_steps": 2.5}, ValueError, "n_steps must be an int"),
        ({"step_size": [0.1] * 99}, ValueError, "step_size as a sequence must have n_steps = 100 values, got 99"),
        ({"step_size": -1.0}, ValueError, "step_size must be finite and not negative, got -1.0"),
        ({"noise_std": -0.1}, ValueError, "noise_std must be finite and not negative"),
        ({"noise_std": lambda k: -k}, ValueError, "noise_std at step 1 must be finite and not negative"),
        ({"step_size": "big"}, (TypeError, ValueError), "step_size"),
        ({"step_size": object()}, TypeError, "step_size must be a number, a sequence"),
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
        ({"generator": torch.Generator()}, ValueError, "seed and generator exclude each other"),
    ],
)
def test_bad_options(options, error, words):
    with pytest.raises(error, match=words):
        fl.Langevin(**{"energy": quadratic, "seed": 1, **options})


@pytest.mark.parametrize(
    ("x0", "call", "error", "words"),
    [
        (
            torch.zeros(2, 2),
            {"chain_offset": 2**62},
            ValueError,
            "chain_offset must leave every element",
        ),
        (torch.zeros(2, 2, dtype=torch.int64), {}, TypeError, "x0 must be a float32.*int64"),
        (np.zeros((2, 2)), {}, TypeError, "x0 must be a float32.*ndarray"),
        (torch.tensor(1.0), {}, ValueError, "x0 must have a first dimension of chains"),
        (torch.tensor([[1.0], [math.nan]]), {}, ValueError, "x0 must be finite, got NaN or infinity in 1 of 2 chains"),
        (torch.zeros(2, 2), {"n_steps": 0}, ValueError, "n_steps must be an int of at least 1"),
        (torch.zeros(2, 2), {"chain_offset": -1}, ValueError, "chain_offset must be an int of at least 0"),
        (torch.zeros(2, 2), {"step": 2**32}, ValueError, "step must be an int in 0 …"),
        (torch.zeros(2, 2), {"step": 1.0}, ValueError, "step must be an int in 0 …"),
    ],
)
def test_bad_calls_leave_the_counter_alone(x0, call, error, words):
    sampler = fl.Langevin(quadratic, n_steps=2, seed=1)
    with pytest.raises(error, match=words):
        sampler(x0, **call)
    assert sampler.step == 0


@pytest.mark.parametrize(
    ("energy", "error", "words"),
    [
        (
            lambda x: x.sum(),
            ValueError,
            "energy must return one number a chain, of shape \\(3,\\) or \\(3, 1\\), got \\(\\)",
        ),
        (lambda x: x, ValueError, "got \\(3, 2\\)"),
        (lambda x: 1.0, TypeError, "energy must return a tensor, got float"),
        (lambda x: x.detach().sum(1), ValueError, "energy does not depend on x"),
        (lambda x: torch.zeros(3, requires_grad=True) * 2, ValueError, "energy does not depend on x"),
    ],
)
def test_bad_energies(energy, error, words):
    with pytest.raises(error, match=words):
        fl.Langevin(energy, seed=1)(torch.zeros(3, 2))


def test_bad_score_shape_and_device():
    with pytest.raises(ValueError, match="score must return a tensor of the state's shape \\(3, 2\\), got \\(3,\\)"):
        fl.Langevin(score=lambda x: x.sum(1), seed=1)(torch.zeros(3, 2))
    with pytest.raises(ValueError, match="x0 is on cpu and the energy on meta"):
        fl.Langevin(nn.Linear(2, 1, device="meta"), seed=1)(torch.zeros(3, 2))


def test_explicit_choices_that_cannot_be_met_are_errors():
    with pytest.raises(fl.BackendUnavailable, match="graph=True cannot be met"):
        fl.Langevin(quadratic, graph=True, seed=1)(torch.zeros(3, 2))
    with pytest.raises(ValueError, match="precision='tf32' is a mode of NVIDIA GPUs"):
        fl.Langevin(quadratic, precision="tf32", seed=1)(torch.zeros(3, 2))


@pytest.mark.parametrize(
    ("shape", "words"), [((), "shape must be"), ((2, -1), "shape must be"), ((2.0, 1), "shape must be")]
)
def test_bad_sample_shape(shape, words):
    with pytest.raises(ValueError, match=words):
        fl.Langevin(quadratic, seed=1).sample(shape)


# Defaults, and what every entry point shares


def test_defaults_are_the_paper_s():
    sampler = fl.Langevin(quadratic, seed=1)
    assert (sampler.n_steps, sampler.step_size, sampler.noise_std, sampler.temperature) == (100, 1.0, 0.01, 1.0)
    assert (sampler.grad_clip, sampler.bounds, sampler.noise_first, sampler.init) == (None, None, False, "uniform")
    assert (sampler.precision, sampler.engine, sampler.backend, sampler.graph) == ("fp32", "auto", "auto", "auto")


@pytest.mark.parametrize("method", ["__call__", "trace", "energy", "score"])
def test_every_entry_point_checks_the_state_and_passes_further_inputs(method):
    sampler = fl.Langevin(lambda x, y: (x * y).square().sum(1), n_steps=2, seed=1)
    with pytest.raises(ValueError, match="must be finite"):
        getattr(sampler, method)(torch.full((2, 3), math.inf), torch.ones(2, 3))
    results = [getattr(sampler, method)(torch.ones(2, 3), torch.full((2, 3), v)) for v in (1.0, 2.0)]
    a, b = (r.x if method == "trace" else r for r in results)
    assert not torch.allclose(a, b)
    assert sampler.step == {"__call__": 4, "trace": 4}.get(method, 0)


def test_energy_and_score_run_in_the_sampler_s_precision():
    net = small_net()
    x = torch.randn(64, 3)
    exact, lower = (fl.Langevin(net, precision=p, seed=1) for p in ("fp32", "bf16"))
    assert lower.energy(x).dtype == torch.bfloat16 and exact.energy(x).dtype == torch.float32
    roundings = Roundings()
    expected = network_score(roundings, list(net), x.double(), in_16_bits("bf16"), factor=-1)
    assert_within(lower.score(x), expected.detach(), roundings.bound(expected), tight=0.1)
    assert (lower.score(x) - expected).abs().max() > 100 * U > (exact.score(x) - expected).abs().max()


def test_sample_takes_its_dtype_device_and_offset():
    sampler = fl.Langevin(quadratic, n_steps=1, step_size=0.0, noise_std=0.0, init="normal", seed=1)
    whole = sampler.sample((6, 3), step=0)
    assert torch.equal(sampler.sample((4, 3), step=0, chain_offset=2), whole[2:])
    assert sampler.sample((2, 3), dtype=torch.float64).dtype == torch.float64
    given = fl.Langevin(quadratic, n_steps=1, init=lambda shape, **_: torch.zeros(shape, dtype=torch.float64), seed=1)
    assert given.sample((2, 3)).dtype == torch.float32
    with pytest.raises(ValueError, match="dtype must be float32"):
        sampler.sample((2, 3), dtype=torch.int32)
    with pytest.raises(ValueError, match="init's state must be finite"):
        fl.Langevin(quadratic, init=lambda shape, **_: torch.full(shape, math.nan), seed=1).sample((2, 3))
    with pytest.raises(ValueError, match="init='uniform' needs bounds"):
        fl.Langevin(quadratic, bounds=(-3e38, 3e38), seed=1).sample((2, 3))
    for bounds in ((-math.inf, 3.0), (-1.0, 1e39)):
        fl.Langevin(quadratic, bounds=bounds, init="normal", n_steps=1, seed=1).sample((2, 3))
    with pytest.raises(ValueError, match="every must be an int of at least 1, got 0"):
        sampler.trace(torch.zeros(2, 3), every=0)


def test_one_bad_element_is_a_bad_chain():
    x0 = torch.zeros(3, 4)
    x0[1, 2] = 1.0
    sampler = fl.Langevin(lambda x: -(x**4).sum(1), n_steps=9, step_size=1.0, noise_std=0.0, seed=1)
    with pytest.raises(fl.ChainDiverged, match=r"1 of 3 chains.*first at step 4 of the call \(noise step 11\)"):
        sampler(x0, step=7)


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"seed": 1, "step": 2**32 + 1, "stream_version": 1}, "state's step must lie in"),
        ({"seed": 1, "step": -1, "stream_version": 1}, "state's step must lie in"),
        ({"seed": 2**64, "step": 1, "stream_version": 1}, "seed must fit 64 bits"),
    ],
)
def test_bad_state_dicts_change_nothing(state, words):
    sampler = fl.Langevin(quadratic, seed=5)
    with pytest.raises(ValueError, match=words):
        sampler.load_state_dict(state)
    assert sampler.state_dict() == {"seed": 5, "step": 0, "stream_version": 1}


def test_negative_seeds_are_their_two_s_complement():
    sampler = fl.Langevin(quadratic, seed=-1)
    assert sampler.seed == 2**64 - 1
    sampler.load_state_dict({"seed": -2, "step": 0, "stream_version": 1})
    assert sampler.seed == 2**64 - 2


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"step_size": [0.1] * 101}, ValueError, "step_size as a sequence must have n_steps = 100 values, got 101"),
        ({"step_size": math.inf}, ValueError, "step_size must be finite"),
        ({"step_size": lambda k: math.nan}, ValueError, "step_size at step 0 must be finite"),
        ({"step_size": ["x"] * 100}, TypeError, "step_size at step 0 must be a number, got 'x'"),
        ({"temperature": math.inf}, ValueError, "temperature must be finite"),
        ({"temperature": "hot"}, ValueError, "temperature must be finite"),
    ],
)
def test_more_bad_options(options, error, words):
    with pytest.raises(error, match=words):
        fl.Langevin(**{"energy": quadratic, "seed": 1, **options})


def test_temperature_zero_is_gradient_descent():
    sampler = fl.Langevin(quadratic, n_steps=3, step_size=0.5, noise_std=None, temperature=0, seed=1)
    assert torch.equal(sampler(torch.ones(2, 2)), torch.full((2, 2), 0.125))


def test_drawn_seeds_use_all_64_bits():
    generator = torch.Generator().manual_seed(0)
    seeds = [fl.Langevin(quadratic, generator=generator).seed for _ in range(40)]
    assert max(seeds) > 2**63 and min(seeds) >= 0 and sum(s > 2**62 for s in seeds) > 15


# engine="compiled"


@pytest.mark.compiled
def test_compiled_score_is_the_autograd_score():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.SiLU(), torch.nn.Linear(8, 1)).double()
    x = torch.randn(5, 3, dtype=torch.float64)
    for kind, n_args in (("energy", 0), ("log_density", 1)):
        function = net if not n_args else lambda x, shift: net(x - shift)
        args = (torch.arange(3.0),)[:n_args]
        plain, compiled = (fl.Langevin(**{kind: function}, n_steps=4, seed=1, engine=e) for e in ("auto", "compiled"))
        assert compiled.plan.engine == "compiled"
        for _ in range(2):
            torch.testing.assert_close(compiled(x, *args), plain(x, *args), **FLOAT64)
            with torch.no_grad():
                net[0].weight.mul_(1.1)  # weights are read at each call
        for a, b in zip(compiled.trace(x, *args), plain.trace(x, *args), strict=True):
            torch.testing.assert_close(a, b, **FLOAT64)
        leaf = x.clone().requires_grad_()
        a, b = (torch.autograd.grad(s(leaf, *args, step=0).sum(), leaf)[0] for s in (compiled, plain))
        torch.testing.assert_close(a, b, **FLOAT64)
        assert not torch.allclose(a, torch.ones_like(a), atol=0.01)


@pytest.mark.compiled
def test_compiled_engine_needs_an_energy_that_can_be_traced():
    with pytest.raises(ValueError, match="engine='compiled' differentiates an energy or log_density"):
        fl.Langevin(score=lambda x: -x, engine="compiled", seed=1)

    def energy(x):
        print("not traceable")
        torch._dynamo.graph_break()
        return x.sum(1)

    with pytest.raises(ValueError, match="engine='compiled' cannot compile this energy: "):
        fl.Langevin(energy, n_steps=1, engine="compiled", seed=1)(torch.zeros(2, 3))


def test_initial_is_where_sample_starts_from():
    sampler = fl.Langevin(log_density=lambda x: -x.square().sum(1), n_steps=3, seed=4)
    z = sampler.initial((5, 3))
    assert sampler.step == 0 and torch.equal(sampler.initial((5, 3)), z)
    assert torch.equal(sampler.initial((2, 3), chain_offset=3), z[3:])
    assert torch.equal(sampler(z, step=0), sampler.sample((5, 3)))
    assert sampler.step == 3 and not torch.equal(sampler.initial((5, 3)), z)
    assert torch.equal(sampler.initial((5, 3), step=0), z)
    for place, words in [({"step": -1}, "step must be"), ({"chain_offset": -1}, "chain_offset must be")]:
        with pytest.raises(ValueError, match=words):
            sampler.initial((5, 3), **place)
