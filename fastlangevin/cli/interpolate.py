"""`fastlangevin interpolate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

import fastlangevin

from ..display.pictures import grid, save_captioned
from ..runs.folder import save_arrays
from . import common


def interpolate(
    run: common.RunPath,
    n: Annotated[int, typer.Option("-n", min=2, help="Number of images per pair.")] = 8,
    pairs: Annotated[int, typer.Option(min=1, help="Number of pairs of latents.")] = 8,
    data: Annotated[
        str | None,
        typer.Option(
            help="Interpolate between reconstructions of consecutive items of this data, as for train: the first and "
            "the second, the third and the fourth, …; the picture then shows the items at both ends.",
            show_default="interpolate between draws of the initial noise",
        ),
    ] = None,
    out: Annotated[Path, typer.Option("-o", "--out", help="A picture (.png), or an array (.npz).")] = Path(
        "interpolation.png"
    ),
    iterations: Annotated[
        int | None,
        typer.Option(min=1, help=common.ITERATIONS_HELP, show_default=f"with --data {common.N_ITERATIONS}"),
    ] = None,
    label: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Class, for a class-conditional run.",
            show_default="all classes in turn, or with --data the label of the first item of each pair",
        ),
    ] = None,
    n_steps: common.Steps = None,
    image_size: common.ImageSize = None,
    seed: common.LatentSeed = None,
    device: common.Device = "auto",
    overwrite: common.Overwrite = False,
    quiet: common.Quiet = False,
) -> None:
    """Interpolate between pairs of latents by short runs of a trained RUN without noise, one row per pair."""
    common.check_out(out, (".png", ".npz"), overwrite)
    for option, given in (("--image-size", image_size), ("--iterations", iterations)):
        if data is None and given is not None:
            raise ValueError(f"{option} is for --data, which is missing, got {given}")
    opened = common.open_generator(run, out, n_steps, seed, device)
    sampler = opened.sampler
    if data is None:
        items, z = None, sampler.initial((2 * pairs, *opened.settings.event_shape), step=0)
        of_pairs = common.classes(opened, label, pairs)
    else:
        items, source = common.first_items(data, 2 * pairs, image_size, opened)
        of_pairs = tuple(y[::2] for y in common.classes(opened, label, 2 * pairs, source))
        of_items = (y.repeat_interleave(2) for y in of_pairs)
        n_iterations = common.N_ITERATIONS if iterations is None else iterations
        z = fastlangevin.reconstruct(sampler, items, *of_items, n_iterations=n_iterations, progress=not quiet).z
    x = fastlangevin.interpolate(sampler, z[1::2], z[::2], *of_pairs, n=n)
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix == ".png":
        caption = "each row: from the run of one latent to that of another"
        if items is not None:
            x = torch.cat([items[::2, None], x, items[1::2, None]], dim=1)
            caption = "each row: an item, runs from its latent to another's, and that item"
        drawn = grid(x.flatten(0, 1), columns=x.shape[1], value_range=opened.settings.range)
        save_captioned([(caption, drawn)], out)
    else:
        save_arrays(out, samples=x, z=z)
    common.say(f"{pairs} interpolations of {n} images by {sampler.n_steps} Langevin steps in {out}", quiet)
