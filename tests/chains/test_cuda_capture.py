"""Captures that fail, on a stand-in for the state that torch keeps of a capture."""

from __future__ import annotations

import pytest
import torch
from support.fake_cuda import FakeCuda

from fastlangevin.chains.cuda_capture import CudaCapture, NotCapturable


@pytest.fixture
def cuda(monkeypatch):
    return FakeCuda().install(monkeypatch)


def failing_at_a_call():
    torch.cuda.synchronize()


def failing_at_the_end(cuda):
    def body():
        cuda.invalid = True

    return body


def failing_in_python():
    raise RuntimeError("the energy is not differentiable\nmore")


def interrupted():
    raise KeyboardInterrupt


def assert_clean(cuda, references=0):
    assert cuda.current == "default" and cuda.capturing is None
    assert not cuda.recording and not cuda.generator_captures
    assert cuda.references.total() == references


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (lambda cuda: failing_at_a_call, "operation not permitted when stream is capturing|a previous error"),
        (failing_at_the_end, "a previous error during capture"),
        (lambda cuda: failing_in_python, "the energy is not differentiable"),
    ],
    ids=["a forbidden call", "the end", "Python"],
)
def test_after_a_failed_capture_torch_works_as_before(cuda, body, words):
    """Random numbers, allocations and the next captures: without the end of the allocator's part, the pool would go on
    taking the allocations of the process; without that of the generator's, torch.rand would raise.
    """
    device = CudaCapture(torch.device("cpu"))
    first = device.capture(lambda: None)
    with pytest.raises(NotCapturable, match=f"^the capture failed: .*({words})"):
        device.capture(body(cuda))
    torch.rand(3)
    assert_clean(cuda, references=1)
    first()
    device.capture(lambda: None)()
    CudaCapture(torch.device("cpu")).capture(lambda: torch.rand(3))()
    torch.rand(3)


def test_an_interrupted_capture_leaves_torch_as_before(cuda):
    with pytest.raises(KeyboardInterrupt):
        CudaCapture(torch.device("cpu")).capture(interrupted)
    torch.rand(3)
    assert_clean(cuda)
