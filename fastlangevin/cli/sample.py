"""`fastlangevin sample`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

from ..display.pictures import can_write, save_grid
from ..runs.folder import save_array
from ..runs.opening import open_run
from ..runs.settings import Settings
from ..samplers.langevin import Langevin
from . import common


def sample(
    run: common.RunPath,
    n: Annotated[int, typer.Option("-n", min=1, help="Number of samples.")] = 64,
    out: Annotated[
        Path, typer.Option("-o", "--out", help="A picture (.png, .jpg, …), or an array (.npy, or .npz: samples).")
    ] = Path("samples.png"),
    label: Annotated[
        int | None,
        typer.Option(min=0, help="Class of a class-conditional run's samples.", show_default="all classes in turn"),
    ] = None,
    n_steps: Annotated[
        int | None, typer.Option("--steps", min=1, help="Number of Langevin steps.", show_default="the run's")
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(help="Seed of the noise.", show_default="the run's, continued from the end of training"),
    ] = None,
    device: common.Device = "auto",
    overwrite: common.Overwrite = False,
    quiet: common.Quiet = False,
) -> None:
    """Draw samples from a trained RUN: short runs from new initial noise."""
    is_array = out.suffix in (".npy", ".npz")
    if not (is_array or can_write(out.suffix)):
        raise ValueError(f"--out must end in .npy, .npz or the extension of an image format, got {str(out)!r}")
    common.check_out(out, (out.suffix,), overwrite)
    _, sampler, settings = open_run(run, device=device)
    if seed is not None:
        sampler.load_state_dict({**sampler.state_dict(), "seed": seed, "step": 0})
    x = sampler.sample((n, *settings.event_shape), *_classes(label, n, sampler, settings), n_steps=n_steps)
    out.parent.mkdir(parents=True, exist_ok=True)
    if is_array:
        save_array(x, out)
    else:
        save_grid(x, out, value_range=settings.range)
    common.say(f"{n} samples in {out}", quiet)


def _classes(label: int | None, n: int, sampler: Langevin, settings: Settings) -> list[Tensor]:
    """The classes of n samples, int64 (n,), if the run is class-conditional."""
    if settings.n_classes is None:
        if label is not None:
            raise ValueError(f"--label is for a class-conditional run, which this one is not, got {label}")
        return []
    if label is not None and label >= settings.n_classes:
        raise ValueError(f"--label must be less than the run's number of classes, {settings.n_classes}, got {label}")
    y = torch.arange(n) % settings.n_classes if label is None else torch.full((n,), label)
    return [y.to(sampler.target.device() or "cpu")]
