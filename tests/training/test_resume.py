"""Resuming: bit for bit, and errors."""

from __future__ import annotations

import json

import pytest
import torch
from support.training_runs import SMALL, assert_same_run, tensors_of, weights
from torch import nn

import fastlangevin as fl
from fastlangevin.runs import checkpoint, training_checkpoint


def test_resume_is_bit_for_bit(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    fl.train("digits", out=whole, n_iterations=23, log_every=4, checkpoint_every=6, **SMALL)
    fl.train("digits", out=parts, n_iterations=9, log_every=4, checkpoint_every=6, **SMALL)
    (parts / "metrics.jsonl").open("a").write('{"iteration": 9, "energy_')  # what a killed process may leave
    result = fl.train(
        "digits", out=parts, n_iterations=23, log_every=4, checkpoint_every=6, resume=True, progress=False
    )
    rows = [json.loads(line) for line in (parts / "metrics.jsonl").read_text().splitlines()]
    assert [r["iteration"] for r in rows if r["iteration"] != 9] == [4, 8, 12, 16, 20, 23]
    (parts / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows if r["iteration"] != 9))
    assert_same_run(whole, parts)
    assert len(result.history) == 7


def test_resume_with_dropout_is_bit_for_bit(tmp_path):
    def model():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Dropout(0.5), nn.SiLU(), nn.Linear(16, 1))

    options = {k: v for k, v in SMALL.items() if k != "features"}
    whole = fl.train("digits", model(), out=tmp_path / "a", n_iterations=6, **options)
    fl.train("digits", model(), out=tmp_path / "b", n_iterations=3, checkpoint_every=2, **options)
    resumed = fl.train("digits", model(), out=tmp_path / "b", n_iterations=6, resume=True, **options)
    assert torch.equal(weights(whole.model), weights(resumed.model))


def test_a_checkpoint_written_on_a_gpu_resumes_on_a_cpu(tmp_path):
    """Except for the optimiser's flag: Adam on CUDA is capturable, which torch does not accept on a CPU."""
    options = {"checkpoint_every": 3, **SMALL}
    fl.train("digits", out=tmp_path / "a", n_iterations=5, **options)
    fl.train("digits", out=tmp_path / "b", n_iterations=3, **options)
    path = checkpoint.newest(tmp_path / "b" / "checkpoints")
    tensors, meta = checkpoint.load(path)
    assert meta["optimizer_groups"][0]["capturable"] is False
    meta["optimizer_groups"][0]["capturable"] = True
    checkpoint.save(path, tensors, meta)
    fl.train("digits", out=tmp_path / "b", n_iterations=5, resume=True, progress=False)
    for name, tensor in tensors_of(tmp_path / "a").items():
        assert torch.equal(tensor, tensors_of(tmp_path / "b")[name]), name


def test_a_checkpoint_written_on_a_cpu_loads_into_a_capturable_optimiser():
    """Its step counts must be on the device of its parameters; the meta device replaces the GPU."""
    weight = nn.Parameter(torch.ones(3))
    adam = torch.optim.Adam([weight])
    weight.grad = torch.ones(3)
    adam.step()
    on_device = torch.optim.Adam([nn.Parameter(torch.ones(3, device="meta"))], capturable=True)
    training_checkpoint.load_optimizer(on_device, *training_checkpoint.optimizer_tensors(adam))
    assert on_device.param_groups[0]["capturable"] is True
    (state,) = on_device.state.values()
    assert {name: tensor.device.type for name, tensor in state.items()} == dict.fromkeys(state, "meta")


def test_resume_without_a_run_starts_one(tmp_path):
    result = fl.train("digits", out=tmp_path / "new", n_iterations=2, resume=True, **SMALL)
    assert result.history[-1]["iteration"] == 2


def test_resume_with_fewer_iterations_than_done_is_an_error(tmp_path):
    fl.train("digits", out=tmp_path, n_iterations=4, **SMALL)
    with pytest.raises(ValueError, match="n_iterations includes the iterations before .* must be at least 4, got 2"):
        fl.train("digits", out=tmp_path, n_iterations=2, resume=True, progress=False)


def test_resume_of_a_finished_run_changes_nothing(tmp_path):
    fl.train("digits", out=tmp_path, n_iterations=3, **SMALL)
    before = {p.name: p.read_bytes() for p in tmp_path.rglob("*.safetensors")}
    fl.train("digits", out=tmp_path, resume=True, progress=False)
    assert before == {p.name: p.read_bytes() for p in tmp_path.rglob("*.safetensors")}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"lr": 0.5}, "lr is 0.5 now and"),
        ({"batch_size": 9}, "batch_size is 9 now and 8 in the run"),
        ({"features": 5}, "model is"),
        ({"sampler": {"n_steps": 6}}, "sampler is"),
        ({"seed": 9}, "seed is 9 now and 1 in the run"),
    ],
)
def test_resume_with_other_settings_is_an_error(tmp_path, change, words):
    fl.train("digits", out=tmp_path, n_iterations=1, **SMALL)
    with pytest.raises(ValueError, match=words):
        fl.train("digits", out=tmp_path, n_iterations=2, resume=True, progress=False, **change)


def test_resume_with_other_data_is_an_error(tmp_path):
    images = torch.rand(20, 1, 8, 8)
    fl.train(images, out=tmp_path, n_iterations=1, **SMALL)
    fl.train(images, out=tmp_path, n_iterations=2, resume=True, progress=False)
    with pytest.raises(ValueError, match="data_fingerprint is"):
        fl.train(images.flip(0), out=tmp_path, n_iterations=3, resume=True, progress=False)


def test_resume_with_the_run_s_own_n_steps(tmp_path):
    """Given again, they do not reset the recipe's sample_steps."""
    options = {"out": tmp_path, "batch_size": 2, "features": 2, "progress": False}
    fl.train("digits", n_iterations=1, **options)
    assert fl.train("digits", n_iterations=2, sampler={"n_steps": 10}, resume=True, **options).sampler.n_steps == 14


def test_options_of_the_run_may_be_repeated(tmp_path):
    options = {"capacity": 20, "reinit": 0.3}
    fl.train("digits", out=tmp_path, n_iterations=1, start="buffer", buffer=options, **SMALL)
    again = {"buffer": {"reinit": 0.3}, "sampler": {"step_size": 1.0}}
    fl.train("digits", out=tmp_path, n_iterations=2, resume=True, progress=False, **again)
    with pytest.raises(ValueError, match="buffer is .*'reinit': 0.5.* now and .*'reinit': 0.3.* in the run"):
        fl.train("digits", out=tmp_path, n_iterations=2, resume=True, progress=False, buffer={"reinit": 0.5})


@pytest.mark.parametrize(("lr_decay", "n_lines"), [(0.5, 1), (0.0, 0)])
def test_more_iterations_print_that_the_schedule_of_lr_changes(tmp_path, capsys, lr_decay, n_lines):
    options = {**SMALL, "out": tmp_path, "lr_decay": lr_decay, "progress": True}
    fl.train("digits", n_iterations=2, **options)
    fl.train("digits", n_iterations=2, resume=True, **options)
    assert "n_iterations is" not in capsys.readouterr().out
    fl.train("digits", n_iterations=4, resume=True, **options)
    printed = capsys.readouterr().out
    assert printed.count("n_iterations is 4 now and 2 in the run") == n_lines
    assert printed.count("lr falls over the last 50% of all iterations") == n_lines
