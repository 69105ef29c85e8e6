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


_UNOPTIMISED = """#!{python}
import hashlib, os, shutil, subprocess, sys
command = [*{compiler!r}, *sys.argv[1:], "-O0"]
if "-c" not in command:
    sys.exit(subprocess.call(command))
out = command.index("-o") + 1
outputs = [out, command.index("-MF") + 1]
key = repr([word for i, word in enumerate(command) if i not in outputs])
kept = os.path.join({objects!r}, hashlib.sha256(key.encode()).hexdigest())
if not os.path.exists(kept):
    code = subprocess.call(command)
    if code:
        sys.exit(code)
    shutil.copy(command[out], f"{{kept}}.{{os.getpid()}}")
    os.replace(f"{{kept}}.{{os.getpid()}}", kept)
shutil.copy(kept, command[out])
"""


def unoptimised(folder: Path, objects: Path) -> dict[str, str]:
    """The environment of builds of which only the files matter: a sixth of the time. What one has compiled of the same
    sources others find in `objects`.
    """
    compiler = folder / "unoptimised"
    parts = {"python": sys.executable, "compiler": build.compiler().split(), "objects": str(objects)}
    compiler.write_text(_UNOPTIMISED.format(**parts))
    compiler.chmod(0o755)
    return {"CXX": str(compiler)}
