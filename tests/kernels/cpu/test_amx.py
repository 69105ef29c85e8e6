"""The products by AMX on processors with and without it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from fastlangevin.kernels import build

HERE = Path(__file__).parent


@pytest.mark.any_processor
def test_products_in_registers_and_emulated(tmp_path):
    """Against float64; and where the processor has AMX, both have the same bits."""
    flags = build.processor_flags() or set()
    if build.unsupported() or not {"avx512_bf16", "avx512vl"} <= flags:
        pytest.skip("needs AVX512_BF16, which is not emulated")
    outputs = []
    for name in ("emulated", "amx")[: 1 + ("amx_bf16" in flags)]:
        program = tmp_path / name
        more = [f'-DFL_EMULATE_AMX="{HERE / "amx_emulated.h"}"'] if name == "emulated" else []
        command = [*build.compiler().split(), "-O1", "-std=c++17", "-ffp-contract=off", "-w", *build._AMX, *more]
        subprocess.run([*command, HERE / "amx_products.cpp", "-o", program], check=True)
        done = subprocess.run([program], capture_output=True)
        if done.returncode == 77 and name == "amx":
            pytest.skip("Linux does not let this process use AMX")
        assert done.returncode == 0
        outputs.append(done.stdout)
    assert len(outputs[0]) > 300_000 and len(set(outputs)) == 1
