"""The CPU kernels of different instruction sets, compared with each other."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from support.thorough import THOROUGH

from fastlangevin.kernels import build

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[3]


@pytest.mark.any_processor
def test_avx512_kernels_on_any_processor(tmp_path):
    """The AVX-512 kernels, with intrinsics emulated lane by lane, against the portable kernels."""
    if build.unsupported():
        pytest.skip(build.unsupported())
    processor = set(Path("/proc/cpuinfo").read_text().split())
    if not THOROUGH and build.INSTRUCTION_SETS.get("avx512", {""}) <= processor:
        pytest.skip("this processor has AVX-512, so that other tests run these kernels; THOROUGH=1 emulates them too")
    flags = ["-O1", "-std=c++17", "-ffp-contract=off", "-fno-math-errno", "-Wno-psabi", "-Wno-unknown-pragmas"]
    emulation = ["-mavx2", "-mfma", "-mf16c", "-include", str(HERE / "avx512_emulated.h")]
    if "avx2" not in processor:
        pytest.skip("the emulation itself needs AVX2")
    cpu = ROOT / "csrc" / "cpu"
    cxx = build.compiler().split()
    subprocess.run([*cxx, *flags, *emulation, "-c", cpu / "kernels_avx512.cpp", "-o", tmp_path / "a.o"], check=True)
    sources = [HERE / "compare_kernels.cpp", cpu / "kernels_portable.cpp", tmp_path / "a.o"]
    subprocess.run([*cxx, *flags, *sources, "-o", tmp_path / "compare"], check=True)
    done = subprocess.run([tmp_path / "compare"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]


@pytest.mark.any_processor
def test_kernels_of_one_instruction_set_are_linked_into_no_other(tmp_path):
    """The linker could keep a weak symbol compiled with AVX-512 for all processors. Without most of the optimiser's
    inlining, so that no symbol of the library is missing here.
    """
    if build.unsupported() or not shutil.which("nm"):
        pytest.skip("needs the native build and nm")
    for source, flags in build.CPU.sources:
        if flags or "portable" in source:
            compiled = tmp_path / "kernels.o"
            how = [*build.compiler().split(), "-O1", "-std=c++17", *flags, "-w"]
            command = [*how, "-c", build.csrc() / source, "-o", compiled]
            subprocess.run(command, check=True)
            symbols = subprocess.run(["nm", compiled], capture_output=True, text=True, check=True).stdout
            kinds = [line.split()[-2] for line in symbols.splitlines()]
            assert not set(kinds) & set("WVuvw"), f"{source}: {symbols}"
