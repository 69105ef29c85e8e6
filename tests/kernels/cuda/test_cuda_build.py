"""The CUDA paths under a CUDA build of torch, without a GPU: the library compiles, loads and has all operators, and the
Python around the kernels is walked with fake tensors on "cuda" (`support/walk_cuda.py`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fastlangevin.kernels import build, native, schemas

SUPPORT = Path(__file__).resolve().parents[2] / "support"

pytestmark = [
    pytest.mark.cuda_build,
    pytest.mark.skipif(torch.version.cuda is None, reason="needs a CUDA build of torch"),
]


@pytest.fixture(scope="module")
def library():
    why = build.cuda_unsupported()
    if why:
        pytest.skip(why)
    return native._find_or_build(build.CUDA)


def test_the_library_has_every_operator(library):
    """All its symbols are resolved as it is loaded: those of torch's CUDA libraries are in no other build."""
    operators = (schemas.update_name("cuda"), schemas.fill_name("cuda"), *schemas.move_names("cuda"))
    names = [f"{name}{overload}" for name in operators for overload in ("", ".tensor")]
    code = (
        "import torch, fastlangevin.kernels, sys; torch.ops.load_library(sys.argv[1]); "
        "has = torch._C._dispatch_has_kernel_for_dispatch_key; "
        "print(*(has(f'fastlangevin::{name}', 'CUDA') for name in sys.argv[2:]))"
    )
    command = [sys.executable, "-c", code, str(library), *names]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == ["True"] * 10


@pytest.fixture(scope="module")
def walked(library):
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, SUPPORT / "walk_cuda.py"], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return {record["work"]: record for record in json.loads(done.stdout)}


CONVNET = ["first_kernel", *["forward_kernel"] * 3, *["backward_kernel"] * 3, "input_kernel"]
STEPS, PASSES = 3, 3  # of a chain; a warm-up and two replays
EXPECTED = {  # the engine, what it computes with, and its launches in a chain
    "convnet fp16": ("convnet", "fused Triton kernels", CONVNET * STEPS, []),
    "convnet tf32": ("convnet", "fused Triton kernels", CONVNET * STEPS, []),
    "convnet fp32": ("convnet", "torch operators", [], ["langevin_update_cuda_.tensor"] * STEPS),
    "mlp fp16": ("mlp", "Triton whole-chain kernels", ["mlp_chain_kernel"], []),
    "mixture": ("analytic", None, ["mixture_chain_kernel"], []),
    "double well": ("analytic", None, ["double_well_chain_kernel"], []),
    "mala of a convnet": (
        *("convnet", "fused Triton kernels", CONVNET * (STEPS + 1)),
        ["langevin_update_cuda_.tensor", "mala_test_cuda_.tensor"] * STEPS,
    ),
    "hmc of an mlp": (
        *("mlp", "Triton whole-chain kernels", []),
        [*["velocity_move_cuda_.tensor"] * 2, "hmc_test_cuda_.tensor"] * STEPS,
    ),
    "underdamped of an mlp": ("mlp", "Triton whole-chain kernels", [], ["velocity_move_cuda_.tensor"] * (STEPS + 1)),
}


@pytest.mark.parametrize("work", EXPECTED)
def test_a_chain_as_a_user_runs_it(walked, work):
    """Every launch's arguments compile, and numbers are read from tensors on the device. A second call has the same
    key. The plan for "cuda" is what runs.
    """
    engine, computes_with, launches, operators = EXPECTED[work]
    record = walked[work]
    assert (record["engine"], record["backend"], record["graph"]) == (engine, "cuda", True)
    assert computes_with is None or f"the {engine} engine computes with {computes_with}" in record["reasons"]
    assert record["captured"] == [1, 2]
    assert record["launches"] == launches * PASSES
    assert record["operators"] == operators * PASSES
