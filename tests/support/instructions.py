"""Compiled machine code."""

from __future__ import annotations

from fastlangevin.kernels import build

# The flags of a fused multiply-add, which every ARM64 processor has.
FMA = ("-mfma",) if "avx2" in build.INSTRUCTION_SETS else ()


def count(record: dict, prefix: str) -> int:
    return sum(n for name, n in record["instructions"].items() if name.startswith(prefix))


def copies(record: dict) -> dict[str, int]:
    """From global to shared memory, asynchronous."""
    return {name: n for name, n in record["instructions"].items() if name.startswith("LDGSTS")}
