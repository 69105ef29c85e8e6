"""`summary` and `to_arviz`: ArviZ's numbers of the right draws, and the warning where they are not to be believed."""

from __future__ import annotations

import sys
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor

import fastlangevin as fl
from fastlangevin.diagnostics import convergence

arviz = pytest.importorskip("arviz")


def make_trace(x: Tensor, every: int = 1, **fields) -> fl.Trace:
    energy = 0.5 * x.reshape(*x.shape[:2], -1).square().sum(dim=2)
    return fl.Trace(x, energy, energy.sqrt(), torch.arange(len(x)) * every)._replace(**fields)


def independent(n: int, seed: int = 1, chains: int = 4, event: tuple[int, ...] = (2,)) -> Tensor:
    return fl.noise.normal((n, chains, *event), seed=seed, step=0)


def test_to_arviz():
    x = independent(6, chains=3, event=(2, 5))
    statistics = {"acceptance": torch.rand(6, 3), "energy_error": torch.rand(6, 3), "swaps": torch.rand(6, 3)}
    data = make_trace(x, every=10, statistics=statistics).to_arviz()
    assert data.posterior["x"].dims == ("chain", "draw", "event_0", "event_1")
    assert (data.posterior["x"].values == x.transpose(0, 1).numpy()).all()
    assert data.posterior["draw"].values.tolist() == [0, 10, 20, 30, 40, 50]
    assert data.posterior.sel(draw=slice(25, None)).sizes["draw"] == 3
    stats = data.sample_stats
    assert set(stats) == {"energy", "score_norm", "acceptance", "energy_error"}  # swaps are not of chains
    assert stats["energy_error"].dims == ("chain", "draw")
    assert (stats["energy_error"].values == statistics["energy_error"].T.numpy()).all()
    assert make_trace(x[..., 0]).to_arviz().posterior["x"].dims == ("chain", "draw", "event")
    assert set(make_trace(x[..., 0, 0].bfloat16(), energy=None).to_arviz().sample_stats) == {"score_norm"}


def test_more_chains_than_draws_are_no_mistake():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert make_trace(independent(5, chains=9)).to_arviz().posterior["x"].shape == (9, 5, 2)


def test_columns_are_arviz_of_the_draws_after_burn_in():
    """Compared with ArviZ's functions on the `InferenceData`, which sees the state as one array."""
    x = independent(300, event=(2, 3)).cumsum(dim=0) / 50 + independent(300, seed=2, event=(2, 3))
    trace = make_trace(x, every=2)
    with pytest.warns(UserWarning):
        table = fl.diagnostics.summary(trace, burn_in=99)
    assert list(table.index) == ["energy", *(f"x[{i}, {j}]" for i in range(2) for j in range(3))]
    data = trace.to_arviz().sel(draw=slice(99, None))
    data.posterior["x"] = data.posterior["x"].astype(float)
    columns = {
        "ess_bulk": arviz.ess(data, method="bulk"),
        "ess_tail": arviz.ess(data, method="tail"),
        "r_hat": arviz.rhat(data),
        "mcse_mean": arviz.mcse(data, method="mean"),
        "mcse_sd": arviz.mcse(data, method="sd"),
        "mean": data.posterior.mean(("chain", "draw")),
    }
    for column, expected in columns.items():
        np.testing.assert_allclose(table[column][1:], expected["x"].values.ravel(), rtol=1e-9)
    np.testing.assert_allclose(table["mean"]["energy"], trace.energy[50:].double().mean(), rtol=1e-9)


def test_chains_that_agree_give_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fl.diagnostics.summary(make_trace(independent(500)))


def test_chains_that_differ_are_named():
    """Half of the chains are shifted by 0.35 standard deviations."""
    x = independent(1000, event=(1,)) + torch.tensor([0.0, 0.35, 0.0, 0.35])[:, None]
    with pytest.warns(UserWarning, match=r"R-hat is up to 1\.0\d*, above 1\.01, for x\[0\]"):
        fl.diagnostics.summary(make_trace(x, energy=None))


def test_too_few_draws_are_named():
    """All halves of chains have the same values, so R-hat is below 1; the ESS of N draws is at most N·log10 N."""
    values = independent(20, chains=1, event=(1,))[:, 0]
    shuffled = [values[torch.randperm(20, generator=torch.Generator().manual_seed(i))] for i in range(8)]
    x = torch.cat([torch.stack(shuffled[:4], dim=1), torch.stack(shuffled[4:], dim=1)])
    assert x.shape == (40, 4, 1)
    with pytest.warns(UserWarning) as caught:
        table = fl.diagnostics.summary(make_trace(x, energy=None))
    (message,) = [str(w.message) for w in caught]
    assert table["r_hat"]["x[0]"] <= 1.01 and "R-hat" not in message
    assert "the bulk ESS is down to" in message and "the tail ESS is down to" in message
    assert message.count("below 400, for x[0]") == 2


@pytest.mark.parametrize("which", ["one chain", "constant"])
def test_an_unknown_r_hat_is_a_reason_to_doubt(which, caplog):
    x = independent(1000, chains=1 if which == "one chain" else 4)
    if which == "constant":
        x[..., 1] = 3.0
    with pytest.warns(
        UserWarning, match=r"R-hat of .*x\[1\] is not a number \(it never changed, or there is one chain\)"
    ):
        table = fl.diagnostics.summary(make_trace(x))
    assert np.isnan(table["r_hat"]["x[1]"]) and np.isnan(table["r_hat"]["x[0]"]) == (which == "one chain")


def test_many_names_are_counted():
    with pytest.warns(UserWarning, match=r"below 400, for energy, x\[0\], x\[1\] and 6 more"):
        fl.diagnostics.summary(make_trace(independent(20, event=(8,))))


def test_functions_of_blocks_of_states(monkeypatch):
    x = independent(450, event=(2, 3))
    sizes = []

    def mean(states: Tensor) -> Tensor:
        sizes.append(len(states))
        return states.mean(dim=(1, 2))

    monkeypatch.setattr(convergence, "_BLOCK_BYTES", 100 * 4 * 6 * 4)
    table = fl.diagnostics.summary(make_trace(x), functions={"mean": mean})
    assert sizes == [400, 400, 400, 400, 200]
    assert list(table.index) == ["energy", "mean"]
    means = x.double().mean(dim=(2, 3)).T.numpy()
    np.testing.assert_allclose(table["ess_bulk"]["mean"], arviz.ess(means), rtol=1e-6)  # means of float32 are rounded
    for wrong in (lambda states: states, lambda states: 1.0, lambda states: states.mean()):
        with pytest.raises(ValueError, match=r"functions\['f'\] must return \(400,\), a number for each of 400 states"):
            fl.diagnostics.summary(make_trace(x), functions={"f": wrong})


def test_some_elements_of_many():
    places, names = convergence.elements((4, 5), 4)
    assert places.tolist() == [2, 7, 12, 17] and names == ["x[0, 2]", "x[1, 2]", "x[2, 2]", "x[3, 2]"]
    places, names = convergence.elements((7,), None)
    assert places.tolist() == list(range(7)) and names[-1] == "x[6]"
    assert convergence.elements((3,), 9)[0].tolist() == [0, 1, 2]
    assert convergence.elements((), 4)[1] == ["x"]
    values = convergence.quantities(make_trace(independent(9, event=(4, 5))), None, 4)
    assert torch.equal(values["x[2, 2]"], independent(9, event=(4, 5))[..., 2, 2].double())


@pytest.mark.parametrize("ending", ["npz", "zarr"])
def test_traces_in_files(ending, tmp_path):
    energy = fl.energies.Gaussian(torch.zeros(2), torch.eye(2))
    sampler = fl.MALA(energy, step_size=0.5, n_steps=30, seed=1)
    trace = sampler.trace(torch.zeros(3, 2), out=tmp_path / f"t.{ending}")
    in_memory = sampler.trace(torch.zeros(3, 2), step=0)
    assert trace.statistics.keys() == {"acceptance", "energy_error"}
    for name, values in in_memory.statistics.items():
        np.testing.assert_array_equal(trace.to_arviz().sample_stats[name].values, values.T.numpy())
    with pytest.warns(UserWarning):
        tables = [fl.diagnostics.summary(t, burn_in=5) for t in (trace, in_memory)]
    assert tables[0].equals(tables[1])


def test_bad_arguments():
    trace = make_trace(independent(10))
    with pytest.raises(ValueError, match="at least 4 records from step burn_in=7 on, got 3"):
        fl.diagnostics.summary(trace, burn_in=7)
    with pytest.raises(ValueError, match="burn_in must be an int of at least 0"):
        fl.diagnostics.summary(trace, burn_in=-1)
    with pytest.raises(ValueError, match="max_elements must be an int"):
        fl.diagnostics.summary(trace, max_elements=0)


def test_without_the_extra(monkeypatch, tmp_path):
    for package in ("arviz", "zarr"):
        monkeypatch.setitem(sys.modules, package, None)
    trace = make_trace(independent(10))
    for use in (trace.to_arviz, lambda: fl.diagnostics.summary(trace)):
        with pytest.raises(ImportError, match=r"arviz cannot be imported .*pip install 'fastlangevin\[diagnostics\]'"):
            use()
    sampler = fl.Langevin(fl.energies.DoubleWell(), n_steps=2, seed=1)
    with pytest.raises(ImportError, match=r"zarr cannot be imported .*pip install 'fastlangevin\[diagnostics\]'"):
        sampler.trace(torch.zeros(1, 2), out=tmp_path / "t.zarr")
    assert sampler.step == 0 and list(tmp_path.iterdir()) == []
