"""`fl.adapters.lightning` in a Trainer of the installed pytorch-lightning, against `fl.train`."""

from __future__ import annotations

import copy
import importlib
import sys
import types
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader

import fastlangevin as fl
from fastlangevin.data.order import batch_indices
from fastlangevin.data.ranges import UNIT, rescaled
from fastlangevin.training import guard

pl = pytest.importorskip("pytorch_lightning", reason="pytorch-lightning, of the extra lightning, is not installed")
lightning = fl.adapters.lightning

POINTS = torch.rand(40, 1, 4, 4, generator=torch.Generator().manual_seed(3)) * 2 - 1
DATA = fl.load_data(POINTS, value_range=(-1, 1), layout="as_given")
STEPS = {"n_steps": 5, "step_size": 0.5, "noise_std": 0.1}


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(16, 1)).double()


def batches(n: int, seed: int = 5, size: int = 8) -> list[Tensor]:
    """Those of `fl.train`."""
    order = [batch_indices(len(POINTS), size, seed=seed, iteration=i) for i in range(n)]
    return [rescaled(DATA.batch(indices), UNIT, (-1.0, 1.0)) for indices in order]


def trainer(**options: Any) -> Any:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return pl.Trainer(**{"accelerator": "cpu", "enable_checkpointing": False, "max_epochs": 1, **quiet, **options})


def fitted(module: Any, data: list[Tensor], ckpt_path: str | None = None, **options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few workers, no validation, a folder that exists
        (run := trainer(**options)).fit(module, DataLoader(data, batch_size=None), ckpt_path=ckpt_path)
    return run


def weights(module: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()])


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"start": "data", "data_noise": [(0, 0.1), (2, 0.3)], "energy_penalty": 0.1, "adam_betas": (0.5, 0.9)},
        {"start": "buffer", "buffer": {"capacity": 16, "reinit": 0.3}, "kl_weight": 0.5},
        {"start": "buffer", "buffer": {"capacity": 16, "policy": "indexed"}, "sampler": {**STEPS, "bounds": (-1, 1)}},
        {"start": "buffer", "sampler": {"kind": "underdamped", "n_steps": 4, "step_size": 0.3, "friction": 1.0}},
        {"optimizer": lambda p: (o := torch.optim.SGD(p, lr=0.1), torch.optim.lr_scheduler.StepLR(o, 2))},
    ],
    ids=["noise", "data", "kl", "indexed", "underdamped", "sgd"],
)
def test_weights_are_those_of_train(settings):
    settings = {"sampler": STEPS, "lr": 1e-2, "seed": 5, **settings}
    options = {"batch_size": 8, "n_iterations": 4, "value_range": (-1, 1), "layout": "as_given", "progress": False}
    theirs = fl.train(POINTS, network(), **settings, **options)
    module = lightning.ShortRunEBM(network(), **settings)
    fitted(module, batches(4))
    assert (weights(module) - weights(network())).abs().max() > 1e-3
    assert torch.equal(weights(module), weights(theirs.model))
    assert module.iteration == 4 and module.sampler.state_dict() == theirs.sampler.state_dict()


def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(tmp_path):
    options: dict[str, Any] = {"sampler": STEPS, "lr": 1e-2, "start": "buffer", "buffer": {"capacity": 20}}
    data = batches(3)
    whole = lightning.ShortRunEBM(network(), **options)
    fitted(whole, data, max_epochs=3)
    first = lightning.ShortRunEBM(network(), **options)
    path = str(tmp_path / "first.ckpt")
    fitted(first, data, max_epochs=1).save_checkpoint(path)
    again = lightning.ShortRunEBM(network(), **options)
    run = fitted(again, data, max_epochs=3, ckpt_path=path)
    assert torch.equal(weights(again), weights(whole)) and not torch.equal(weights(first), weights(whole))
    assert again.sampler.step == whole.sampler.step == 9 * STEPS["n_steps"]
    assert torch.equal(again.buffer.state_dict()["values"], whole.buffer.state_dict()["values"])

    # A checkpoint that is written between a restart and its first step has the buffer too.
    run.save_checkpoint(path)
    loaded = lightning.ShortRunEBM.load_from_checkpoint(path, model=network())
    saved: dict[str, Any] = {}
    loaded.on_save_checkpoint(saved)
    assert torch.equal(weights(loaded), weights(whole)) and loaded.iteration == 9
    assert torch.equal(saved["fastlangevin"]["buffer"]["values"], whole.buffer.state_dict()["values"])
    with pytest.raises(ValueError, match="must be one of a ShortRunEBM"):
        loaded.on_load_checkpoint({})


def test_a_run_that_diverges_is_stopped_as_by_train():
    settings: dict[str, Any] = {"sampler": STEPS, "lr": 10.0, "seed": 5, "max_energy_gap": 100.0}
    options = {"batch_size": 8, "n_iterations": 9, "value_range": (-1, 1), "layout": "as_given", "progress": False}
    with pytest.raises(fl.TrainingDiverged, match="max_energy_gap=100") as theirs:
        fl.train(POINTS, network(), **settings, **options)
    module = lightning.ShortRunEBM(network(), **settings)
    with pytest.raises(fl.TrainingDiverged) as ours:
        fitted(module, batches(9))
    assert str(ours.value) == str(theirs.value)
    assert module.iteration == ours.value.iteration > 1


def test_the_history_of_gaps_is_in_checkpoints_and_none_is_saved_of_a_divergence(monkeypatch):
    module = lightning.ShortRunEBM(network(), sampler=STEPS, max_saturation=0.5)
    fitted(module, batches(3))
    saved: dict[str, Any] = {}
    module.on_save_checkpoint(saved)
    assert len(saved["fastlangevin"]["gaps"]["recent"]) == 3 and saved["fastlangevin"]["gaps"]["is_settled"]
    other = lightning.ShortRunEBM(network(), sampler=STEPS, max_saturation=0.5)
    other.on_load_checkpoint(saved)
    saved_again: dict[str, Any] = {}
    other.on_save_checkpoint(saved_again)
    assert saved_again["fastlangevin"]["gaps"] == saved["fastlangevin"]["gaps"]

    monkeypatch.setattr(guard, "ToHost", Late)
    far = other._guard.watch(torch.zeros(()), torch.zeros(()), torch.full((4,), 11.0))
    for act in (lambda: other.on_save_checkpoint({}), other.on_train_end):
        other._guard.look(4, far)
        with pytest.raises(fl.TrainingDiverged, match="100.0% of the samples' values are outside -10 … 10"):
            act()


class Late:
    """Replaces a copy from a GPU by one that arrives only when it is waited for."""

    is_asynchronous = True

    def __init__(self, x: Tensor) -> None:
        self._x = x

    def value(self) -> Tensor:
        return self._x


def test_pictures_and_predictions(tmp_path):
    plain, drawn = (lightning.ShortRunEBM(network(), sampler=STEPS, seed=2) for _ in range(2))
    fitted(plain, batches(2), max_epochs=4)
    fitted(
        drawn,
        [(x, "label") for x in batches(2)],
        max_epochs=4,
        callbacks=[lightning.SampleGrid(tmp_path / "grids", every_n_epochs=2, n=9)],
    )
    assert torch.equal(weights(plain), weights(drawn)) and plain.sampler.step == drawn.sampler.step
    assert sorted(p.name for p in (tmp_path / "grids").iterdir()) == ["epoch-0002.png", "epoch-0004.png"]
    fl.save_grid(drawn.sampler.sample((9, 1, 4, 4), step=0), tmp_path / "same.png", value_range=(-1, 1))
    last, same = (np.asarray(Image.open(p)) for p in (tmp_path / "grids" / "epoch-0004.png", tmp_path / "same.png"))
    assert (last == same).all()
    assert (last != np.asarray(Image.open(tmp_path / "grids" / "epoch-0002.png"))).any()

    expected = copy.deepcopy(drawn.sampler)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        predicted = trainer().predict(drawn, DataLoader(batches(2), batch_size=None))
    assert all(torch.equal(x, expected(x0)) for x, x0 in zip(predicted, batches(2), strict=True))
    assert torch.equal(drawn(POINTS), drawn.model(POINTS.double()))


def test_a_chain_that_diverges_has_no_picture(tmp_path):
    module = lightning.ShortRunEBM(network(), sampler=STEPS)
    module.event_shape = (1, 4, 4)
    with torch.no_grad():
        module.model[0].weight.fill_(torch.nan)
    state = types.SimpleNamespace(current_epoch=0, is_global_zero=True)
    with pytest.warns(RuntimeWarning, match="no picture of epoch 1"):
        lightning.SampleGrid(tmp_path / "none").on_train_epoch_end(state, module)
    assert not (tmp_path / "none").exists()
    with pytest.raises(TypeError, match="SampleGrid needs a ShortRunEBM, got LightningModule"):
        lightning.SampleGrid(tmp_path).on_train_epoch_end(state, pl.LightningModule())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start": "somewhere"}, "start must be"),
        ({"buffer": {"capacity": 3}}, "buffer needs start='buffer'"),
        ({"sampler": {"step_size": 1.0}}, "noise_std must be given with step_size"),
        ({"sampler": {"kind": "mala", "step_size": 0.1}, "kl_weight": 1.0}, "kl_weight must be 0 with MALA"),
        ({"data_noise": -1.0}, "data_noise must be finite"),
        ({"lr": 0.0}, "lr must be"),
    ],
)
def test_arguments_that_do_not_work(options, message):
    with pytest.raises(ValueError, match=message):
        lightning.ShortRunEBM(network(), **options)


def test_a_batch_that_is_not_of_states():
    module = lightning.ShortRunEBM(network())
    with pytest.raises(TypeError, match=r"batch must be a floating-point tensor .* got torch.int64 \(3, 4\)"):
        module.training_step(torch.zeros(3, 4, dtype=torch.int64), 0)
    with pytest.raises(TypeError, match="model must be a module, got function"):
        lightning.ShortRunEBM(lambda x: x.sum(1))


def test_the_library_that_has_been_imported_is_used(monkeypatch):
    """The package `lightning` has the same classes under its own name."""
    other = types.ModuleType("lightning.pytorch")
    other.LightningModule, other.Callback = type("LightningModule", (nn.Module,), {}), type("Callback", (), {})
    monkeypatch.setitem(sys.modules, "lightning.pytorch", other)
    monkeypatch.delitem(sys.modules, "pytorch_lightning")
    monkeypatch.delitem(sys.modules, lightning.__name__)
    monkeypatch.setattr(fl.adapters, "lightning", lightning)  # which the import replaces
    found = importlib.import_module(lightning.__name__)
    assert issubclass(found.ShortRunEBM, other.LightningModule) and issubclass(found.SampleGrid, other.Callback)
    monkeypatch.undo()
    assert fl.adapters.lightning is lightning
