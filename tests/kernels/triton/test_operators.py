"""Triton's operators: their schemas, states of many dimensions, and where they can run."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

import fastlangevin as fl
from fastlangevin import kernels


@pytest.mark.skipif(torch.cuda.is_available(), reason="the tests then run the compiler, not the interpreter")
def test_operators_pass_opcheck():
    x, score = torch.randn(3, 5), torch.randn(3, 5)
    ops, tail = torch.ops.fastlangevin, (0, 0, 0.5, -1.0, 1.0)
    torch.library.opcheck(ops.langevin_update_triton_.default, (x.clone(), score, 0.1, 0.2, 3, 4, *tail))
    numbers = (*(torch.tensor(v, dtype=torch.float64) for v in (0.1, 0.2)), torch.tensor(3), torch.tensor(4))
    torch.library.opcheck(ops.langevin_update_triton_.tensor, (x.clone(), score, *numbers, *tail))
    torch.library.opcheck(ops.noise_triton_.default, (torch.empty(7), 3, 4, 0, 0, False))


def test_more_dimensions_than_the_kernel_supports():
    if kernels.BACKENDS["triton"].unsupported(torch.device("cpu")):
        pytest.skip("needs the interpreter")
    make = lambda: torch.arange(2.0**6).reshape(2, 2, 2, 2, 2, 2).permute(5, 3, 1, 4, 2, 0)
    got, expected = make(), make()
    for x, backend in ((got, "triton"), (expected, "reference")):
        fl.langevin_update_(x, x.clone(), 0.5, 0.3, seed=1, step=2, backend=backend)
    assert torch.equal(got, expected) and got.stride() == make().stride()


def test_without_the_interpreter_it_needs_a_gpu():
    code = "import fastlangevin.kernels as k; print(k.BACKENDS['triton'].unsupported(), k.BACKENDS['triton'].device)"
    environment = {**os.environ, "TRITON_INTERPRET": "0", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.stdout.strip() == "no GPU is visible cuda", done.stderr
