"""Trainings with other samplers than `Langevin`: they equal plain loops, resume bit for bit, and say what was used."""

from __future__ import annotations

import json

import pytest
import torch
from support.training_runs import assert_same_run, weights
from torch import nn

import fastlangevin as fl
from fastlangevin.data.order import batch_indices
from fastlangevin.data.sources import load_data
from fastlangevin.runs import checkpoint, metrics_log
from fastlangevin.samplers import continued
from fastlangevin.training import loop

B, K, N, SEED = 8, 3, 5, 5
BUFFER = {"capacity": 20, "reinit": 0.3}
KINDS = {
    "mala": {"kind": "mala", "step_size": 0.05, "temperature": 0.25},
    "hmc": {"kind": "hmc", "step_size": 0.5, "n_leapfrog": 2, "mass": 2.0},
    "underdamped": {"kind": "underdamped", "step_size": 0.5, "friction": 0.5, "mass": 2.0},
}
MADE = {"mala": fl.MALA, "hmc": fl.HMC, "underdamped": fl.Underdamped}
OPTIONS = {"batch_size": B, "lr": 1e-2, "lr_decay": 0.0, "data_noise": 0.1, "seed": SEED, "sample_steps": K}
QUIET = {"n_iterations": N, "log_every": 2, "progress": False}


def network() -> nn.Module:
    """In float64, with a steep density, so that proposals are accepted and rejected."""
    torch.manual_seed(1)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.SiLU(), nn.Linear(16, 1)).double()
    with torch.no_grad():
        net[1].weight *= 10.0
        net[3].weight *= 10.0
    return net


@pytest.fixture(autouse=True)
def without_plots(monkeypatch):
    """They take longer than these trainings."""
    for module in (loop, metrics_log):
        monkeypatch.setattr(module, "has_plots", lambda: False)


class InFloat32(nn.Module):
    """A network in float64 of states in float32."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def forward(self, x):
        return self.net(x.double())


def trained(kind: str, out=None, **options):
    return fl.train(
        "digits", InFloat32(), out=out, **{**OPTIONS, **QUIET, "sampler": {"n_steps": K, **KINDS[kind]}, **options}
    )


def plain_loop(kind: str, start: str) -> tuple[nn.Module, list[float]]:
    """The training of `trained`, written with a sampler and a buffer. Returns the network and the acceptances."""
    f, data, accepted = InFloat32(), load_data("digits"), []
    adam = torch.optim.Adam(f.parameters(), lr=1e-2)
    options = {name: value for name, value in KINDS[kind].items() if name != "kind"}
    sampler = MADE[kind](log_density=f, n_steps=K, seed=SEED, **options)
    buffer = fl.ReplayBuffer(shape=(1, 8, 8), seed=SEED, velocities=kind == "underdamped", **BUFFER)
    for i in range(N):
        x_data = data.batch(batch_indices(len(data), B, seed=SEED, iteration=i)).clone()
        x_data.add_(fl.noise.normal(x_data.shape, seed=SEED, step=i, stream=fl.noise.Stream.DATA_NOISE), alpha=0.1)
        if start == "noise":
            x0 = sampler.initial(x_data.shape)
            x = sampler(x0)
        else:
            draw = buffer.sample(B)
            x0 = draw.x
            if kind == "underdamped":
                x, v = sampler.with_velocity(x0, velocity=draw.velocity)
                buffer.store(x, velocity=v)
            else:
                x = sampler(x0)
                buffer.store(x)
        if kind != "underdamped":
            trace = sampler.trace(x0, step=K * i, every=K)
            accepted.append(float(trace.statistics["acceptance"][-1].mean()))
        adam.zero_grad()
        (f(x).mean() - f(x_data).mean()).backward()
        adam.step()
    return f, accepted


@pytest.mark.parametrize("start", ["noise", "buffer"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_training_is_the_plain_loop_bit_for_bit(kind, start):
    result = trained(kind, start=start, **({"buffer": BUFFER} if start == "buffer" else {}))
    model, accepted = plain_loop(kind, start)
    assert torch.equal(weights(result.model), weights(model))
    assert type(result.sampler) is MADE[kind] and result.sampler.step == K * N
    assert [row["iteration"] for row in result.history] == [2, 4, 5]
    logged = [accepted[i] for i in (1, 3, 4)] if accepted else [None] * 3
    assert [row.get("acceptance") for row in result.history] == logged
    assert all(0 < share < 1 for share in accepted)


@pytest.mark.parametrize(("kind", "policy"), [("hmc", "fifo"), ("underdamped", "fifo"), ("underdamped", "indexed")])
def test_a_resume_is_bit_for_bit(tmp_path, kind, policy):
    """With the velocities of the buffer."""
    more = {"start": "buffer", "buffer": {**BUFFER, "policy": policy}, "checkpoint_every": 3}
    trained(kind, tmp_path / "whole", **more)
    trained(kind, tmp_path / "parts", **{**more, "n_iterations": 3})
    resumed = fl.train("digits", InFloat32(), out=tmp_path / "parts", resume=True, n_iterations=N, progress=False)
    rows = [json.loads(line) for line in (tmp_path / "parts" / "metrics.jsonl").read_text().splitlines()]
    assert [row["iteration"] for row in rows] == [2, 3, 4, 5] and len(resumed.history) == 4
    (tmp_path / "parts" / "metrics.jsonl").write_text(
        "".join(json.dumps(r) + "\n" for r in rows if r["iteration"] != 3)
    )
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    tensors, _ = checkpoint.load(checkpoint.newest(tmp_path / "whole" / "checkpoints"))
    assert ("buffer.velocities" in tensors) == (kind == "underdamped")
    if kind == "underdamped":
        assert not tensors["buffer.velocities"].isnan().all()


def test_gradients_are_measured_along_the_chains_that_went_on(monkeypatch):
    """From the velocities that they had, which at first are drawn."""
    calls = []

    def spy(name):
        call = getattr(continued, name)
        return lambda *args, **kwargs: (calls.append((name, args[1], kwargs["velocity"])), call(*args, **kwargs))[1]

    for name in ("run", "trace"):
        monkeypatch.setattr(continued, name, spy(name))
    trained("underdamped", start="buffer", buffer={**BUFFER, "reinit": 0.0}, n_iterations=3, log_every=3)
    names, states, velocities = zip(*calls, strict=True)
    assert names == ("run", "trace", "run", "run", "trace")
    for run, trace in ((0, 1), (3, 4)):
        assert torch.equal(states[run], states[trace])
        assert torch.equal(velocities[run].nan_to_num(nan=99.0), velocities[trace].nan_to_num(nan=99.0))
    assert velocities[0].isnan().all() and not velocities[3].isnan().any()


def test_a_buffer_that_begins_or_ceases_to_store_velocities_keeps_its_states(tmp_path):
    more = {"start": "buffer", "buffer": BUFFER, "n_iterations": 3}
    trained("mala", tmp_path / "run", **more)
    states = lambda: checkpoint.load(checkpoint.newest(tmp_path / "run" / "checkpoints"))[0]
    before = states()
    assert "buffer.velocities" not in before

    def go_on(kind, n):
        changes = {"resume_overrides": {"sampler": KINDS[kind]}, "n_iterations": n}
        fl.train("digits", InFloat32(), out=tmp_path / "run", resume=True, progress=False, **changes)
        return states()

    after = go_on("underdamped", 4)
    is_new = after["buffer.counts"].item() - before["buffer.counts"].item()
    kept = [row for row in range(20) if torch.equal(after["buffer.values"][row], before["buffer.values"][row])]
    assert is_new == B and len(kept) >= 20 - B
    velocities = after["buffer.velocities"].flatten(1).isnan()
    assert [row for row in range(20) if velocities[row].all()] == kept and not velocities.all()
    assert "buffer.velocities" not in go_on("mala", 5)


def test_options_of_the_recipe_that_fall_away_are_named(capsys):
    trained("mala", progress=True, n_iterations=1)
    said = capsys.readouterr().out
    assert "3 MALA steps (3 to sample)" in said and "MALA steps/s" in said
    assert "sampler: noise_std of the default recipe is for Langevin, not for MALA" in said
    fl.train(
        "digits", network(), **{**OPTIONS, **QUIET, "progress": True, "n_iterations": 1, "sampler": {"n_steps": K}}
    )
    assert "default recipe" not in capsys.readouterr().out


def test_of_a_run_that_goes_on_elsewhere_the_options_that_fall_away_are_named(tmp_path, capsys):
    trained("hmc", tmp_path / "a", n_iterations=1)
    options = {"from_checkpoint": tmp_path / "a", "n_iterations": 1}
    result = fl.train("digits", InFloat32(), sampler=KINDS["mala"], **options)
    assert type(result.sampler) is fl.MALA and result.sampler.n_steps == K
    assert "sampler: n_leapfrog, mass of the run before are for HMC, not for MALA" in capsys.readouterr().out


def test_evaluation_of_a_run_without_a_generator(tmp_path):
    trained("mala", tmp_path / "run", n_iterations=1)
    result = fl.evaluate(
        tmp_path / "run", "digits", model=InFloat32(), n=4, n_chains=2, fid=False, coverage=False, progress=False
    )
    assert result["skipped"]["reconstruction"] == "the generator is a chain of Langevin dynamics, not of MALA"
    assert result["chain"]["steps"][-1] == 10 * K and result["n_steps"] == K
