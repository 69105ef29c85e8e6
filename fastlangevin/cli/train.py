"""`fastlangevin train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import fastlangevin

from .. import recipes
from . import common


def train(
    data: Annotated[
        str,
        typer.Argument(
            help="digits; a folder of images; an .npy or .npz file; or cifar10, celeba, lsun (with torchvision).",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="The run's folder.", show_default="runs/ and the data's name")
    ] = None,
    iterations: Annotated[
        int | None, typer.Option(min=1, help="Iterations in all.", show_default="the recipe's")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Data, and chains, an iteration.", show_default="the recipe's")
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="Settings to start from: short_run, anatomy, igebm, uva, …", show_default="the data's, or the paper's"
        ),
    ] = None,
    lr: Annotated[
        str | None,
        typer.Option(
            metavar="LR[,ITERATION:LR…]", help="Adam's learning rate, and changes of it.", show_default="the recipe's"
        ),
    ] = None,
    lr_decay: Annotated[
        float | None,
        typer.Option(
            help="Share of the iterations, at the end, over which lr falls to 0.", show_default="the recipe's"
        ),
    ] = None,
    ema: Annotated[
        float | None,
        typer.Option(help="Decay of a moving average of the weights, to sample from.", show_default="the recipe's"),
    ] = None,
    data_noise: Annotated[
        str | None,
        typer.Option(
            metavar="STD[,ITERATION:STD…]",
            help="Noise added to the data, and changes of it.",
            show_default="the recipe's",
        ),
    ] = None,
    features: Annotated[
        int | None, typer.Option(min=1, help="Channels of the network's first layer.", show_default="the recipe's")
    ] = None,
    n_steps: Annotated[
        int | None, typer.Option("--steps", min=1, help="Langevin steps, K.", show_default="the recipe's")
    ] = None,
    step_size: Annotated[float | None, typer.Option(help="Langevin step size.", show_default="the recipe's")] = None,
    noise_std: Annotated[float | None, typer.Option(help="Langevin noise.", show_default="the recipe's")] = None,
    sample_steps: Annotated[
        int | None,
        typer.Option(min=1, help="Langevin steps when the model is sampled afterwards.", show_default="the recipe's"),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(help="What the sampler runs in: fp32, tf32, bf16, fp16.", show_default="the recipe's"),
    ] = None,
    image_size: Annotated[
        int | None,
        typer.Option(min=1, help="Resize and crop a folder's images to this.", show_default="as they are"),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of everything random.", show_default="1")] = None,
    device: common.Device = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out, bit for bit.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in --out.")] = False,
    on_divergence: Annotated[
        str, typer.Option(help="raise; or rollback: go back to the newest checkpoint, with half the lr.")
    ] = "raise",
    max_rollbacks: Annotated[int, typer.Option(min=0, help="After so many, a divergence is an error.")] = 3,
    checkpoint_every: Annotated[int, typer.Option(min=1, help="Iterations between checkpoints.")] = 50,
    quiet: common.Quiet = False,
) -> None:
    """Train a model of DATA. Everything it makes is in --out; Ctrl-C saves, and --resume goes on."""
    options = {
        "n_steps": n_steps,
        "step_size": step_size,
        "noise_std": noise_std,
        "precision": precision,
    }
    asked = {
        "n_iterations": iterations,
        "batch_size": batch_size,
        "lr": None if lr is None else _annealed("--lr", lr),
        "lr_decay": lr_decay,
        "ema": ema,
        "data_noise": None if data_noise is None else _annealed("--data-noise", data_noise),
        "features": features,
        "sample_steps": sample_steps,
    }
    settings = {} if recipe is None else recipes.named(recipe)
    settings.update({name: value for name, value in asked.items() if value is not None})
    given = {name: value for name, value in options.items() if value is not None}
    settings["sampler"] = {**settings.get("sampler", {}), **given}
    if n_steps is not None and sample_steps is None:
        settings.pop("sample_steps", None)
    fastlangevin.train(
        data,
        out=out or Path("runs") / (Path(data).resolve().stem or "run"),
        **settings,
        seed=seed,
        device=device,
        image_size=image_size,
        resume=resume,
        overwrite=overwrite,
        checkpoint_every=checkpoint_every,
        on_divergence=on_divergence,
        max_rollbacks=max_rollbacks,
        progress=not quiet,
    )


def _annealed(option: str, text: str) -> float | list[tuple[int, float]]:
    """ "1e-4" as 1e-4, "1e-4,1000:1e-5" as [(0, 1e-4), (1000, 1e-5)]."""
    first, *changes = text.split(",")
    try:
        if not changes:
            return float(first)
        pairs = [change.split(":") for change in changes]
        return [(0, float(first)), *((int(iteration), float(value)) for iteration, value in pairs)]
    except ValueError:
        raise ValueError(
            f"{option} must be a number, or a number and changes of it, as 1e-4,150000:1e-5, got {text!r}"
        ) from None
