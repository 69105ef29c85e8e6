"""The command line, one file per command: `fastlangevin train | sample | reconstruct | interpolate | evaluate | …`."""

from __future__ import annotations

import io
import sys
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperCommand, TyperOption

import fastlangevin

from ..distributed.shards import is_initialized
from ..distributed.start import speaks, started_by_torchrun
from ..errors import BackendUnavailable, ChainDiverged, RankFailed
from .diagnose import diagnose
from .evaluate import evaluate
from .info import info
from .interpolate import interpolate
from .reconstruct import reconstruct
from .reproduce import reproduce
from .sample import sample
from .train import train

_ON_RANKS = ("train", "sample", "evaluate", "info")

app = typer.Typer(
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Train energy-based models by short-run Langevin MCMC, sample from them, and evaluate them.",
)


def _print_version(asked: bool) -> None:
    if asked:
        print(fastlangevin.__version__)
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """The options of the program itself."""
    command = context.invoked_subcommand
    if started_by_torchrun() and command not in _ON_RANKS:
        raise ValueError(
            f"{command} runs in one process, but torchrun has started several: {', '.join(_ON_RANKS)} run on them"
        )


class _Command(TyperCommand):
    """A command whose help shows no type for its flags."""

    def get_params(self, ctx: Any) -> list[Any]:
        params = super().get_params(ctx)
        for parameter in params:
            if isinstance(parameter, TyperOption) and parameter.is_flag and parameter.metavar is None:
                parameter.metavar = ""
        return params


for command in (train, sample, reconstruct, interpolate, evaluate, diagnose, reproduce, info):
    app.command(cls=_Command)(command)

_EXPECTED: tuple[type[Exception], ...] = (
    *(ValueError, TypeError, OSError, ImportError, OverflowError),
    *(BackendUnavailable, ChainDiverged, RankFailed),
)


def main(arguments: Any = None) -> None:
    """Runs the command line. Exit codes: 0 success, 1 error, 2 wrong usage, 130 Ctrl-C, 129 SIGHUP, 143 SIGTERM."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # typer's help has characters that some terminals cannot show
    try:
        app(arguments, standalone_mode=True)
    except KeyboardInterrupt:
        sys.exit(130)
    except _EXPECTED as error:
        if speaks() or not is_initialized():  # before they have met, no rank knows of another's error
            Console(stderr=True).print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(1)
