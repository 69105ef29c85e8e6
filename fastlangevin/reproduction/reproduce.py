"""The paper's tables on any data: every cell trained, evaluated and written down, and taken up where it was left."""

from __future__ import annotations

import csv
import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .. import recipes
from ..data.dataset import Data, with_labels
from ..data.sources import load_data
from ..display.plots import has_plots, save_table_plot
from ..errors import TrainingDiverged
from ..evaluation import inception
from ..evaluation.evaluate import evaluate
from ..files import replacing
from ..models import ConvNet
from ..runs.opening import load, resolve_device
from ..training.train import train
from ..validation import check_int, check_positive
from .tables import PAPER, Cell, Table, annealed, table

_MEASURED = 5  # iterations of each third of those that tell how long one takes, the first third left out
_FEWEST = 25
_SHARE_OF_TRAINING = 0.8  # of a budget; evaluation has the rest
_HEADINGS = {
    "n_steps": "K",
    "data_noise": "σ",
    "features": "n_f",
    "n_iterations": "iterations",
    "frechet": "pixels' Fréchet distance",
    "classifier_score": "classifier score",
    "fid": "FID",
    "inception_score": "IS",
    "score_norm": "‖∂f/∂x‖",
    "mse": "reconstruction MSE",
    "paper_fid": "FID in the paper",
    "remark": "",
}


_FIGURES = ("frechet", "classifier_score", "fid", "inception_score", "score_norm", "mse")


class Reproduction(NamedTuple):
    """What `reproduce` made: one dict a cell, and the folder with table.md, table.csv and table.png."""

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
    """Trains every cell of one of the tables of Nijkamp et al. (NeurIPS 2019, arXiv:1904.09770) on data, and tabulates:

        "1"  quality of samples and of reconstructions, K = 100, σ = 0.03
        "2"  K = 5, 10, 25, 50, 75, 100 with σ = 0.15, 0.1, 0.05, 0.04, 0.03, 0.03
        "3"  σ = 0.10 … 0.03, and n_f = 32, 64, 128

    with σ the noise on the data and n_f the network's width. A cell is a run (`train`) in its own folder, out/NAME, and
    an evaluation (`evaluate`), NAME.json. Where `out` has some of either, they are kept, and an unfinished training
    goes on; an evaluation by another n, fid or labels is made again. The table is written anew after each cell. What
    the recipe for the data says of lr, batch size and the Langevin noise holds in every cell; lr and σ fall in the last
    fifth of the iterations (`experiments.annealed`).

    A training that diverges is rolled back up to three times, and then is a row that says so.

    Args:
        name: "1", "2" or "3".
        data: square images, as for `train`, of 8 to 256 pixels.
        out: the folder.
        budget: minutes for all cells that this call begins, shared out in equal parts: the number of iterations is then
            what fits, but at least 25, measured by a few at the start of a cell, and kept. None: the paper's 200,000,
            and 50,000 in which lr and σ fall.
        features: n_f where the table does not vary it; None: 128 for CIFAR-10, 64 else.
        n, fid, labels: of `evaluate`.
        seed, device, image_size, value_range, progress: of `train`.

    Raises:
        ValueError, TypeError, FileNotFoundError: an argument that is not as above, or data that `train` would refuse.
        ImportError: fid=True without the libraries (extra "inception").
    """
    source = load_data(data, image_size=image_size, value_range=value_range)
    chosen = table(name, source.name, features)
    if budget is not None:
        check_positive("budget", budget)
    check_int("n", n, 2)
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
    _claim(folder, {"table": name, "data": source.fingerprint, "features": features, "seed": seed})
    deadline = None if budget is None else time.monotonic() + 60 * budget
    rows = []
    for i, cell in enumerate(chosen.cells):
        if progress:
            print(f"table {name}, {cell.name}: K {cell.n_steps}, σ {cell.data_noise}, n_f {cell.features}", flush=True)
        shared: dict[str, Any] = {"seed": seed, "device": device, "progress": progress}
        seconds = None if deadline is None else (deadline - time.monotonic()) / (len(chosen.cells) - i)
        row = _trained(folder, cell, source, seconds, **shared)
        if "remark" not in row:
            options = {"n": n, "fid": fid, "n_reconstruct": 64 if chosen.reconstructs else 0}
            row.update(_evaluated(folder, cell, source, options, **shared))
        paper = PAPER.get(source.name, {}).get((cell.n_steps, cell.data_noise, cell.features), {})
        rows.append({**row, **{f"paper_{key}": value for key, value in paper.items()}})
        _write(folder, name, chosen, source, rows)
    return Reproduction(rows, folder)


def _trained(
    folder: Path, cell: Cell, data: Data, seconds: float | None, *, seed: int, device: Any, progress: bool
) -> dict[str, Any]:
    """Trains the cell to its end, and returns the begin of its row."""
    usual = {**recipes.short_run, **recipes.BY_DATA.get(data.name, {})}
    settings: dict[str, Any] = {
        "features": cell.features,
        "batch_size": usual["batch_size"],
        "lr_decay": 0.0,
        "sampler": {**usual["sampler"], "n_steps": cell.n_steps},
        "sample_steps": cell.n_steps,
        "seed": seed,
        "device": device,
    }
    row = {"name": cell.name, "n_steps": cell.n_steps, "data_noise": cell.data_noise, "features": cell.features}
    plan = folder / f"{cell.name}.plan.json"
    try:
        if not plan.exists():
            n_iterations = 250_000 if seconds is None else _affordable(data, seconds, usual["lr"], cell, settings)
            _write_json(plan, {"n_iterations": n_iterations})
        row["n_iterations"] = n_iterations = json.loads(plan.read_text())["n_iterations"]
        settings |= annealed(usual["lr"], cell.data_noise, n_iterations)
        train(
            data,
            out=folder / cell.name,
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


def _affordable(data: Data, seconds: float, lr: float, cell: Cell, settings: dict[str, Any]) -> int:
    """How many iterations fit the time, from the time of a few."""
    options = {**settings, "lr": lr, "data_noise": cell.data_noise, "progress": False}
    history = train(data, n_iterations=3 * _MEASURED, log_every=_MEASURED, **options).history
    an_iteration = (history[-1]["seconds"] - history[0]["seconds"]) / (2 * _MEASURED)
    return max(_FEWEST, int(seconds * _SHARE_OF_TRAINING / max(an_iteration, 1e-4)))


def _evaluated(
    folder: Path, cell: Cell, data: Data, options: dict[str, Any], *, seed: int, device: Any, progress: bool
) -> dict[str, Any]:
    """The figures of the cell's row, from its evaluation, which is made where there is none by these options."""
    path = folder / f"{cell.name}.json"
    asked = {**options, "labels": None if data.labels is None else _digest(data.labels)}
    if not path.exists() or json.loads(path.read_text()).get("asked") != asked:
        where = resolve_device(device)
        result = evaluate(folder / cell.name, data, seed=seed, device=where, n_chains=0, progress=progress, **options)
        model, sampler = load(folder / cell.name, device=where)
        result |= {"score_norm": _score_norm(model, sampler, data), "asked": asked}
        _write_json(path, result)
    result = json.loads(path.read_text())
    figures = {
        "frechet": result["pixels"]["frechet_distance"],
        "classifier_score": result.get("coverage", {}).get("score"),
        "fid": result.get("fid", {}).get("fid"),
        "inception_score": result.get("fid", {}).get("inception_score"),
        "score_norm": result["score_norm"],
        "mse": result.get("reconstruction", {}).get("mse_mean"),
    }
    return {name: value for name, value in figures.items() if value is not None}


def _score_norm(model: nn.Module, sampler: Any, data: Data) -> float:
    """mean ‖∂f/∂x‖ at the ends of 64 chains."""
    x = sampler.sample((64, *data.event_shape), step=0, device=next(model.parameters()).device)
    return float(torch.linalg.vector_norm(sampler.score(x).flatten(1), dim=1).mean())


def _digest(labels: Tensor) -> str:
    return hashlib.blake2b(labels.numpy().tobytes(), digest_size=8).hexdigest()


def _claim(folder: Path, identity: dict[str, Any]) -> None:
    """Says what the folder is for, or raises where it is for something else."""
    path = folder / "table.json"
    if path.exists():
        try:
            found = json.loads(path.read_text())
        except json.JSONDecodeError as error:
            raise ValueError(f"out={str(folder)!r} holds a table.json that no reproduction made: {error}") from None
        if found != identity:
            raise ValueError(f"out={str(folder)!r} is another reproduction's: {found}, and this is {identity}")
    elif any(folder.iterdir()):
        raise FileExistsError(f"out={str(folder)!r} holds files that no reproduction made: choose another folder")
    else:
        _write_json(path, identity)


def _write(folder: Path, name: str, chosen: Table, data: Data, rows: Sequence[dict[str, Any]]) -> None:
    columns = [c for c in _HEADINGS if any(c in row for row in rows)]
    lines = [f"# Table {name}: {chosen.title}", "", f"{data.name}, {len(data):,} items of {data.event_shape}", ""]
    lines += ["| " + " | ".join(_HEADINGS[c] for c in columns) + " |", "| " + " | ".join("---" for _ in columns) + " |"]
    lines += ["| " + " | ".join(_shown(row.get(c)) for c in columns) + " |" for row in rows]
    with replacing(folder / "table.md") as temporary:
        temporary.write_text("\n".join(lines) + "\n")
    with replacing(folder / "table.csv") as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["name", *columns], restval="", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    if has_plots() and chosen.axes:
        figures = {c: _HEADINGS[c] for c in _FIGURES if c in columns}
        save_table_plot(rows, {axis: _HEADINGS[axis] for axis in chosen.axes}, figures, folder / "table.png")


def _shown(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _write_json(path: Path, value: Any) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1))
