"""Which library is loaded or compiled at first use: with and without a compiler, by instruction set and platform."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from support.processes import DRAW, NO_PREBUILT, python, unoptimised

import fastlangevin as fl
from fastlangevin.kernels import build, native

ROOT, TORCH = Path(__file__).parents[2], Path(torch.__file__).parent
X86, ARM = "x86_64", "aarch64"
AVX512_FLAGS = "fpu avx2 fma f16c avx512f avx512bw avx512dq avx512vl"

pytestmark = [
    pytest.mark.any_processor,
    pytest.mark.skipif(build.unsupported() is not None, reason=str(build.unsupported())),
]


@pytest.fixture(scope="module")
def drawn() -> str:
    """What `DRAW` prints, by the reference."""
    x = fl.noise.normal((1000,), seed=1, step=2, backend="reference")
    return f"{x.double().sum().item()}\n"


def test_first_use_compiles_once_with_a_message(tmp_path, drawn, objects):
    environment = {**unoptimised(tmp_path, objects), "FASTLANGEVIN_CACHE": str(tmp_path / "cache")}
    code = [sys.executable, "-c", NO_PREBUILT + DRAW]
    both = [
        subprocess.Popen(
            code, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment}
        )
        for _ in range(2)
    ]
    for process in both:  # two concurrent processes do not interfere
        out, err = process.communicate()
        assert out == drawn and process.returncode == 0, err
        assert f"compiling the cpu kernels for {native.first_use_library().only} into" in err
    again = python(NO_PREBUILT + DRAW, **environment)
    assert again.stdout == drawn and again.stderr == ""
    assert [p.name for p in (tmp_path / "cache").iterdir()] == [native.first_use_library().filename()]


@pytest.mark.parametrize("broken", [{"PATH": "/nowhere", "CXX": ""}, {"CXX": "/nowhere/g++"}, {"CXX": "false"}])
def test_without_a_working_compiler_the_reference_is_used_with_one_warning(tmp_path, drawn, broken):
    code = NO_PREBUILT + DRAW + "; " + DRAW + "\ntry: fl.noise.normal((1,), seed=1, step=2, backend='cpu')\n"
    code += "except fl.BackendUnavailable as error: print('unavailable:', error)"
    done = python(code, FASTLANGEVIN_CACHE=str(tmp_path / "cache"), **broken)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(drawn * 2 + "unavailable: backend='cpu' cannot be used: ")
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
        expected = "amx" if {"amx_tile", "amx_bf16", "avx512_bf16"} <= flags else "avx512"
    if "asimd" in flags:
        expected = "neon"
    code = "from fastlangevin.kernels import native; native.load_cpu(); print(native.cpu_capability())"
    assert python(code, FASTLANGEVIN_CPU_CAPABILITY="").stdout.strip() == expected


def test_unknown_instruction_set_is_an_error():
    done = python("import fastlangevin as fl; " + DRAW, FASTLANGEVIN_CPU_CAPABILITY="avx3")
    assert done.returncode != 0
    names = {"amx": "'amx', 'avx512', 'avx2' or 'portable'", "neon": "'neon' or 'portable'"}
    best = next(iter(build.INSTRUCTION_SETS))
    assert f"FASTLANGEVIN_CPU_CAPABILITY must be {names[best]}, got 'avx3'" in done.stderr


@pytest.mark.parametrize(
    ("machine", "flags", "wanted", "only"),
    [
        (X86, f"{AVX512_FLAGS} avx512_bf16 amx_tile amx_bf16", None, "amx"),
        (X86, f"{AVX512_FLAGS} amx_tile amx_bf16", None, "avx512"),
        (X86, f"{AVX512_FLAGS} avx512_bf16 amx_tile amx_int8", None, "avx512"),
        (X86, f"{AVX512_FLAGS} avx512_bf16", None, "avx512"),
        (X86, "fpu avx2 fma f16c avx512f avx512bw avx512dq", None, "avx2"),
        (X86, AVX512_FLAGS, "avx2", "avx2"),
        (X86, "fpu avx2 fma", None, "portable"),
        (X86, "fpu avx2 fma f16c", "portable", "portable"),
        (X86, None, None, None),  # all: it is not known what the processor has
        (X86, None, "avx512", "avx512"),
        (X86, "fpu avx2 fma f16c", "avx512", "this processor does not have these instructions"),
        (X86, "fpu", "avx3", "must be 'amx', 'avx512', 'avx2' or 'portable', got 'avx3'"),
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


def test_a_system_that_does_not_say_which_processors_may_be_used(monkeypatch):
    """As macOS."""
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert native._n_processors() == 6


@pytest.mark.parametrize(("name", "system", "machine"), [("darwin", "Darwin", "arm64"), ("linux", "Linux", "aarch64")])
def test_other_platforms_without_a_compiler_have_the_reference(name, system, machine, tmp_path, drawn):
    """Where Python says that it is one of them, after torch was imported."""
    pretend = f"import os, platform, sys, torch; sys.platform, platform.system = {name!r}, lambda: {system!r}\n"
    pretend += f"platform.machine = lambda: {machine!r}; del os.sched_getaffinity\n"
    code = pretend + NO_PREBUILT + DRAW + "; print(native.first_use_library().filename())"
    done = python(code, FASTLANGEVIN_CACHE=str(tmp_path), CXX="false")
    got, filename = done.stdout.splitlines()
    assert f"{got}\n" == drawn and filename.startswith(f"libfastlangevin_cpu-{name}_aarch64-"), done.stderr
    assert done.stderr.count("slow reference backend") == 1 and f"cpu-{name}_aarch64" in done.stderr


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
