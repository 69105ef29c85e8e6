"""Settings of published codes: keyword dicts for `fastlangevin.train`.

    fastlangevin.train(data, model, **fastlangevin.recipes.uva)

The entry "sampler" holds options of `Langevin`, and "buffer" options of `ReplayBuffer`. Constants are those of the
named file of each code; comments note what `train` does not implement. docs/recipes.md compares the recipes. Networks
are not part of a recipe: without a model, `train` uses the paper's.
"""

from __future__ import annotations

import copy
from typing import Any

from .runs.settings import defaults
from .validation import unknown

# Nijkamp, Hill, Zhu and Wu, NeurIPS 2019, arXiv:1904.09770: the defaults of `runs.settings.Settings`.
short_run: dict[str, Any] = defaults()

# Nijkamp, Hill, Han, Zhu and Wu, AAAI 2020, arXiv:1903.12370, non-convergent learning: point0bar1/ebm-anatomy,
# train_data.py, config_locker/cifar10_nonconvergent.json and nets.py (whose LeakyReLU has slope 0.05). Its loss is
# scaled by 2 / ε², which Adam undoes.
anatomy: dict[str, Any] = {
    **short_run,
    "features": 32,
    "n_iterations": 100_000,
    "batch_size": 100,
    "sampler": {"n_steps": 150, "step_size": 1.0, "noise_std": 0.01},
}

# The same with persistent chains: config_locker/cifar10_oscillate.json. One chain for each of CIFAR-10's images, drawn
# without replacement there. Its convergent learning (ε 0.0075, data noise 0.015) continues with SGD, which no recipe
# holds.
anatomy_persistent: dict[str, Any] = {
    **anatomy,
    "start": "buffer",
    "buffer": {"capacity": 50_000, "policy": "indexed", "reinit": 0.0},
    "sampler": {"n_steps": 500, "step_size": 1.0, "noise_std": 0.01},
}

# Du and Mordatch, NeurIPS 2019, arXiv:1903.08689: openai/ebm_code_release, train.py and data.py at the settings of the
# README for unconditional CIFAR-10. It runs without end; the README's model is that of iteration 121,200. The buffer's
# size is that of the authors' later code (below); train.py has 50,000. Not implemented: the dequantisation of data.
igebm: dict[str, Any] = {
    **short_run,
    "n_iterations": 121_200,
    "batch_size": 128,
    "lr": 3e-4,
    "adam_betas": (0.0, 0.999),
    "data_noise": 0.0,
    "data_range": (0.0, 1.0),
    "energy_penalty": 1.0,
    "start": "buffer",
    "buffer": {"capacity": 10_000, "policy": "fifo", "reinit": 0.05, "storage": "uint8"},
    "sampler": {
        "n_steps": 60,
        "step_size": 10.0,
        "noise_std": 0.005,
        "noise_first": True,
        "grad_clip": 0.01,
        "bounds": (0.0, 1.0),
    },
}

# Lippe, UvA Deep Learning Tutorials, tutorial 8: phlippe/uvadlc_notebooks, Deep_Energy_Models.ipynb, for MNIST: 60
# epochs of 468 batches, after each of which lr is multiplied by 0.97.
uva: dict[str, Any] = {
    **short_run,
    "n_iterations": 60 * 468,
    "batch_size": 128,
    "lr": tuple((468 * epoch, 1e-4 * 0.97**epoch) for epoch in range(60)),
    "adam_betas": (0.0, 0.999),
    "max_grad_norm": 0.1,
    "data_noise": 0.005,
    "clamp_data": True,
    "energy_penalty": 0.1,
    "start": "buffer",
    "buffer": {"capacity": 8_192, "policy": "fifo", "reinit": 0.05},
    "sampler": {
        "n_steps": 60,
        "step_size": 10.0,
        "noise_std": 0.005,
        "noise_first": "clamp",
        "grad_clip": 0.03,
        "bounds": (-1.0, 1.0),
    },
}

# Grathwohl et al., ICLR 2020, arXiv:1912.03263: wgrathwohl/JEM, train_wrn_ebm.py at the settings of the README: 200
# epochs of 703 batches (45,000 images). Its f is logsumexp(logits), or logits[y]. Not implemented: the warm-up of lr
# over the first 1,000 iterations, random crops and flips, and the classifier's loss, which needs a custom loop
# (docs/recipes.md).
jem: dict[str, Any] = {
    **short_run,
    "n_iterations": 200 * 703,
    "lr": ((0, 1e-4), (160 * 703, 0.3 * 1e-4), (180 * 703, 0.3**2 * 1e-4)),
    "start": "buffer",
    "buffer": {"capacity": 10_000, "policy": "indexed", "reinit": 0.05},
    "sampler": {"n_steps": 20, "step_size": 1.0, "noise_std": 0.01},
}

# Du, Li, Tenenbaum and Mordatch, ICML 2021, arXiv:2012.01316: yilundu/improved_contrastive_divergence, train.py and
# utils.py at the settings of the README for CIFAR-10. It runs without end: n_iterations is IGEBM's. Not implemented:
# the entropy term (0.3 · log of the distance to the nearest of 100 states of the buffer), random crops, flips and
# colour changes of states from the buffer, and the dequantisation of data.
improved_cd: dict[str, Any] = {
    **igebm,
    "lr": 2e-4,
    "adam_betas": (0.0, 0.9),
    "max_grad_norm": 0.5,
    "ema": 0.99,
    "kl_weight": 1.0,
    "buffer": {"capacity": 10_000, "policy": "reservoir", "reinit": 0.001, "storage": "uint8"},
    "sampler": {
        "n_steps": 40,
        "step_size": 100.0,
        "noise_std": 0.001,
        "noise_first": True,
        "bounds": (0.0, 1.0),
    },
}

# The 8×8 digits on two CPU cores in 40 seconds. Chains of 10 steps learn as much per iteration as longer ones here, at
# lower cost; four more steps when sampling resolve most of the blends between digits (docs/digits.md).
digits: dict[str, Any] = {
    **short_run,
    "n_iterations": 1_400,
    "batch_size": 32,
    "lr": 2e-3,
    "lr_decay": 0.5,
    "data_noise": 0.1,
    "sampler": {"n_steps": 10, "step_size": 1.0, "noise_std": 0.03},
    "sample_steps": 14,
}

# The same for f(x, y) of each class y: the logits of a classifier as log-densities, as in JEM without its classifier's
# loss (arXiv:1912.03263, Eq. 5).
digits_by_class: dict[str, Any] = {**digits, "class_conditional": True}

# The same by other samplers at the temperature of its chains, σ² / 2η, and as many score evaluations, that of x0 being
# one: MALA with Langevin's proposals, and underdamped dynamics whose two steps are as long as one of these
# (benchmarks/short_runs.py, docs/digits.md).
_TEMPERATURE = 0.03**2 / 2
digits_mala: dict[str, Any] = {
    **digits,
    "sampler": {"kind": "mala", "n_steps": 9, "step_size": 1.0, "temperature": _TEMPERATURE},
    "sample_steps": 9,
}
digits_underdamped: dict[str, Any] = {
    **digits,
    "sampler": {
        "kind": "underdamped",
        "n_steps": 9,
        "step_size": 0.5**0.5,
        "friction": 1.0,
        "temperature": _TEMPERATURE,
    },
    "sample_steps": 9,
}

# Small colour images, 8 to 64 pixels, on two CPU cores in less than half an hour: chains of 20 steps as in the UvA
# tutorial, with a clipped score and bounds, so that no step is large, from a buffer, so that few steps suffice; a
# penalty and a clipped gradient keep the energies small. At a constant lr the samples collapse to one colour after some
# 2,000 iterations; falling early it, and an average of the weights, keep them apart (docs/recipes.md).
small: dict[str, Any] = {
    **short_run,
    "n_iterations": 2_600,
    "batch_size": 32,
    "lr": 5e-4,
    "lr_decay": 0.7,
    "adam_betas": (0.0, 0.999),
    "max_grad_norm": 0.1,
    "ema": 0.998,
    "data_noise": 0.05,
    "clamp_data": True,
    "energy_penalty": 0.1,
    "start": "buffer",
    "buffer": {"capacity": 2_000, "policy": "fifo", "reinit": 0.05},
    "features": 16,
    "sampler": {
        "n_steps": 20,
        "step_size": 10.0,
        "noise_std": 0.005,
        "grad_clip": 0.03,
        "bounds": (-1.0, 1.0),
    },
    "sample_steps": 200,
}

BY_NAME = {
    "short_run": short_run,
    "anatomy": anatomy,
    "anatomy_persistent": anatomy_persistent,
    "igebm": igebm,
    "uva": uva,
    "jem": jem,
    "improved_cd": improved_cd,
    "digits": digits,
    "digits_by_class": digits_by_class,
    "digits_mala": digits_mala,
    "digits_underdamped": digits_underdamped,
    "small": small,
}

# The default recipe of `train` for data known by name; for other data it is `short_run`.
BY_DATA = {"digits": digits}


def named(name: str) -> dict[str, Any]:
    """Returns a copy of the recipe of that name.

    Raises:
        ValueError: no such recipe.

    Examples:
        >>> recipe = fl.recipes.named("jem")
        >>> recipe["sampler"]
        {'n_steps': 20, 'step_size': 1.0, 'noise_std': 0.01}
        >>> buffer = fl.ReplayBuffer(shape=(1, 8, 8), **recipe["buffer"])
    """
    if name not in BY_NAME:
        raise unknown("recipe", name, BY_NAME)
    return copy.deepcopy(BY_NAME[name])
