"""The kernels for ARM64, cross-compiled and run under qemu: `make test-arm`.

They are compiled from the sources and with the flags of the library, without LibTorch, which cross-compiling has not.
Their bits are those of the golden vectors, of the reference backend, and of this machine's kernels.
"""

from __future__ import annotations

import functools
import importlib.util
import itertools
import os
import re
import shlex
import shutil
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from support.updates import DTYPES, INTS, same_bits, state
from torch import Tensor, nn

import fastlangevin as fl
from fastlangevin.kernels import build, native
from fastlangevin.network.inputs import Inputs
from fastlangevin.network.target import Target
from fastlangevin.score.graph import GraphEngine

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[3]
TOOLS = {
    "aarch64-linux-gnu-g++": "g++-aarch64-linux-gnu",
    "aarch64-linux-gnu-objdump": "binutils-aarch64-linux-gnu",
    "qemu-aarch64-static": "qemu-user-static",
}
SETS = ("neon", "portable")
SIZES = (1, 3, 4, 5, 127, 129, 4096 + 33)
KEY = dict(seed=2**63 + 20191125, step=2**32 - 2, stream=3)
POISON = 0xA5

pytestmark = [
    pytest.mark.any_processor,
    pytest.mark.skipif(not os.getenv("TEST_ARM64"), reason="make test-arm runs these"),
]


@dataclass(frozen=True)
class Machine:
    """A compiler, and what runs its programs. Each source is compiled once."""

    cxx: tuple[str, ...]
    runner: tuple[str, ...]
    folder: Path
    objects: dict = field(default_factory=dict)

    def compile(self, source: Path, *flags: str) -> Path:
        if (source, flags) not in self.objects:
            out = self.folder / f"{len(self.objects)}.o"
            self.objects[source, flags] = out
            # Without "-mavx2 …" of other machines; the rest as the library is compiled.
            command = [*self.cxx, *build._FLAGS, *flags, "-Werror", "-c", source, "-o", out]
            done = subprocess.run(command, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr[-5000:]
        return self.objects[source, flags]

    def kernels(self, instruction_set: str) -> list[Path]:
        """The objects of the kernels of an instruction set."""
        sources = [s for s in build._CPU_SOURCES if instruction_set in Path(s[0]).stem.split("_")]
        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(lambda s: self.compile(build.csrc() / s[0], *s[1]), sources))

    def link(self, name: str, objects: list[Path], *flags: str) -> Path:
        out = self.folder / name
        subprocess.run([*self.cxx, *objects, *flags, "-o", out], check=True)
        return out

    def run(self, program: Path, *arguments: str, given: bytes = b"") -> bytes:
        done = subprocess.run([*self.runner, program, *arguments], input=given, capture_output=True)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout


@pytest.fixture(scope="module")
def arm64(tmp_path_factory) -> Machine:
    missing = [package for tool, package in TOOLS.items() if not shutil.which(tool)]
    if missing:
        pytest.exit(f"make test-arm needs {', '.join(missing)}: apt-get install {' '.join(missing)}", returncode=1)
    cxx = "aarch64-linux-gnu-g++"
    libc = subprocess.run([cxx, "-print-file-name=libc.so.6"], capture_output=True, text=True, check=True).stdout
    root = Path(libc.strip()).resolve().parent.parent
    return Machine((cxx,), ("qemu-aarch64-static", "-L", str(root)), tmp_path_factory.mktemp("arm64"))


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Machine:
    return Machine(tuple(build.compiler().split()), (), tmp_path_factory.mktemp("here"))


@dataclass(frozen=True)
class Request:
    """As `Request` of arm64_requests.cpp, and what memory it is about: `room` poisoned elements around x."""

    kind: int  # 0: normal, 1: uniform, 2: update
    x: Tensor
    offset: int = 0
    score: Tensor | None = None
    step_size: float | Tensor | None = None
    noise_std: float | Tensor | None = None
    clip: float | None = None
    bounds: tuple[float, float] | None = None
    key: dict = field(default_factory=lambda: KEY)
    start: int = 0

    room = 21

    def pack(self) -> bytes:
        infinity, width = float("inf"), self.x.element_size()
        poison = bytes([POISON]) * width
        memory = poison * self.start + raw(self.x) + poison * self.room
        score = b"" if self.score is None else raw(self.score)
        many = [v for v in (self.step_size, self.noise_std) if isinstance(v, Tensor)]
        n_chains = len(many[0]) if many else 0
        own = [
            v if isinstance(v, Tensor) else torch.full((n_chains,), v or 0.0, dtype=torch.float64) for v in self.numbers
        ]
        numbers = [0.0 if isinstance(v, Tensor) else v or 0.0 for v in self.numbers]
        header = struct.pack(
            "<6q2Q2q5d3q2qQ",
            *(self.kind, DTYPES.index(self.x.dtype), len(memory), self.start * width, len(score), self.x.numel()),
            *(self.key["seed"] % 2**64, self.offset, self.key["step"], self.key["stream"], *numbers),
            *(self.clip or infinity, *(self.bounds or (-infinity, infinity))),
            *(self.score is not None, self.noise_std is not None, bool(self.clip or self.bounds)),
            *(self.x.numel() // n_chains if n_chains else 0, n_chains, self.offset),
        )
        return header + memory + score + b"".join(map(raw, own))

    @property
    def numbers(self) -> tuple:
        return self.step_size, self.noise_std

    def expected(self, backend: str) -> Tensor:
        if self.kind < 2:
            draw = (fl.noise.normal, fl.noise.uniform)[self.kind]
            return draw(tuple(self.x.shape), offset=self.offset, backend=backend, **self.key)
        options = dict(grad_clip=self.clip, bounds=self.bounds, backend=backend, offset=self.offset, **self.key)
        return fl.langevin_update_(self.x.clone(), self.score, *self.numbers, **options)


def raw(a: Tensor) -> bytes:
    return a.contiguous().view(torch.uint8).numpy().tobytes() if a.numel() else b""


@pytest.fixture(scope="module")
def answers(arm64):
    """(instruction set, requests) → x of each as the kernels leave it, whose surroundings are untouched."""
    objects = [arm64.compile(HERE / "arm64_requests.cpp"), *map(arm64.kernels, SETS)]
    program = arm64.link("requests", [objects[0], *objects[1], *objects[2]])

    def ask(instruction_set: str, requests: list[Request]) -> list[Tensor]:
        given = b"".join(request.pack() for request in requests)
        memory, found = arm64.run(program, instruction_set, given=given), []
        for request in requests:
            width = request.x.element_size()
            begin = request.start * width
            end = begin + request.x.numel() * width
            size = end + request.room * width
            mine, memory = memory[:size], memory[size:]
            assert set(mine[:begin]) | set(mine[end:]) == {POISON}
            flat = torch.frombuffer(bytearray(mine[begin:end]), dtype=request.x.dtype)
            found.append(flat.view(request.x.shape))
        assert not memory
        return found

    return ask


@pytest.mark.parametrize("instruction_set", SETS)
@pytest.mark.parametrize("kind", [0, 1], ids=["normal", "uniform"])
def test_golden_bits(answers, vectors, instruction_set, kind):
    cases = []
    for row in vectors:
        key, group = dict(seed=int(row["seed"]), step=row["step"], stream=row["stream"]), int(row["group"])
        cases.append((row, 0, Request(kind, torch.zeros(4), 4 * group, key=key)))
        # Amid other groups: in each lane of a vector, and of the two that are worked on together.
        among = [(row, k, Request(kind, torch.zeros(160), 4 * (group - k), key=key)) for k in range(1, 9)]
        cases += [case for case in among if case[2].offset >= 0]
    assert len(vectors) == 464
    got = answers(instruction_set, [request for *_, request in cases])
    for (row, k, _), deviates in zip(cases, got, strict=True):
        words = [f"{word & 0xFFFFFFFF:08x}" for word in deviates.view(torch.int32)[4 * k : 4 * k + 4].tolist()]
        assert words == row[("normal_bits", "uniform_bits")[kind]], (row, k)


@pytest.mark.parametrize("instruction_set", SETS)
@pytest.mark.parametrize("kind", [0, 1], ids=["normal", "uniform"])
def test_noise_of_any_length_from_any_place(answers, instruction_set, kind):
    """From the middle of a group, across a carry of the group's upper word, into unaligned memory."""
    offsets = (0, 1, 2, 3, 1021, 2**34 - 37, 2**62 + 2)
    requests = [
        Request(kind, torch.zeros(n), offset, start=offset % 3) for n, offset in itertools.product(SIZES, offsets)
    ]
    for request, got in zip(requests, answers(instruction_set, requests), strict=True):
        for backend in ("reference", "cpu"):
            assert torch.equal(got, request.expected(backend)), (request.x.numel(), request.offset, backend)


def updates(dtype: torch.dtype) -> list[Request]:
    """The update in all its forms, of which those with noise first and last are two."""
    limits = ({}, {"clip": 0.5}, {"bounds": (-0.75, 1.0)}, {"clip": 1.0, "bounds": (-1.0, float("inf"))})
    found = []
    for n, part, options in itertools.product(SIZES, ("both", "score", "noise"), limits):
        x, score = state((n,), dtype, seed=n)
        offset = (5 * len(found)) % 8 + (2**34 - 12 if len(found) % 3 == 0 else 0)
        given = dict(score=None if part == "noise" else score, step_size=None if part == "noise" else 0.7)
        given |= dict(noise_std=None if part == "score" else 0.3)
        found.append(Request(2, x, offset, start=len(found) % 4, **given, **options))
    for size, part in itertools.product((1, 3, 43, 1500), ("both", "step_size", "noise_std")):
        x, score = state((3, size), dtype)
        step_size, noise_std = torch.tensor([[0.5, 0.1, 0.7], [0.2, 0.3, 0.9]], dtype=torch.float64)
        numbers = (0.7 if part == "noise_std" else step_size, 0.3 if part == "step_size" else noise_std)
        found.append(Request(2, x, 3, score, *numbers, clip=0.9, bounds=(-1.5, 1.0)))
    return found


@pytest.mark.parametrize("instruction_set", SETS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_updates(answers, instruction_set, dtype):
    requests = updates(dtype)
    for request, got in zip(requests, answers(instruction_set, requests), strict=True):
        for backend in ("reference", "cpu"):
            assert same_bits(got, request.expected(backend)), (request.x.shape, request.offset, backend)


@pytest.mark.parametrize("instruction_set", SETS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_updates_of_numbers_that_are_not_ordinary(answers, instruction_set, dtype):
    """NaN stays NaN, though not of the same bits; nothing is flushed to zero; what is too large for 16 bits rounds."""
    finite = torch.finfo(dtype)
    least = finite.smallest_normal
    values = [0.0, -0.0, 1.0, finite.max, -finite.max, float("inf"), float("-inf"), float("nan"), least, -least / 2]
    values += [least / 8, 3 * finite.tiny, finite.max / 2, -1e-3]
    pairs = torch.tensor(list(itertools.product(values, values)), dtype=torch.float64).to(dtype)
    x, score = pairs[:, 0].contiguous(), pairs[:, 1].contiguous()
    requests = [
        Request(2, x, 1, score, step_size, noise_std, clip=clip, bounds=bounds)
        for step_size, noise_std in ((1.0, None), (0.5, 1e-30), (0.25, None))
        for clip, bounds in ((None, None), (finite.max / 4, None), (None, (-1.0, 2.0)))
    ]
    for request, got in zip(requests, answers(instruction_set, requests), strict=True):
        expected = request.expected("cpu")
        assert torch.equal(got.isnan(), expected.isnan())
        assert same_bits(got.masked_fill(got.isnan(), 0), expected.masked_fill(expected.isnan(), 0))
        assert got.isnan().any() and (got.view(INTS[dtype]) != 0).any()


class Residual(nn.Module):
    """Sums over three features: longer ones are in another order on vectors of another width."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 3, generator=torch.Generator().manual_seed(3)))

    def forward(self, x):
        h = F.silu(x @ self.weight) + x.tanh() * x.exp().add(1).log()
        return (h.softmax(1) * x.abs().sqrt()).sum(1) + torch.logsumexp(h, 1) + F.gelu(h).mean(1)


class Image(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(5)
        self.first, self.last = nn.Conv2d(2, 24, 3, 2, 1), nn.Conv2d(24, 3, (5, 4))

    def forward(self, x):
        return self.last(torch.sigmoid(self.first(x))).flatten(1).square().sum(1)


class Tiles(nn.Module):
    """By Winograd's filtering."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(6)
        self.only = nn.Conv2d(64, 75, 3, padding=1)

    def forward(self, x):
        return self.only(x).flatten(1).square().sum(1)


@functools.cache
def programs() -> bytes:
    """Native programs as kernel_digests.cpp reads them."""
    out = b""
    for energy, shape in ((Residual(), (5, 3)), (Image(), (3, 2, 9, 8)), (Tiles(), (3, 64, 8, 6))):
        bound = GraphEngine(Target("energy", energy), "fp32").bind(torch.ones(shape), Inputs(()))
        program = bound._program_with_energies
        lengths = (shape[0], len(program.code), len(program.shared), len(program.per_sample))
        out += struct.pack("<4q", *lengths) + raw(program.code) + raw(program.shared) + raw(program.per_sample)
    return out


def digests(machine: Machine, instruction_set: str) -> dict[str, str]:
    own = [machine.compile(HERE / "kernel_digests.cpp", f"-DFL_SET={instruction_set}")]
    plan = machine.compile(build.csrc() / "cpu" / "convnet_plan.cpp")
    program = machine.link(f"digests_{instruction_set}", [*own, plan, *machine.kernels(instruction_set)])
    lines = machine.run(program, given=programs()).decode().splitlines()
    found = dict(line.rsplit(" ", 1) for line in lines)
    assert len(found) == len(lines) == 851
    return found


@pytest.mark.parametrize(("of_arm64", "of_this"), [("neon", "avx2"), ("portable", "portable")])
def test_all_kernels_have_the_bits_of_this_machine(arm64, here, of_arm64, of_this):
    """Moves, tests, whole chains, convnets, native programs. Sets with a fused multiply-add have one result, without
    it another.
    """
    if of_this not in build.instruction_sets():
        pytest.skip(f"this processor lacks {of_this}")
    got, expected = digests(arm64, of_arm64), digests(here, of_this)
    assert [name for name in expected if got[name] != expected[name]] == []


def functions(compiled: Path) -> dict[str, str]:
    command = ["aarch64-linux-gnu-objdump", "-d", "-C", "--no-show-raw-insn", compiled]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return dict(re.findall(r"^\w+ <(.*?)>:\n(.*?)(?=^\w+ <|\Z)", listing, re.DOTALL | re.MULTILINE))


def count(instruction: str, code: str) -> int:
    return len(re.findall(rf"\t{instruction}", code))


def test_the_noise_is_drawn_in_vectors(arm64):
    """Not by scalar instructions, nor calls of libm."""
    found = functions(arm64.compile(build.csrc() / "cpu" / "kernels_neon.cpp"))
    (normal,) = (code for name, code in found.items() if re.search(r"::fill<\S.*NeonArithmetic, false>", name))
    assert count(r"fmla\tv\d+\.4s", normal) >= 26 and count(r"fsqrt\tv\d+\.4s", normal) >= 2
    assert count(r"umull2?\tv\d+\.2d", normal) >= 40 and count(r"st4\t", normal) >= 1
    scalar = r"(?:fmadd|fmsub|fmul|fadd|fsqrt|scvtf|ucvtf)\ts\d"
    assert count(scalar, normal) == 0 and not re.search(r"\tbl\t.*<(?:fma|sqrt|log)", normal)


def test_products_are_fused_multiply_adds(arm64):
    """Of convnets: no product is rounded before it is added. Each sum has an instruction of its own."""
    convnet = arm64.compile(build.csrc() / "cpu" / "convnet_neon.cpp")
    blocks = {name: code for name, code in functions(convnet).items() if re.search("multiply_(block|channels)<", name)}
    assert {"Block", "StoredSums", "WinogradBlock", "ScoreRuns"} <= set(re.findall(r"\w+", " ".join(blocks)))
    for name, code in blocks.items():
        rows, columns = map(int, re.findall(r"NeonConvnet, (\d+), (\d+)", name)[0])
        assert count(r"fmla\tv\d+\.4s", code) >= rows * columns, name
        if "StoredSums" in name:  # others begin with a sum of two, are multiplied by slopes, or add their lanes
            assert not count(r"f(?:add|mul)\tv\d+\.4s", code), name


@pytest.fixture(scope="module")
def library(arm64) -> Path:
    """The library as a source install on ARM64 makes it, but for torch's libraries, in whose place are empty ones."""
    stubs = arm64.folder / "stubs"
    stubs.mkdir()
    for name in ("torch", "torch_cpu", "c10"):
        command = [*arm64.cxx, "-shared", "-nostdlib", "-x", "c++", os.devnull, "-o", stubs / f"lib{name}.so"]
        subprocess.run([*command, f"-Wl,-soname,lib{name}.so"], check=True)
    include = build.torch_folders(Path(torch.__file__).parent)["include"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CXX", shlex.join(arm64.cxx))
        return build.build(build.cpu_library("aarch64"), arm64.folder, include=include, libraries=[str(stubs)])


def test_the_library_builds(library):
    spec = importlib.util.spec_from_file_location("audit", ROOT / "scripts" / "audit_wheel.py")
    audit = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(audit)
    assert "aarch64" in library.name and build.is_intact(library)
    assert audit.unstable_symbols(library) == []


@pytest.mark.parametrize("instruction_set", SETS)
def test_the_library_runs(arm64, library, instruction_set):
    """Loaded with functions of torch that do nothing: the operators are not tested, its C functions are."""
    symbols = subprocess.run(["nm", "-D", "--undefined-only", library], capture_output=True, text=True, check=True)
    names = re.findall(r" U ((?:aoti_)?torch_\w+)$", symbols.stdout, re.MULTILINE)
    assert len(names) > 10
    stub = arm64.folder / "torch.cpp"
    stub.write_text("".join(f'extern "C" long {name}() {{ return 0; }}\n' for name in names))
    folder = arm64.folder / "stubs"
    subprocess.run([*arm64.cxx, "-shared", "-fPIC", stub, "-o", folder / "libtorch_cpu.so"], check=True)
    program = arm64.link("library", [arm64.compile(HERE / "arm64_library.cpp")], "-ldl")
    runner = (*arm64.runner, "-E", f"LD_LIBRARY_PATH={folder}:{Path(arm64.runner[2]) / 'lib'}")
    numbers = (str(KEY["seed"]), str(KEY["step"]), str(KEY["stream"]), "6", "1003")
    done = subprocess.run([*runner, program, library, instruction_set, *numbers], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, *words = done.stdout.split("\n")[:-1]
    assert first == "neon 1 0"
    expected = fl.noise.normal((1003,), offset=6, backend="reference", **KEY)
    assert words == [f"{word & 0xFFFFFFFF:08x}" for word in expected.view(torch.int32).tolist()]


def test_this_machine_is_another():
    """What is compared with is not ARM64's own."""
    assert native.load_cpu() is None and "neon" not in build.INSTRUCTION_SETS, sys.platform
