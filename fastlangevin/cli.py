"""The command line: `fastlangevin train | sample | info`."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

import fastlangevin

from . import kernels
from .errors import BackendUnavailable, ChainDiverged
from .kernels import native
from .pictures import save_grid
from .run import save_array
from .training import open_run

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Train energy-based models by short-run Langevin MCMC, and sample from them.",
)


@app.command()
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
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto: a GPU where there is one.")] = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out, bit for bit.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in --out.")] = False,
    checkpoint_every: Annotated[int, typer.Option(min=1, help="Iterations between checkpoints.")] = 50,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
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


@app.command()
def sample(
    run: Annotated[Path, typer.Argument(help="A run's folder, or one checkpoint.", show_default=False)],
    n: Annotated[int, typer.Option("-n", min=1, help="How many samples.")] = 64,
    out: Annotated[Path, typer.Option("-o", "--out", help="A picture (.png), or an array (.npz).")] = Path(
        "samples.png"
    ),
    n_steps: Annotated[
        int | None, typer.Option("--steps", min=1, help="Langevin steps.", show_default="the run's")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Of the noise.", show_default="the run's, from where training left it")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto: a GPU where there is one.")] = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace --out.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
) -> None:
    """Draw samples from a trained RUN: short runs from fresh initial noise."""
    if out.suffix not in (".png", ".npz"):
        raise ValueError(f"--out must end in .png or .npz, got {str(out)!r}")
    if out.exists() and not overwrite:
        raise FileExistsError(f"--out {out} exists: say --overwrite to replace it")
    _, sampler, settings = open_run(run, device=device)
    if seed is not None:
        sampler.load_state_dict({**sampler.state_dict(), "seed": seed, "step": 0})
    x = sampler.sample((n, *settings.event_shape), n_steps=n_steps)
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix == ".png":
        save_grid(x, out)
    else:
        save_array(x, out)
    if not quiet:
        Console().print(f"{n} samples in {out}", markup=False, highlight=False)


@app.command()
def info() -> None:
    """Show versions, and which kernel backends run here and why others do not."""
    console = Console(highlight=False)
    versions = Table("", "version", title="versions", title_justify="left")
    versions.add_row("fastlangevin", fastlangevin.__version__)
    versions.add_row("Python", platform.python_version())
    for name in ("torch", "triton", "numpy"):
        versions.add_row(name, _version(name))
    versions.add_row("CUDA device", torch.cuda.get_device_name() if torch.cuda.is_available() else "none")
    console.print(versions)
    backends = Table("backend", "state", title="backends, in the order in which they are tried", title_justify="left")
    for backend in kernels.BACKENDS.values():
        why = backend.unavailable()
        backends.add_row(backend.name, "ready" if why is None else f"not here: {why}")
    console.print(backends)
    if kernels.BACKENDS["cpu"].unavailable() is None:
        console.print(f"instruction set of the cpu kernels: {native.cpu_capability()}", highlight=False)
    plan = fastlangevin.Langevin(log_density=fastlangevin.models.ConvNet(32, 3), seed=0).plan
    console.print(f"chains of the paper's network on {plan.device}: engine {plan.engine}, backend {plan.backend}")
    console.print(*(f"  {reason}" for reason in plan.reasons), sep="\n")


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


_EXPECTED: tuple[type[Exception], ...] = (
    *(ValueError, TypeError, OSError, ImportError, OverflowError),
    *(BackendUnavailable, ChainDiverged),
)


def main(arguments: Any = None) -> None:
    """Runs the command line. Exit codes: 0 done, 1 an error, 2 wrong usage, 130 Ctrl-C, 143 SIGTERM."""
    try:
        app(arguments, standalone_mode=True)
    except KeyboardInterrupt:
        sys.exit(130)
    except _EXPECTED as error:
        Console(stderr=True).print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(1)
