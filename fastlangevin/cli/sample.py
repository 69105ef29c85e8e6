"""`fastlangevin sample`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from torch import Tensor

from ..data.ranges import Range
from ..display.pictures import can_write, save_grid
from ..runs.folder import save_array
from ..runs.opening import open_run
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
        int | None, typer.Option("--steps", min=1, help="Number of steps of a chain.", show_default="the run's")
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(help="Seed of the noise.", show_default="the run's, continued from the end of training"),
    ] = None,
    device: common.Device = "auto",
    timeout: common.Timeout = 1800.0,
    overwrite: common.Overwrite = False,
    quiet: common.Quiet = False,
) -> None:
    """Draw samples from a trained RUN: short runs from new initial noise."""
    is_array = out.suffix in (".npy", ".npz")
    if not (is_array or can_write(out.suffix)):
        raise ValueError(f"--out must end in .npy, .npz or the extension of an image format, got {str(out)!r}")
    with common.ranks(device, timeout, lambda: common.check_out(out, (out.suffix,), overwrite)) as ranks:
        if n < ranks.size:
            raise ValueError(f"-n must be at least the number of ranks, {ranks.size}, got {n}")
        mine = ranks.part(n)
        with ranks.together():
            opened = open_run(run, device=device)
            _, sampler, settings = opened
            if seed is not None:
                sampler.load_state_dict({**sampler.state_dict(), "seed": seed, "step": 0})
            x = sampler.sample(
                (len(mine), *settings.event_shape),
                *[y[mine.start : mine.stop] for y in common.classes(opened, label, n)],
                n_steps=n_steps,
                chain_offset=mine.start,
            )
            sampler.check()
        samples = ranks.collect(x, [len(part) for part in ranks.parts(n)])
        with ranks.together():
            if samples is not None:
                _write(samples, out, is_array, settings.range)
    common.say(f"{n} samples in {out}", quiet)


def _write(x: Tensor, out: Path, is_array: bool, value_range: Range) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    if is_array:
        save_array(x, out)
    else:
        save_grid(x, out, value_range=value_range)
