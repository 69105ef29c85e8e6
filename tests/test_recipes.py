"""Recipes compared with plain loops written like the original codes, with the same random numbers."""

from __future__ import annotations

import math

import pytest
import torch
from support.error_bounds import gamma
from torch import nn

import fastlangevin as fl
from fastlangevin.noise import Stream
from fastlangevin.runs import piecewise
from fastlangevin.samplers import kinds
from fastlangevin.training import losses

SEED = 5
EVENT = (1, 6, 6)
BATCH, CAPACITY = 7, 12  # the buffer fills up in the second iteration
OTHERS = ["short_run", "anatomy", "anatomy_persistent", "igebm", "uva", "jem", "improved_cd"]


# One Langevin step of each code. g = ∇f = -∇U, z its normal noise.


def nijkamp(g, x, z):
    """enijkamp/short_run: x_k.data += f_prime + 1e-2 * randn; point0bar1/ebm-anatomy: -f_prime, of an energy."""
    return x + g(x) + 0.01 * z


def igebm(g, x, z):
    """openai/ebm_code_release: x_mod + normal(0.005), clip_by_value(x_grad, ±0.01), - 10 · x_grad, clip to (0, 1)."""
    x = x + 0.005 * z
    x = x - 10 * (-g(x)).clamp(-0.01, 0.01)
    return x.clamp(0, 1)


def uva(g, x, z):
    """phlippe/uvadlc_notebooks: noise 0.005, clamp, gradient of -model clamped to ±0.03, -10 · grad, clamp."""
    x = (x + 0.005 * z).clamp(-1, 1)
    x = x - 10 * (-g(x)).clamp(-0.03, 0.03)
    return x.clamp(-1, 1)


def jem(g, x, z):
    """wgrathwohl/JEM: x_k.data += sgld_lr * f_prime + sgld_std * randn, 1.0 and 0.01."""
    return x + 1.0 * g(x) + 1e-2 * z


def improved_cd(g, x, z):
    """yilundu/improved_contrastive_divergence: im_neg + 0.001 noise, - 100 · im_grad, clamp to (0, 1)."""
    x = x + 0.001 * z
    x = x - 100.0 * (-g(x))
    return x.clamp(0, 1)


CHAINS = {  # step, K, interval of p0
    "short_run": (nijkamp, 100, (-1, 1)),
    "anatomy": (nijkamp, 150, (-1, 1)),
    "anatomy_persistent": (nijkamp, 500, (-1, 1)),
    "igebm": (igebm, 60, (0, 1)),
    "uva": (uva, 60, (-1, 1)),
    "jem": (jem, 20, (-1, 1)),
    "improved_cd": (improved_cd, 40, (0, 1)),
}
STEP_SIZES = {"igebm": 10.0, "uva": 10.0, "improved_cd": 100.0}
BUFFERS = {  # policy, capacity, probability of a fresh start, bytes
    "anatomy_persistent": ("persistent", 50_000, 0.0, False),
    "igebm": ("ring", 10_000, 0.05, True),
    "uva": ("ring", 8_192, 0.05, False),
    "jem": ("persistent", 10_000, 0.05, False),
    "improved_cd": ("reservoir", 10_000, 0.001, True),
}
TRAINING = {  # iterations, batch, β1, β2, data noise, data interval, α, KL, norm limit, average
    "short_run": (70_000, 64, 0.9, 0.999, 0.03, (-1, 1), 0, 0, None, 0),
    "anatomy": (100_000, 100, 0.9, 0.999, 0.03, (-1, 1), 0, 0, None, 0),
    "anatomy_persistent": (100_000, 100, 0.9, 0.999, 0.03, (-1, 1), 0, 0, None, 0),
    "igebm": (121_200, 128, 0, 0.999, 0, (0, 1), 1, 0, None, 0),
    "uva": (28_080, 128, 0, 0.999, 0.005, (-1, 1), 0.1, 0, 0.1, 0),
    "jem": (140_600, 64, 0.9, 0.999, 0.03, (-1, 1), 0, 0, None, 0),
    "improved_cd": (121_200, 128, 0, 0.9, 0, (0, 1), 1, 1, 0.5, 0.99),
}


def uniform(shape, step, stream, offset=0):
    """Whole multiples of 2^-24: float32 makes no error in 2u - 1."""
    return fl.noise.uniform(shape, seed=SEED, step=step, stream=stream, offset=offset).double()


class PlainBuffer:
    """A list of states in float32, as in these codes, with random numbers from the library's stream."""

    def __init__(self, policy, reinit, is_bytes, interval):
        self.policy, self.reinit, self.is_bytes, self.interval = policy, reinit, is_bytes, interval
        self.step, self.pushed, self.states = 0, 0, []
        if policy == "persistent":  # JEM: replay_buffer = init_random(args, args.buffer_size)
            self.states = list(self.fresh(CAPACITY))
            self.step = 1

    def fresh(self, n):
        lo, hi = self.interval
        return (lo + (hi - lo) * uniform((n, *EVENT), self.step, Stream.INITIAL_STATE)).float()

    def sample(self):
        u = uniform((BATCH, 3), self.step, Stream.REPLAY_BUFFER)
        dither = uniform((BATCH, *EVENT), self.step, Stream.REPLAY_BUFFER, 2**62)
        x = self.fresh(BATCH)
        places = [int((u[i, 0] + u[i, 1] / 2**24) * len(self.states)) for i in range(BATCH)]
        for i, place in enumerate(places):
            if self.states and not u[i, 2] < self.reinit:
                kept = self.states[place]
                x[i] = (kept + dither[i].float()) / 256 if self.is_bytes else kept
        self.step += 1
        return x, places

    def store(self, x, places):
        u = uniform((BATCH, 2), self.step, Stream.REPLAY_BUFFER)
        self.step += 1
        x = x.float()
        if self.is_bytes:
            x = (256 * x).floor().clamp(max=255)
        for i in range(BATCH):
            self.pushed += 1
            if self.policy == "persistent":
                self.states[places[i]] = x[i]
            elif len(self.states) < CAPACITY:
                self.states.append(x[i])
            elif self.policy == "ring":
                self.states[(self.pushed - 1) % CAPACITY] = x[i]
            else:
                place = int((u[i, 0] + u[i, 1] / 2**24) * self.pushed)
                if place < CAPACITY:
                    self.states[place] = x[i]


class Confined(nn.Module):
    """A small network and a quadratic well within the intervals of all codes, scaled so that steps of `step_size` move
    most elements by a few tenths, some of them to the bounds.
    """

    def __init__(self, step_size):
        super().__init__()
        torch.manual_seed(3)
        self.net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.SiLU(), nn.Flatten(), nn.Linear(144, 1)).double()
        self.scale = 1 / step_size

    def forward(self, x):
        return self.scale * (16 * self.net(x)[:, 0] - 0.25 * (x - 0.4).square().flatten(1).sum(1))


def gradient(net, x):
    x = x.detach().requires_grad_()
    return torch.autograd.grad(net(x).sum(), x)[0]


@pytest.mark.parametrize("name", OTHERS)
def test_chains_are_those_of_the_code(name):
    """Three iterations, from the initial states to the final content of the buffer.

    Each step of a chain is compared with the code's from the same state, in float64: its scores are sums of some 10^2
    terms, so 10^-12 is 10^2 times their roundings of 2^-53. What the buffer does to states is exact.
    """
    recipe = fl.recipes.named(name)
    net = Confined(STEP_SIZES.get(name, 1.0))
    step, n_steps, interval = CHAINS[name]
    sampler = fl.Langevin(log_density=net, seed=SEED, **recipe["sampler"])
    buffer = plain = None
    if name in BUFFERS:
        policy, _, reinit, is_bytes = BUFFERS[name]
        plain = PlainBuffer(policy, reinit, is_bytes, interval)
        options = {**recipe["buffer"], "capacity": CAPACITY}
        buffer = fl.ReplayBuffer(shape=EVENT, bounds=recipe["sampler"].get("bounds"), seed=SEED, **options)
    scores, n_inside = [], 0

    def score(x):
        scores.append(gradient(net, x))
        return scores[-1]

    for iteration in range(3):
        if buffer is None or plain is None:
            x0, places, draw = sampler.initial((BATCH, *EVENT), dtype=torch.float64), [], None
            lo, hi = interval
            expected = lo + (hi - lo) * uniform((BATCH, *EVENT), iteration * n_steps, Stream.INITIAL_STATE)
        else:
            draw = buffer.sample(BATCH)
            x0 = draw.x.double()
            expected, places = plain.sample()
        assert torch.equal(x0, expected.double())
        states = sampler.trace(x0, step=sampler.step).x
        before = states[:-1].flatten(0, 1)
        z = [fl.noise.normal((BATCH, *EVENT), seed=SEED, step=iteration * n_steps + k) for k in range(n_steps)]
        after = step(score, before, torch.cat(z).double())
        torch.testing.assert_close(states[1:].flatten(0, 1), after, rtol=0, atol=1e-12)
        x = sampler(x0)
        assert torch.equal(x, states[-1]) and sampler.step == (iteration + 1) * n_steps
        n_inside += int(((x > interval[0]) & (x < interval[1])).sum())
        if buffer is not None and plain is not None and draw is not None:
            buffer.store(x, draw.slots if buffer.policy == "indexed" else None)
            plain.store(x, places)
    if buffer is not None and plain is not None:
        assert torch.equal(buffer.state_dict()["values"].float(), torch.stack(plain.states))
        assert plain.pushed > CAPACITY
    clip = recipe["sampler"].get("grad_clip")
    clipped = math.nan if clip is None else (torch.cat(scores).abs() > clip).double().mean()
    assert clip is None or 0.05 < clipped < 0.95  # some elements are limited and some are not
    if "bounds" in recipe["sampler"]:
        assert 0.1 < n_inside / (3 * x.numel()) < 0.95


def test_the_kl_term_of_improved_cd():
    """gen_image: the last step with create_graph, from the noisy state; loss_kl = model(im_neg_kl). In float64, whose
    roundings of 2^-53 that step and its derivatives, of sums of some 10^2 terms, magnify by some 10^3.
    """
    net, recipe = Confined(100.0), fl.recipes.improved_cd
    sampler = fl.Langevin(log_density=net, seed=SEED, **recipe["sampler"])
    x0 = sampler.initial((BATCH, *EVENT), dtype=torch.float64)
    x = sampler(x0, n_steps=39, step=0)
    x_tilde = (x + 0.001 * fl.noise.normal((BATCH, *EVENT), seed=SEED, step=39).double()).requires_grad_()
    (g,) = torch.autograd.grad(-net(x_tilde).sum(), x_tilde, create_graph=True)
    x_kl = (x_tilde.detach() - 100 * g).clamp(0, 1)
    torch.testing.assert_close(sampler.with_last_step(x0), x_kl, rtol=0, atol=1e-12)
    weights = list(net.net.parameters())[:-1]
    held = [p.detach().clone() for p in net.parameters()]
    names = [n for n, _ in net.named_parameters()]
    loss = -torch.func.functional_call(net, dict(zip(names, held, strict=True)), (x_kl,)).mean()
    expected = torch.autograd.grad(recipe["kl_weight"] * loss, weights)
    got = torch.autograd.grad(losses.kl_through_samples(net, sampler.with_last_step(x0, step=0)), weights)
    for a, b in zip(got, expected, strict=True):
        assert (a - b).norm() <= 1e-10 * b.norm() and b.norm() > 0


@pytest.mark.parametrize("name", OTHERS)
def test_constants_of_the_training(name):
    recipe = fl.recipes.named(name)
    n_iterations, batch, beta1, beta2, noise, interval, alpha, kl, norm, average = TRAINING[name]
    assert (recipe["n_iterations"], recipe["batch_size"], recipe["lr_decay"]) == (n_iterations, batch, 0)
    assert recipe["adam_betas"] == (beta1, beta2)
    assert (recipe["data_noise"], recipe["data_range"]) == (noise, interval)
    assert (recipe["energy_penalty"], recipe["kl_weight"]) == (alpha, kl)
    assert (recipe["max_grad_norm"], recipe["ema"], recipe["clamp_data"]) == (norm, average, name == "uva")
    assert recipe["start"] == ("buffer" if name in BUFFERS else "noise")
    options = (recipe["buffer"].get("capacity"), recipe["buffer"].get("reinit"))
    assert options == (BUFFERS[name][1:3] if name in BUFFERS else (None, None))


def test_learning_rates():
    """60 products in float64, or a power and a product; literals are rounded too."""
    lr = {name: piecewise.check("lr", fl.recipes.named(name)["lr"], positive=True) for name in OTHERS}
    for name, value in (("short_run", 1e-4), ("anatomy", 1e-4), ("igebm", 3e-4), ("improved_cd", 2e-4)):
        assert lr[name] == value
    scheduled = torch.optim.SGD([torch.zeros(1)], lr=1e-4)  # UvA: StepLR(optimizer, 1, gamma=0.97), one step per epoch
    scheduler = torch.optim.lr_scheduler.StepLR(scheduled, 1, gamma=0.97)
    for epoch in range(60):
        for iteration in (epoch * 468, epoch * 468 + 467):
            expected = pytest.approx(scheduled.param_groups[0]["lr"], rel=gamma(64, torch.float64), abs=0)
            assert piecewise.at(lr["uva"], iteration) == expected
        scheduled.step()
        scheduler.step()
    for epoch, decays in ((0, 0), (159, 0), (160, 1), (179, 1), (180, 2), (199, 2)):  # JEM: decay_epochs, decay_rate
        for iteration in (epoch * 703, epoch * 703 + 702):
            expected = pytest.approx(1e-4 * 0.3**decays, rel=gamma(6, torch.float64), abs=0)
            assert piecewise.at(lr["jem"], iteration) == expected


@pytest.mark.parametrize("name", fl.recipes.BY_NAME)
def test_train_accepts_every_recipe(name):
    """With fewer iterations and chains; every keyword reaches the settings."""
    recipe = fl.recipes.named(name)
    recipe.update(n_iterations=2, batch_size=4, features=2)
    recipe["sampler"]["n_steps"] = 2
    if recipe["buffer"]:
        recipe["buffer"]["capacity"] = 20
    result = fl.train("digits", **recipe, progress=False, log_every=1)
    assert len(result.history) == 2 and all(math.isfinite(row["energy_gap"]) for row in result.history)
    sampler = result.sampler
    bounds, first = recipe["sampler"].get("bounds"), recipe["sampler"].get("noise_first", False)
    assert (getattr(sampler, "bounds", None), getattr(sampler, "noise_first", False)) == (bounds, first)
    assert type(sampler) is kinds.KINDS[recipe["sampler"].get("kind", kinds.DEFAULT)]
    assert sampler.n_steps == (recipe["sample_steps"] or 2)


def test_a_recipe_by_name_is_a_copy():
    recipe = fl.recipes.named("uva")
    recipe["sampler"]["n_steps"] = 1
    assert fl.recipes.uva["sampler"]["n_steps"] == 60
    with pytest.raises(ValueError, match="recipe must be one of 'short_run', .* got 'uav'; did you mean 'uva'"):
        fl.recipes.named("uav")
