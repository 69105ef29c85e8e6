"""Packaging: wheels, compilation at first use, no compiler, instruction sets by name, imports."""

from __future__ import annotations

import ctypes
import io
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from pathlib import Path

import pytest
import torch
from torch.utils import cpp_extension

from fastlangevin.kernels import build, native

ROOT = Path(__file__).parents[1]

pytestmark = [
    pytest.mark.any_processor,
    pytest.mark.skipif(build.unsupported() is not None, reason=str(build.unsupported())),
]

# A process that finds no library of a wheel or source install, and therefore compiles one.
NO_PREBUILT = """
import pathlib, warnings
warnings.simplefilter("always")
from fastlangevin.kernels import native
native.prebuilt_directory = lambda: pathlib.Path("/nowhere")
import fastlangevin as fl, torch
"""
DRAW = "x = fl.noise.normal((1000,), seed=1, step=2); print(x.double().sum().item())"


TORCH = Path(torch.__file__).parent


@pytest.fixture
def tiny(tmp_path, monkeypatch) -> build.Library:
    """A library that is compiled in a moment."""
    (tmp_path / "csrc" / "tiny").mkdir(parents=True)
    (tmp_path / "csrc" / "tiny" / "a.cpp").write_text(
        '#if __has_include("answer.h")\n#include "answer.h"\n#else\n#define ANSWER 42\n#endif\n'
        'extern "C" __attribute__((visibility("default"))) int answer() { return ANSWER; }\n'
    )
    monkeypatch.setattr(build, "csrc", lambda: tmp_path / "csrc")
    return build.Library("tiny", (("tiny/a.cpp", ()),))


@pytest.fixture
def unoptimised(tmp_path) -> dict[str, str]:
    """The environment of builds of which only the files matter: a sixth of the time."""
    compiler = tmp_path / "unoptimised"
    compiler.write_text(f'#!/bin/sh\nexec {build.compiler()} "$@" -O0\n')
    compiler.chmod(0o755)
    return {"CXX": str(compiler)}


def python(code: str, **environment: str) -> subprocess.CompletedProcess:
    """Without Triton's interpreter, which would serve CPU tensors before the reference does."""
    environment = {**os.environ, "TRITON_INTERPRET": "0", **environment}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd="/")


def test_wheel_holds_libraries_and_sources(tmp_path, unoptimised):
    command = ["pip", "wheel", "--no-build-isolation", "--no-deps", "--no-index", "-q", "-w", tmp_path, "."]
    environment = {**os.environ, **unoptimised, "FASTLANGEVIN_CUDA": "0"}
    subprocess.run([sys.executable, "-m", *command], check=True, cwd=ROOT, capture_output=True, env=environment)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name == f"fastlangevin-0.1.0-py3-none-linux_{platform.machine()}.whl"
    names = set(zipfile.ZipFile(wheel).namelist())
    sources = {f"fastlangevin/csrc/{p.relative_to(ROOT / 'csrc')}" for p in (ROOT / "csrc").rglob("*") if p.is_file()}
    assert sources <= names
    assert {
        f"fastlangevin/_native/{build.CPU.filename()}",
        "fastlangevin/py.typed",
        "fastlangevin/assets/digits.npz",
    } <= names
    assert not [n for n in names if n.startswith(("tests", "benchmarks", "csrc"))]
    assert not [n for n in names if "libfastlangevin_cuda" in n]


def test_first_use_compiles_once_with_a_message(tmp_path, unoptimised):
    environment = {**unoptimised, "FASTLANGEVIN_CACHE": str(tmp_path / "cache")}
    expected = python(NO_PREBUILT + DRAW.replace("step=2", "step=2, backend='reference'"), **environment).stdout
    code = [sys.executable, "-c", NO_PREBUILT + DRAW]
    both = [
        subprocess.Popen(
            code, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment}
        )
        for _ in range(2)
    ]
    for process in both:  # two concurrent processes do not interfere
        out, err = process.communicate()
        assert out == expected and process.returncode == 0, err
        assert f"compiling the cpu kernels for {native.first_use_library().only} into" in err
    again = python(NO_PREBUILT + DRAW, **environment)
    assert again.stdout == expected and again.stderr == ""
    assert [p.name for p in (tmp_path / "cache").iterdir()] == [native.first_use_library().filename()]


@pytest.mark.parametrize("broken", [{"PATH": "/nowhere", "CXX": ""}, {"CXX": "/nowhere/g++"}, {"CXX": "false"}])
def test_without_a_working_compiler_the_reference_is_used_with_one_warning(tmp_path, broken):
    code = NO_PREBUILT + DRAW + "; " + DRAW + "\ntry: fl.noise.normal((1,), seed=1, step=2, backend='cpu')\n"
    code += "except fl.BackendUnavailable as error: print('unavailable:', error)"
    done = python(code, FASTLANGEVIN_CACHE=str(tmp_path / "cache"), **broken)
    assert done.returncode == 0, done.stderr
    expected = python("import fastlangevin as fl\n" + DRAW.replace("step=2", "step=2, backend='reference'")).stdout
    assert done.stdout.startswith(expected * 2 + "unavailable: backend='cpu' cannot be used: ")
    assert done.stderr.count("slow reference backend") == 1 and "needs a C++ compiler" in done.stderr


@pytest.mark.parametrize("name", build.INSTRUCTION_SETS)
def test_instruction_set_by_name(name):
    code = (
        "import fastlangevin as fl; from fastlangevin.kernels import native\n"
        + DRAW
        + "; print(native.cpu_capability())"
    )
    done = python(code, FASTLANGEVIN_CPU_CAPABILITY=name)
    if "does not have these instructions" in done.stderr:
        assert done.returncode != 0 and f"FASTLANGEVIN_CPU_CAPABILITY={name}" in done.stderr
        pytest.skip(f"this processor lacks {name}")
    assert done.stdout.splitlines()[1] == name, done.stderr


def test_the_best_instruction_set_is_chosen():
    flags = set(Path("/proc/cpuinfo").read_text().split())
    expected = "avx2" if {"avx2", "fma", "f16c"} <= flags else "portable"
    if {"avx512f", "avx512bw", "avx512dq", "avx512vl"} <= flags:
        expected = "avx512"
    if "asimd" in flags:
        expected = "neon"
    code = "from fastlangevin.kernels import native; native.load_cpu(); print(native.cpu_capability())"
    assert python(code, FASTLANGEVIN_CPU_CAPABILITY="").stdout.strip() == expected


def test_unknown_instruction_set_is_an_error():
    done = python("import fastlangevin as fl; " + DRAW, FASTLANGEVIN_CPU_CAPABILITY="avx3")
    assert done.returncode != 0
    names = {"avx512": "'avx512', 'avx2' or 'portable'", "neon": "'neon' or 'portable'"}
    best = next(iter(build.INSTRUCTION_SETS))
    assert f"FASTLANGEVIN_CPU_CAPABILITY must be {names[best]}, got 'avx3'" in done.stderr


HEAVY = [
    *("triton", "matplotlib", "tensorboard", "sklearn", "torchvision", "torch._dynamo", "sympy", "typer"),
    *("PIL", "rich", "yaml", "safetensors", "filelock"),
    *("torchebm", "ebm", "pytorch_lightning"),
    *(
        f"fastlangevin.{room}"
        for room in ("adapters", "cli", "data", "display", "runs", "training", "evaluation", "reproduction")
    ),
]
LOADED = f"import sys; print([m for m in {HEAVY} if m in sys.modules])\n"


def test_import_loads_no_kernels_and_no_heavy_packages():
    code = f"import fastlangevin\n{LOADED}"
    code += "from fastlangevin.kernels import native; print(native._load_cpu.cache_info().misses)"
    assert python(code).stdout.split("\n")[:2] == ["[]", "0"]


def test_a_first_call_loads_no_heavy_packages():
    """Above all not torch's compiler, which takes a second: torch's own wrappers import it."""
    code = """
import torch, fastlangevin as fl
class Residual(torch.nn.Linear):
    def forward(self, x): return (x + super().forward(x).sigmoid()).sum(1)
class Counted(Residual):
    n = 0
    def forward(self, x):
        self.n += 1
        return super().forward(x)
class Image(torch.nn.Module):  # whose convolutions, of stride 2 and of the whole image, have other operators
    def __init__(self):
        super().__init__()
        self.first, self.last = torch.nn.Conv2d(1, 8, 3, 2, 1), torch.nn.Conv2d(8, 1, 4)
    def forward(self, x): return (self.last(self.first(x).sigmoid()).flatten(1) * x.mean((2, 3)).add_(1)).sum(1)
energies = (fl.models.MLP(2, (4,), prior=1.0), fl.models.ConvNet(8, 1, 2), Residual(2, 2), Image(), Counted(2, 2))
for energy, shape in zip(energies, ((3, 2), (3, 1, 8, 8), (3, 2), (3, 1, 8, 8), (3, 2))):
    sampler = fl.Langevin(energy, n_steps=2, seed=1)
    sampler.sample(shape)
    sampler.trace(torch.zeros(shape))
    print(sampler.plan.engine)
"""
    done = python(code + LOADED)
    assert done.stdout.split() == ["mlp", "convnet", "graph", "graph", "autograd", "[]"], done.stderr


def sets_in(source: str) -> set[str]:
    """The instruction sets that a source's name says it is for."""
    return set(Path(source).stem.split("_")) & {"portable", "avx2", "avx512", "neon"}


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_a_library_for_one_instruction_set(machine):
    """Its name says so, and it has the sources of no other set: processors that share a folder do not share it."""
    library, sets = build.cpu_library(machine), build.instruction_sets_of(machine)
    common = {s for s in library.sources if not sets_in(s[0])}
    for name in sets:
        one = library.for_one(name)
        assert one.filename().startswith(f"libfastlangevin_cpu-{sys.platform}_{machine}-{name}-")
        assert all(sets_in(source) == {name} for source, _ in set(one.sources) - common)
        assert common and common < set(one.sources)
    assert len({library.for_one(name).digest() for name in sets} | {library.digest()}) == len(sets) + 1


def test_each_architecture_has_its_own_sources(monkeypatch):
    """All of them, and no flags or intrinsics of another; the names of the libraries are those of the platform."""
    x86, arm = (dict(build.cpu_library(machine).sources) for machine in ("x86_64", "aarch64"))
    every = {f"cpu/{path.name}" for path in (ROOT / "csrc" / "cpu").glob("*.cpp")}
    assert x86.keys() | arm.keys() == every
    assert {s for s in every if "neon" in s} == arm.keys() - x86.keys()
    assert {s for s in every if "avx" in s} == x86.keys() - arm.keys()
    assert set(arm.values()) == {()}
    assert build.cpu_library("riscv64").sources == tuple(s for s in arm.items() if "neon" not in s[0])
    names = {build.cpu_library(machine).filename() for machine in ("x86_64", "aarch64")} | {build.CUDA.filename()}
    monkeypatch.setattr(build.sys, "platform", "darwin")
    names.add(build.cpu_library("aarch64").filename())
    assert len({name.rsplit("-", 1)[0] for name in names}) == len(names) == 4
    assert any(name.startswith("libfastlangevin_cpu-darwin_aarch64-") for name in names)


X86, ARM = "x86_64", "aarch64"


@pytest.mark.parametrize(
    ("machine", "flags", "wanted", "only"),
    [
        (X86, "fpu avx2 fma f16c avx512f avx512bw avx512dq avx512vl avx512_bf16", None, "avx512"),
        (X86, "fpu avx2 fma f16c avx512f avx512bw avx512dq", None, "avx2"),
        (X86, "fpu avx2 fma f16c avx512f avx512bw avx512dq avx512vl", "avx2", "avx2"),
        (X86, "fpu avx2 fma", None, "portable"),
        (X86, "fpu avx2 fma f16c", "portable", "portable"),
        (X86, None, None, None),  # all: it is not known what the processor has
        (X86, None, "avx512", "avx512"),
        (X86, "fpu avx2 fma f16c", "avx512", "this processor does not have these instructions"),
        (X86, "fpu", "avx3", "must be 'avx512', 'avx2' or 'portable', got 'avx3'"),
        (ARM, "fp asimd evtstrm aes", None, "neon"),
        (ARM, "fp asimd evtstrm aes", "portable", "portable"),
        (ARM, None, None, None),  # macOS does not say
        (ARM, "fp asimd", "avx2", "must be 'neon' or 'portable', got 'avx2'"),
    ],
)
def test_what_is_compiled_at_first_use(machine, flags, wanted, only, tmp_path, monkeypatch):
    monkeypatch.setattr(build, "INSTRUCTION_SETS", build.instruction_sets_of(machine))
    monkeypatch.setattr(build, "CPU", build.cpu_library(machine))
    cpuinfo = tmp_path / "cpuinfo"
    label = "flags\t" if machine == X86 else "Features"
    cpuinfo.write_text("processor\t: 0\n" + (f"{label}\t: {flags}\n" if flags else ""))
    known = build.processor_flags(str(cpuinfo))
    monkeypatch.setattr(build, "processor_flags", lambda: known)
    monkeypatch.setenv("FASTLANGEVIN_CPU_CAPABILITY", wanted or "")
    if only not in (None, *build.INSTRUCTION_SETS):
        with pytest.raises(ValueError, match=only):
            native.first_use_library()
    else:
        assert native.first_use_library().only == only


def test_instruction_sets_that_a_library_lacks(tmp_path):
    """`capability.cpp` with tables of some sets alone, as in a library for one."""
    table = 'namespace fastlangevin {{ extern const Kernels {0}_kernels; const Kernels {0}_kernels{{"{0}"}}; }}\n'
    found = {}
    worst, better = list(build.INSTRUCTION_SETS)[::-1][:2]
    for names in ((), (worst,), (worst, better)):
        stubs = tmp_path / f"{len(names)}.cpp"
        stubs.write_text('#include "kernels.h"\n' + "".join(table.format(name) for name in names))
        library = tmp_path / f"{len(names)}.so"
        sources = [ROOT / "csrc" / "cpu" / "capability.cpp", stubs]
        flags = ["-std=c++17", "-fPIC", "-shared", "-w", f"-I{ROOT / 'csrc' / 'cpu'}"]
        subprocess.run([*build.compiler().split(), *flags, *sources, "-o", library], check=True)
        loaded = ctypes.CDLL(str(library))
        loaded.fastlangevin_cpu_capability.restype = ctypes.c_char_p
        sets = {name: loaded.fastlangevin_set_cpu_capability(name.encode()) for name in build.INSTRUCTION_SETS}
        found[names] = (sets, loaded.fastlangevin_cpu_capability())
    has = {name: name in build.instruction_sets() for name in build.INSTRUCTION_SETS}
    for names, (sets, chosen) in found.items():
        assert sets == {name: 2 if not has[name] else 0 if name in names else 3 for name in sets}
        assert chosen.decode() == (names[0] if names else "")


def test_a_set_that_a_library_lacks_is_an_error(monkeypatch):
    class Lacking:
        fastlangevin_set_cpu_capability = staticmethod(lambda name: 3)

    monkeypatch.setattr(native, "cpu_library", Lacking)
    monkeypatch.setattr(native, "cpu_capability", lambda: "avx512")
    with pytest.raises(ValueError, match="FASTLANGEVIN_CPU_CAPABILITY=avx2: .* was compiled for avx512 alone"):
        native.set_cpu_capability("avx2")


def test_a_processor_that_runs_no_set_of_the_library_gets_a_reason(monkeypatch):
    """As an emulator may, whose processor is not the one that Linux describes."""
    monkeypatch.setattr(native, "_cpu_path", lambda: Path("library.so"))
    monkeypatch.setattr(native.torch.ops, "load_library", lambda path: None)
    monkeypatch.setattr(native, "cpu_capability", lambda: "")
    with pytest.warns(RuntimeWarning, match="slow reference backend: the processor cannot run library.so"):
        others = " or ".join(list(build.INSTRUCTION_SETS)[1:])
        assert f"set FASTLANGEVIN_CPU_CAPABILITY={others}" in native._load_cpu.__wrapped__()


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


def test_a_system_that_does_not_say_which_processors_may_be_used(monkeypatch):
    """As macOS."""
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert native._n_processors() == 6


@pytest.mark.parametrize(("name", "system", "machine"), [("darwin", "Darwin", "arm64"), ("linux", "Linux", "aarch64")])
def test_other_platforms_without_a_compiler_have_the_reference(name, system, machine, tmp_path):
    """Where Python says that it is one of them, after torch was imported."""
    pretend = f"import os, platform, sys, torch; sys.platform, platform.system = {name!r}, lambda: {system!r}\n"
    pretend += f"platform.machine = lambda: {machine!r}; del os.sched_getaffinity\n"
    code = pretend + NO_PREBUILT + DRAW + "; print(native.first_use_library().filename())"
    done = python(code, FASTLANGEVIN_CACHE=str(tmp_path), CXX="false")
    expected = python("import fastlangevin as fl\n" + DRAW.replace("step=2", "step=2, backend='reference'")).stdout
    drawn, filename = done.stdout.splitlines()
    assert f"{drawn}\n" == expected and filename.startswith(f"libfastlangevin_cpu-{name}_aarch64-"), done.stderr
    assert done.stderr.count("slow reference backend") == 1 and f"cpu-{name}_aarch64" in done.stderr


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


def test_cuda_that_is_required_and_cannot_be_built_is_an_error(tmp_path):
    environment = {**os.environ, "FASTLANGEVIN_CUDA": "1", "CUDA_HOME": "/nowhere"}
    command = ["pip", "wheel", "--no-build-isolation", "--no-deps", "--no-index", "-w", tmp_path, "."]
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode != 0
    assert "FASTLANGEVIN_CUDA=1, and the CUDA kernels cannot be built: the CUDA compiler" in done.stdout + done.stderr
    assert not list(tmp_path.glob("*.whl"))


def test_a_library_that_was_compiled_before_is_found_again_only_if_intact(tiny, tmp_path, monkeypatch, capsys):
    """To load a part of one may end the process by SIGBUS: after a power failure, a full disk, an interrupted copy."""
    cache = tmp_path / "cache"
    path = build.build(tiny, cache, include=[], libraries=[str(TORCH / "lib")])
    whole = path.read_bytes()
    monkeypatch.setattr(native, "prebuilt_directory", lambda: tmp_path)
    monkeypatch.setenv("FASTLANGEVIN_CACHE", str(cache))
    assert native._find(tiny) == path and capsys.readouterr().err == ""
    flipped = bytearray(whole)
    flipped[1000] ^= 4
    for damaged in (b"", whole[:4000], whole[:-1], whole[:-60], bytes(flipped), whole[:-100] + bytes(100)):
        path.write_bytes(damaged)
        assert native._find(tiny) is None and f"{path} is damaged and is not used" in capsys.readouterr().err
    assert build.build(tiny, cache, include=[], libraries=[str(TORCH / "lib")]) == path
    assert native._find(tiny) == path and ctypes.CDLL(str(path)).answer() == 42


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


@pytest.mark.parametrize("home", ["unknown", "not writable"])
def test_without_a_home_the_cache_is_temporary(home, tiny, tmp_path, monkeypatch, capsys):
    for variable in ("FASTLANGEVIN_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    if home == "unknown":  # $HOME is not set, and the password database has no entry
        monkeypatch.setattr(Path, "home", lambda: Path("~nobody-of-this-name").expanduser())
    else:
        (tmp_path / "file").touch()
        monkeypatch.setenv("HOME", str(tmp_path / "file"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(native, "prebuilt_directory", lambda: tmp_path)
    expected = tmp_path / f"fastlangevin-{os.getuid()}"
    assert native.cache_directory() == expected and not expected.exists()
    assert native._find_or_build(tiny).parent == expected and expected.stat().st_mode & 0o777 == 0o700
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"into {expected} (once" in said and "there is no home folder" in said
    assert native._find_or_build(tiny).parent == expected and capsys.readouterr().err == ""
    expected.chmod(0o777)
    with pytest.raises(PermissionError, match="other users can write to .*: set FASTLANGEVIN_CACHE"):
        native._find_or_build(tiny)
    monkeypatch.setenv("FASTLANGEVIN_CACHE", str(tmp_path / "mine"))
    assert native.cache_directory() == tmp_path / "mine"


def test_sources_of_one_library_do_not_rebuild_the_other(monkeypatch, tmp_path):
    copied = tmp_path / "csrc"
    shutil.copytree(ROOT / "csrc", copied)
    monkeypatch.setattr(build, "csrc", lambda: copied)
    before = build.CPU.digest(), build.CUDA.digest()
    (copied / "cuda" / "update.cu").open("a").write("\n")
    assert build.CPU.digest() == before[0] and build.CUDA.digest() != before[1]
    (copied / "noise.h").open("a").write("\n")
    assert build.CPU.digest() != before[0]


def test_an_old_setuptools_is_one_line(tmp_path):
    (tmp_path / "setuptools.py").write_text("__version__ = '65.5.0'\n")
    command = [sys.executable, str(ROOT / "setup.py"), "--version"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "building needs setuptools 77 or later, not 65.5.0: pip install -U setuptools" in done.stderr


def test_torch_s_folders():
    """As torch.utils.cpp_extension, whose import may print a line about CUDA, says them."""
    folders = build.torch_folders(Path(torch.__file__).parent)
    assert folders["include"] == cpp_extension.include_paths()
    assert folders["libraries"] == cpp_extension.library_paths()
