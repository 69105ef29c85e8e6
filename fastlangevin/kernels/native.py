"""Finds, or at first use compiles, the shared libraries of `csrc/` and loads them into torch."""

from __future__ import annotations

import ctypes
import enum
import functools
import os
import stat
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

import torch

from . import build
from .operators import constant_when_traced

CAPABILITY_VARIABLE = "FASTLANGEVIN_CPU_CAPABILITY"


def cache_directory() -> Path:
    """The folder of libraries compiled at first use: $FASTLANGEVIN_CACHE, else one in the user's cache, else (without a
    home folder to write to) a temporary one.
    """
    given = os.environ.get("FASTLANGEVIN_CACHE")
    return Path(given) if given else _user_cache() or _temporary_cache()


def _user_cache() -> Path | None:
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fastlangevin"
    except RuntimeError:  # neither $HOME nor an entry in the password database
        return None
    there = next(parent for parent in (folder, *folder.parents) if os.path.exists(parent))
    return folder if there == folder or os.access(there, os.W_OK | os.X_OK) else None


def _temporary_cache() -> Path:
    return Path(tempfile.gettempdir()) / f"fastlangevin-{os.getuid()}"


def _check_owner(folder: Path) -> None:
    """Raises PermissionError if the folder is the temporary cache and another user could have put a library there."""
    if folder != _temporary_cache():
        return
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise PermissionError(f"other users can write to {folder}: set FASTLANGEVIN_CACHE to another folder")


def prebuilt_directory() -> Path:
    """The folder of the libraries of a wheel or a source install."""
    return Path(__file__).resolve().parent.parent / "_native"


_loading = threading.Lock()


@constant_when_traced
def load_cpu() -> str | None:
    """Loads the CPU library once per process. Returns None, or why it is not available."""
    with _loading:
        return _load_cpu()


@constant_when_traced
def load_cuda() -> str | None:
    """Loads the CUDA library once per process. Returns None, or why it is not available."""
    with _loading:
        return _load_cuda()


@functools.cache
def _load_cpu() -> str | None:
    why = build.unsupported()
    if why:
        return why
    wanted = _wanted_capability()
    try:
        torch.ops.load_library(str(_cpu_path()))
        if not cpu_capability():
            raise build.BuildError(
                f"the processor cannot run {_cpu_path()}, although Linux says so: set {CAPABILITY_VARIABLE}="
                + " or ".join(list(build.INSTRUCTION_SETS)[1:])
            )
    except (build.BuildError, OSError) as error:
        warnings.warn(
            f"fastlangevin uses its slow reference backend: {str(error).strip()}\n"
            "The fast backend compiles its kernels once. This needs a C++ compiler (g++ 11 or later) and a writable "
            f"folder ({cache_directory()}, or $FASTLANGEVIN_CACHE if set). Run `fastlangevin info` for details.",
            RuntimeWarning,
            stacklevel=2,
        )
        return str(error).strip().splitlines()[0]
    if wanted:
        set_cpu_capability(wanted)
    return None


@functools.cache
def _load_cuda() -> str | None:
    if torch.version.cuda is None:
        return "this torch was built without CUDA"
    if not torch.cuda.is_available():
        return "no CUDA device is visible"
    if build.cuda_wanted() == "0":
        return "disabled by FASTLANGEVIN_CUDA=0"
    try:
        path = _find(build.CUDA)
        if path is None:
            why = build.cuda_unsupported()
            if why:
                return why
            path = _find_or_build(build.CUDA)
        torch.ops.load_library(str(path))
    except (build.BuildError, OSError) as error:
        warnings.warn(
            f"fastlangevin uses its Triton kernels, the CUDA kernels are not available: {str(error).strip()}",
            RuntimeWarning,
            stacklevel=2,
        )
        return str(error).strip().splitlines()[0]
    return None


def _find(library: build.Library) -> Path | None:
    """The path of an intact library, in the installed package or else in the cache; None if there is none.

    Raises:
        PermissionError: the library is in a temporary folder in which another user could have put it.
    """
    name = library.filename()
    for folder in (prebuilt_directory(), cache_directory()):
        path = folder / name
        if path.exists():
            _check_owner(folder)
            if build.is_intact(path):
                return path
            print(f"fastlangevin: {path} is damaged and is not used", file=sys.stderr)
    return None


def _find_or_build(library: build.Library) -> Path:
    found = _find(library)
    if found is not None:
        return found
    build.compiler()
    folder = cache_directory()
    seconds = 60 if library.is_cuda else 3 + 4 * len(library.sources) // _n_processors()
    why = ""
    if folder == _temporary_cache():
        folder.mkdir(mode=0o700, exist_ok=True)
        why = ", because there is no home folder to write to: FASTLANGEVIN_CACHE sets another"
    _check_owner(folder)
    what = f"the {library.name} kernels" + ("" if library.only is None else f" for {library.only}")
    print(f"fastlangevin: compiling {what} into {folder} (once, about {seconds} s){why}", file=sys.stderr)
    return build.build(
        library, folder, **build.torch_folders(Path(torch.__file__).parent), progress=_progress(sys.stderr)
    )


def _n_processors() -> int:
    """Those that this process may use, where the system says."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _progress(stream: TextIO) -> Callable[[int, int], None]:
    """Rewrites a line of a terminal; a log gets none."""

    def show(done: int, of: int) -> None:
        if stream.isatty():
            end = "\n" if done == of else ""
            print(f"\rfastlangevin: {done} of {of} files", end=end, file=stream, flush=True)

    return show


def first_use_library() -> build.Library:
    """What is compiled at first use: the CPU library for the instruction set that is wanted, else for the best one."""
    name = _wanted_capability() or next(iter(build.instruction_sets()), None)
    return build.CPU if name is None else build.CPU.for_one(name)


@functools.cache  # finding the library reads all sources
def _cpu_path() -> Path:
    return _find(build.CPU) or _find_or_build(first_use_library())


@functools.cache
def cpu_library() -> ctypes.CDLL:
    """The functions of the CPU library that are not operators."""
    return ctypes.CDLL(str(_cpu_path()))


def cpu_capability() -> str:
    """The instruction set in use: "amx", "avx512", "avx2", "neon" or "portable"; "" if the library has none that the
    processor has.

    The library must be loaded.
    """
    function = cpu_library().fastlangevin_cpu_capability
    function.restype = ctypes.c_char_p
    return function().decode()


def cpu_has_bfloat16() -> bool:
    """Whether the instruction set in use multiplies bfloat16: "amx", and "avx512" on a processor with AVX512_BF16."""
    function = cpu_library().fastlangevin_cpu_has_bfloat16
    function.restype = ctypes.c_bool
    return function()


class BFloat16Rate(enum.IntEnum):
    """How fast a processor multiplies bfloat16, by its family."""

    NONE = 0  # it has no such instructions, or (ARM64) none that are known here
    OF_FLOAT32 = 1  # Intel's AVX512_BF16
    DOUBLE = 2  # AMD's AVX512_BF16
    AMX = 3


@functools.cache
def cpu_bfloat16_rate() -> BFloat16Rate:
    """Of this processor, whatever instruction set is in force. The library must be loaded."""
    return BFloat16Rate(cpu_library().fastlangevin_cpu_bfloat16_rate())


def set_cpu_capability(name: str) -> None:
    """Forces an instruction set, as $FASTLANGEVIN_CPU_CAPABILITY does at load; for tests and benchmarks."""
    outcome = cpu_library().fastlangevin_set_cpu_capability(name.encode())
    if outcome == 1:
        raise _unknown(name)
    if outcome == 2:
        raise _lacking(name)
    if outcome == 3:
        raise ValueError(
            f"{CAPABILITY_VARIABLE}={name}: {_cpu_path()} was compiled for {cpu_capability()} alone; set the variable "
            "before the first call"
        )


def _wanted_capability() -> str | None:
    """$FASTLANGEVIN_CPU_CAPABILITY, or None. Raises ValueError for one that the processor does not have."""
    wanted = os.environ.get(CAPABILITY_VARIABLE) or None
    if wanted is not None and wanted not in build.INSTRUCTION_SETS:
        raise _unknown(wanted)
    known = build.instruction_sets()
    if wanted is not None and known and wanted not in known:
        raise _lacking(wanted)
    return wanted


def _unknown(name: str) -> ValueError:
    *others, last = map(repr, build.INSTRUCTION_SETS)
    return ValueError(f"{CAPABILITY_VARIABLE} must be {', '.join(others)} or {last}, got {name!r}")


def _lacking(name: str) -> ValueError:
    return ValueError(f"{CAPABILITY_VARIABLE}={name}: this processor does not have these instructions")
