"""The Triton kernels compiled for GPUs that need not be here. Their results: `backend` "triton" in the other tests."""

from __future__ import annotations

import importlib.util

import pytest
from support.instructions import count

pytestmark = [
    pytest.mark.any_processor,
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed"),
]


def test_nothing_spills(compiled):
    assert len(compiled) == 3 * (8 + 4 + 8) + 4
    for (kernel, architecture), record in compiled.items():
        if kernel.startswith("mlp_chain"):
            continue  # test_mlp_chain.py says what those spill
        assert record["local"] == 0, (kernel, architecture)
        if kernel.startswith("convnet"):
            # Of 8.x and 12.x the least is 99 KiB; 8.0 has 163.
            assert record["shared"] <= (99 if architecture == 80 else 227) << 10, (kernel, architecture)
        else:
            assert record["registers"] <= 80 and record["shared"] <= 4096, (kernel, architecture)


def test_convnets_run_on_the_tensor_cores(compiled):
    """By each architecture's instructions, with operands copied to shared memory ahead of them."""
    for (kernel, architecture), record in compiled.items():
        if kernel.startswith("convnet"):
            assert count(record, {80: "HMMA", 90: "HGMMA", 100: "UTCHMMA"}[architecture]) >= 2, (kernel, architecture)
            copies = [name for name in record["instructions"] if name.startswith("LDGSTS")]
            assert bool(copies) != ("-first-" in kernel), (kernel, architecture)


def test_convnets_copy_16_bytes_at_a_time_and_images_through_l1(compiled):
    """What several taps see is kept in L1, weights pass it by."""
    for (kernel, architecture), record in compiled.items():
        if "-forward-" in kernel or "-backward-" in kernel:
            copies = {name: n for name, n in record["instructions"].items() if name.startswith("LDGSTS")}
            past = sum(n for name, n in copies.items() if "BYPASS" in name)
            assert past >= 4 and sum(copies.values()) - past >= past, (kernel, architecture)
            assert all(name.endswith(".128") for name in copies), (kernel, architecture)


def test_the_large_products_of_convnets_leave_room(compiled):
    """Of a multiprocessor for one program and L1; the two kernels that read or move the state run several at once."""
    for (kernel, architecture), record in compiled.items():
        if "convnet" in kernel:
            few = "-first-" in kernel or "-input-" in kernel
            assert record["registers"] <= (160 if few else 200), (kernel, architecture)
            assert record["shared"] <= (28 << 10 if few else 121 << 10), (kernel, architecture)


# Loads of x and of score, and stores, a thread: 1,024 elements by 128 threads.
PACKS = {"update-fp32": (4, 2), "update-fp32-captured": (4, 2), "update-fp64": (8, 4), "update-bf16": (2, 1)}
PACKS |= {"update-fp16": (2, 1), "fill-normal": (0, 2), "fill-uniform": (0, 2)}


@pytest.mark.parametrize("kernel", PACKS)
def test_dense_memory_is_read_and_written_16_bytes_at_a_time(compiled, kernel):
    for architecture in (80, 90, 100):
        record = compiled[kernel, architecture]
        loads, stores = PACKS[kernel]
        assert (count(record, "LDG.E.128"), count(record, "STG.E.128")) == (loads, stores), architecture
        assert count(record, "STG") == stores
        assert count(record, "LDG") - loads == (4 if kernel.endswith("captured") else 0)


def test_instructions_an_element(compiled):
    """A thread makes 8 elements: what an arithmetic-bound GPU spends on one."""
    for architecture in (80, 90, 100):
        assert sum(compiled["update-fp32", architecture]["instructions"].values()) / 8 <= 75
