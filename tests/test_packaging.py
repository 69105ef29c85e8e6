"""Packaging: wheels, compilation at first use, no compiler, instruction sets by name, imports."""

from __future__ import annotations

import ctypes
import io
import os
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


def python(code: str, **environment: str) -> subprocess.CompletedProcess:
    """Without Triton's interpreter, which would serve CPU tensors before the reference does."""
    environment = {**os.environ, "TRITON_INTERPRET": "0", **environment}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd="/")


def test_wheel_holds_libraries_and_sources(tmp_path):
    command = ["pip", "wheel", "--no-build-isolation", "--no-deps", "--no-index", "-q", "-w", tmp_path, "."]
    environment = {**os.environ, "FASTLANGEVIN_CUDA": "0"}
    subprocess.run([sys.executable, "-m", *command], check=True, cwd=ROOT, capture_output=True, env=environment)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name == "fastlangevin-0.1.0-py3-none-linux_x86_64.whl"
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


def test_first_use_compiles_once_with_a_message(tmp_path):
    environment = {"FASTLANGEVIN_CACHE": str(tmp_path / "cache")}
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


@pytest.mark.parametrize("name", ["portable", "avx2", "avx512"])
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
    code = "from fastlangevin.kernels import native; native.load_cpu(); print(native.cpu_capability())"
    assert python(code, FASTLANGEVIN_CPU_CAPABILITY="").stdout.strip() == expected


def test_unknown_instruction_set_is_an_error():
    done = python("import fastlangevin as fl; " + DRAW, FASTLANGEVIN_CPU_CAPABILITY="avx3")
    assert done.returncode != 0
    assert "FASTLANGEVIN_CPU_CAPABILITY must be 'avx512', 'avx2' or 'portable', got 'avx3'" in done.stderr


HEAVY = [
    *("triton", "matplotlib", "tensorboard", "sklearn", "torchvision", "torch._dynamo", "sympy", "typer"),
    *("PIL", "rich", "yaml", "safetensors", "filelock"),
    *(f"fastlangevin.{room}" for room in ("cli", "data", "display", "runs", "training", "evaluation", "reproduction")),
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


def test_a_library_for_one_instruction_set():
    """Its name says so, and it has the sources of no other set: processors that share a folder do not share it."""
    common = {s for s in build.CPU.sources if not set(Path(s[0]).stem.split("_")) & set(build.INSTRUCTION_SETS)}
    for name in build.INSTRUCTION_SETS:
        one = build.CPU.for_one(name)
        assert one.filename().startswith(f"libfastlangevin_cpu-{name}-")
        others = [other for other in build.INSTRUCTION_SETS if other != name]
        parts = [part for source, _ in one.sources for part in Path(source).stem.split("_")]
        assert name in parts and not set(parts) & set(others)
        assert common and common < set(one.sources)
    names = {build.CPU.for_one(name).digest() for name in build.INSTRUCTION_SETS} | {build.CPU.digest()}
    assert len(names) == 4


@pytest.mark.parametrize(
    ("flags", "wanted", "only"),
    [
        ("fpu avx2 fma f16c avx512f avx512bw avx512dq avx512vl avx512_bf16", None, "avx512"),
        ("fpu avx2 fma f16c avx512f avx512bw avx512dq", None, "avx2"),
        ("fpu avx2 fma f16c avx512f avx512bw avx512dq avx512vl", "avx2", "avx2"),
        ("fpu avx2 fma", None, "portable"),
        ("fpu avx2 fma f16c", "portable", "portable"),
        (None, None, None),  # all: it is not known what the processor has
        (None, "avx512", "avx512"),
        ("fpu avx2 fma f16c", "avx512", "this processor does not have these instructions"),
        ("fpu", "avx3", "must be 'avx512', 'avx2' or 'portable', got 'avx3'"),
    ],
)
def test_what_is_compiled_at_first_use(flags, wanted, only, tmp_path, monkeypatch):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\n" + (f"flags\t\t: {flags}\n" if flags else ""))
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
    for names in ((), ("portable",), ("portable", "avx2")):
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
        assert "set FASTLANGEVIN_CPU_CAPABILITY=avx2 or portable" in native._load_cpu.__wrapped__()


def test_unsupported_platforms_get_a_reason(monkeypatch):
    monkeypatch.setattr(build.platform, "machine", lambda: "aarch64")
    assert "native kernels need Linux on x86-64, got Linux on aarch64" in (build.unsupported() or "")


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
