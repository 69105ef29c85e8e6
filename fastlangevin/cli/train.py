"""`fastlangevin train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import fastlangevin

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
    lr: Annotated[float | None, typer.Option(help="Adam's learning rate.", show_default="the recipe's")] = None,
    lr_decay: Annotated[
        float | None,
        typer.Option(
            help="Share of the iterations, at the end, over which lr falls to 0.", show_default="the recipe's"
        ),
    ] = None,
    data_noise: Annotated[
        float | None, typer.Option(help="Noise added to the data.", show_default="the recipe's")
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
    fastlangevin.train(
        data,
        out=out or Path("runs") / (Path(data).resolve().stem or "run"),
        n_iterations=iterations,
        batch_size=batch_size,
        lr=lr,
        lr_decay=lr_decay,
        data_noise=data_noise,
        features=features,
        sampler={name: value for name, value in options.items() if value is not None},
        sample_steps=sample_steps,
        seed=seed,
        device=device,
        image_size=image_size,
        resume=resume,
        overwrite=overwrite,
        checkpoint_every=checkpoint_every,
        progress=not quiet,
    )
