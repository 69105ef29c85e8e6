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
from fastlangevin.display import plots
from fastlangevin.kernels import build, native
from fastlangevin.score import cpu_precision
from fastlangevin.training import loop

if build.unsupported() is None:
    with suppress(build.BuildError, OSError):
        native._find_or_build(build.CPU)  # for all instruction sets, if it was not at installation

pytest.register_assert_rewrite("support")
if kernels.BACKENDS["triton"].unsupported(torch.device("cpu")) is None:
    from support import exact_fma, quick_interpreter

    quick_interpreter.install()
    exact_fma.install()

torch.set_num_threads(1)  # for tiny tensors a second thread only waits, on a busy machine for long

SUPPORT = Path(__file__).parent / "support"
CAPABILITIES = tuple(name for name in reversed(build.INSTRUCTION_SETS) if name != "amx")  # whose float32 is avx512's
# Begin first: with several workers the others would wait for one that began with such a file last.
LONG = (
    *("kernels/cuda/test_threads.py", "kernels/cpu/test_instruction_sets.py", "kernels/test_first_use.py"),
    *("test_packaging.py", "kernels/triton/test_convnet.py", "kernels/triton/test_mlp_chain.py"),
    *("training/test_ranks_train.py", "cli/test_ranks.py", "chains/test_update.py", "test_noise.py"),
    *("chains/test_update_per_chain.py", "training/test_interrupt.py", "score/test_convnet_implementations.py"),
)


def pytest_collection_modifyitems(items):
    rank = {Path(__file__).parent / name: i for i, name in enumerate(LONG)}
    assert all(path.is_file() for path in rank)
    items.sort(key=lambda item: rank.get(item.path, len(LONG)))


def pytest_runtest_setup():
    """With torch's flags of float32 products as a process begins with them: to import torchebm sets them."""
    switches = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)
    if any(switch.fp32_precision != "none" for switch in switches):
        torch.set_float32_matmul_precision("highest")
        for switch in switches:
            switch.fp32_precision = "none"


@pytest.fixture(scope="session", autouse=True)
def blank_training_plots():
    """Except in processes of their own, and where a test asks for `training_plots`."""
    from support.training_runs import save_blank_plot

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "save_training_plot", save_blank_plot)
        yield


@pytest.fixture
def training_plots(monkeypatch):
    monkeypatch.setattr(loop, "save_training_plot", plots.save_training_plot)


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


@pytest.fixture(params=["avx512", "amx"])
def bfloat16_capability(request):
    """Each instruction set that multiplies bfloat16, selected."""
    if native.load_cpu() or request.param not in build.INSTRUCTION_SETS:
        pytest.skip(native.load_cpu() or f"{request.param} is not of this architecture")
    with forced(request.param):
        if not native.cpu_has_bfloat16():
            pytest.skip("this processor has no AVX512_BF16")
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
def precision_as_asked(monkeypatch):
    """What is asked for is computed in, whatever this processor is faster in."""
    monkeypatch.setattr(cpu_precision, "ways", lambda precision, device: (precision,))


@pytest.fixture(scope="session")
def shared(tmp_path_factory) -> Path:
    """A folder of all workers."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.fixture(scope="session")
def objects(shared) -> Path:
    """Where `support.processes.unoptimised` keeps what it has compiled."""
    (shared / "objects").mkdir(exist_ok=True)
    return shared / "objects"


@pytest.fixture(scope="session")
def compiled(shared) -> dict[tuple[str, int], dict]:
    """The output of `ahead_of_time.py` for each Triton kernel and architecture; of all with THOROUGH=1. The first
    worker that needs it compiles for the others.
    """
    records = shared / "ahead_of_time.json"
    with filelock.FileLock(shared / "ahead_of_time.lock"):
        if not records.exists():
            records.write_text(_ahead_of_time())
    return {(r["kernel"], r["architecture"]): r for r in json.loads(records.read_text())}


def _ahead_of_time() -> str:
    from support.thorough import THOROUGH

    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [
        sys.executable,
        SUPPORT / "ahead_of_time.py",
        *(["--all"] if THOROUGH else []),
    ]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
