"""`fastlangevin reconstruct`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

import fastlangevin

from ..data.ranges import UNIT, rescaled
from ..display.pictures import save_stacked
from ..runs.folder import save_arrays
from . import common

_WHITE = 0.5  # the error that is white in the picture, a quarter of the range of values


def reconstruct(
    run: common.RunPath,
    data: Annotated[str, typer.Option(help="Data to reconstruct, as for train.", show_default=False)],
    n: Annotated[int, typer.Option("-n", min=1, help="Number of items, the first of the data.")] = 8,
    out: Annotated[
        Path,
        typer.Option(
            "-o",
            "--out",
            help="A picture (.png) with rows of images, reconstructions and errors; or arrays (.npz).",
        ),
    ] = Path("reconstruction.png"),
    iterations: Annotated[int, typer.Option(min=1, help=common.ITERATIONS_HELP)] = common.N_ITERATIONS,
    lr: Annotated[float, typer.Option(help="Initial learning rate of Adam.")] = 0.1,
    label: common.Label = None,
    n_steps: common.Steps = None,
    image_size: common.ImageSize = None,
    seed: common.LatentSeed = None,
    device: common.Device = "auto",
    overwrite: common.Overwrite = False,
    quiet: common.Quiet = False,
) -> None:
    """Reconstruct images: find latents from which short runs of a trained RUN, without noise, end at them."""
    common.check_out(out, (".png", ".npz"), overwrite)
    opened = common.open_generator(run, out, n_steps, seed, device)
    x, items = common.first_items(data, n, image_size, opened)
    y = common.classes(opened, label, n, items)
    found = fastlangevin.reconstruct(opened.sampler, x, *y, n_iterations=iterations, lr=lr, progress=not quiet)
    lo, hi = opened.settings.range
    mse = found.mse * (2 / (hi - lo)) ** 2
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix == ".png":
        shown = [rescaled(images, (lo, hi), UNIT) for images in (x, found.x)]
        error = (shown[1] - shown[0]).abs() * (2 / _WHITE) - 1
        save_stacked([*shown, error], out, labels=("original", "reconstruction", f"error, white: {_WHITE}"))
    else:
        save_arrays(out, original=x, reconstruction=found.x, z=found.z, mse=found.mse)
    low, median, high = torch.quantile(mse, mse.new_tensor([0.25, 0.5, 0.75])).tolist()
    best, worst = int(mse.argmin()), int(mse.argmax())
    common.say(
        f"MSE per pixel in [-1, 1]: mean {mse.mean():.5f}, quartiles {low:.5f} {median:.5f} {high:.5f}, "
        f"best {mse[best]:.5f} (item {best}), worst {mse[worst]:.5f} (item {worst})",
        quiet,
    )
    rows = f" (rows: originals, reconstructions, errors, of which {_WHITE} is white)" if out.suffix == ".png" else ""
    common.say(f"{n} reconstructions by {opened.sampler.n_steps} Langevin steps in {out}{rows}", quiet)
