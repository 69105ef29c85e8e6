"""The CUDA kernels without a GPU: the work of every thread runs on the host, and the machine code is inspected."""

from __future__ import annotations

import collections
import ctypes
import importlib.util
import itertools
import re
import subprocess
from pathlib import Path

import pytest
import torch
from support.instructions import FMA
from support.thorough import thorough
from support.updates import DTYPES, layouts, same_bits, state

import fastlangevin as fl
from fastlangevin.kernels import build

pytestmark = pytest.mark.any_processor

ROOT = Path(__file__).parents[3]
KEY = (-20191125, 2**32 - 2)


@pytest.fixture(scope="module")
def threads_on_host(tmp_path_factory):
    if build.unsupported():
        pytest.skip(str(build.unsupported()))
    library = tmp_path_factory.mktemp("cuda") / "threads.so"
    flags = ["-std=c++17", "-O2", "-ffp-contract=off", *FMA, "-shared", "-fPIC", "-Wno-unknown-pragmas"]
    source = Path(__file__).with_name("threads.cpp")
    subprocess.run([build.compiler(), *flags, "-I", ROOT / "csrc", source, "-o", library], check=True)
    return ctypes.CDLL(str(library))


def update(library, x, score, eta, sigma, *, offset=0, clip=None, bounds=None, stream=0, on_device=False) -> bool:
    """The update of x by the CUDA kernels' threads. Returns whether the packed kernel was used."""
    infinity = float("inf")
    limits = (clip or infinity, *(bounds or (-infinity, infinity)))
    numbers = [v.tolist() if isinstance(v, torch.Tensor) else [v or 0.0] for v in (eta, sigma)]
    strides = (x if score is None else score).stride()
    packed = ctypes.c_bool()
    failed = library.update_on_host(
        DTYPES.index(x.dtype),
        ctypes.c_void_p(x.data_ptr()),
        None if score is None else ctypes.c_void_p(score.data_ptr()),
        ctypes.c_uint64(offset),
        (ctypes.c_double * 3)(*limits),
        *((ctypes.c_double * len(v))(*v) for v in numbers),
        (ctypes.c_bool * 2)(*(len(v) > 1 for v in numbers)),
        (ctypes.c_int64 * 2)(*KEY),
        ctypes.c_bool(on_device),
        ctypes.c_uint32(stream),
        ctypes.c_bool(sigma is not None),
        x.dim(),
        *((ctypes.c_int64 * max(1, x.dim()))(*v) for v in (x.shape, x.stride(), strides)),
        ctypes.byref(packed),
    )
    assert failed == 0
    return packed.value


def reference(x, score, eta, sigma, *, offset=0, clip=None, bounds=None, stream=0):
    key = {"seed": KEY[0], "step": KEY[1], "stream": stream, "offset": offset}
    return fl.langevin_update_(x.clone(), score, eta, sigma, grad_clip=clip, bounds=bounds, backend="reference", **key)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("n", [1, 3, 4, 7, 8, 9, 1023, 4099])
def test_threads_on_aligned_and_unaligned_memory(threads_on_host, dtype, n):
    for start, offset, part in itertools.product((0, 1), (0, 4, 2**34 + 3), ("both", "score", "noise")):
        x, score = (v[start:] for v in state((n + start,), dtype))
        eta, sigma = (None if part == "noise" else 0.7), (None if part == "score" else 0.3)
        given = None if part == "noise" else score
        expected = reference(x, given, eta, sigma, offset=offset, bounds=(-1, 1.5), clip=0.9)
        whole = torch.full((n + start + 16,), 99.0, dtype=dtype)
        got = whole[start : start + n].copy_(x)
        packed = update(threads_on_host, got, given, eta, sigma, offset=offset, bounds=(-1, 1.5), clip=0.9)
        assert packed == (start == 0 and offset % 4 == 0)
        assert same_bits(got, expected)
        assert (whole[:start] == 99).all() and (whole[start + n :] == 99).all()


@pytest.mark.parametrize("on_device", [False, True])
def test_threads_on_any_strides(threads_on_host, on_device):
    x, score = state((3, 5, 6, 7))
    expected = reference(x, score, 0.7, 0.3, offset=5, stream=9)
    for i, s in itertools.product(range(5), range(5)):
        got = layouts(x)[i]
        update(threads_on_host, got, layouts(score)[s], 0.7, 0.3, offset=5, stream=9, on_device=on_device)
        assert torch.equal(got, expected)
    scalar = torch.tensor(1.0)
    update(threads_on_host, scalar, torch.tensor(2.0), 0.5, None)
    assert scalar == 2.0


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("part", ["both", "score", "noise"])
def test_threads_with_numbers_for_each_chain(threads_on_host, dtype, part):
    generator = torch.Generator().manual_seed(3)
    many = [torch.rand(5, generator=generator, dtype=torch.float64) for _ in range(2)]
    for size, offset in itertools.product(((1,), (3,), (2, 7)), (0, 3)):
        x, score = state((5, *size), dtype)
        given = None if part == "noise" else score
        for eta, sigma in ((many[0], many[1]), (many[0], 0.3), (0.7, many[1])):
            eta, sigma = (None if part == "noise" else eta), (None if part == "score" else sigma)
            options = dict(offset=offset, clip=0.9, bounds=(-1.5, 1))
            got = x.clone()
            on_device = any(isinstance(v, torch.Tensor) for v in (eta, sigma))
            update(threads_on_host, got, given, eta, sigma, on_device=on_device, **options)
            assert same_bits(got, reference(x, given, eta, sigma, **options))


@pytest.mark.parametrize("uniform", [False, True])
def test_threads_that_fill(threads_on_host, uniform):
    draw = fl.noise.uniform if uniform else fl.noise.normal
    for n, offset, start in itertools.product((1, 4, 5, 1027), (0, 3, 2**40 + 2), (0, 1)):
        whole = torch.full((n + 16,), 99.0)
        got = whole[start : start + n]
        pointer = ctypes.cast(got.data_ptr(), ctypes.POINTER(ctypes.c_float))
        key = (ctypes.c_int64 * 2)(*KEY)
        threads_on_host.fill_on_host(
            pointer, ctypes.c_int64(n), ctypes.c_uint64(offset), key, ctypes.c_uint32(7), ctypes.c_bool(uniform)
        )
        assert torch.equal(got, draw((n,), seed=KEY[0], step=KEY[1], stream=7, offset=offset, backend="reference"))
        assert (whole[:start] == 99).all() and (whole[start + n :] == 99).all()


@pytest.fixture(scope="module")
def machine_code(tmp_path_factory):
    """(resources, machine code) of the CUDA library's kernels by architecture, without the host's code around them."""
    compiler, why = build.nvcc(), build.cuda_unsupported()
    if compiler is None or why:
        pytest.skip(f"the CUDA kernels cannot be compiled here: {why}")
    if importlib.util.find_spec("triton") is None:
        pytest.skip("cuobjdump comes with triton")
    tool = Path(importlib.util.find_spec("triton").origin).parent / "backends/nvidia/bin/cuobjdump"
    folder = tmp_path_factory.mktemp("machine code")
    headers = [f"-isystem={path}" for path in build.torch_folders(Path(torch.__file__).parent)["include"]]
    found = {}
    for architecture in thorough(build.CUDA_ARCHITECTURES, ["90a"]):
        resources = code = ""
        for source, more in build.CUDA.sources:
            binary = folder / f"{Path(source).stem}.{architecture}.cubin"
            how = [*build._NVCC_FLAGS, *more, *headers, f"-arch=sm_{architecture}", "-cubin"]
            subprocess.run([compiler, *how, build.csrc() / source, "-o", binary], check=True)
            told = [subprocess.check_output([tool, kind, binary], text=True) for kind in ("-res-usage", "-sass")]
            resources, code = resources + told[0], code + told[1]
        found[architecture] = resources, code
    return found


def test_every_architecture_is_compiled_without_spills(machine_code):
    for architecture, (resources, _) in machine_code.items():
        used = re.findall(r"Function (\S+):\s+REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", resources)
        kinds = collections.Counter(
            next((kind for kind in ("packed_moves", "grouped_moves", "tests") if kind in name), "update and noise")
            for name, *_ in used
        )
        # 4 dtypes × 3 kinds × 3 kernels, and two that fill; 4 dtypes × 2 kinds of proposals
        assert kinds == {"update and noise": 38, "packed_moves": 4, "grouped_moves": 4, "tests": 8}, architecture
        for name, registers, stack, shared, local in used:
            is_test = "5testsI" in name
            most = 80 if is_test else 56 if "moves" in name else 48
            assert int(registers) <= most and stack == local == "0", (architecture, name)
            assert (shared != "0") == is_test, (architecture, name)


def bodies(code: str) -> dict[str, str]:
    """The machine code of each kernel."""
    return dict(re.findall(r"Function : (\S+)\n(.*?)(?=Function :|\Z)", code, re.DOTALL))


def test_packed_kernels_load_and_store_16_bytes(machine_code):
    for architecture, (_, code) in machine_code.items():
        packed = {name: body for name, body in bodies(code).items() if "6packed" in name}
        assert len(packed) == 12
        for name, body in packed.items():
            has_score = "ILb1E" in name
            n_packs = 2 if "dEEv" in name else 1
            assert len(re.findall(r"LDG\.E\.128", body)) == n_packs * (1 + has_score), (architecture, name)
            assert len(re.findall(r"STG\.E\.128", body)) == n_packs, (architecture, name)


def test_packed_moves_load_and_store_16_bytes(machine_code):
    """Of a whole thread: four float32 or float64 elements or eight of 16 bits, with velocities of float32 at least."""
    for architecture, (_, code) in machine_code.items():
        packed = {name: body for name, body in bodies(code).items() if "12packed_moves" in name}
        assert len(packed) == 4
        for name, body in packed.items():
            of_states, of_velocities = (1, 1) if "IfE" in name else (2, 2) if "IdE" in name else (1, 2)
            # x and score, and v unless it is drawn
            assert len(re.findall(r"LDG\.E\.128", body)) == 2 * of_states + of_velocities, (architecture, name)
            assert len(re.findall(r"STG\.E\.128", body)) == of_states + of_velocities, (architecture, name)
