"""`fastlangevin train`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

import fastlangevin

from .. import recipes
from ..distributed.start import started_by_torchrun
from ..runs import checkpoint
from ..runs.flags import pair
from ..runs.folder import RunFolder
from ..runs.resolution import override as with_overrides
from ..runs.sampler_options import check_noise, note_on_dropped
from . import common
from .setting_flags import overrides, resume_overrides, takes_flags


@takes_flags(after="recipe")
def train(
    data: Annotated[
        str,
        typer.Argument(
            help="digits; a folder of images; an array file (.npy, …); or cifar10, celeba, lsun (with torchvision).",
            show_default=False,
        ),
    ],
    *,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run.", show_default="runs/ and the data's name")
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help=f"Default settings: {', '.join(recipes.BY_NAME)}.", show_default="the data's, or the paper's"
        ),
    ] = None,
    image_size: common.ImageSize = None,
    value_range: Annotated[
        str | None,
        typer.Option(
            help="Values that are scaled to the ends of the data range.", metavar="LO,HI", show_default="the data's"
        ),
    ] = None,
    device: common.Device = "auto",
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in --out, bit for bit. If there is none, start it.")
    ] = False,
    override: Annotated[
        list[str] | None,
        typer.Option(
            "--override",
            metavar="NAME=VALUE",
            help="Change a setting at a --resume, such as lr=5e-4; config.yaml: use the settings edited there.",
            show_default=False,
        ),
    ] = None,
    from_checkpoint: Annotated[
        Path | None,
        typer.Option(help="Start a new run from the state in this checkpoint, or of this run.", show_default=False),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in --out.")] = False,
    timeout: common.Timeout = 1800.0,
    quiet: common.Quiet = False,
    **flags: Any,
) -> None:
    """Train a model of DATA. All files are written to --out; Ctrl-C saves a checkpoint, and --resume continues."""
    out = out or Path("runs") / (Path(data).resolve().stem or "run")
    settings = overrides(flags)
    named = None if recipe is None else recipes.named(recipe)
    if not (from_checkpoint or (resume and checkpoint.newest(RunFolder(out).checkpoints))):
        _check_noise(settings, named or recipes.BY_DATA.get(data, recipes.short_run))
        if named is not None:
            for note in note_on_dropped(named["sampler"], settings.get("sampler", {}), f"recipe {recipe}"):
                common.say(note, quiet)
    try:
        fastlangevin.train(
            data,
            out=out,
            **(settings if named is None else with_overrides(named, settings)),
            device=device,
            image_size=image_size,
            value_range=None if value_range is None else pair("--value-range", value_range),
            resume=resume,
            resume_overrides=resume_overrides(override) if override else None,
            from_checkpoint=from_checkpoint,
            overwrite=overwrite,
            progress=not quiet,
            timeout=timeout,
        )
    except (KeyboardInterrupt, SystemExit):
        if checkpoint.newest(RunFolder(out).checkpoints):
            own = {"--image-size": image_size, "--value-range": value_range, "--device": device}
            own["--device"] = None if device == "auto" else device
            given = [part for flag, value in own.items() if value is not None for part in (flag, str(value))]
            launcher = ["torchrun", "…", "-m", "--"] if started_by_torchrun() else []
            command = [*launcher, "fastlangevin", "train", data, "--out", str(out), *given, "--resume"]
            common.say(f"to continue: {shlex.join(command).replace(shlex.quote('…'), '…')}", quiet)
        raise


def _check_noise(settings: dict[str, Any], recipe: dict[str, Any]) -> None:
    """Applies `check_noise` to flags, and adds their names to the message."""
    try:
        check_noise(settings.get("sampler", {}), recipe["sampler"])
    except ValueError as error:
        raise ValueError(
            f"{error} (on the command line: --noise-std langevin for None, or --noise-std NUMBER)"
        ) from None
