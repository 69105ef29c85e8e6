"""Weights through tensor descriptors: the same bits as through pointers, and pointers where there are none."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from fastlangevin.kernels import triton as backend
from fastlangevin.network.layers import Conv

if importlib.util.find_spec("triton") is None or backend.unsupported() or backend.DEVICE != "cpu":
    pytest.skip("needs Triton's interpreter", allow_module_level=True)

from fastlangevin.kernels.triton import convnet
from fastlangevin.kernels.triton.convnet import plan, tune
from fastlangevin.kernels.triton.convnet.measured import Tile

pytestmark = pytest.mark.usefixtures("own")


@pytest.mark.parametrize(("precision", "stride"), [("fp16", 2), ("tf32", 1)])
def test_the_bits_are_those_of_pointers(own, precision, stride):
    """With small integers, whose sums are exact in any order: in the interpreter a product is NumPy's, whose order
    depends on the processor and on how the operands lie.
    """
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randint(-2, 3, shape, generator=generator).float()
    layers = [(Conv(draw(32, 1, 3, 3), draw(32), (1, 1), (1, 1), (1, 1), 1), 0.25)]
    side = stride + 2
    layers.append((Conv(draw(64, 32, side, side), draw(64), (stride, stride), (1, 1), (1, 1), 1), 0.25))
    packed = convnet.pack(layers, draw(64, 4 // stride, 4 // stride), (1, 4, 4), precision)
    x, scores = draw(2, 1, 4, 4), []
    keys = [la.key for la in packed.workspace(2).launches if la.name in ("forward", "backward")]
    for descriptor in (False, True):
        own.choices = dict.fromkeys(keys, Tile(16, 32, 128, 4, 2, descriptor=descriptor))
        packed.forget_workspace()
        launches = packed.workspace(2).launches
        assert [la.constants["DESCRIPTOR"] for la in launches if la.key in keys] == [descriptor] * 2
        scores.append(convnet.score(packed, x))
    assert torch.equal(*scores) and scores[0].isfinite().all() and scores[0].any()


def test_only_on_9_0_and_10_0(own, monkeypatch):
    layers = [plan.Geometry(3, 8, 8, 32, 1), plan.Geometry(32, 8, 8, 64, 2)]
    for major in (8, 9, 10, 12):
        gpu = plan.Gpu(major, 132)
        forward = plan.plan(layers, 2, 2, gpu)[1]
        assert not forward.constants["DESCRIPTOR"]  # nor by default anywhere
        own.choices = {forward.key: Tile(64, 64, 128, 4, 3, descriptor=True)}
        assert plan.plan(layers, 2, 2, gpu)[1].constants["DESCRIPTOR"] == (major in (9, 10))
        own.choices = {}
    packed = convnet.pack(
        [(Conv(torch.ones(32, c, 3, 3), None, (1, 1), (1, 1), (1, 1), 1), 0.2) for c in (1, 32)],
        torch.ones(32, 2, 2),
        (1, 2, 2),
        "fp16",
    )
    for major in (8, 9, 12):
        tried = set()

        def time(*_, tried=tried):
            tried |= set(own.choices.values())
            return 1.0

        monkeypatch.setattr(tune, "gpu_of", lambda device, major=major: plan.Gpu(major, 132))
        monkeypatch.setattr(tune.triton.testing, "do_bench_cudagraph", lambda run, return_mode: time())
        tune.tune(packed, torch.ones(1, 1, 2, 2))
        assert any(tile.descriptor for tile in tried if isinstance(tile, Tile)) == (major == 9)
