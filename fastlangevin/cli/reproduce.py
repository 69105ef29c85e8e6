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
            help="1: quality and reconstruction; 2: number of Langevin steps; 3: noise on the data, and n_f.",
            show_default=False,
        ),
    ],
    data: Annotated[str, typer.Option(help="Data, as for train; square images.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option(help="Output folder.", show_default="runs/table-TABLE and the data's name")
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option(help="Minutes for all rows.", show_default="the paper's iterations, which take days"),
    ] = None,
    features: Annotated[
        int | None, typer.Option(min=1, help="n_f of rows that do not vary it.", show_default="the paper's")
    ] = None,
    n: Annotated[int, typer.Option("-n", min=2, help="Number of samples to evaluate.")] = 1024,
    fid: Annotated[
        bool | None,
        typer.Option("--fid/--no-fid", help="Compute FID and Inception Score, or not.", show_default="if available"),
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="Labels of the data, an .npy file.", show_default="the data's own")
    ] = None,
    image_size: common.ImageSize = None,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 1,
    device: common.Device = "auto",
    quiet: common.Quiet = False,
) -> None:
    """Reproduce a TABLE of Nijkamp et al. (NeurIPS 2019) on any data. Existing results in --out are kept."""
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
    common.say((result.out / "table.md").read_text("utf-8"), quiet)
    common.say(f"in {result.out}: table.md, table.csv, one run per row", quiet)
