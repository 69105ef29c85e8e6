"""torch's flags of float32 arithmetic on a GPU, for which none is needed: those per operator, and their older names."""

from __future__ import annotations

import itertools
import threading

import pytest
import torch

from fastlangevin.score import precision

B = torch.backends
SWITCHES = {
    "products": B.cuda.matmul,
    "convolutions": B.cudnn.conv,
    "recurrent": B.cudnn.rnn,
    "products on a CPU": B.mkldnn.matmul,
    "convolutions on a CPU": B.mkldnn.conv,
}
OLDER = {
    "cudnn.allow_tf32": lambda: B.cudnn.allow_tf32,
    "matmul.allow_tf32": lambda: B.cuda.matmul.allow_tf32,
    "matmul_precision": torch.get_float32_matmul_precision,
}
STARTS = {
    "default": lambda: None,
    "older: no TF32": lambda: setattr(B.cudnn, "allow_tf32", False),
    "older: TF32": lambda: setattr(B.cuda.matmul, "allow_tf32", True),
    "older: high": lambda: torch.set_float32_matmul_precision("high"),
    "older: medium": lambda: torch.set_float32_matmul_precision("medium"),
    "older: highest": lambda: torch.set_float32_matmul_precision("highest"),
    "per operator: products in TF32": lambda: setattr(B.cuda.matmul, "fp32_precision", "tf32"),
    "per operator: strict convolutions": lambda: setattr(B.cudnn.conv, "fp32_precision", "ieee"),
    "for all: TF32": lambda: setattr(B, "fp32_precision", "tf32"),
    "for all: strict": lambda: setattr(B, "fp32_precision", "ieee"),
}


def read(values):
    """What each function returns; None for one that raises because the two families differ."""
    found = {}
    for name, value in values.items():
        try:
            found[name] = value()
        except RuntimeError as error:
            assert "mix of the legacy and new APIs" in str(error)
            found[name] = None
    return found


def state():
    return read({**{name: lambda s=s: s.fp32_precision for name, s in SWITCHES.items()}, **OLDER})


@pytest.fixture(autouse=True)
def default_flags():
    def reset():
        for scope in (B, B.cudnn, B.mkldnn, *SWITCHES.values()):
            scope.fp32_precision = "none"
        torch.set_float32_matmul_precision("highest")
        for switch in (B.cuda.matmul, B.mkldnn.matmul):
            switch.fp32_precision = "none"
        B.cudnn.allow_tf32 = True

    before = state()
    reset()
    assert state() == before
    yield
    reset()


def allowed() -> list[bool]:
    """Whether TF32 is allowed, by each name."""
    found = state()
    on_gpu = [found[name] == "tf32" for name in ("products", "convolutions", "recurrent")]
    return [*on_gpu, found["cudnn.allow_tf32"], found["matmul.allow_tf32"], found["matmul_precision"] != "highest"]


def running(mode):
    return precision.Running(mode, torch.device("cuda"))


@pytest.mark.parametrize("mode", ["fp32", "tf32", "bf16"])
@pytest.mark.parametrize("start", STARTS)
def test_both_families_are_set_and_restored(start, mode):
    STARTS[start]()
    before = state()
    with running(mode):
        assert allowed() == [mode == "tf32"] * 6
    assert state() == before


@pytest.mark.parametrize("start", STARTS)
def test_an_energy_that_runs_another_chain(start):
    STARTS[start]()
    before = state()
    for outer, inner in itertools.permutations(("fp32", "tf32"), 2):
        with running(outer):
            assert allowed() == [outer == "tf32"] * 6
            with running(inner):
                assert allowed() == [inner == "tf32"] * 6
            assert allowed() == [outer == "tf32"] * 6
        assert state() == before


def test_flags_that_follow_their_parent_continue_to():
    B.fp32_precision = "ieee"
    with running("tf32"), running("fp32"):
        pass
    B.fp32_precision = "tf32"
    assert B.cuda.matmul.fp32_precision == "tf32"


@pytest.mark.parametrize("start", ["default", "older: medium"])
def test_a_chain_on_a_cpu_and_one_on_a_gpu_share_the_flags_of_both(start):
    """Whichever of the two ends first, the other keeps its flags, and in the end all are as before."""
    STARTS[start]()
    before = state()
    for first in ("cpu", "cuda"):
        ended, begun = threading.Event(), threading.Event()

        def other(device="cuda" if first == "cpu" else "cpu", begun=begun, ended=ended):
            with precision.Running("fp32", torch.device(device)):
                begun.set()
                ended.wait(10)

        thread = threading.Thread(target=other)
        with precision.Running("fp32", torch.device(first)):
            thread.start()
            assert begun.wait(10)
        assert B.mkldnn.matmul.fp32_precision in ("ieee", "none")
        ended.set()
        thread.join()
        assert state() == before


def test_ctrl_c_while_it_waits_for_another_thread(monkeypatch):
    def interrupted(mode):
        raise KeyboardInterrupt

    before = state()
    monkeypatch.setattr(precision._CUDA, "acquire", interrupted)
    with pytest.raises(KeyboardInterrupt), running("fp32"):
        pass
    assert not precision._CPU._holders and state() == before
