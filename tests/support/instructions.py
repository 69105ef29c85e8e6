"""Compiled machine code."""

from __future__ import annotations


def count(record: dict, prefix: str) -> int:
    return sum(n for name, n in record["instructions"].items() if name.startswith(prefix))


def copies(record: dict) -> dict[str, int]:
    """From global to shared memory, asynchronous."""
    return {name: n for name, n in record["instructions"].items() if name.startswith("LDGSTS")}
