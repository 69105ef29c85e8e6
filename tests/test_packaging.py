"""Packaging: wheels, what a build refuses, and what an import loads."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from support.processes import python, unoptimised

from fastlangevin.kernels import build

ROOT = Path(__file__).parents[1]

pytestmark = [
    pytest.mark.any_processor,
    pytest.mark.skipif(build.unsupported() is not None, reason=str(build.unsupported())),
]


def test_wheel_holds_libraries_and_sources(tmp_path, objects):
    command = ["pip", "wheel", "--no-build-isolation", "--no-deps", "--no-index", "-q", "-w", tmp_path, "."]
    environment = {**os.environ, **unoptimised(tmp_path, objects), "FASTLANGEVIN_CUDA": "0"}
    subprocess.run([sys.executable, "-m", *command], check=True, cwd=ROOT, capture_output=True, env=environment)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name == f"fastlangevin-0.1.0-py3-none-linux_{platform.machine()}.whl"
    names = set(zipfile.ZipFile(wheel).namelist())
    sources = {f"fastlangevin/csrc/{p.relative_to(ROOT / 'csrc')}" for p in (ROOT / "csrc").rglob("*") if p.is_file()}
    assert sources <= names
    assert {
        f"fastlangevin/_native/{build.CPU.filename()}",
        "fastlangevin/py.typed",
        "fastlangevin/assets/digits.npz",
    } <= names
    assert not [n for n in names if n.startswith(("tests", "benchmarks", "csrc"))]
    assert not [n for n in names if "libfastlangevin_cuda" in n]


def test_cuda_that_is_required_and_cannot_be_built_is_an_error(tmp_path):
    """Before anything is compiled."""
    compiler = tmp_path / "compiler"
    compiler.write_text(f"#!/bin/sh\ntouch {tmp_path}/compiled\nexit 1\n")
    compiler.chmod(0o755)
    environment = {**os.environ, "FASTLANGEVIN_CUDA": "1", "CUDA_HOME": "/nowhere", "CXX": str(compiler)}
    command = ["pip", "wheel", "--no-build-isolation", "--no-deps", "--no-index", "-w", tmp_path, "."]
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode != 0
    assert "FASTLANGEVIN_CUDA=1, and the CUDA kernels cannot be built: the CUDA compiler" in done.stdout + done.stderr
    assert not list(tmp_path.glob("*.whl")) and not (tmp_path / "compiled").exists()


def test_an_old_setuptools_is_one_line(tmp_path):
    (tmp_path / "setuptools.py").write_text("__version__ = '65.5.0'\n")
    command = [sys.executable, str(ROOT / "setup.py"), "--version"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "building needs setuptools 77 or later, not 65.5.0: pip install -U setuptools" in done.stderr


HEAVY = [
    *("triton", "matplotlib", "tensorboard", "sklearn", "torchvision", "torch._dynamo", "sympy", "typer"),
    *("PIL", "rich", "yaml", "safetensors", "filelock"),
    *("torchebm", "ebm", "pytorch_lightning"),
    *(
        f"fastlangevin.{room}"
        for room in ("adapters", "cli", "data", "display", "runs", "training", "evaluation", "reproduction")
    ),
]
LOADED = f"import sys; print([m for m in {HEAVY} if m in sys.modules])\n"


def test_import_loads_no_kernels_and_no_heavy_packages():
    code = f"import fastlangevin\n{LOADED}"
    code += "from fastlangevin.kernels import native; print(native._load_cpu.cache_info().misses)"
    assert python(code).stdout.split("\n")[:2] == ["[]", "0"]


def test_a_first_call_loads_no_heavy_packages():
    """Above all not torch's compiler, which takes a second: torch's own wrappers import it."""
    code = """
import torch, fastlangevin as fl
class Residual(torch.nn.Linear):
    def forward(self, x): return (x + super().forward(x).sigmoid()).sum(1)
class Counted(Residual):
    n = 0
    def forward(self, x):
        self.n += 1
        return super().forward(x)
class Image(torch.nn.Module):  # whose convolutions, of stride 2 and of the whole image, have other operators
    def __init__(self):
        super().__init__()
        self.first, self.last = torch.nn.Conv2d(1, 8, 3, 2, 1), torch.nn.Conv2d(8, 1, 4)
    def forward(self, x): return (self.last(self.first(x).sigmoid()).flatten(1) * x.mean((2, 3)).add_(1)).sum(1)
energies = (fl.models.MLP(2, (4,), prior=1.0), fl.models.ConvNet(8, 1, 2), Residual(2, 2), Image(), Counted(2, 2))
for energy, shape in zip(energies, ((3, 2), (3, 1, 8, 8), (3, 2), (3, 1, 8, 8), (3, 2))):
    sampler = fl.Langevin(energy, n_steps=2, seed=1)
    sampler.sample(shape)
    sampler.trace(torch.zeros(shape))
    print(sampler.plan.engine)
"""
    done = python(code + LOADED)
    assert done.stdout.split() == ["mlp", "convnet", "graph", "graph", "autograd", "[]"], done.stderr
