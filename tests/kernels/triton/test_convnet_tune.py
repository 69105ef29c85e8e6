"""Tiles that are measured: what is timed, what is kept, the file that ships, and dependent launches."""

from __future__ import annotations

import importlib.util
import json

import pytest
import torch

from fastlangevin.kernels import triton as backend
from fastlangevin.network.layers import Conv

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)

from triton.runtime.errors import OutOfResources

from fastlangevin.kernels.triton import convnet
from fastlangevin.kernels.triton.convnet import launches, measured, plan, tune
from fastlangevin.kernels.triton.convnet.measured import CUDNN, Measured, Tile

SHAPE = (1, 4, 4)
MADE = Tile(64, 128, 128, 4, 3, split=2)


@pytest.fixture(autouse=True)
def own(monkeypatch):
    """Nothing is measured yet."""
    monkeypatch.setattr(measured, "BY_GPU", {})
    return measured.BY_GPU


@pytest.fixture
def packed():
    if backend.unsupported() or backend.DEVICE != "cpu":
        pytest.skip("needs the interpreter")
    generator = torch.Generator().manual_seed(0)
    signs = lambda *shape: torch.randint(0, 2, shape, generator=generator) * 2.0 - 1
    first = Conv(signs(32, 1, 3, 3), None, (1, 1), (1, 1), (1, 1), 1)
    second = Conv(signs(64, 32, 4, 4), None, (2, 2), (1, 1), (1, 1), 1)
    return convnet.pack([(first, 0.5), (second, 0.5)], signs(64, 2, 2), SHAPE, "fp16")


@pytest.mark.parametrize("cudnn", ["slower", "faster of one"])
def test_the_fastest_is_kept_and_used(packed, own, monkeypatch, cudnn):
    """Each by the time of a whole step, which leaves the state as it was; whatever computes them, sums of whole numbers
    are the same.
    """
    x, seen = torch.ones(2, *SHAPE), []

    def time(run, return_mode):
        before = x.clone()
        if len(seen) == 7:
            run()  # one of all: the interpreter takes long
        assert torch.equal(x, before) and return_mode == "median"
        choices = {la.key: la.choice for la in packed.workspace(2).launches if la.key[0] in ("forward", "backward")}
        seen.append(choices)
        tiles = [choice for choice in choices.values() if choice != CUDNN]
        if any(tile.rows == 512 for tile in tiles):
            raise OutOfResources(1, 2, "shared memory")
        differences = (zip(vars(tile).values(), vars(MADE).values(), strict=True) for tile in tiles)
        times = {key: 1.0 for key, choice in choices.items() if choice == CUDNN}
        if cudnn == "faster of one" and times:
            times = {key: -1.0 if key[0] == "backward" else 1.0 for key in times}
        return sum(abs(a - b) for pairs in differences for a, b in pairs) + sum(times.values())

    monkeypatch.setattr(tune.triton.testing, "do_bench_cudagraph", time)
    before = convnet.score(packed, x) if cudnn == "slower" else None
    own[""] = Measured(choices={packed.workspace(2).launches[1].key: CUDNN})  # an earlier one is forgotten
    found = tune.tune(packed, x)
    products = packed.workspace(2).launches[1:-1]
    assert found is own[""] and list(found.choices) == [la.key for la in products]
    assert any(CUDNN in choices.values() for choices in seen)
    expected = [MADE, MADE if cudnn == "slower" else CUDNN]
    assert [la.choice for la in products] == [found.choices[la.key] for la in products] == expected
    if before is not None:
        assert torch.equal(convnet.score(packed, x), before)


@pytest.mark.parametrize("faster", [True, False])
def test_one_kernel_between_steps_is_used_where_it_is_faster(packed, own, monkeypatch, faster):
    """By the time of a chain, which leaves the state as it was."""
    x, seen = torch.ones(2, *SHAPE), []
    key = plan.between_key(packed.layers[0].geometry, 2, 2)
    own[""] = Measured(choices={key: MADE})  # an earlier one is forgotten

    def time(run, return_mode):
        between, before = packed.workspace(2).between, x.clone()
        if faster and len(seen) == 2:
            run()
        assert torch.equal(x, before) and return_mode == "median"
        seen.append(None if between is None else between.choice)
        if between is None:
            return 3.0
        if between.choice.rows == 128:
            raise OutOfResources(1, 2, "shared memory")
        return (between.choice.split != 4) + (2.0 if faster else 3.0)

    monkeypatch.setattr(tune.triton.testing, "do_bench_cudagraph", time)
    monkeypatch.setattr(tune, "_CHAIN", 2)
    tune._tune_between(packed, x, own[""])
    chosen = own[""].choices.get(key)
    assert (seen[0], len(set(seen)), len(seen)) == (None, 25, 25)
    assert (chosen is None) if not faster else (chosen.split == 4 and chosen.rows < 128)


@pytest.mark.parametrize("faster", [True, False])
def test_dependent_launches_are_used_where_they_are_faster(packed, own, monkeypatch, faster):
    def time(run, return_mode):
        is_on = packed.workspace(2).launches[0].options.get("launch_pdl", False)
        return 1.0 if is_on == faster else 2.0

    monkeypatch.setattr(launches, "gpu_of", lambda device: plan.Gpu(9, 132, "a"))
    monkeypatch.setattr(tune, "gpu_of", launches.gpu_of)
    monkeypatch.setattr(tune.triton.testing, "do_bench_cudagraph", time)
    assert tune.tune(packed, torch.ones(2, *SHAPE)).dependent_launch == faster
    for launch in packed.workspace(2).launches:
        assert (launch.constants["PDL"], launch.options.get("launch_pdl", False)) == (faster, faster)
    own["a"].dependent_launch = True
    (geometry,) = (layer.geometry for layer in packed.layers[:1])
    assert not plan.plan([geometry], 2, 2, plan.Gpu(8, 108, "a"))[0].constants["PDL"]  # 8.0 has none


def test_of_another_gpu_or_batch_nothing_is_used(packed, own):
    key = packed.workspace(2).launches[1].key
    own["one"] = Measured(choices={key: MADE})
    geometries = [layer.geometry for layer in packed.layers]
    used = lambda batch, name: plan.plan(geometries, batch, 2, plan.Gpu(9, 132, name))[1].choice == MADE
    assert used(2, "one") and not used(2, "another") and not used(4, "one")


def test_the_file(tmp_path):
    path = tmp_path / "tiles.json"
    key = ("forward", 2, 16384, 128, 1024)
    kept = {"b": Measured(), "a": Measured(True, {key: MADE, ("backward", *key[1:]): CUDNN})}
    measured.save(kept, path)
    assert measured.load(path) == kept
    assert list(json.loads(path.read_text())) == ["a", "b"] and len(path.read_text().splitlines()) == 13
    for before, after in (('"kernel": "backward"', '"kernel": "input"'), ('"cudnn"', '"another"')):
        changed = tmp_path / "changed.json"
        changed.write_text(path.read_text().replace(before, after))
        with pytest.raises((ValueError, TypeError)):
            measured.load(changed)
    measured.save({}, path)
    assert measured.load(path) == {}


def test_what_ships():
    """Only what was measured: a GPU's entry names the results that it comes from in docs/gpu.md."""
    assert measured.load() == {}
