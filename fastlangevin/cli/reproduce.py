"""`fastlangevin reproduce`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import fastlangevin

from . import common


def reproduce(
    table: Annotated[
        str,
        typer.Argument(
            help="1: quality and reconstruction; 2: the number of Langevin steps; 3: the noise on the data, and n_f.",
            show_default=False,
        ),
    ],
    data: Annotated[str, typer.Option(help="As for train; square images.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option(help="The folder.", show_default="runs/table-TABLE and the data's name")
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option(help="Minutes for all trainings together.", show_default="the paper's iterations, for days"),
    ] = None,
    features: Annotated[
        int | None, typer.Option(min=1, help="n_f, where the table does not vary it.", show_default="the paper's")
    ] = None,
    n: Annotated[int, typer.Option("-n", min=2, help="Samples for the measures of quality.")] = 1024,
    fid: Annotated[
        bool | None,
        typer.Option("--fid/--no-fid", help="FID and Inception Score.", show_default="where possible"),
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="An .npy file of the data's classes.", show_default="the data's own")
    ] = None,
    image_size: common.ImageSize = None,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 1,
    device: common.Device = "auto",
    quiet: common.Quiet = False,
) -> None:
    """Make a TABLE of Nijkamp et al. (NeurIPS 2019) on any data. What is in --out already is kept and gone on with."""
    result = fastlangevin.reproduce(
        table,
        data,
        out=out or Path("runs") / f"table-{table}-{Path(data).resolve().stem or 'data'}",
        budget=budget,
        features=features,
        n=n,
        fid=fid,
        labels=labels,
        image_size=image_size,
        seed=seed,
        device=device,
        progress=not quiet,
    )
    common.say((result.out / "table.md").read_text(), quiet)
    common.say(f"in {result.out}: table.md, table.csv, a run a row", quiet)
