"""Compiles `csrc/` into shared libraries: one list of sources and flags for wheels, source installs and first use.

`FASTLANGEVIN_CUDA` controls whether the CUDA library is built: "auto" (the default) if nvcc is found, "0" never, "1"
always (a build without nvcc is then an error).

The CPU library of a wheel or a source install has the kernels of all instruction sets of the machine. At first use only
those of one are compiled, which takes half the time.

The file name of a library contains the platform, a digest of its sources and flags, and the instruction set if it has
only one. A stale library is therefore never loaded, and several users and machines can share one cache. Its last bytes
are a digest of all others, so that a damaged one is never loaded. This file imports neither torch nor the rest of the
package: `setup.py` loads it by path.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_AVX2 = ("-mavx2", "-mfma", "-mf16c")
_AVX512 = (*_AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mprefer-vector-width=512")
_AVX512_BF16 = (*_AVX512, "-mavx512bf16")
_AMX = (*_AVX512_BF16, "-mamx-tile", "-mamx-bf16")
# No contraction: the noise stream rounds every operation as written. 0x020b…: the stable ABI of torch 2.11.
_ABI = "-DTORCH_TARGET_VERSION=0x020b000000000000"
_FLAGS = (
    *("-O3", "-std=c++17", "-fPIC", "-ffp-contract=off", "-fno-math-errno", "-fvisibility=hidden"),
    *("-Wall", "-Wextra", "-Wno-unknown-pragmas", "-Wno-maybe-uninitialized"),
    *("-Wno-uninitialized", _ABI),  # in the AVX-512 header of GCC 12
)
_NVCC_FLAGS = ("-O3", "-std=c++17", "--fmad=false", "-Xcompiler=-fPIC,-fvisibility=hidden", "-DUSE_CUDA", _ABI)
# Machine code for these, and PTX of the first for the GPUs between them and for later ones.
CUDA_ARCHITECTURES = ("80", "90a", "100", "120")
_AVX512_NAMES = {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx2", "fma", "f16c"}
# The best first; what a processor needs for each, as Linux names it.
_ALL_INSTRUCTION_SETS = {
    "amx": {"amx_tile", "amx_bf16", "avx512_bf16", *_AVX512_NAMES},
    "avx512": _AVX512_NAMES,
    "avx2": {"avx2", "fma", "f16c"},
    "neon": {"asimd"},
    "portable": set[str](),
}
_OF_MACHINES = {"x86_64": ("amx", "avx512", "avx2", "portable"), "aarch64": ("neon", "portable")}
_BUILDS_ON = {"amx": "avx512"}  # whose kernels it takes where it has none of its own
_CUDA_TARGETS = {"x86_64": "x86_64-linux", "aarch64": "sbsa-linux"}  # folders of the CUDA toolkit
_SEAL = b"\0fastlangevin sha256\0"  # at the end of a library, before the digest


class BuildError(RuntimeError):
    """A shared library could not be compiled; the message gives the reason."""


def _machine() -> str:
    """The processor's architecture, by its name on Linux."""
    name = platform.machine()
    return {"AMD64": "x86_64", "arm64": "aarch64"}.get(name, name)


def instruction_sets_of(machine: str) -> dict[str, set[str]]:
    """The instruction sets that there are kernels of, the best first, and what a processor needs for each."""
    return {name: _ALL_INSTRUCTION_SETS[name] for name in _OF_MACHINES.get(machine, ("portable",))}


INSTRUCTION_SETS = instruction_sets_of(_machine())


@dataclass(frozen=True)
class Library:
    """A shared library: its name, and its sources in `csrc/`, each with its flags in addition to the common ones.

    Its sources are in `csrc/NAME`; headers in `csrc` itself are shared. A source for one instruction set has that name
    in its own, between underscores.

    Attributes:
        only: the one instruction set that it has kernels for; None: all.
        machine: the architecture that it is for.
    """

    name: str
    sources: tuple[tuple[str, tuple[str, ...]], ...]
    only: str | None = None
    machine: str = dataclasses.field(default_factory=_machine)

    def for_one(self, instruction_set: str) -> Library:
        """The library without the kernels of other instruction sets."""
        sets = (None, instruction_set, _BUILDS_ON.get(instruction_set))
        own = [s for s in self.sources if _instruction_set_of(s[0]) in sets]
        return dataclasses.replace(self, sources=tuple(own), only=instruction_set)

    @property
    def is_cuda(self) -> bool:
        return any(source.endswith(".cu") for source, _ in self.sources)

    def digest(self) -> str:
        """A digest of the sources, the headers and the flags."""
        h = hashlib.sha256(repr((_FLAGS, self.sources, _SEAL)).encode())
        if self.is_cuda:
            h.update(repr((_NVCC_FLAGS, CUDA_ARCHITECTURES)).encode())
        root = csrc()
        for path in sorted([*root.glob("*.h"), *(root / self.name).iterdir()]):
            h.update(path.relative_to(root).as_posix().encode())
            h.update(path.read_bytes())
        return h.hexdigest()[:16]

    def filename(self) -> str:
        parts = (f"libfastlangevin_{self.name}", f"{sys.platform}_{self.machine}", self.only, f"{self.digest()}.so")
        return "-".join(filter(None, parts))


def _instruction_set_of(source: str) -> str | None:
    return next((name for name in _ALL_INSTRUCTION_SETS if name in Path(source).stem.split("_")), None)


_CPU_SOURCES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("cpu/single_threaded.cpp", ()),
    ("cpu/update.cpp", ()),
    ("cpu/noise.cpp", ()),
    ("cpu/moves.cpp", ()),
    ("cpu/mlp_chain.cpp", ()),
    ("cpu/analytic_chain.cpp", ()),
    ("cpu/capability.cpp", ()),
    ("cpu/kernels_portable.cpp", ()),
    ("cpu/kernels_avx2.cpp", _AVX2),
    ("cpu/kernels_avx512.cpp", _AVX512),
    ("cpu/kernels_neon.cpp", ()),
    ("cpu/convnet.cpp", ()),
    ("cpu/convnet_plan.cpp", ()),
    ("cpu/convnet_portable.cpp", ()),
    ("cpu/convnet_avx2.cpp", _AVX2),
    ("cpu/convnet_avx512.cpp", _AVX512),
    ("cpu/convnet_avx512_bf16.cpp", _AVX512_BF16),
    ("cpu/convnet_amx_bf16.cpp", _AMX),
    ("cpu/mlp_amx_bf16.cpp", _AMX),
    ("cpu/convnet_neon.cpp", ()),
    ("cpu/program.cpp", ()),
    ("cpu/program_pack.cpp", ()),
    ("cpu/program_portable.cpp", ()),
    ("cpu/program_avx2.cpp", _AVX2),
    ("cpu/program_avx512.cpp", _AVX512),
    ("cpu/program_neon.cpp", ()),
)


def cpu_library(machine: str) -> Library:
    """The CPU library for an architecture, without the kernels of others."""
    sets = (None, *instruction_sets_of(machine))
    sources = tuple(source for source in _CPU_SOURCES if _instruction_set_of(source[0]) in sets)
    return Library("cpu", sources, machine=machine)


CPU = cpu_library(_machine())
CUDA = Library("cuda", (("cuda/update.cu", ()), ("cuda/moves.cu", ()), ("cuda/noise.cu", ())))


def unsupported() -> str | None:
    """Why the native libraries cannot be built on this platform, or None if they can."""
    if (sys.platform, _machine()) in (("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "aarch64")):
        return None
    needed = "Linux on x86-64 or ARM64, or macOS on ARM64"
    return f"native kernels need {needed}, got {platform.system()} on {platform.machine()}"


def processor_flags(cpuinfo: str = "/proc/cpuinfo") -> set[str] | None:
    """What Linux says that the processor has; None if it does not say."""
    with contextlib.suppress(OSError), open(cpuinfo) as file:
        for line in file:
            if line.startswith(("flags", "Features")):  # of x86-64, of ARM64
                return set(line.split())
    return None


def instruction_sets() -> list[str]:
    """The instruction sets that the processor has, the best first; none if Linux does not say."""
    flags = processor_flags()
    return [] if flags is None else [name for name, needed in INSTRUCTION_SETS.items() if needed <= flags]


def csrc() -> Path:
    """The C++ sources: inside an installed package, or next to the package in a checkout."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "csrc"
    return inside if inside.is_dir() else package.parent / "csrc"


def compiler() -> str:
    """The C++ compiler's command: $CXX, else g++, else c++, else clang++."""
    given = os.environ.get("CXX")
    if given:
        if not shutil.which(shlex.split(given)[0]):
            raise BuildError(f"the C++ compiler named by $CXX was not found: {given}")
        return given
    for name in ("g++", "c++", "clang++"):
        if shutil.which(name):
            return name
    raise BuildError(
        "no C++ compiler was found (looked for $CXX, g++, c++, clang++); install one, e.g. the package g++"
    )


def cuda_wanted() -> str:
    """$FASTLANGEVIN_CUDA: "auto", "0" or "1"."""
    wanted = os.environ.get("FASTLANGEVIN_CUDA") or "auto"
    if wanted not in ("auto", "0", "1"):
        raise BuildError(f"FASTLANGEVIN_CUDA must be auto, 0 or 1, got {wanted!r}")
    return wanted


def nvcc() -> Path | None:
    """The CUDA compiler in $CUDA_HOME, else in /usr/local/cuda, else on PATH; None if there is none."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    if home:
        given = Path(home) / "bin" / "nvcc"
        return given if given.exists() else None
    usual = Path("/usr/local/cuda/bin/nvcc")
    if usual.exists():
        return usual
    found = shutil.which("nvcc")
    return Path(found) if found else None


def cuda_unsupported() -> str | None:
    """Why the CUDA library cannot be built here, or None if it can."""
    why = unsupported()
    if why:
        return why
    if cuda_wanted() == "0":
        return "disabled by FASTLANGEVIN_CUDA=0"
    if nvcc() is None:
        return "the CUDA compiler was not found (looked for nvcc in $CUDA_HOME, /usr/local/cuda and on PATH)"
    return None


def cuda_targets(compiler: Path) -> list[str]:
    """nvcc's flags for those of `CUDA_ARCHITECTURES` that it supports."""
    known = subprocess.run([compiler, "--list-gpu-code"], capture_output=True, text=True).stdout.split()
    chosen = [a for a in CUDA_ARCHITECTURES if f"sm_{a.rstrip('a')}" in known]
    if not chosen:
        raise BuildError(f"{compiler} supports none of the architectures {', '.join(CUDA_ARCHITECTURES)}")
    targets = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in chosen]
    return [*targets, f"-gencode=arch=compute_{chosen[0]},code=compute_{chosen[0]}"]


def ninja() -> str:
    """The ninja of the Python package, else the one on PATH."""
    try:
        from ninja import BIN_DIR
    except ImportError:
        found = shutil.which("ninja")
        if not found:
            raise BuildError("ninja was not found; `pip install ninja`") from None
        return found
    return str(Path(BIN_DIR) / "ninja")


def torch_folders(torch: Path) -> dict[str, list[str]]:
    """The arguments `include` and `libraries` of `build` for the torch in that folder.

    (`torch.utils.cpp_extension` has them too, but prints "No CUDA runtime is found" when it is imported without a GPU.)
    """
    headers = torch / "include"
    return {
        "include": [str(headers), str(headers / "torch" / "csrc" / "api" / "include")],
        "libraries": [str(torch / "lib")],
    }


def build(
    library: Library,
    directory: Path,
    *,
    include: Sequence[str],
    libraries: Sequence[str],
    progress: Callable[[int, int], object] = lambda done, of: None,
) -> Path:
    """Compiles `library` into `directory` and returns its path. An existing intact build is not compiled again.

    Args:
        include, libraries: torch's include folders, and the folders of its own shared libraries (`torch_folders`).
        progress: called with the numbers of commands that are done and of all, after each command.

    Raises:
        BuildError: there is no compiler or no ninja, or compiling failed (the message has the compiler's output).
    """
    target = directory / library.filename()
    if is_intact(target):
        return target
    directory.mkdir(parents=True, exist_ok=True)
    cxx = compiler()
    with _alone_in(directory):
        if is_intact(target):  # another process has compiled it meanwhile
            return target
        # Compiled in a temporary folder and renamed: no reader sees a partial file.
        with tempfile.TemporaryDirectory(prefix=".build-", dir=directory) as work:
            rules = "\n".join(_ninja_file(library, target.name, cxx, include, libraries))
            (Path(work) / "build.ninja").write_bytes(os.fsencode(rules))
            code, output = _run_ninja(work, progress)
            if code != 0:
                raise BuildError(f"compiling {target.name} with {cxx} failed:\n{output[-5000:]}")
            _seal(Path(work) / target.name)
            os.replace(Path(work) / target.name, target)
    return target


@contextlib.contextmanager
def _alone_in(directory: Path) -> Iterator[None]:
    """Waits until no other process builds in the directory, where its file system has locks."""
    import fcntl  # which Windows lacks

    folder = os.open(directory, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _ninja_file(library: Library, target: str, cxx: str, include: Sequence[str], libraries: Sequence[str]) -> list[str]:
    includes = [f"-isystem {_argument(i)}" for i in include]
    # macOS: what a library for one instruction set lacks is null there too.
    keep = "-Wl,-undefined,dynamic_lookup" if sys.platform == "darwin" else "-Wl,--no-as-needed"
    link = [*(f"-L{_argument(d)}" for d in libraries), keep, "-ltorch_cpu", "-ltorch", "-lc10"]
    lines = [
        f"cxx = {cxx.replace('$', '$$')}",
        f"flags = {' '.join([*_FLAGS, *includes])}",
        "rule compile",
        "  command = $cxx $flags $more -MMD -MF $out.d -c $in -o $out",
    ]
    if library.is_cuda:
        lines += _cuda_rule(cxx, includes)
        link += [f"-L{_argument(str(d))}" for d in _cuda_library_folders()]
        link += ["-lcudart_static", "-lrt", "-lpthread", "-ldl"]
    lines += ["rule link", f"  command = $cxx -shared -o $out $in {' '.join(link)}"]
    objects = []
    # Kernels take longest, so they are compiled first.
    for source, more in sorted(library.sources, key=lambda s: _instruction_set_of(s[0]) is None):
        objects.append(source.replace("/", "_") + ".o")
        rule = "cuda" if source.endswith(".cu") else "compile"
        lines += [f"build {objects[-1]}: {rule} {_path(str(csrc() / source))}", f"  more = {' '.join(more)}"]
    return [*lines, f"build {target}: link {' '.join(objects)}", ""]


def _run_ninja(folder: str, progress: Callable[[int, int], object]) -> tuple[int, str]:
    """The exit status and the output."""
    environment = {**os.environ, "NINJA_STATUS": "[%f/%t] "}
    output = []
    with subprocess.Popen(
        [ninja(), "-C", folder], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            output.append(line)
            if found := re.match(r"\[(\d+)/(\d+)\] ", line):
                progress(int(found[1]), int(found[2]))
    return process.returncode, "".join(output)


def _seal(path: Path) -> None:
    """Appends a digest of a library's bytes, which loaders ignore, and waits until all of it is on the disk."""
    with path.open("rb+") as file:
        digest = hashlib.sha256(file.read()).digest()
        file.write(_SEAL + digest)
        file.flush()
        os.fsync(file.fileno())


def is_intact(path: Path) -> bool:
    """Whether a library exists and has all the bytes that `build` wrote. To load a part of one may end the process."""
    try:
        content = path.read_bytes()
    except OSError:
        return False
    body, seal = content[: -len(_SEAL) - 32], content[-len(_SEAL) - 32 :]
    return seal == _SEAL + hashlib.sha256(body).digest()


def _cuda_rule(cxx: str, includes: Sequence[str]) -> list[str]:
    compiler = nvcc()
    if compiler is None:
        raise BuildError(str(cuda_unsupported()))
    host = shlex.split(cxx)[-1]
    flags = [*_NVCC_FLAGS, *cuda_targets(compiler), "--threads=2", f"-ccbin={_argument(host)}", *includes]
    return ["rule cuda", f"  command = {_argument(str(compiler))} {' '.join(flags)} $more -c $in -o $out"]


def _cuda_library_folders() -> list[Path]:
    compiler = nvcc()
    home = Path("/usr/local/cuda") if compiler is None else compiler.resolve().parent.parent
    return [
        d for d in (home / "lib64", home / "lib", home / "targets" / _CUDA_TARGETS[_machine()] / "lib") if d.is_dir()
    ]


def _path(path: str) -> str:
    """A path in a build statement of ninja, which quotes it for the shell."""
    return path.replace("$", "$$").replace(" ", "$ ").replace(":", "$:")


def _argument(text: str) -> str:
    """An argument of a command, as the shell reads it after ninja."""
    return shlex.quote(text).replace("$", "$$")
