"""Options shared by several commands."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

from ..data.dataset import Data
from ..data.ranges import UNIT, rescaled
from ..data.sources import load_data_of_shape
from ..display.pictures import is_drawable
from ..display.progress import console
from ..distributed.ranks import Ranks
from ..distributed.start import joined, speaks
from ..runs.opening import OpenedRun, open_run, resolve_device

RunPath = Annotated[Path, typer.Argument(help="The folder of a run, or a checkpoint file.", show_default=False)]
Steps = Annotated[
    int | None, typer.Option("--steps", min=1, help="Number of steps of a chain.", show_default="the run's")
]
ImageSize = Annotated[
    int | None,
    typer.Option(min=1, help="Resize and crop images of a folder to this size.", show_default="unchanged"),
]
N_ITERATIONS, ITERATIONS_HELP = 200, "Number of steps of Adam on the latents."
LatentSeed = Annotated[int | None, typer.Option("--seed", help="Seed of the latents.", show_default="the run's")]
Device = Annotated[str, typer.Option(help="cpu, cuda, or auto: CUDA if available, else the CPU.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing --out.")]
Label = Annotated[
    int | None,
    typer.Option(min=0, help="Class, for a class-conditional run.", show_default="the labels of --data"),
]
Timeout = Annotated[float, typer.Option(help="Seconds that ranks of torchrun wait for each other.", metavar="SECONDS")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only errors.")]


def check_out(out: Path, suffixes: Sequence[str], overwrite: bool, option: str = "--out") -> None:
    """Raises for an output file with another suffix, or one that exists and must not be replaced."""
    if out.suffix not in suffixes:
        raise ValueError(f"{option} must end in {' or '.join(suffixes)}, got {str(out)!r}")
    if out.exists() and not overwrite:
        raise FileExistsError(f"{option} {out} exists: use --overwrite to replace it")


@contextlib.contextmanager
def ranks(device: str | torch.device, timeout: float, outputs: Callable[[], None]) -> Iterator[Ranks]:
    """The ranks that run a command together, once rank 0 has checked its output files by `outputs`."""
    with joined(resolve_device(device).type, timeout) as joint:
        with joint.together():
            if joint.is_main:
                outputs()
        yield joint


def say(text: str, quiet: bool) -> None:
    console(speaks() and not quiet).print(text, markup=False, soft_wrap=True)


def open_generator(run: Path, out: Path, n_steps: int | None, seed: int | None, device: str) -> OpenedRun:
    """Opens a run with n_steps and seed for its sampler, and checks that its samples can be written to `out`."""
    opened = open_run(run, sampler={} if n_steps is None else {"n_steps": n_steps}, device=device)
    shape = opened.settings.event_shape
    if out.suffix == ".png" and not is_drawable(shape):
        raise ValueError(f"--out must end in .npz for a run of shape {tuple(shape)}, got {str(out)!r}")
    if seed is not None:
        opened.sampler.load_state_dict({**opened.sampler.state_dict(), "seed": seed})
    return opened


def classes(opened: OpenedRun, label: int | None, n: int, data: Data | None = None) -> tuple[Tensor, ...]:
    """The classes of n chains, int64 (n,), if the run is class-conditional: --label, or else the labels of the first n
    items of the data, or all classes in turn if there is no data.
    """
    n_classes = opened.settings.n_classes
    if n_classes is None:
        if label is not None:
            raise ValueError(f"--label is for a class-conditional run, which this one is not, got {label}")
        return ()
    if label is not None and label >= n_classes:
        raise ValueError(f"--label must be less than the run's number of classes, {n_classes}, got {label}")
    if label is not None:
        y = torch.full((n,), label)
    elif data is None:
        y = torch.arange(n) % n_classes
    elif data.labels is None:
        raise ValueError(f"--label must be given: the run is class-conditional, and {data.name} has no labels")
    else:
        y = data.labels[:n]
        if int(y.max()) >= n_classes:
            raise ValueError(
                f"--data must have labels of the run's classes, 0 … {n_classes - 1}, got {int(y.max())}: --label "
                "chooses one"
            )
    return (y.to(opened.sampler.target.device() or "cpu"),)


def first_items(data: str, n: int, image_size: int | None, opened: OpenedRun) -> tuple[Tensor, Data]:
    """Returns the first n items of --data, (n, *event), in the run's interval and on its device; and the data."""
    shape = tuple(opened.settings.event_shape)
    items = load_data_of_shape(data, shape, image_size=image_size)
    if items.event_shape != shape:
        raise ValueError(f"--data must hold items of the run's shape {shape}, got {items.event_shape} in {items.name}")
    if len(items) < n:
        raise ValueError(f"--data must hold at least {n} items, got {len(items)} in {items.name}")
    x = items.batch(torch.arange(n)).to(next(opened.model.parameters()).device)
    return rescaled(x, UNIT, opened.settings.range), items
