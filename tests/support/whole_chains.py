"""Chains by whole-chain kernels, and the step-by-step chains and bounds that they are compared with."""

from __future__ import annotations

import copy
import math

import torch

import fastlangevin as fl
from fastlangevin.kernels.arguments import ChainArgs

from .activation_bounds import NATIVE_MLP
from .chain_reference import chain
from .error_bounds import assert_within
from .network_bounds import score

OPTIONS = {
    "plain": {},
    "schedules": {"step_size": lambda k: 0.03 * (k + 1), "noise_std": [0.1, 0.0, 0.2, 0.05, 0.0, 0.1, 0.3]},
    "limits": {"grad_clip": 0.04, "bounds": (-0.9, 1.1), "noise_std": 0.2},
    "noise first": {"noise_first": True, "bounds": (-0.9, 1.1), "noise_std": 0.2},
    "noise first, clamped": {"noise_first": "clamp", "bounds": (-0.9, 1.1), "noise_std": 0.2},
    "no noise": {"noise_std": 0.0},
    "temperature": {"noise_std": None, "step_size": 0.1, "temperature": 0.5},
}


def states(n=11, inputs=5):
    return torch.randn(n, inputs, generator=torch.Generator().manual_seed(3))


def pair(energy, kind="log_density", engines=("auto", "autograd"), **options):
    given = {"n_steps": 7, "seed": 5, kind: energy, **options}
    return [fl.Langevin(**given, engine=engine) for engine in engines]


def beside_float64(energy, net, kind="log_density", **options):
    """Of energy(net) a sampler that runs whole chains, and the step-by-step one in float64."""
    (whole,) = pair(energy(net), kind, ("auto",), **options)
    (steps,) = pair(energy(copy.deepcopy(net).double()), kind, ("autograd",), **options)
    return whole, steps


def plain(net):
    return net


def score_of(net, arithmetic=NATIVE_MLP, **energy):
    """For `chain_reference.chain`."""
    return lambda roundings, x: score(roundings, list(net), x, arithmetic, **energy)


def schedule(values, n):
    return [values(k) if callable(values) else values[k] if isinstance(values, list) else values for k in range(n)]


def assert_chains_are(evaluate, whole, steps, x0, chain_offset=0, tight=1e-5):
    """The next call of `steps` gives the chain written out, but for float64's roundings, and that of `whole` but for
    what float32's can do.
    """
    n, first = whole.n_steps, whole.step
    etas = schedule(whole.step_size, n)
    sigmas = [math.sqrt(2 * eta * whole.temperature) for eta in etas]
    sigmas = sigmas if whole.noise_std is None else schedule(whole.noise_std, n)
    lo, hi = whole.bounds or (None, None)
    noise = (any(sigmas), whole.seed, range(first, first + n), chain_offset * x0[0].numel())
    args = ChainArgs(etas, sigmas, *noise, whole.grad_clip, lo, hi, whole.noise_first)
    expected = chain(evaluate, x0, args)
    wide = steps(x0.double(), step=first, chain_offset=chain_offset)
    torch.testing.assert_close(wide, expected[0], rtol=1e-11, atol=1e-11)
    assert_within(whole(x0, chain_offset=chain_offset), *expected, tight=tight)
    assert whole.step == first + n
