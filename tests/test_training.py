"""Training: the algorithm against a plain loop, resuming bit for bit, what is written, and what is refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from adam_steps import recorded_gradients, step_along
from PIL import Image
from torch import nn

import fastlangevin as fl
from fastlangevin import checkpoint, pending
from fastlangevin.data import load_data
from fastlangevin.order import batch_indices
from fastlangevin.run import Run

SMALL = {
    "features": 4,
    "batch_size": 8,
    "lr_decay": 0.0,
    "sampler": {"n_steps": 5, "noise_std": 0.01},
    "sample_steps": 5,
    "progress": False,
}


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def tensors_of(folder) -> dict[str, torch.Tensor]:
    return checkpoint.load(checkpoint.newest(folder / "checkpoints"))[0]


def assert_same_run(a, b) -> None:
    expected, got = tensors_of(a), tensors_of(b)
    assert expected.keys() == got.keys()
    for name in expected:
        assert torch.equal(expected[name], got[name]), name
    meta_a, meta_b = (checkpoint.load(checkpoint.newest(f / "checkpoints"))[1] for f in (a, b))
    assert meta_a["sampler"] == meta_b["sampler"] and meta_a["iteration"] == meta_b["iteration"]
    strip = lambda folder: [
        {k: v for k, v in json.loads(line).items() if k != "seconds"}
        for line in (folder / "metrics.jsonl").read_text().splitlines()
    ]
    assert strip(a) == strip(b)
    assert (a / "samples.png").read_bytes() == (b / "samples.png").read_bytes()


def test_the_algorithm_is_the_paper_s():
    """Three iterations against a loop written from the paper's Algorithm 1, with the library's noise."""
    with recorded_gradients() as gradients:
        result = fl.train("digits", n_iterations=3, lr=1e-2, data_noise=0.1, seed=5, **SMALL)
    data = load_data("digits")
    with torch.random.fork_rng():
        torch.manual_seed(5)
        f = fl.models.ConvNet(8, 1, 4)
    adam = torch.optim.Adam(f.parameters(), lr=1e-2, betas=(0.9, 0.999))
    for i in range(3):
        x = 2 * fl.noise.uniform((8, 1, 8, 8), seed=5, step=5 * i, stream=1) - 1
        for k in range(5):
            x = x.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(f(x).sum(), x)
            x = x.detach() + gradient + 0.01 * fl.noise.normal(x.shape, seed=5, step=5 * i + k)
        batch = data.batch(batch_indices(len(data), 8, seed=5, iteration=i))
        batch = batch + 0.1 * fl.noise.normal(batch.shape, seed=5, step=i, stream=2)
        adam.zero_grad()
        (-(f(batch).mean() - f(x).mean())).backward()
        step_along(adam, f, gradients[i])
    assert torch.equal(weights(result.model), weights(f))
    initial = fl.models.ConvNet(8, 1, 4)
    assert (weights(f) - weights(initial)).abs().max() > 0.01


def test_learning_lowers_the_distance_to_the_data():
    """Points of two clusters: samples of the trained short-run chain lie near them, untrained ones do not."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.tensor([[0.5, 0.5], [-0.5, -0.5]])
    points = centres[torch.arange(400) % 2] + 0.05 * torch.randn(400, 2, generator=generator)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 32), nn.SiLU(), nn.Linear(32, 32), nn.SiLU(), nn.Linear(32, 1))
    options = {"n_steps": 20, "step_size": 0.05, "noise_std": 0.02}
    distance = lambda x: torch.cdist(x, centres).min(1).values.mean()
    before = distance(fl.Langevin(log_density=model, seed=1, **options).sample((500, 2)))
    result = fl.train(points, model, n_iterations=300, lr=3e-3, value_range=(-1, 1), sampler=options, progress=False)
    x = result.sampler.sample((500, 2))
    assert before > 0.4 and distance(x) < 0.2, (before, distance(x))
    share = (torch.cdist(x, centres).argmin(1) == 0).float().mean()
    assert 0.2 < share < 0.8


def test_learning_rate_decays_at_the_end():
    seen = []
    step = torch.optim.Adam.step

    def spy(self, *args, **kwargs):
        seen.append(self.param_groups[0]["lr"])
        return step(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.Adam, "step", spy)
        fl.train("digits", n_iterations=10, lr=1e-3, **{**SMALL, "lr_decay": 0.4})
    assert [lr / 1e-3 for lr in seen] == pytest.approx([1, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25])


def test_what_a_run_leaves(tmp_path):
    out = tmp_path / "run"
    result = fl.train("digits", out=out, n_iterations=25, checkpoint_every=10, keep_checkpoints=2, log_every=5, **SMALL)
    assert result.out == out and result.sampler.step == 25 * 5
    assert sorted(p.name for p in (out / "checkpoints").iterdir()) == ["00000020.safetensors", "00000025.safetensors"]
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["iteration"] for row in rows] == [5, 10, 15, 20, 25] and rows == result.history
    for row in rows:
        assert abs(row["energy_gap"] - (row["energy_data"] - row["energy_samples"])) < 1e-6
        assert row["score_norm"] > 0
    config = yaml.safe_load((out / "config.yaml").read_text())
    assert config["data"] == "digits" and config["sampler"]["n_steps"] == 5 and config["batch_size"] == 8
    picture = Image.open(out / "samples.png")
    assert picture.width >= 640 and len(set(np.asarray(picture).ravel().tolist())) > 20
    assert Image.open(out / "training.png").width > 500
    assert list((out / "tensorboard").glob("events.*"))
    assert [p.name for p in out.rglob(".*")] == [".lock"]


def test_the_picture_always_starts_from_the_same_noise(tmp_path):
    """The preview must not move the counter that training samples from."""
    a = fl.train("digits", out=tmp_path / "a", n_iterations=4, checkpoint_every=1, **SMALL)
    b = fl.train("digits", n_iterations=4, **SMALL)
    assert torch.equal(weights(a.model), weights(b.model))


def test_same_seed_same_run_other_seed_another():
    a, b = (fl.train("digits", n_iterations=2, seed=3, **SMALL) for _ in range(2))
    assert torch.equal(weights(a.model), weights(b.model))
    assert not torch.equal(weights(a.model), weights(fl.train("digits", n_iterations=2, seed=4, **SMALL).model))


def test_global_random_state_is_left_alone():
    before = torch.get_rng_state()
    fl.train("digits", n_iterations=1, **SMALL)
    assert torch.equal(before, torch.get_rng_state())


# Resuming


def test_resume_is_bit_for_bit(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    fl.train("digits", out=whole, n_iterations=23, log_every=4, checkpoint_every=6, **SMALL)
    fl.train("digits", out=parts, n_iterations=9, log_every=4, checkpoint_every=6, **SMALL)
    (parts / "metrics.jsonl").open("a").write('{"iteration": 9, "energy_')  # what a kill may leave
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


class Stateful(nn.Module):
    """Buffers that every evaluation in train mode moves."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        first = nn.utils.parametrizations.spectral_norm(nn.Linear(64, 16))
        self.net = nn.Sequential(nn.Flatten(), first, nn.BatchNorm1d(16), nn.SiLU(), nn.Linear(16, 1))

    def forward(self, x):
        return self.net(x)


def test_looking_at_a_stateful_model_does_not_change_its_course(tmp_path):
    options = {**SMALL, "n_iterations": 8}
    del options["features"]
    expected = fl.train("digits", Stateful(), log_every=3, **options).model.state_dict()
    written = fl.train("digits", Stateful(), out=tmp_path / "a", checkpoint_every=3, log_every=2, **options)
    fl.train("digits", Stateful(), out=tmp_path / "b", **{**options, "n_iterations": 3})
    resumed = fl.train("digits", Stateful(), out=tmp_path / "b", resume=True, **options)
    for model in (written.model, resumed.model):
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, expected[name]), name


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_trains_where_gradients_are_off(context):
    with context():
        fl.train("digits", n_iterations=1, **SMALL)


def test_trains_a_float64_model():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 1)).double()
    options = {k: v for k, v in SMALL.items() if k != "features"}
    assert fl.train("digits", model, n_iterations=2, **options).model[1].weight.dtype == torch.float64


def test_a_reader_that_goes_away_does_not_stop_a_training(tmp_path):
    command = [*TRAIN, "--iterations", "30", "--checkpoint-every", "3", "--out", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.wait(timeout=120) == 0, process.stderr.read()
    assert int(checkpoint.newest(tmp_path / "checkpoints").stem) == 30


OPTIONS = ["--features", "4", "--batch-size", "8", "--lr-decay", "0", "--steps", "5", "--noise-std", "0.01"]
OPTIONS += ["--sample-steps", "5"]
TRAIN = [sys.executable, "-m", "fastlangevin", "train", "digits", *OPTIONS]


def start(out, *more) -> subprocess.Popen:
    """A training in a process of its own, once it has begun to save checkpoints."""
    command = [*TRAIN, "--iterations", "100000", "--checkpoint-every", "3", "--out", str(out), *more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    deadline = time.monotonic() + 120
    while not (newest := checkpoint.newest(out / "checkpoints")) or int(newest.stem) < 6:
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
        time.sleep(0.02)
    return process


def finish(out, n_iterations: int) -> None:
    """Ends a run in this process, with one thread as it began."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        fl.train("digits", out=out, n_iterations=n_iterations, checkpoint_every=3, resume=True, progress=False)
    finally:
        torch.set_num_threads(before)


def test_killed_run_resumes_bit_for_bit(tmp_path, threads):
    process = start(tmp_path / "killed")
    process.send_signal(signal.SIGKILL)
    process.wait()
    last = int(checkpoint.newest(tmp_path / "killed" / "checkpoints").stem)
    n = last + 7
    finish(tmp_path / "killed", n)
    threads(1)
    fl.train("digits", out=tmp_path / "whole", n_iterations=n, checkpoint_every=3, **SMALL)
    assert_same_run(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_save_and_say_how_to_resume(tmp_path, number, code):
    out = tmp_path / "run"
    process = start(out)
    process.send_signal(number)
    text = process.communicate(timeout=60)[0]
    assert process.returncode == code, text
    assert "stopped after iteration" in text and "--resume" in text and str(out) in text.replace("\n", "")
    stopped_at = int(text.split("stopped after iteration ")[1].split()[0])
    assert int(checkpoint.newest(out / "checkpoints").stem) == stopped_at


class Late:
    """Stands in for a copy from a GPU whose numbers arrive only when they are waited for."""

    def __init__(self, x: torch.Tensor) -> None:
        self._x = x

    def arrived(self) -> bool:
        return False

    def value(self) -> torch.Tensor:
        return self._x


class Stepwise(Late):
    """Arrives when it has been asked after for the third time, and must not be waited for."""

    asked = 0

    def arrived(self) -> bool:
        self.asked += 1
        return self.asked >= 3

    def value(self) -> torch.Tensor:
        assert self.asked >= 3
        return self._x


def test_rows_are_shown_in_order_once_they_have_arrived(monkeypatch):
    monkeypatch.setattr(pending, "ToHost", Stepwise)
    shown = []
    rows = pending.PendingRows(shown.append)
    counts = []
    for i in range(1, 4):
        rows.add(i, 0.5 * i, *torch.tensor([3.0, 1.0, 7.0, 5.0]) * i)
        rows.show_arrived()
        counts.append(len(shown))
    assert counts == [0, 0, 1]  # the second is asked after only once the first has been shown
    for _ in range(4):
        rows.show_arrived()
    assert [row["iteration"] for row in shown] == [1, 2, 3]
    expected = {"energy_data": 6, "energy_samples": 2, "energy_gap": 4, "score_norm": 14, "gradient_strength": 10}
    assert shown[1] == {"iteration": 2, "seconds": 1.0, **expected}


def test_late_rows_are_the_same_rows_and_none_is_lost(tmp_path, monkeypatch):
    options = {"n_iterations": 7, "log_every": 2, "checkpoint_every": 5, **SMALL}
    fl.train("digits", out=tmp_path / "a", **options)
    monkeypatch.setattr(pending, "ToHost", Late)
    written = []  # how many rows were in the file at each checkpoint
    save = checkpoint.save

    def spy(path, tensors, meta):
        metrics = tmp_path / "b" / "metrics.jsonl"
        written.append(len(metrics.read_text().splitlines()))
        return save(path, tensors, meta)

    monkeypatch.setattr(checkpoint, "save", spy)
    fl.train("digits", out=tmp_path / "b", **options)
    assert_same_run(tmp_path / "a", tmp_path / "b")
    assert written == [0, 2, 4]


def test_late_rows_are_written_where_a_training_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(pending, "ToHost", Late)

    class Failing(fl.models.ConvNet):
        calls = 0

        def forward(self, x):
            self.calls += 1
            if self.calls > 60:
                raise RuntimeError("no more")
            return super().forward(x)

    with pytest.raises(RuntimeError, match="no more"):
        fl.train("digits", Failing(8, 1, 4), out=tmp_path, n_iterations=99, log_every=1, **SMALL | {"features": None})
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) > 2 and [row["iteration"] for row in rows] == list(range(1, len(rows) + 1))


def test_a_checkpoint_written_on_a_gpu_resumes_on_a_cpu(tmp_path):
    """Up to the optimiser's flag: CUDA's Adam is capturable, which on a CPU torch refuses."""
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
    """Whose step counts must lie beside its parameters; the meta device stands for the GPU."""
    weight = nn.Parameter(torch.ones(3))
    adam = torch.optim.Adam([weight])
    weight.grad = torch.ones(3)
    adam.step()
    on_device = torch.optim.Adam([nn.Parameter(torch.ones(3, device="meta"))], capturable=True)
    checkpoint.load_optimizer(on_device, *checkpoint.optimizer_tensors(adam))
    assert on_device.param_groups[0]["capturable"] is True
    (state,) = on_device.state.values()
    assert {name: tensor.device.type for name, tensor in state.items()} == dict.fromkeys(state, "meta")


def test_resume_without_a_run_starts_one(tmp_path):
    result = fl.train("digits", out=tmp_path / "new", n_iterations=2, resume=True, **SMALL)
    assert result.history[-1]["iteration"] == 2


def test_resume_with_fewer_iterations_than_done_is_refused(tmp_path):
    fl.train("digits", out=tmp_path, n_iterations=4, **SMALL)
    with pytest.raises(ValueError, match="n_iterations counts those before .*: got 2, and the run has done 4"):
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
def test_resume_with_other_settings_is_refused(tmp_path, change, words):
    fl.train("digits", out=tmp_path, n_iterations=1, **SMALL)
    with pytest.raises(ValueError, match=words):
        fl.train("digits", out=tmp_path, n_iterations=2, resume=True, progress=False, **change)


def test_resume_with_other_data_is_refused(tmp_path):
    images = torch.rand(20, 1, 8, 8)
    fl.train(images, out=tmp_path, n_iterations=1, **SMALL)
    fl.train(images, out=tmp_path, n_iterations=2, resume=True, progress=False)
    with pytest.raises(ValueError, match="data_fingerprint is"):
        fl.train(images.flip(0), out=tmp_path, n_iterations=3, resume=True, progress=False)


# A run's folder


def test_another_run_is_not_touched_unless_told(tmp_path):
    fl.train("digits", out=tmp_path, n_iterations=2, **SMALL)
    (tmp_path / "notes.txt").write_text("mine")
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises(FileExistsError, match="holds another run.*resume.*overwrite"):
        fl.train("digits", out=tmp_path, n_iterations=2, **SMALL)
    assert before == {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    fl.train("digits", out=tmp_path, n_iterations=1, overwrite=True, **SMALL)
    assert [p.name for p in sorted((tmp_path / "checkpoints").iterdir())] == [
        "00000000.safetensors",
        "00000001.safetensors",
    ]
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("option", [{"resume": True}, {"overwrite": True}, {}])
def test_files_that_no_run_made_are_never_touched(tmp_path, option):
    (tmp_path / "checkpoints").mkdir()
    for name in ("config.yaml", "samples.png", "metrics.jsonl", "checkpoints/00000007.safetensors"):
        (tmp_path / name).write_text("mine")
    with pytest.raises(FileExistsError, match="holds files that no run made"):
        fl.train("digits", out=tmp_path, n_iterations=1, **option, **SMALL)
    for name in ("config.yaml", "samples.png", "metrics.jsonl", "checkpoints/00000007.safetensors"):
        assert (tmp_path / name).read_text() == "mine"


def test_overwrite_removes_a_run_s_own_files_alone(tmp_path):
    fl.train("digits", out=tmp_path, n_iterations=1, **SMALL)
    mine = [tmp_path / "checkpoints" / "thesis.pt", tmp_path / "tensorboard" / "notes", tmp_path / "more.yaml"]
    for path in mine:
        path.write_text("mine")
    fl.train("digits", out=tmp_path, n_iterations=2, overwrite=True, **SMALL)
    assert all(path.read_text() == "mine" for path in mine)


@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize("operation", ["unlink", "mkdir", "replace"])
def test_a_run_killed_while_it_makes_its_folder_can_be_resumed(tmp_path, monkeypatch, old, operation):
    if old:
        fl.train("digits", out=tmp_path, n_iterations=1, **SMALL)
        (tmp_path / ".samples.123.part.png").touch()

    def killed(*_, **__):
        raise KeyboardInterrupt

    def prepare(*args, **options):
        with monkeypatch.context() as patch:
            patch.setattr(os if operation == "replace" else Path, operation, killed)
            whole(*args, **options)

    whole = Run.prepare
    with monkeypatch.context() as patch:
        patch.setattr(Run, "prepare", prepare)
        with pytest.raises(KeyboardInterrupt):
            fl.train("digits", out=tmp_path, overwrite=True, **SMALL)
    assert fl.train("digits", out=tmp_path, n_iterations=2, resume=True, **SMALL).history
    assert not list(tmp_path.glob(".samples.*"))


@pytest.mark.parametrize("change", [{"sampler": {"n_steps": 0}}, {"model": nn.Flatten()}, {"lr": -1.0}])
def test_a_new_run_that_cannot_start_leaves_the_old_one(tmp_path, change):
    fl.train("digits", out=tmp_path, n_iterations=1, **SMALL)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises(ValueError):
        fl.train("digits", out=tmp_path, overwrite=True, progress=False, **change)
    assert before == {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}


def test_one_training_a_folder(tmp_path):
    process = start(tmp_path / "run")
    try:
        with pytest.raises(BlockingIOError, match="is being trained into by another process"):
            fl.train("digits", out=tmp_path / "run", resume=True, progress=False)
    finally:
        process.kill()
        process.wait()
    fl.train("digits", out=tmp_path / "run", overwrite=True, n_iterations=1, **SMALL)


def test_what_a_kill_leaves_half_written_is_cleared_away(tmp_path):
    fl.train("digits", out=tmp_path, n_iterations=1, **SMALL)
    halves = [tmp_path / "checkpoints" / ".00000001.123.part.safetensors", tmp_path / ".samples.123.part.png"]
    for half in halves:
        half.write_text("half")
    fl.train("digits", out=tmp_path, n_iterations=2, resume=True, progress=False)
    assert not any(half.exists() for half in halves)


def test_out_may_not_lie_in_the_data(tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="out must not lie inside the data's folder"):
        fl.train(tmp_path, out=tmp_path / "runs" / "x", n_iterations=1, **SMALL)
    with pytest.raises(ValueError, match="out must be a folder's name or None, got an empty string"):
        fl.train("digits", out="", n_iterations=1, **SMALL)


def test_out_may_not_be_a_file(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(NotADirectoryError, match="out must be a folder"):
        fl.train("digits", out=tmp_path / "file", n_iterations=1, **SMALL)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sampler": {"n_steps": 0}}, "n_steps must be an int"),
        ({"sampler": {"precision": "tf32"}}, "precision='tf32' is a mode of NVIDIA GPUs"),
        ({"model": nn.Conv2d(1, 1, 3)}, "log_density must return one number a chain"),
    ],
)
def test_what_cannot_work_leaves_no_folder(tmp_path, change, words):
    with pytest.raises(ValueError, match=words):
        fl.train("digits", out=tmp_path / "run", progress=False, **change)
    assert not (tmp_path / "run").exists()


def test_sample_steps(tmp_path):
    """The picture, the result and `load` take them; training does not; n_steps of one's own replaces the recipe's."""
    result = fl.train("digits", out=tmp_path, n_iterations=2, **{**SMALL, "sample_steps": 9})
    assert result.sampler.n_steps == 9 and result.sampler.step == 2 * 5
    assert fl.load(tmp_path)[1].n_steps == 9
    plain = fl.train("digits", n_iterations=2, **SMALL)
    assert torch.equal(weights(plain.model), weights(result.model))
    assert fl.train("digits", n_iterations=1, batch_size=2, features=2, progress=False).sampler.n_steps == 14
    options = {"n_iterations": 1, "batch_size": 2, "features": 2, "sampler": {"n_steps": 3}, "progress": False}
    assert fl.train("digits", **options).sampler.n_steps == 3


def test_resume_by_the_run_s_own_n_steps(tmp_path):
    """Said again, they do not take the recipe's sample_steps away."""
    options = {"out": tmp_path, "batch_size": 2, "features": 2, "progress": False}
    fl.train("digits", n_iterations=1, **options)
    assert fl.train("digits", n_iterations=2, sampler={"n_steps": 10}, resume=True, **options).sampler.n_steps == 14


def test_looking_at_the_average_leaves_it(tmp_path):
    """The picture's chains move no batch norm of the averaged network: the result has the checkpoint's."""
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 1))
    options = {k: v for k, v in SMALL.items() if k != "features"}
    result = fl.train("digits", model, out=tmp_path, n_iterations=2, ema=0.9, **options)
    saved = checkpoint.part(tensors_of(tmp_path), "ema.module.")
    assert all(torch.equal(value, saved[name]) for name, value in result.ema.state_dict().items())


def test_a_picture_whose_chains_diverge_stops_nothing(tmp_path, capsys):
    """sample_steps may be more than training's chains, and too many."""

    class Repelling(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Parameter(torch.tensor(1.25))

        def forward(self, x):
            return -self.a * x.square().sum(1)

    options = {"batch_size": 8, "lr": 1e-6, "sampler": {"n_steps": 3}, "sample_steps": 1000}
    points = torch.randn(40, 2, generator=torch.Generator().manual_seed(1))
    fl.train(points, Repelling(), out=tmp_path, n_iterations=4, **options)
    assert checkpoint.newest(tmp_path / "checkpoints").stem == "00000004"
    assert "no picture of iteration 4: 64 of 64 chains are not finite" in capsys.readouterr().out


# Checkpoints and loading


def test_load_gives_the_model_and_the_sampler_where_training_left_them(tmp_path):
    result = fl.train("digits", out=tmp_path, n_iterations=3, **SMALL)
    expected = result.sampler.sample((4, 1, 8, 8))
    for source in (tmp_path, str(tmp_path), checkpoint.newest(tmp_path / "checkpoints")):
        model, sampler = fl.load(source)
        assert torch.equal(weights(model), weights(result.model))
        assert torch.equal(sampler.sample((4, 1, 8, 8)), expected)
    _, other = fl.load(tmp_path, sampler={"n_steps": 7})
    assert other.n_steps == 7 and other.step == 15


def test_load_of_one_s_own_model(tmp_path):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 1))
    options = {k: v for k, v in SMALL.items() if k != "features"}
    fl.train("digits", model, out=tmp_path, n_iterations=1, **options)
    with pytest.raises(ValueError, match="Sequential, which only you can make: pass it as model="):
        fl.load(tmp_path)
    own = nn.Sequential(nn.Flatten(), nn.Linear(64, 1))
    loaded, _ = fl.load(tmp_path, model=own)
    assert loaded is own and torch.equal(weights(own), weights(model))
    with pytest.raises(fl.CheckpointError, match="is from another model: .*1.bias"):
        fl.load(tmp_path, model=fl.models.ConvNet(8, 1, 4))
    with pytest.raises(fl.CheckpointError, match="1.weight is \\(1, 64\\) in the file and \\(2, 64\\) in the model"):
        fl.load(tmp_path, model=nn.Sequential(nn.Flatten(), nn.Linear(64, 2)))


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_truncated_checkpoint_is_named(tmp_path, keep):
    fl.train("digits", out=tmp_path, n_iterations=1, **SMALL)
    newest = checkpoint.newest(tmp_path / "checkpoints")
    newest.write_bytes(newest.read_bytes()[:keep])
    for use in (lambda: fl.load(tmp_path), lambda: fl.train("digits", out=tmp_path, resume=True, progress=False)):
        with pytest.raises(fl.CheckpointError, match=f"{newest.name} is damaged.*older checkpoint"):
            use()


def test_files_that_are_no_checkpoints(tmp_path):
    import safetensors.torch

    safetensors.torch.save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(fl.CheckpointError, match="no fastlangevin checkpoint"):
        fl.load(tmp_path / "other.safetensors")
    for meta in ("{", "{}", '{"format": 1}', "[]"):
        safetensors.torch.save_file({}, tmp_path / "odd.safetensors", metadata={"fastlangevin": meta})
        with pytest.raises(fl.CheckpointError, match="no fastlangevin checkpoint"):
            fl.load(tmp_path / "odd.safetensors")
    safetensors.torch.save_file({}, tmp_path / "new.safetensors", metadata={"fastlangevin": '{"format": 99}'})
    with pytest.raises(fl.CheckpointError, match="has checkpoint format 99, this version reads 1"):
        fl.load(tmp_path / "new.safetensors")
    with pytest.raises(FileNotFoundError, match="holds no checkpoint"):
        fl.load(tmp_path)
    with pytest.raises(FileNotFoundError, match="neither a run's folder nor a checkpoint file"):
        fl.load(tmp_path / "nowhere")


def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path, monkeypatch):
    fl.train("digits", out=tmp_path, n_iterations=2, **SMALL)
    newest = checkpoint.newest(tmp_path / "checkpoints")
    before = newest.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        OSError, match="could not be written \\(No space left on device\\); what was there before is untouched"
    ):
        fl.train("digits", out=tmp_path, n_iterations=4, resume=True, progress=False)
    assert checkpoint.newest(tmp_path / "checkpoints") == newest and newest.read_bytes() == before
    assert [p.name for p in tmp_path.rglob(".*")] == [".lock"]


def test_tied_weights_and_buffers_are_kept(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(64, 64)
            self.b = nn.Linear(64, 64)
            self.b.weight = self.a.weight
            self.register_buffer("scale", torch.tensor(2.0))

        def forward(self, x):
            return (self.b(torch.tanh(self.a(x.flatten(1)))) * self.scale).sum(1)

    options = {k: v for k, v in SMALL.items() if k != "features"}
    model = Tied()
    fl.train("digits", model, out=tmp_path, n_iterations=2, **options)
    loaded, _ = fl.load(tmp_path, model=Tied())
    assert torch.equal(weights(loaded), weights(model))


def test_divergence_says_where_the_last_good_checkpoint_is(tmp_path):
    with pytest.raises(fl.ChainDiverged, match="training diverged at iteration .*lower lr.*safetensors is from before"):
        fl.train("digits", out=tmp_path, n_iterations=200, lr=1e3, checkpoint_every=1, **SMALL)
    tensors, _ = checkpoint.load(checkpoint.newest(tmp_path / "checkpoints"))
    assert all(t.isfinite().all() for t in tensors.values() if t.is_floating_point())


# Bad input


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"n_iterations": 0}, ValueError, "n_iterations must be an int of at least 1, got 0"),
        ({"batch_size": 2.5}, ValueError, "batch_size must be an int"),
        ({"lr": 0.0}, ValueError, "lr must be positive"),
        ({"lr": float("nan")}, ValueError, "lr must be positive and finite"),
        ({"lr_decay": 1.5}, ValueError, "lr_decay must lie in 0 … 1"),
        ({"data_noise": -0.1}, ValueError, "data_noise must be a finite number, not negative"),
        ({"seed": -1}, ValueError, "seed must be an int in 0"),
        ({"sampler": {"n_stpes": 5}}, TypeError, "options must be one of .* did you mean .n_steps."),
        ({"sampler": {"seed": 5}}, ValueError, "sampler may not hold 'seed'"),
        ({"sampler": {"init": torch.zeros}}, ValueError, "sampler's init"),
        ({"sampler": fl.Langevin(torch.sum, seed=1)}, TypeError, "sampler must be a dict"),
        ({"model": torch.sum}, TypeError, "model must be a torch.nn.Module"),
        ({"checkpoint_every": 0}, ValueError, "checkpoint_every must be an int"),
        ({"resume": True, "overwrite": True, "out": "x"}, ValueError, "resume and overwrite exclude each other"),
        ({"resume": True}, ValueError, "resume needs out"),
        ({"device": "gpu"}, ValueError, "device must be 'auto', 'cpu', 'cuda'.*got 'gpu'"),
        ({"model": nn.Flatten(0)}, ValueError, "model must have parameters that require grad"),
        ({"model": nn.Linear(8, 1).requires_grad_(False)}, ValueError, "model must have parameters that require grad"),
        ({"data": "digist"}, (ValueError, FileNotFoundError), "digits"),
        ({"data": torch.rand(10, 1, 9, 9)}, ValueError, "image_size must be a power of two from 8 to 256, got 9"),
        ({"data": torch.rand(10, 1, 8, 16)}, ValueError, "model must be given for data of shape"),
        ({"data": torch.rand(10, 2)}, ValueError, "model must be given for data of shape \\(2,\\)"),
    ],
)
def test_bad_arguments(change, error, words):
    with pytest.raises(error, match=words):
        fl.train(**{"data": "digits", "n_iterations": 1, "progress": False, **change})


def test_run_of_points_writes_an_array(tmp_path):
    model = nn.Linear(2, 1)
    fl.train(
        torch.randn(50, 2), model, out=tmp_path, n_iterations=1, batch_size=4, sampler={"n_steps": 2}, progress=False
    )
    assert np.load(tmp_path / "samples.npz")["samples"].shape == (64, 2)
