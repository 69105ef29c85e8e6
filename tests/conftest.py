from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import filelock
import pytest
import torch

if not torch.cuda.is_available() and importlib.util.find_spec("triton"):
    os.environ["TRITON_INTERPRET"] = "1"  # set before the kernels are imported, so that they run on CPU tensors

from fastlangevin import kernels
from fastlangevin.kernels import build, native
from fastlangevin.score import cpu_precision

if build.unsupported() is None:
    with suppress(build.BuildError, OSError):
        native._find_or_build(build.CPU)  # for all instruction sets, if it was not at installation

pytest.register_assert_rewrite("support")
if kernels.BACKENDS["triton"].unsupported(torch.device("cpu")) is None:
    from support import exact_fma

    exact_fma.install()

torch.set_num_threads(1)  # for tiny tensors a second thread only waits, on a busy machine for long

SUPPORT = Path(__file__).parent / "support"
CAPABILITIES = tuple(reversed(build.INSTRUCTION_SETS))


def pytest_runtest_setup():
    """With torch's flags of float32 products as a process begins with them: to import torchebm sets them."""
    switches = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)
    if any(switch.fp32_precision != "none" for switch in switches):
        torch.set_float32_matmul_precision("highest")
        for switch in switches:
            switch.fp32_precision = "none"


@pytest.fixture(scope="session")
def vectors() -> list[dict]:
    return json.loads((SUPPORT / "noise_vectors.json").read_text())["vectors"]


@contextmanager
def forced(capability: str) -> Iterator[None]:
    before = native.cpu_capability()
    try:
        native.set_cpu_capability(capability)
    except ValueError as error:
        pytest.skip(str(error))
    try:
        yield
    finally:
        native.set_cpu_capability(before)


@pytest.fixture(params=CAPABILITIES)
def capability(request):
    """Each instruction set that the processor has, selected."""
    why = native.load_cpu()
    if why:
        pytest.skip(why)
    with forced(request.param):
        yield request.param


@pytest.fixture(params=["reference", *(f"cpu-{c}" for c in CAPABILITIES), "triton"])
def backend(request):
    """Every backend for CPU tensors: "cpu" with each instruction set that the processor has, and "triton" in its
    interpreter. `gpu/` tests the others.
    """
    name, _, capability = request.param.partition("-")
    why = kernels.BACKENDS[name].unsupported(torch.device("cpu"))
    if why:
        pytest.skip(f"backend {name}: {why}")
    with forced(capability) if capability else nullcontext():
        yield name


@pytest.fixture
def threads():
    """Restores torch's number of threads."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def in_bfloat16(monkeypatch):
    """precision="bf16" is computed in bfloat16, whatever this processor is faster in."""
    monkeypatch.setattr(cpu_precision, "ways", lambda precision, device: (precision,))


@pytest.fixture(scope="session")
def compiled(tmp_path_factory) -> dict[tuple[str, int], dict]:
    """The output of `ahead_of_time.py` for each Triton kernel and architecture; of all with $AHEAD_OF_TIME=all. The
    first worker that needs it compiles for the others.
    """
    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    records = folder / "ahead_of_time.json"
    with filelock.FileLock(folder / "ahead_of_time.lock"):
        if not records.exists():
            records.write_text(_ahead_of_time())
    return {(r["kernel"], r["architecture"]): r for r in json.loads(records.read_text())}


def _ahead_of_time() -> str:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [
        sys.executable,
        SUPPORT / "ahead_of_time.py",
        *(["--all"] if os.getenv("AHEAD_OF_TIME") == "all" else []),
    ]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
