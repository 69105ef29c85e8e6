"""The launches that the convnet's kernels are planned to take, as plain numbers."""

from __future__ import annotations

import importlib.util
import math

import pytest

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)

from fastlangevin.kernels.triton.convnet import plan as convnet_plan


def test_the_paper_s_network_occupies_an_h100():
    sizes = ((3, 32, 64, 1), (64, 32, 128, 2), (128, 16, 256, 2), (256, 8, 512, 2))
    layers = [convnet_plan.Geometry(planes, size, size, channels, stride) for planes, size, channels, stride in sizes]
    planned = convnet_plan.plan(layers, 64, 2, convnet_plan.Gpu(9, 132))
    assert len(planned) == 8
    for launch in planned:
        x, y, z = launch.grid
        assert x * y * z >= 120 and (launch.constants.get("SPLIT", 1) == 1 or x * y * z <= 132), launch
    products = [la.constants for la in planned if "SPLIT" in la.constants]
    assert [c["SPLIT"] for c in products] == [1, 2, 4, 2, 1, 1]
    assert all(c["M"] >= 64 and c["N"] >= 64 for c in products)
    one_each = [math.prod(la.grid) for la in planned if "SPLIT" in la.constants]
    assert max(one_each) <= 132, one_each  # a second wave would start when the first ends
