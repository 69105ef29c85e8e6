"""Data from arrays and by name: layouts, values, ranges."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.data_sources import bytes_, everything, rand
from support.error_bounds import U

from fastlangevin.data import load_data
from fastlangevin.data import sources as data

pytestmark = pytest.mark.any_processor


def test_digits_are_those_of_scikit_learn():
    bunch = pytest.importorskip("sklearn.datasets").load_digits()
    images, labels = data.digits()
    assert images.dtype == torch.float32 and images.shape == (1797, 1, 8, 8)
    assert torch.equal(images[:, 0], torch.from_numpy(bunch.images).float() / 8 - 1)
    assert labels.dtype == torch.int64 and torch.equal(labels, torch.from_numpy(bunch.target).long())


@pytest.mark.parametrize("name", ["digits", "Digits"])
def test_digits_by_name(name):
    loaded = load_data(name)
    assert (loaded.name, loaded.event_shape, len(loaded)) == ("digits", (1, 8, 8), 1797)
    assert torch.equal(everything(loaded), data.digits()[0])


def test_digits_in_a_custom_range():
    assert torch.equal(everything(load_data("digits", value_range=(0, 32))), (data.digits()[0] - 1) / 2)


def test_uint8_is_scaled_at_the_batch():
    values = torch.arange(256, dtype=torch.uint8).reshape(4, 1, 8, 8)
    loaded = load_data(values)
    batch = loaded.batch(torch.tensor([2, 0]))
    assert loaded._items.values.dtype == torch.uint8
    assert batch.dtype == torch.float32
    assert torch.equal(batch, values[[2, 0]].float() / 127.5 - 1)
    assert everything(loaded).min() == -1 and everything(loaded).max() == 1


def test_uint8_in_a_custom_range():
    values = torch.tensor([[0, 1], [1, 0]], dtype=torch.uint8)
    assert torch.equal(everything(load_data(values, value_range=(0, 1))), values.float() * 2 - 1)


@pytest.mark.parametrize(
    "values, expected",
    [
        (rand(5, 3), lambda x: 2 * x - 1),
        (rand(5, 3, lo=0.2, hi=0.4), lambda x: 2 * x - 1),
        (rand(5, 3, lo=-1), lambda x: x),
        (rand(5, 3, lo=-0.5, hi=0.25), lambda x: x),
        (rand(5, 3, lo=0, hi=8), lambda x: x / 4 - 1),
        (rand(5, 3, lo=-2, hi=0), lambda x: x + 1),
        (rand(5, 3, dtype=torch.float64), lambda x: (2 * x - 1).float()),
        (rand(5, 3).half(), lambda x: 2 * x.float() - 1),
        (rand(5, 3).bfloat16(), lambda x: 2 * x.float() - 1),
        (torch.arange(17).reshape(17, 1), lambda x: x.float() / 8 - 1),
        (torch.tensor([[0], [1]]), lambda x: x.float() * 2 - 1),
        (torch.tensor([[-1, 0, 1]], dtype=torch.int8), lambda x: x.float()),
        (torch.tensor([[True, False]]), lambda x: x.float() * 2 - 1),
        (torch.tensor([[2**40], [2**40 + 1], [2**40 + 2]]), lambda x: torch.tensor([[-1.0], [0.0], [1.0]])),
    ],
)
def test_scaling_without_a_range(values, expected):
    assert torch.equal(everything(load_data(values)), expected(values))


def test_scaling_with_a_range():
    values = torch.tensor([[0.0, 1.0, 2.0, 4.0]])
    assert everything(load_data(values, value_range=(0, 4))).tolist() == [[-1, -0.5, 0, 1]]
    assert everything(load_data(values, value_range=(-4, 4))).tolist() == [[0, 0.25, 0.5, 1]]
    odd = rand(50, 4, lo=-0.3, hi=0.7).sub(0.1)
    assert torch.equal(everything(load_data(odd, value_range=(-1, 1))), odd)


def test_a_range_includes_its_float32_ends():
    values = torch.tensor([[-0.1], [1.7]])  # as float32, both are slightly outside the doubles of the same decimal
    loaded = everything(load_data(values, value_range=(-0.1, 1.7)))
    # Of the end: itself, -0.1 and the half span are rounded, and the difference and the quotient, about 2.
    assert loaded[0] == -1 and 1 - 2 * 5 * U <= loaded[1] <= 1


def test_torchs_default_dtype_has_no_effect():
    expected = [everything(load_data(source)) for source in (bytes_(5, 3), rand(5, 3))]
    torch.set_default_dtype(torch.bfloat16)
    try:
        loaded = [everything(load_data(source)) for source in (bytes_(5, 3), rand(5, 3))]
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(map(torch.equal, loaded, expected))


@pytest.mark.parametrize(
    "shape, event",
    [
        ((6, 2), (2,)),
        ((6, 4, 5), (1, 4, 5)),
        ((6, 1, 4, 5), (1, 4, 5)),
        ((6, 3, 4, 5), (3, 4, 5)),
        ((6, 3, 4, 3), (3, 4, 3)),
        ((6, 7, 4, 5), (7, 4, 5)),
    ],
)
def test_layouts(shape, event):
    values = rand(*shape)
    loaded = load_data(values)
    assert loaded.event_shape == event
    assert torch.equal(everything(loaded), (2 * values - 1).reshape(6, *event))


@pytest.mark.parametrize("channels", [1, 3])
def test_channels_last(channels):
    values = rand(6, 4, 5, channels)
    loaded = load_data(values)
    assert loaded.event_shape == (channels, 4, 5)
    assert torch.equal(everything(loaded), 2 * values.permute(0, 3, 1, 2) - 1)
    assert everything(loaded).is_contiguous()


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x,
        lambda x: x.astype(">f8"),
        lambda x: x[:, ::-1],
        lambda x: (x * 60000).astype(np.uint16),
        lambda x: np.asfortranarray(x),
    ],
)
def test_numpy_arrays(change):
    values = change(rand(7, 3, dtype=torch.float64).numpy())
    loaded = load_data(values, value_range=(0, values.max()))
    wide = values if values.dtype.itemsize == 8 else values.astype(np.float32)  # in which the operations are the same
    expected = torch.tensor(wide / float(values.max()) * 2 - 1, dtype=torch.float32)
    assert loaded.name == "tensor"
    assert torch.equal(everything(loaded), expected)


@pytest.mark.filterwarnings("error")
def test_read_only_arrays_are_read():
    values = rand(7, 3, lo=-1).numpy()
    values.flags.writeable = False
    assert torch.equal(everything(load_data(values)), torch.tensor(values))


def test_loading_does_not_change_the_source():
    values = rand(6, 2, lo=-3, hi=9).requires_grad_()
    before = values.detach().clone()
    assert not everything(load_data(values)).requires_grad
    assert torch.equal(values.detach(), before)


@pytest.mark.parametrize(
    "values, error, words",
    [
        (torch.zeros(4, 2), ValueError, "constant, got 0"),
        (torch.full((4, 2), 9, dtype=torch.uint8), ValueError, "constant, got 9"),
        (torch.zeros(0, 2), ValueError, r"at least one item.*\(0, 2\)"),
        (torch.zeros(4, 0), ValueError, r"got \(0,\)"),
        (torch.zeros(4), ValueError, r"shape \(D,\).*got \(\)"),
        (torch.zeros(4, 1, 0, 2, 2), ValueError, r"got \(1, 0, 2, 2\)"),
        (torch.tensor([[0.0], [1.0], [float("nan")]]), ValueError, "finite.*item 2"),
        (torch.tensor([[0.0], [float("inf")], [1.0]]), ValueError, "finite.*item 1"),
        (torch.tensor([[-float("inf")], [1.0]]), ValueError, "finite.*item 0"),
        (torch.tensor([[0.0], [2e38]]), ValueError, "enormous.*item 1"),
        (torch.zeros(4, 2, dtype=torch.complex64), TypeError, "real.*complex64"),
        (torch.eye(3).to_sparse(), TypeError, "dense.*sparse"),
        (torch.nested.nested_tensor([torch.ones(2)] * 2, layout=torch.jagged), TypeError, "dense.*jagged"),
        (torch.zeros(2, 2, device="meta"), TypeError, "must have values, got a tensor on the meta device"),
        (np.zeros((4, 2), dtype=complex), TypeError, "real numbers.*complex128"),
        (np.array([["a"]]), TypeError, "real numbers.*U1"),
        (np.array([[None]]), TypeError, "real numbers.*object"),
    ],
)
def test_bad_arrays(values, error, words):
    with pytest.raises(error, match=words):
        load_data(values)


@pytest.mark.parametrize("values", [rand(5, 2, lo=-3, hi=7), rand(5, 2, lo=-3, hi=0.5), rand(5, 2, lo=0.5, hi=7)])
def test_values_outside_the_range(values):
    low, high = values.min().item(), values.max().item()
    with pytest.raises(ValueError, match=rf"0 … 1, got {low:g} … {high:g}; value_range="):
        load_data(values, value_range=(0, 1))


@pytest.mark.parametrize(
    "value_range", [(1, 0), (1, 1), (0, float("inf")), (0, float("nan")), (0,), (0, 1, 2), 3, "01x", ("a", "b")]
)
def test_bad_ranges(value_range):
    with pytest.raises(ValueError, match=r"value_range must be two finite numbers \(lo, hi\)"):
        load_data(rand(5, 2), value_range=value_range)
