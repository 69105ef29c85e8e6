"""`fastlangevin diagnose`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..diagnostics import report
from ..diagnostics.page import check_out
from ..extras import require
from . import common


def diagnose(
    run: common.RunPath,
    out: Annotated[
        Path,
        typer.Option("-o", "--out", help="A page with its pictures (.html), or a folder of pictures."),
    ] = Path("report.html"),
    n_chains: Annotated[int, typer.Option("--chains", min=2, help="Number of chains.")] = 4,
    n_steps: Annotated[int, typer.Option("--steps", min=8, help="Number of steps of each chain.")] = 1000,
    burn_in: Annotated[
        int | None,
        typer.Option(min=0, help="Steps at the beginning that are no draws.", show_default="half of the steps"),
    ] = None,
    every: Annotated[int, typer.Option(min=1, help="Number of steps between two draws.")] = 1,
    elements: Annotated[
        int, typer.Option(min=1, help="Number of elements of the state in the table, evenly spaced.")
    ] = 64,
    label: Annotated[
        int | None,
        typer.Option(min=0, help="Class, for a class-conditional run.", show_default="all classes in turn"),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(help="Seed of the noise.", show_default="the run's, continued from the end of training"),
    ] = None,
    device: common.Device = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files of an existing --out.")] = False,
    quiet: common.Quiet = False,
) -> None:
    """Plot long chains of a trained RUN, with R-hat and effective sample sizes (extra: diagnostics)."""
    check_out(out)
    if out.exists() and not overwrite:
        raise FileExistsError(f"--out {out} exists: use --overwrite to replace its files")
    for module in ("arviz", "matplotlib.figure"):
        require(module, "diagnostics")
    burn_in = n_steps // 2 if burn_in is None else burn_in
    opened = common.open_generator(run, Path("x.npz"), n_steps, seed, device)
    sampler = opened.sampler
    x0 = sampler.initial((n_chains, *opened.settings.event_shape))
    trace = sampler.trace(x0, *common.classes(opened, label, n_chains), every=every)
    out.parent.mkdir(parents=True, exist_ok=True)
    doubts = report(
        trace,
        out,
        burn_in=burn_in,
        max_elements=elements,
        title=f"Chains of {run}",
        facts={
            "sampler": repr(sampler),
            "chains": f"{n_chains} from {sampler.init}",
            "steps": f"{n_steps}, of which {burn_in} are burn-in; a draw every {every}",
        },
    )
    for doubt in doubts:
        common.say(doubt, quiet)
    common.say(f"plots of {n_chains} chains of {n_steps} steps in {out}", quiet)
