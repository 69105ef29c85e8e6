"""`reproduce`: trains and evaluates each row of a table of the paper, and continues where it was interrupted."""

from __future__ import annotations

import csv
import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .. import recipes
from ..data.dataset import Data, with_labels
from ..data.sources import load_data
from ..display.plots import has_plots, save_table_plot
from ..display.progress import Stages
from ..errors import TrainingDiverged
from ..evaluation import inception
from ..evaluation.evaluate import evaluate
from ..files import replacing
from ..models import ConvNet
from ..runs.opening import load, resolve_device
from ..training.train import train
from ..validation import check_int, check_positive
from .tables import REPORTED, Experiment, Table, annealed_settings, paper_table

_N_TIMED = 5  # iterations in each third of a timing run, whose first third is not counted
_MIN_ITERATIONS = 25
_PAPER_ITERATIONS = 250_000
_SHARE_OF_TRAINING = 0.8  # of a budget; evaluation has the rest
_METRICS = {
    "frechet": "pixels' Fréchet distance",
    "classifier_score": "classifier score",
    "fid": "FID",
    "inception_score": "IS",
    "score_norm": "‖∂f/∂x‖",
    "mse": "reconstruction MSE",
}
_SETTINGS = {"n_steps": "K", "data_noise": "σ", "features": "n_f"}
_HEADINGS = {
    **_SETTINGS,
    "n_iterations": "iterations",
    **_METRICS,
    "paper_fid": "FID in the paper",
    "remark": "",
}


class Reproduction(NamedTuple):
    """The result of `reproduce`.

    Attributes:
        rows: one dict per training, with its settings and metrics.
        out: the folder with table.md, table.csv and, with the extra "plots", table.png.

    Examples:
        >>> images, _ = fl.digits()
        >>> rows, out = fl.reproduce("2", images, out="table", budget=2, features=16, n=256, progress=False)
        >>> sorted(rows[0])
        ['data_noise', 'features', 'frechet', 'n_iterations', 'n_steps', 'name', 'score_norm']
        >>> (out / "table.md").exists(), (out / "table.csv").exists()
        (True, True)
    """

    rows: list[dict[str, Any]]
    out: Path


def reproduce(
    name: str,
    data: Any,
    *,
    out: str | Path,
    budget: float | None = None,
    features: int | None = None,
    n: int = 1024,
    fid: bool | None = None,
    labels: Any = None,
    seed: int = 1,
    device: str | torch.device = "auto",
    image_size: int | None = None,
    value_range: tuple[float, float] | None = None,
    progress: bool = True,
) -> Reproduction:
    """Trains and evaluates each row of a table of Nijkamp et al. (NeurIPS 2019, arXiv:1904.09770) on any images.

        "1"  quality of samples and of reconstructions, K = 100, σ = 0.03
        "2"  K = 5, 10, 25, 50, 75, 100 with σ = 0.15, 0.1, 0.05, 0.04, 0.03, 0.03
        "3"  σ = 0.10 … 0.03, and n_f = 32, 64, 128

    K is the number of Langevin steps, σ the standard deviation of the noise added to the data, and n_f the network's
    width. Each row is a run (`train`) in the folder out/NAME and an evaluation (`evaluate`) in out/NAME.json. Existing
    ones are kept, and an unfinished training is resumed; an evaluation with another n, fid or labels is repeated. The
    table is written after each row. The recipe for the data determines lr, batch size and the Langevin noise of all
    rows; lr and σ fall in the last fifth of the iterations (`tables.annealed_settings`).

    A training that diverges is rolled back at most three times, and then its row has a remark instead of metrics.

    Args:
        name: of the table: "1", "2" or "3".
        data: square images of 8 to 256 pixels, as for `train`.
        out: the folder.
        budget: minutes for all rows that this call starts, shared equally. The number of iterations that fits, at least
            25, is measured at the start of a row and kept. Default: 250,000 as in the paper, with lr and σ falling in
            the last 50,000.
        features: n_f of rows that do not vary it. Default: 128 for CIFAR-10, 64 for other data.
        n, fid, labels: as for `evaluate`.
        seed, device, image_size, value_range, progress: as for `train`.

    Returns:
        The rows and the folder.

    Raises:
        ValueError, TypeError, FileNotFoundError: an argument that is not as above, or data that `train` refuses.
        FileExistsError: `out` holds files that are not of a reproduction.
        ImportError: fid=True without the libraries (extra "inception").

    Examples:
        Two minutes for the table of K, by the digits without their labels:

        >>> images, _ = fl.digits()
        >>> table = fl.reproduce("2", images, out="table", budget=2, features=16, n=256, progress=False)
        >>> table.rows[0]["name"], table.rows[0]["n_steps"], table.rows[0]["data_noise"]
        ('K5', 5, 0.15)
    """
    source = load_data(data, image_size=image_size, value_range=value_range)
    table = paper_table(name, source.name, features)
    if budget is not None:
        check_positive("budget", budget)
    n, seed = check_int("n", n, 2), check_int("seed", seed, 0)
    features = None if features is None else check_int("features", features)
    if len(source) < 2:
        raise ValueError(f"data must hold at least 2 items to compare with, got {len(source)}")
    if labels is not None:
        source = with_labels(source, labels)
    if fid:
        inception.check_installed()
    if len(source.event_shape) != 3 or source.event_shape[1] != source.event_shape[2]:
        raise ValueError(f"data must be square images, got items of shape {source.event_shape}")
    channels, size, _ = source.event_shape
    ConvNet.check(size, channels, 1)
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    _claim_folder(folder, {"table": name, "data": source.fingerprint, "features": features, "seed": seed})
    deadline = None if budget is None else time.monotonic() + 60 * budget
    rows, stages = [], Stages(progress)
    for i, experiment in enumerate(table.experiments):
        settings = f"K {experiment.n_steps}, σ {experiment.data_noise}, n_f {experiment.features}"
        stages.say(f"table {name}, {experiment.name}: {settings}")
        shared: dict[str, Any] = {"seed": seed, "device": device, "progress": progress}
        seconds = None if deadline is None else (deadline - time.monotonic()) / (len(table.experiments) - i)
        row = _train(folder, experiment, source, seconds, **shared)
        if "remark" not in row:
            options = {"n": n, "fid": fid, "n_reconstruct": 64 if table.has_reconstructions else 0}
            row.update(_evaluate(folder, experiment, source, options, **shared))
        key = (experiment.n_steps, experiment.data_noise, experiment.features)
        reported = REPORTED.get(source.name, {}).get(key, {})
        rows.append({**row, **{f"paper_{metric}": value for metric, value in reported.items()}})
        _write_table(folder, name, table, source, rows, stages)
    return Reproduction(rows, folder)


def _train(
    folder: Path, experiment: Experiment, data: Data, seconds: float | None, *, seed: int, device: Any, progress: bool
) -> dict[str, Any]:
    """Trains to the end, and returns the settings of the row, with a remark if the training diverged."""
    defaults = {**recipes.short_run, **recipes.BY_DATA.get(data.name, {})}
    settings: dict[str, Any] = {
        "features": experiment.features,
        "batch_size": defaults["batch_size"],
        "lr_decay": 0.0,
        "sampler": {**defaults["sampler"], "n_steps": experiment.n_steps},
        "sample_steps": experiment.n_steps,
        "seed": seed,
        "device": device,
    }
    row: dict[str, Any] = asdict(experiment)
    plan = folder / f"{experiment.name}.plan.json"
    lr, data_noise = defaults["lr"], experiment.data_noise
    try:
        if not plan.exists():
            n_iterations = _PAPER_ITERATIONS
            if seconds is not None:
                constant = {**settings, "lr": lr, "data_noise": data_noise}
                n_iterations = _n_iterations_within(seconds, data, constant)
            _write_json(plan, {"n_iterations": n_iterations})
        row["n_iterations"] = n_iterations = json.loads(plan.read_text())["n_iterations"]
        settings |= annealed_settings(lr, data_noise, n_iterations)
        train(
            data,
            out=folder / experiment.name,
            n_iterations=n_iterations,
            resume=True,
            on_divergence="rollback",
            checkpoint_every=max(50, n_iterations // 200),
            log_every=max(1, min(100, n_iterations // 100)),
            progress=progress,
            **settings,
        )
    except TrainingDiverged as error:
        row["remark"] = f"diverged: {error.reason}"
    return row


def _n_iterations_within(seconds: float, data: Data, settings: dict[str, Any]) -> int:
    """The number of iterations that fit in a time, estimated from a short timing run."""
    history = train(data, n_iterations=3 * _N_TIMED, log_every=_N_TIMED, progress=False, **settings).history
    per_iteration = (history[-1]["seconds"] - history[0]["seconds"]) / (2 * _N_TIMED)
    return max(_MIN_ITERATIONS, int(seconds * _SHARE_OF_TRAINING / max(per_iteration, 1e-4)))


def _evaluate(
    folder: Path, experiment: Experiment, data: Data, options: dict[str, Any], *, seed: int, device: Any, progress: bool
) -> dict[str, Any]:
    """The metrics of the row, from its evaluation, which is made unless there is one with these options."""
    path = folder / f"{experiment.name}.json"
    made_with = {**options, "labels": None if data.labels is None else _digest(data.labels)}
    if not path.exists() or json.loads(path.read_text()).get("asked") != made_with:
        run, on = folder / experiment.name, resolve_device(device)
        result = evaluate(run, data, seed=seed, device=on, n_chains=0, progress=progress, **options)
        model, sampler = load(run, device=on)
        result |= {"score_norm": _score_norm(model, sampler, data), "asked": made_with}
        _write_json(path, result)
    result = json.loads(path.read_text())
    metrics = {
        "frechet": result["pixels"]["frechet_distance"],
        "classifier_score": result.get("coverage", {}).get("score"),
        "fid": result.get("fid", {}).get("fid"),
        "inception_score": result.get("fid", {}).get("inception_score"),
        "score_norm": result["score_norm"],
        "mse": result.get("reconstruction", {}).get("mse_mean"),
    }
    return {name: value for name, value in metrics.items() if value is not None}


def _score_norm(model: nn.Module, sampler: Any, data: Data) -> float:
    """Mean ‖∂f/∂x‖ at the ends of 64 chains."""
    x = sampler.sample((64, *data.event_shape), step=0, device=next(model.parameters()).device)
    return float(torch.linalg.vector_norm(sampler.score(x).flatten(1), dim=1).mean())


def _digest(labels: Tensor) -> str:
    return hashlib.blake2b(labels.numpy().tobytes(), digest_size=8).hexdigest()


def _claim_folder(folder: Path, identity: dict[str, Any]) -> None:
    """Marks the folder with what it is for.

    Raises:
        ValueError: it is marked for something else.
        FileExistsError: it is not marked, and holds files.
    """
    path = folder / "table.json"
    if path.exists():
        try:
            found = json.loads(path.read_text())
        except json.JSONDecodeError as error:
            raise ValueError(f"out={str(folder)!r} holds a table.json that is not of a reproduction: {error}") from None
        if found != identity:
            raise ValueError(f"out={str(folder)!r} holds another reproduction: {found}, and this is {identity}")
    elif any(folder.iterdir()):
        raise FileExistsError(f"out={str(folder)!r} holds files that are not of a reproduction: choose another folder")
    else:
        _write_json(path, identity)


def _write_table(
    folder: Path, name: str, table: Table, data: Data, rows: Sequence[dict[str, Any]], stages: Stages
) -> None:
    columns = [c for c in _HEADINGS if any(c in row for row in rows)]
    lines = [f"# Table {name}: {table.title}", "", f"{data.name}, {len(data):,} items of {data.event_shape}", ""]
    lines += ["| " + " | ".join(_HEADINGS[c] for c in columns) + " |", "| " + " | ".join("---" for _ in columns) + " |"]
    lines += ["| " + " | ".join(_formatted(row.get(c)) for c in columns) + " |" for row in rows]
    with replacing(folder / "table.md") as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    with replacing(folder / "table.csv") as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["name", *columns], restval="", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    if has_plots() and table.axes:
        metrics = {c: heading for c, heading in _METRICS.items() if c in columns}
        try:
            save_table_plot(rows, {axis: _SETTINGS[axis] for axis in table.axes}, metrics, folder / "table.png")
        except Exception as error:  # an installation may be broken in any way
            stages.say(f"no table.png: matplotlib does not work ({type(error).__name__}: {error})")


def _formatted(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _write_json(path: Path, value: Any) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1))
