"""Code in a process of its own, and what it finds there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from fastlangevin.kernels import build

# Finds no library of a wheel or source install, and therefore compiles one.
NO_PREBUILT = """
import pathlib, warnings
warnings.simplefilter("always")
from fastlangevin.kernels import native
native.prebuilt_directory = lambda: pathlib.Path("/nowhere")
import fastlangevin as fl, torch
"""
DRAW = "x = fl.noise.normal((1000,), seed=1, step=2); print(x.double().sum().item())"


def python(code: str, **environment: str) -> subprocess.CompletedProcess:
    """Without Triton's interpreter, which would serve CPU tensors before the reference does."""
    environment = {**os.environ, "TRITON_INTERPRET": "0", **environment}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd="/")


def unoptimised(folder: Path) -> dict[str, str]:
    """The environment of builds of which only the files matter: a sixth of the time."""
    compiler = folder / "unoptimised"
    compiler.write_text(f'#!/bin/sh\nexec {build.compiler()} "$@" -O0\n')
    compiler.chmod(0o755)
    return {"CXX": str(compiler)}
