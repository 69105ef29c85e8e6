"""`fastlangevin evaluate`."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

import fastlangevin

from ..display.plots import check_matplotlib, save_chain_plot
from ..display.progress import console
from ..files import replacing
from . import common


def evaluate(
    run: common.RunPath,
    data: Annotated[
        str,
        typer.Option(help="Data to compare with, as for train: digits, a folder, an .npy file …", show_default=False),
    ],
    n: Annotated[int, typer.Option("-n", min=2, help="Number of samples.")] = 1024,
    n_steps: common.Steps = None,
    fid: Annotated[
        bool | None,
        typer.Option(
            "--fid/--no-fid",
            help="Compute FID and Inception Score (an error if they are not available), or not.",
            show_default="if available",
        ),
    ] = None,
    coverage: Annotated[
        bool | None,
        typer.Option(
            "--coverage/--no-coverage",
            help="Compute the coverage of classes (an error without labels), or not.",
            show_default="if there are labels",
        ),
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="Labels of the data, an .npy file.", show_default="the data's own")
    ] = None,
    n_reconstruct: Annotated[
        int, typer.Option("--reconstruct", min=0, help="Number of data items to reconstruct; 0: none.")
    ] = 64,
    n_chains: Annotated[
        int, typer.Option("--chains", min=0, help="Number of chains to continue past K; 0: none.")
    ] = 32,
    seed: Annotated[int, typer.Option(min=0, help="Random seed.")] = 0,
    image_size: common.ImageSize = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Write the results to this .json.", show_default="not written")
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(help="Plot the chains past K to this .png (extra: plots).", show_default="not plotted"),
    ] = None,
    neighbours: Annotated[
        Path | None,
        typer.Option(
            help="Write the samples nearest to the data, above their nearest items, to this .png.",
            show_default="not written",
        ),
    ] = None,
    device: common.Device = "auto",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace existing files --out, --plot and --neighbours.")
    ] = False,
    timeout: common.Timeout = 1800.0,
    quiet: common.Quiet = False,
) -> None:
    """Evaluate samples of a trained RUN by several measures."""

    def check_outputs() -> None:
        if out is not None:
            common.check_out(out, (".json",), overwrite)
        if neighbours is not None:
            common.check_out(neighbours, (".png",), overwrite, "--neighbours")
        if plot is not None:
            common.check_out(plot, (".png",), overwrite, "--plot")
            if n_chains == 0:
                raise ValueError("--plot needs the chains past K, which --chains 0 skips")
            check_matplotlib()
        for path in (out, plot, neighbours):
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)

    with common.ranks(device, timeout, check_outputs) as ranks:
        result = fastlangevin.evaluate(
            run,
            data,
            n=n,
            n_steps=n_steps,
            fid=fid,
            coverage=coverage,
            labels=labels,
            n_reconstruct=n_reconstruct,
            n_chains=n_chains,
            neighbours=neighbours,
            seed=seed,
            device=device,
            image_size=image_size,
            progress=not quiet,
            timeout=timeout,
        )
        if ranks.is_main:
            _report(result, run, out, neighbours, plot, quiet)


def _report(
    result: dict[str, Any], run: Path, out: Path | None, neighbours: Path | None, plot: Path | None, quiet: bool
) -> None:
    console(not quiet).print(_table(result))
    for name, why in result["skipped"].items():
        common.say(f"skipped {name}: {why}", quiet)
    for name, note in result["notes"].items():
        common.say(f"{name}: {note}", quiet)
    if out is not None:
        with replacing(out) as temporary:
            temporary.write_text(json.dumps({"run": str(run), **result}, indent=1, allow_nan=False) + "\n")
        common.say(f"results in {out}", quiet)
    if neighbours is not None:
        common.say(f"nearest neighbours in {neighbours}", quiet)
    if plot is not None and "chain" in result:
        save_chain_plot(result, plot)
        common.say(f"chains in {plot}", quiet)


def _table(result: dict[str, Any]) -> Table:
    """A table of the result: one number per line, with a reference value."""
    data = f"{result['n_data']:,} items of {result['data']}"
    table = Table(
        *("measure", "value", "reference"),
        title=f"{result['n']:,} samples of {result['n_steps']} steps and {data}",
        title_justify="left",
    )
    table.columns[1].justify = "right"

    def add(measure: str, value: float | None, beside: str, digits: int = 4) -> None:
        table.add_row(measure, "-" if value is None else f"{value:.{digits}g}", beside)

    add("Fréchet distance of pixels", result["pixels"]["frechet_distance"], "0: same mean and covariance")
    if fid := result.get("fid"):
        add("FID", fid["fid"], f"0: equal; {fid['features']:,} features")
        if "inception_score" in fid:
            add("Inception Score", fid["inception_score"], f"± {fid['inception_score_std']:.2g} between 10 splits")
    if seen := result.get("coverage"):
        add("classes hit", seen["classes_hit"], f"of {seen['n_classes']}")
        add(
            "share of the rarest class",
            seen["rarest_share"],
            f"{1 / seen['n_classes']:.3g} for equally frequent classes",
            3,
        )
        add(
            "entropy of the classes, nats",
            seen["entropy"],
            f"{math.log(seen['n_classes']):.3f} for equally frequent classes",
        )
        add("classifier score", seen["score"], f"data {seen['data_score']:.4g}, at most {seen['n_classes']}")
        if seen["accuracy"] is not None:
            add("accuracy of the classifier", seen["accuracy"], f"on {seen['n_held_out']:,} held-out items", 3)
    near = result["neighbours"]
    add(
        "distance to the nearest item",
        near["distance_median"],
        f"median; between data items {near['data_distance_median']:.4g}",
    )
    add("the same, as a ratio", near["ratio_median"], f"1: as data; minimum {_g(near['ratio_min'])}", 3)
    add(
        "samples closer than 99 % of data",
        near["share_closer_than_data"],
        "0.01: as data; near 1: copies",
        3,
    )
    if energy := result.get("energy"):
        add("energy of the data", energy["data_mean"], f"± {energy['data_std']:.3g}")
        add("energy of the samples", energy["samples_mean"], f"± {energy['samples_std']:.3g}")
        add("energy gap, data - samples", energy["gap"], "0: equal on average", 3)
        add("AUROC of the energy", energy["auroc"], "0.5: equal; 1: data lower", 3)
    if rebuilt := result.get("reconstruction"):
        beside = f"mean of {rebuilt['n']}; worst {rebuilt['mse_max']:.3g}"
        add("reconstruction MSE", rebuilt["mse_mean"], beside, 3)
    if chain := result.get("chain"):
        at_k = min(range(len(chain["steps"])), key=lambda i: abs(chain["steps"][i] - chain["n_steps"]))
        last = chain["steps"][-1]
        if chain["diverged_at"] is not None:
            table.add_row(
                "chains past K",
                f"diverged at step {chain['diverged_at']}",
                f"at least 1 of {chain['n_chains']} chains",
            )
        if chain["energy"] is not None:
            add(f"mean energy at step {last}", chain["energy"][-1], f"at K {_g(chain['energy'][at_k])}")
        add(f"score norm at step {last}", chain["score_norm"][-1], f"at K {_g(chain['score_norm'][at_k])}", 3)
        add(
            f"elements outside [-1, 1] at {last}",
            chain["share_outside"][-1],
            f"at K {_g(chain['share_outside'][at_k])}",
            3,
        )
    return table


def _g(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
