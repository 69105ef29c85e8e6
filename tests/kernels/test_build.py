"""How libraries are compiled: their sources and names, processes that do it at once, paths, and CUDA."""

from __future__ import annotations

import ctypes
import io
import os
import shutil
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from torch.utils import cpp_extension

from fastlangevin.kernels import build, native

ROOT, TORCH = Path(__file__).parents[2], Path(torch.__file__).parent

pytestmark = [
    pytest.mark.any_processor,
    pytest.mark.skipif(build.unsupported() is not None, reason=str(build.unsupported())),
]


def sets_in(source: str) -> set[str]:
    """The instruction sets that a source's name says it is for."""
    return set(Path(source).stem.split("_")) & {"portable", "avx2", "avx512", "amx", "neon"}


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_a_library_for_one_instruction_set(machine):
    """Its name says so, and it has the sources of no other set than those that it takes kernels of: processors that
    share a folder do not share it.
    """
    library, sets = build.cpu_library(machine), build.instruction_sets_of(machine)
    common = {s for s in library.sources if not sets_in(s[0])}
    for name in sets:
        one = library.for_one(name)
        assert one.filename().startswith(f"libfastlangevin_cpu-{sys.platform}_{machine}-{name}-")
        taken = {name, "avx512"} if name == "amx" else {name}
        assert set().union(*(sets_in(source) for source, _ in one.sources)) == taken
        assert common and common < set(one.sources)
    assert len({library.for_one(name).digest() for name in sets} | {library.digest()}) == len(sets) + 1


def test_each_architecture_has_its_own_sources(monkeypatch):
    """All of them, and no flags or intrinsics of another; the names of the libraries are those of the platform."""
    x86, arm = (dict(build.cpu_library(machine).sources) for machine in ("x86_64", "aarch64"))
    every = {f"cpu/{path.name}" for path in (ROOT / "csrc" / "cpu").glob("*.cpp")}
    assert x86.keys() | arm.keys() == every
    assert {s for s in every if "neon" in s} == arm.keys() - x86.keys()
    assert {s for s in every if "avx" in s or "amx" in s} == x86.keys() - arm.keys()
    assert set(arm.values()) == {()}
    assert build.cpu_library("riscv64").sources == tuple(s for s in arm.items() if "neon" not in s[0])
    names = {build.cpu_library(machine).filename() for machine in ("x86_64", "aarch64")} | {build.CUDA.filename()}
    monkeypatch.setattr(build.sys, "platform", "darwin")
    names.add(build.cpu_library("aarch64").filename())
    assert len({name.rsplit("-", 1)[0] for name in names}) == len(names) == 4
    assert any(name.startswith("libfastlangevin_cpu-darwin_aarch64-") for name in names)


@pytest.mark.parametrize(
    ("platform_name", "system", "machine", "is_supported"),
    [
        ("linux", "Linux", "x86_64", True),
        ("linux", "Linux", "aarch64", True),
        ("darwin", "Darwin", "arm64", True),
        ("darwin", "Darwin", "x86_64", False),
        ("linux", "Linux", "riscv64", False),
        ("win32", "Windows", "AMD64", False),
    ],
)
def test_unsupported_platforms_get_a_reason(platform_name, system, machine, is_supported, monkeypatch):
    monkeypatch.setattr(build.sys, "platform", platform_name)
    monkeypatch.setattr(build.platform, "system", lambda: system)
    monkeypatch.setattr(build.platform, "machine", lambda: machine)
    why = build.unsupported()
    needed = "native kernels need Linux on x86-64 or ARM64, or macOS on ARM64"
    assert why == (None if is_supported else f"{needed}, got {system} on {machine}")


def test_macos_links_without_options_of_gnu_s_linker(tiny, monkeypatch):
    linked = {}
    for name in ("linux", "darwin"):
        monkeypatch.setattr(build.sys, "platform", name)
        rules = build._ninja_file(tiny, "tiny.so", "c++", [], ["/torch/lib"])
        linked[name] = next(line for line in rules if "-shared" in line)
    assert "--no-as-needed" in linked["linux"] and "dynamic_lookup" not in linked["linux"]
    assert "--no-as-needed" not in linked["darwin"] and "-undefined,dynamic_lookup" in linked["darwin"]


def test_cuda_is_built_if_possible_and_wanted(monkeypatch, tmp_path):
    home = tmp_path / "cuda"
    monkeypatch.setenv("CUDA_HOME", str(home))
    monkeypatch.delenv("FASTLANGEVIN_CUDA", raising=False)
    assert build.nvcc() is None
    assert "nvcc in $CUDA_HOME" in (build.cuda_unsupported() or "")
    with pytest.raises(build.BuildError, match="the CUDA compiler was not found"):
        build.build(build.CUDA, tmp_path, include=[], libraries=[])
    (home / "bin").mkdir(parents=True)
    compiler = home / "bin" / "nvcc"
    compiler.write_text("#!/bin/sh\necho sm_75 sm_80 sm_90\n")
    compiler.chmod(0o755)
    assert build.nvcc() == compiler and build.cuda_unsupported() is None
    assert build.cuda_targets(compiler) == [
        "-gencode=arch=compute_80,code=sm_80",
        "-gencode=arch=compute_90a,code=sm_90a",
        "-gencode=arch=compute_80,code=compute_80",
    ]
    monkeypatch.setenv("FASTLANGEVIN_CUDA", "0")
    assert build.cuda_unsupported() == "disabled by FASTLANGEVIN_CUDA=0"
    monkeypatch.setenv("FASTLANGEVIN_CUDA", "yes")
    with pytest.raises(build.BuildError, match="FASTLANGEVIN_CUDA must be auto, 0 or 1, got 'yes'"):
        build.cuda_wanted()


def test_a_library_is_on_the_disk_before_it_has_its_name(tiny, tmp_path, monkeypatch):
    done, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: (done.append("fsync"), fsync(file)))
    monkeypatch.setattr(os, "replace", lambda *paths: (done.append("replace"), replace(*paths)))
    build.build(tiny, tmp_path, include=[], libraries=[str(TORCH / "lib")])
    assert done == ["fsync", "replace"]


def test_the_progress_of_compiling_is_shown_on_a_terminal_alone(tiny, tmp_path):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for stream, expected in (
        (io.StringIO(), ""),
        (Terminal(), "\rfastlangevin: 1 of 2 files\rfastlangevin: 2 of 2 files\n"),
    ):
        cache = tmp_path / type(stream).__name__
        folders = dict(include=[], libraries=[str(TORCH / "lib")])
        build.build(tiny, cache, **folders, progress=native._progress(stream))
        assert stream.getvalue() == expected


def test_a_library_is_compiled_by_one_process_at_a_time(tiny, tmp_path):
    """The second waits for the first, and finds the library."""
    folders, seen = dict(include=[], libraries=[str(TORCH / "lib")]), []
    with build._alone_in(tmp_path):
        other = threading.Thread(
            target=build.build, args=(tiny, tmp_path), kwargs=dict(**folders, progress=lambda *done: seen.append(done))
        )
        other.start()
        time.sleep(0.3)
        assert not list(tmp_path.glob("*.so"))
        (tmp_path / "of another process").mkdir()
        shutil.copy(build.build(tiny, tmp_path / "of another process", **folders), tmp_path)
    other.join()
    assert not seen and build.is_intact(tmp_path / tiny.filename())


@pytest.mark.parametrize("name", ["my venv", "o'brien", "a&b", "p(1)", "d$HOME", "x;y", 'quo"te', "c:d"])
def test_paths_with_characters_that_mean_something_to_a_shell(tiny, name, tmp_path, monkeypatch):
    """Of the sources, of torch, and of the cache."""
    for folder in ("include", "lib", "csrc"):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / folder).symlink_to(build.csrc() if folder == "csrc" else TORCH / folder)
    headers = tmp_path / name / "headers"
    headers.mkdir()
    (headers / "answer.h").write_text("#define ANSWER 43\n")
    monkeypatch.setattr(build, "csrc", lambda: tmp_path / name / "csrc")
    folders = dict(include=[str(headers)], libraries=[str(tmp_path / name / "lib")])
    assert ctypes.CDLL(str(build.build(tiny, tmp_path / name / "cache", **folders))).answer() == 43


def test_sources_of_one_library_do_not_rebuild_the_other(monkeypatch, tmp_path):
    copied = tmp_path / "csrc"
    shutil.copytree(ROOT / "csrc", copied)
    monkeypatch.setattr(build, "csrc", lambda: copied)
    before = build.CPU.digest(), build.CUDA.digest()
    (copied / "cuda" / "update.cu").open("a").write("\n")
    assert build.CPU.digest() == before[0] and build.CUDA.digest() != before[1]
    (copied / "noise.h").open("a").write("\n")
    assert build.CPU.digest() != before[0]


def test_torch_s_folders():
    """As torch.utils.cpp_extension, whose import may print a line about CUDA, says them."""
    folders = build.torch_folders(Path(torch.__file__).parent)
    assert folders["include"] == cpp_extension.include_paths()
    assert folders["libraries"] == cpp_extension.library_paths()
