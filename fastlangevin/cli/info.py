"""`fastlangevin info`."""

from __future__ import annotations

import importlib.metadata
import platform

import torch
from rich.table import Table

import fastlangevin

from .. import kernels
from ..display.progress import console
from ..kernels import native


def info() -> None:
    """Show versions and available kernel backends, with the reasons for those that are not available."""
    output = console(show=True)
    versions = Table("", "version", title="versions", title_justify="left")
    versions.add_row("fastlangevin", fastlangevin.__version__)
    versions.add_row("Python", platform.python_version())
    for name in ("torch", "triton", "numpy"):
        versions.add_row(name, _version(name))
    versions.add_row("CUDA device", torch.cuda.get_device_name() if torch.cuda.is_available() else "none")
    output.print(versions)
    backends = Table("backend", "state", title="backends, in order of preference", title_justify="left")
    for backend in kernels.BACKENDS.values():
        why = backend.unsupported()
        backends.add_row(backend.name, "ready" if why is None else f"not available: {why}")
    output.print(backends)
    if kernels.BACKENDS["cpu"].unsupported() is None:
        output.print(f"instruction set of the cpu kernels: {native.cpu_capability()}", highlight=False)
    plan = fastlangevin.Langevin(log_density=fastlangevin.models.ConvNet(32, 3), seed=0).plan
    output.print(f"chains of the paper's network on {plan.device}: engine {plan.engine}, backend {plan.backend}")
    output.print(*(f"  {reason}" for reason in plan.reasons), sep="\n")


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
