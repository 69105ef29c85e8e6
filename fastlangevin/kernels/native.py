"""Finds, or at first use compiles, the shared libraries of `csrc/` and loads them into torch."""

from __future__ import annotations

import ctypes
import functools
import os
import sys
import threading
import warnings
from pathlib import Path

import torch

from . import build

CAPABILITY_VARIABLE = "FASTLANGEVIN_CPU_CAPABILITY"


def cache_directory() -> Path:
    """Where libraries compiled at first use are kept: $FASTLANGEVIN_CACHE, else a folder of the user's cache."""
    given = os.environ.get("FASTLANGEVIN_CACHE")
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fastlangevin"


def prebuilt_directory() -> Path:
    """Where a wheel or a source install puts its libraries."""
    return Path(__file__).resolve().parent.parent / "_native"


_loading = threading.Lock()


def load_cpu() -> str | None:
    """Loads the CPU library once a process. Returns None, or why there is none."""
    with _loading:
        return _load_cpu()


@functools.cache
def _load_cpu() -> str | None:
    why = build.unsupported()
    if why:
        return why
    try:
        path = _find_or_build(build.CPU)
        torch.ops.load_library(str(path))
    except (build.BuildError, OSError) as error:
        warnings.warn(
            f"fastlangevin runs on its slow reference backend: {str(error).strip()}\n"
            "For the fast one it compiles its kernels once: that needs a C++ compiler (g++ 9 or newer) and a folder to "
            f"write to ({cache_directory()}, or name another in $FASTLANGEVIN_CACHE). `fastlangevin info` shows more.",
            RuntimeWarning,
            stacklevel=2,
        )
        return str(error).strip().splitlines()[0]
    wanted = os.environ.get(CAPABILITY_VARIABLE)
    if wanted:
        set_cpu_capability(wanted)
    return None


def _find_or_build(library: build.Library) -> Path:
    prebuilt = prebuilt_directory() / library.filename()
    if prebuilt.exists():
        return prebuilt
    cached = cache_directory() / library.filename()
    if cached.exists():
        return cached
    from torch.utils import cpp_extension

    build.compiler()
    print(
        f"fastlangevin: compiling its {library.name} kernels, once, into {cached.parent} (about 10 s)", file=sys.stderr
    )
    return build.build(
        library,
        cached.parent,
        include=cpp_extension.include_paths(),
        libraries=[str(Path(torch.__file__).parent / "lib")],
    )


def _library() -> ctypes.CDLL:
    path = prebuilt_directory() / build.CPU.filename()
    return ctypes.CDLL(str(path if path.exists() else cache_directory() / build.CPU.filename()))


def cpu_capability() -> str:
    """The instruction set in force: "avx512", "avx2" or "portable". The library must be loaded."""
    function = _library().fastlangevin_cpu_capability
    function.restype = ctypes.c_char_p
    return function().decode()


def set_cpu_capability(name: str) -> None:
    """Forces an instruction set, as $FASTLANGEVIN_CPU_CAPABILITY does at load; for tests and benchmarks."""
    outcome = _library().fastlangevin_set_cpu_capability(name.encode())
    if outcome == 1:
        raise ValueError(f"{CAPABILITY_VARIABLE} must be 'avx512', 'avx2' or 'portable', got {name!r}")
    if outcome == 2:
        raise ValueError(f"{CAPABILITY_VARIABLE}={name}: this processor lacks these instructions")
