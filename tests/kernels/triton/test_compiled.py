"""The Triton kernels compiled ahead of time for several GPUs. Other tests check their results (backend "triton")."""

from __future__ import annotations

import importlib.metadata
import importlib.util

import pytest
from support.instructions import copies, count

pytestmark = [
    pytest.mark.any_processor,
    pytest.mark.ahead_of_time,
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed"),
]


SHARED = {80: 163, 86: 99, 89: 99, 90: 227, 100: 227, 120: 99}  # KiB that a program may have
PRODUCTS = {80: "HMMA", 86: "HMMA", 89: "HMMA", 90: "HGMMA", 100: "UTCHMMA", 120: "HMMA"}


def test_nothing_spills(compiled):
    assert {architecture for _, architecture in compiled} == set(SHARED)
    for (kernel, architecture), record in compiled.items():
        assert record["local"] == 0, (kernel, architecture)
        if kernel.startswith(("convnet", "fused", "between")):
            assert record["shared"] <= SHARED[architecture] << 10, (kernel, architecture)
        elif "_test-" in kernel:
            assert record["registers"] <= 128 and record["shared"] <= 8192, (kernel, architecture)
        elif not kernel.startswith(("mlp_chain", "analytic", "pass")):
            assert record["registers"] <= (96 if "strided" in kernel else 80), (kernel, architecture)
            assert record["shared"] <= 4096, (kernel, architecture)


def test_convnets_run_on_the_tensor_cores(compiled):
    """With each architecture's instructions, and operands copied to shared memory ahead of them."""
    for (kernel, architecture), record in compiled.items():
        if kernel.startswith("convnet"):
            assert count(record, PRODUCTS[architecture]) >= 2, (kernel, architecture)
            assert bool(copies(record)) != ("-first-" in kernel), (kernel, architecture)


def test_convnets_copy_16_bytes_at_a_time(compiled):
    for (kernel, architecture), record in compiled.items():
        if "-forward-" in kernel or "-backward-" in kernel:
            assert sum(copies(record).values()) >= 8, (kernel, architecture)
            assert all(name.endswith(".128") for name in copies(record)), (kernel, architecture)


def test_which_triton_copies_through_l1(compiled):
    """On which the predicted time of a step in docs/performance.md depends."""
    version = tuple(map(int, importlib.metadata.version("triton").split(".")[:2]))
    assert {record["through_l1"] for record in compiled.values()} == {version >= (3, 9)}


def test_weights_come_through_descriptors(compiled):
    """Where they are told to, by the tensor memory accelerator; images do not."""
    seen = set()
    for (kernel, architecture), record in compiled.items():
        is_so = kernel.endswith("-descriptor")
        seen |= {architecture} if is_so else set()
        assert (record["by_descriptor"] > 0) == (count(record, "UTMALDG") > 0) == is_so, (kernel, architecture)
        assert not is_so or copies(record), (kernel, architecture)
    assert seen == {90, 100}


def test_convnets_copy_images_through_l1(compiled):
    """What several taps see is kept in L1, weights pass it by."""
    if not all(record["through_l1"] for record in compiled.values()):
        pytest.skip("this Triton's copies of 16 bytes pass L1 by, whatever they are told")
    for (kernel, architecture), record in compiled.items():
        if "-forward-" in kernel or "-backward-" in kernel:
            past = sum(n for name, n in copies(record).items() if "BYPASS" in name)
            if kernel.endswith("-descriptor"):
                assert past == 0, (kernel, architecture)
                continue
            assert past >= 4 and sum(copies(record).values()) - past >= past, (kernel, architecture)


def test_the_large_products_of_convnets_leave_room(compiled):
    """Of a multiprocessor for L1: 100 of its 256 KB. Its registers are one program's: 8 warps can have 255 × 32 × 8 of
    65,536. Of the two kernels that read or move the state at least two programs run at once.
    """
    for (kernel, architecture), record in compiled.items():
        if "convnet" in kernel:
            few = "-first-" in kernel or "-input-" in kernel
            assert not few or 65_536 // (32 * 4 * record["registers"]) >= 2, (kernel, architecture)
            assert record["shared"] <= (28 << 10 if few else 145 << 10), (kernel, architecture)


def test_fused_calls(compiled):
    """Products on the tensor cores, with operands copied ahead of them, of which the multiprocessor holds at least two;
    images are read and written 16 bytes at a time.
    """
    fused = {key: record for key, record in compiled.items() if key[0].startswith("fused")}
    assert {architecture for _, architecture in fused} >= {80, 90, 100, 120}
    for (kernel, architecture), record in fused.items():
        stores = count(record, "STG")
        assert stores == count(record, "STG.E.128") > 0, (kernel, architecture)
        if "-of-" in kernel:
            assert count(record, PRODUCTS[architecture]) >= 2, (kernel, architecture)
            assert record["shared"] <= 75 << 10, (kernel, architecture)
            assert 65_536 // (32 * record["warps"] * record["registers"]) >= 2, (kernel, architecture)
        else:
            assert count(record, "LDG") == count(record, "LDG.E.128") > 0, (kernel, architecture)
            assert record["registers"] <= 96 and record["shared"] <= 8192, (kernel, architecture)


def test_between_steps(compiled):
    """Products are the tensor cores', and all threads have written the band before one reads it. Those of 32 rows are
    warps' own: a group of warps, or a multiprocessor, multiplies 64 at least.
    """
    between = {key: record for key, record in compiled.items() if key[0].startswith("between")}
    assert {architecture for _, architecture in between} == set(SHARED)
    for (kernel, architecture), record in between.items():
        rows = int(kernel.split("-")[2].partition("x")[0])
        assert count(record, PRODUCTS[architecture] if rows >= 64 else "HMMA") >= 2, (kernel, architecture)
        assert record["shared"] <= 88 << 10 and record["registers"] <= 255, (kernel, architecture)
        if "tf32" not in kernel:
            stores, loads = (record["halves"].split().index(name) for name in ("STG", "LDG"))
            assert "BAR" in record["halves"].split()[stores:loads], (kernel, architecture)


def test_passes_over_cudnn_s_sums(compiled):
    """Are limited by memory: 16 bytes at a time, and at least four programs a multiprocessor."""
    passes = {key: record for key, record in compiled.items() if key[0].startswith("pass")}
    assert {architecture for _, architecture in passes} >= {80, 90, 100}
    for (kernel, architecture), record in passes.items():
        n_tensors = 64 * 64 * (4 if "tf32" in kernel else 2) / 16 / 128
        assert count(record, "LDG.E.128") >= n_tensors, (kernel, architecture)
        assert count(record, "STG.E.128") == n_tensors, (kernel, architecture)
        assert 65_536 // (32 * 4 * record["registers"]) >= 4, (kernel, architecture)


def test_dependent_kernels_wait_before_they_read_or_write(compiled):
    """And let the next kernel start. Others neither wait nor signal."""
    seen = set()
    for (kernel, architecture), record in compiled.items():
        is_dependent = kernel.endswith("-dependent")
        seen |= {is_dependent}
        counts = (count(record, "PREEXIT"), count(record, "ACQBULK"))
        assert counts == ((1, 1) if is_dependent else (0, 0)), (kernel, architecture)
        assert record["waits_first"] == is_dependent, (kernel, architecture)
    assert seen == {True, False}


# Loads of x and of score, and stores, per thread: 1,024 elements by 128 threads.
PACKS = {"update-fp32": (4, 2), "update-fp32-captured": (4, 2), "update-fp64": (8, 4), "update-bf16": (2, 1)}
PACKS |= {"update-fp16": (2, 1), "fill-normal": (0, 2), "fill-uniform": (0, 2)}


@pytest.mark.parametrize("kernel", PACKS)
def test_dense_memory_is_read_and_written_16_bytes_at_a_time(compiled, kernel):
    architectures = [architecture for name, architecture in compiled if name == kernel]
    assert 90 in architectures
    for architecture in architectures:
        record = compiled[kernel, architecture]
        loads, stores = PACKS[kernel]
        assert (count(record, "LDG.E.128"), count(record, "STG.E.128")) == (loads, stores), architecture
        assert count(record, "STG") == stores
        assert count(record, "LDG") - loads == (4 if kernel.endswith("captured") else 0)


def test_instructions_per_element(compiled):
    """A thread computes 8 elements. The count bounds the time per element on an arithmetic-bound GPU."""
    for architecture in (80, 90, 100):
        assert sum(compiled["update-fp32", architecture]["instructions"].values()) / 8 <= 75


def test_a_launch_compiles_again_for_few_numbers(compiled):
    """Not for sizes, strides, offsets and steps: each would multiply the variants by three. Floats are of no class."""
    for (kernel, architecture), record in compiled.items():
        has_rows = "convnet" in kernel or "pass" in kernel or "-of-" in kernel
        wanted = ["d"] if "mlp_chain" in kernel else ["rows"] if has_rows else ["n"]
        wanted = [] if "analytic" in kernel or "between" in kernel else wanted
        assert [name for name in record["specialized"] if name != "slope"] == wanted, (kernel, architecture)


def test_moves(compiled):
    """Dense states, scores and velocities are read and written 16 bytes at a time."""
    seen = set()
    for (kernel, architecture), record in compiled.items():
        if kernel.startswith("move-fp32"):
            assert (count(record, "LDG.E.128"), count(record, "STG.E.128")) == (6, 4), (kernel, architecture)
            assert count(record, "STG") == 4, (kernel, architecture)
        elif "_test-1024-fp32" in kernel or "_test-1024-fp64" in kernel:
            n_read, packs = 4 if "mala" in kernel else 3, 2 if "fp64" in kernel else 1
            assert count(record, "LDG.E.128") >= packs * n_read, (kernel, architecture)
        seen.add(kernel.partition("-")[0])
    assert {"move", "mala_test", "hmc_test"} <= seen


def test_threads_of_a_chain_decide_alike(compiled):
    """All have read its energy before one of them writes it: they wait after the last load before the first store."""
    for (kernel, architecture), record in compiled.items():
        if "_test-" in kernel:
            assert record["before_writes"][-1] == "BAR", (kernel, architecture)
