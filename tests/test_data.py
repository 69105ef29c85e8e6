from __future__ import annotations

import random
import sys
from itertools import pairwise
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from fastlangevin import data, images, order
from fastlangevin.data import load_data
from fastlangevin.order import batch_indices, epoch_order

pytestmark = pytest.mark.any_processor


class Items(Dataset):
    """Serves a list, or calls a function for its items, and remembers what was read."""

    def __init__(self, items, n=None):
        self.items, self.n, self.reads = items, n, []

    def __len__(self):
        return len(self.items) if self.n is None else self.n

    def __getitem__(self, i):
        self.reads.append(i)
        return self.items(i) if callable(self.items) else self.items[i]


class Stream(IterableDataset):
    def __init__(self, items):
        self.items = items

    def __iter__(self):
        return iter(self.items)


def everything(loaded):
    return loaded.batch(torch.arange(len(loaded)))


def rand(*shape, lo=0.0, hi=1.0, dtype=torch.float32):
    """Random values whose least is lo and greatest is hi."""
    x = torch.rand(*shape, generator=torch.Generator().manual_seed(0), dtype=dtype)
    return (x - x.min()) / (x.max() - x.min()) * (hi - lo) + lo


def bytes_(*shape):
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def picture(path, mode="RGB", size=(5, 4), seed=0):
    """Writes random pixels; returns them."""
    channels = {"L": (), "LA": (2,), "RGB": (3,), "RGBA": (4,)}[mode]
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], *channels), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return torch.from_numpy(pixels)


def scaled(pixels):
    return pixels.float() / 127.5 - 1


# digits


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


def test_digits_in_a_range_of_ones_own():
    assert torch.equal(everything(load_data("digits", value_range=(0, 32))), (data.digits()[0] - 1) / 2)


# arrays


def test_uint8_is_scaled_at_the_batch():
    values = torch.arange(256, dtype=torch.uint8).reshape(4, 1, 8, 8)
    loaded = load_data(values)
    batch = loaded.batch(torch.tensor([2, 0]))
    assert loaded._items.values.dtype == torch.uint8
    assert batch.dtype == torch.float32
    assert torch.equal(batch, values[[2, 0]].float() / 127.5 - 1)
    assert everything(loaded).min() == -1 and everything(loaded).max() == 1


def test_uint8_within_a_range_of_ones_own():
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


def test_a_range_reaches_to_its_float32_ends():
    values = torch.tensor([[-0.1], [1.7]])  # as float32, both are a little outside of the doubles of the same name
    loaded = everything(load_data(values, value_range=(-0.1, 1.7)))
    assert loaded.flatten().tolist() == pytest.approx([-1, 1], abs=1e-6)
    assert loaded.abs().max() <= 1


def test_torchs_default_dtype_plays_no_part():
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
    expected = torch.tensor(values.astype(np.float64) / float(values.max()) * 2 - 1, dtype=torch.float32)
    assert loaded.name == "tensor"
    torch.testing.assert_close(everything(loaded), expected)


@pytest.mark.filterwarnings("error")
def test_read_only_arrays_are_read():
    values = rand(7, 3, lo=-1).numpy()
    values.flags.writeable = False
    assert torch.equal(everything(load_data(values)), torch.tensor(values))


def test_a_batch_is_the_callers_own():
    values = rand(6, 2, lo=-1)
    for source in (values, bytes_(6, 2), "digits", TensorDataset(values)):
        loaded = load_data(source)
        before = everything(loaded).clone()
        everything(loaded).zero_()
        assert torch.equal(everything(loaded), before)


def test_loading_leaves_the_source_alone():
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
        (torch.zeros(4, 1, 2, 2, 2), ValueError, r"got \(1, 2, 2, 2\)"),
        (torch.tensor([[0.0], [1.0], [float("nan")]]), ValueError, "finite.*item 2"),
        (torch.tensor([[0.0], [float("inf")], [1.0]]), ValueError, "finite.*item 1"),
        (torch.tensor([[-float("inf")], [1.0]]), ValueError, "finite.*item 0"),
        (torch.tensor([[0.0], [2e38]]), ValueError, "enormous.*item 1"),
        (torch.zeros(4, 2, dtype=torch.complex64), TypeError, "real.*complex64"),
        (torch.eye(3).to_sparse(), TypeError, "dense.*sparse"),
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


@pytest.mark.parametrize("image_size", [0, -1, 2.0, True, "8"])
def test_bad_image_sizes(image_size):
    with pytest.raises(ValueError, match="image_size must be an int of at least 1"):
        load_data(rand(5, 2), image_size=image_size)


@pytest.mark.parametrize("source", [rand(5, 4, 4), "digits", Items([rand(4, 4)]), Stream([rand(4, 4)])])
def test_image_size_where_it_means_nothing(source):
    with pytest.raises(ValueError, match=r"image_size must be None for .* got 8"):
        load_data(source, image_size=8)


@pytest.mark.parametrize("source", [None, 3, [rand(2, 2)], (rand(2, 2), rand(2))])
def test_other_sources(source):
    with pytest.raises(TypeError, match=f"data must be a name .* got {type(source).__name__}"):
        load_data(source)


def test_data_passes_through():
    loaded = load_data("digits")
    assert load_data(loaded) is loaded
    for option in ({"image_size": 8}, {"value_range": (0, 1)}):
        with pytest.raises(ValueError, match="must be None for a Data"):
            load_data(loaded, **option)


def test_to_moves_what_is_in_memory():
    loaded = load_data(bytes_(6, 3))
    moved = loaded.to("meta")
    assert moved.batch(torch.tensor([1])).device.type == "meta"
    assert (moved.name, moved.event_shape, moved.fingerprint, len(moved)) == ("tensor", (3,), loaded.fingerprint, 6)
    assert everything(loaded).device.type == "cpu"
    lazy = load_data(TensorDataset(bytes_(6, 3)))
    assert torch.equal(everything(lazy.to("meta")), everything(loaded))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_to_a_gpu():
    loaded = load_data("digits").to("cuda")
    batch = loaded.batch(torch.tensor([5, 3]))
    assert batch.is_cuda and torch.equal(batch.cpu(), data.digits()[0][[5, 3]])


# fingerprints


@pytest.mark.parametrize("wrap", [lambda x: x, TensorDataset, Stream], ids=["memory", "map-style", "iterable"])
def test_fingerprints(wrap):
    values = rand(12, 2, 2)

    def sign(values, **options):
        return load_data(wrap(values), **options).fingerprint

    changed = values.clone()
    changed[5, 1, 1] += 1e-3
    others = [changed, values[:-1], values.flip(0), values.reshape(12, 4), values.reshape(12, 1, 1, 4)]
    signs = [sign(values), sign(values, value_range=(0, 2)), *map(sign, others)]
    assert len(set(signs)) == len(signs)
    assert sign(values.clone()) == signs[0] and len(signs[0]) == 16 and int(signs[0], 16)


# files


@pytest.mark.parametrize("kind", [str, lambda path: path], ids=["str", "Path"])
def test_npy(tmp_path, kind):
    values = bytes_(6, 4, 5, 3)
    np.save(tmp_path / "cats.npy", values.numpy())
    loaded = load_data(kind(tmp_path / "cats.npy"))
    assert (loaded.name, loaded.event_shape) == ("file:cats.npy", (3, 4, 5))
    assert torch.equal(everything(loaded), scaled(values.permute(0, 3, 1, 2)))


@pytest.mark.parametrize("name", ["images", "x", "data", "arr_0", "anything"])
def test_npz(tmp_path, name):
    values = rand(6, 2, lo=-1)
    others = {} if name == "anything" else {"labels": np.arange(6), "a": np.array(["text"])}
    np.savez(tmp_path / "cats.npz", **others, **{name: values.numpy()})
    assert torch.equal(everything(load_data(tmp_path / "cats.npz")), values)


def test_npz_names_have_an_order(tmp_path):
    values = {name: rand(6, 2).numpy() / k for k, name in enumerate(data._ARRAY_NAMES, 1)}
    for first, _ in pairwise(list(values)):
        np.savez(tmp_path / "cats.npz", **dict(reversed(values.items())))
        assert torch.equal(everything(load_data(tmp_path / "cats.npz")), 2 * torch.tensor(values.pop(first)) - 1)


@pytest.mark.parametrize("names", [("a", "b"), ()])
def test_npz_without_the_array(tmp_path, names):
    np.savez(tmp_path / "cats.npz", **{name: np.eye(2) for name in names})
    listed = ", ".join(map(repr, names))
    with pytest.raises(ValueError, match=rf"cats.npz must hold one array, .*'images'.* got \[{listed}\]"):
        load_data(tmp_path / "cats.npz")


def test_pickled_arrays_are_refused(tmp_path):
    objects = np.array([{"a": 1}, None], dtype=object)
    np.save(tmp_path / "cats.npy", objects)
    np.savez(tmp_path / "cats.npz", images=objects)
    for name in ("cats.npy", "cats.npz"):
        with pytest.raises(ValueError, match=f"{name} cannot be read.*pickled objects are refused"):
            load_data(tmp_path / name)


@pytest.mark.parametrize("name", ["cats.npy", "cats.npz"])
@pytest.mark.parametrize("keep", [0, 9, 300])
def test_damaged_arrays(tmp_path, name, keep):
    (np.save if name.endswith("y") else np.savez_compressed)(tmp_path / name, rand(40, 40).numpy())
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:keep])
    with pytest.raises(ValueError, match=f"{name} cannot be read"):
        load_data(tmp_path / name)


def test_errors_about_a_files_content_name_it(tmp_path):
    np.save(tmp_path / "cats.npy", np.zeros(3))
    with pytest.raises(ValueError, match=r"cats.npy must have items of shape"):
        load_data(tmp_path / "cats.npy")
    with pytest.raises(ValueError, match=r"image_size must be None for a .npy file, got 4"):
        load_data(tmp_path / "cats.npy", image_size=4)


def test_files_of_other_kinds(tmp_path):
    picture(tmp_path / "cat.png")
    with pytest.raises(ValueError, match=r"folder of images, a .npy or a .npz .* got .*cat.png"):
        load_data(tmp_path / "cat.png")


@pytest.mark.parametrize(
    "source, words",
    [
        ("digit", "data='digit'.*digits, cifar10, celeba, lsun; did you mean 'digits'"),
        ("CIFAR", "data='CIFAR'.*did you mean 'cifar10'"),
        ("zzz", "no such file or folder"),
        ("some/digit", "no such file or folder"),
        ("digit.npy", "no such file or folder"),
    ],
)
def test_nothing_there(tmp_path, monkeypatch, source, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=words) as caught:
        load_data(source)
    assert ("did you mean" in words) == ("did you mean" in str(caught.value))


# folders


def test_a_folder(tmp_path):
    folder = tmp_path / "cats"
    b = picture(folder / "b.png", seed=1)
    z = picture(folder / "a" / "z.BMP", seed=2)
    a = picture(folder / "a.tiff", seed=3)
    (folder / "notes.txt").write_text("not an image")
    (folder / "._b.png").write_bytes(b"what macOS leaves behind")
    loaded = load_data(folder)
    assert (loaded.name, loaded.event_shape, len(loaded)) == ("folder:cats", (3, 4, 5), 3)
    assert loaded._items.values.dtype == torch.uint8
    assert torch.equal(everything(loaded), scaled(torch.stack([a, z, b]).permute(0, 3, 1, 2)))
    assert load_data(str(folder)).fingerprint == loaded.fingerprint


@pytest.mark.parametrize("suffix", images.SUFFIXES)
def test_every_suffix(tmp_path, suffix):
    picture(tmp_path / f"cat{suffix}")
    assert load_data(tmp_path).event_shape == (3, 4, 5)


def test_a_folder_with_a_names_name(tmp_path, monkeypatch):
    picture(tmp_path / "digits" / "cat.png")
    monkeypatch.chdir(tmp_path)
    assert load_data("digits").event_shape == (1, 8, 8)
    assert load_data("./digits").event_shape == (3, 4, 5)


def test_grey_images_stay_grey(tmp_path):
    a, b = picture(tmp_path / "a.png", "L"), picture(tmp_path / "b.png", "L", seed=1)
    assert torch.equal(everything(load_data(tmp_path)), scaled(torch.stack([a, b])[:, None]))
    c = picture(tmp_path / "c.png", seed=2)
    mixed = everything(load_data(tmp_path))
    assert torch.equal(mixed[0], scaled(a).expand(3, 4, 5)) and torch.equal(mixed[2], scaled(c.permute(2, 0, 1)))


def test_one_bit_and_16_bit_images(tmp_path):
    bits = np.array([[True, False], [False, True]])
    Image.fromarray(bits).save(tmp_path / "a.png")
    deep = np.array([[0, 257], [128 * 257 + 128, 65535]], dtype=np.uint16)
    Image.fromarray(deep).save(tmp_path / "b.png")
    Image.fromarray(deep).save(tmp_path / "c.tif")
    loaded = everything(load_data(tmp_path))
    assert torch.equal(loaded[0, 0], scaled(torch.tensor(bits) * 255))
    for image in loaded[1:, 0]:
        assert torch.equal(image, scaled(torch.tensor([[0, 1], [128, 255]])))


def test_values_of_no_known_range(tmp_path):
    Image.fromarray(np.eye(4, dtype=np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match=r"a.tif cannot be read.*floats.*value_range="):
        load_data(tmp_path)
    Image.fromarray(np.full((4, 4), 70000, dtype=np.int32)).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match=r"a.tif cannot be read.*16 bits: 70000"):
        load_data(tmp_path)


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_transparency_becomes_white(tmp_path, mode):
    pixels = picture(tmp_path / "a.png", mode, (40, 30))
    colour, alpha = pixels[..., :-1].double(), pixels[..., -1:].double() / 255
    expected = (colour * alpha + 255 * (1 - alpha)).permute(2, 0, 1)
    got = (everything(load_data(tmp_path))[0] + 1) * 127.5
    assert got.shape == expected.shape
    assert (got - expected).abs().max() <= 1


def test_a_transparent_palette(tmp_path):
    image = Image.fromarray(np.array([[0, 1], [1, 1]], dtype=np.uint8)).convert("P")
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.save(tmp_path / "a.png", transparency=0)
    expected = torch.tensor([[[255, v], [v, v]] for v in (40, 50, 60)])
    assert torch.equal(everything(load_data(tmp_path))[0], scaled(expected))


def test_photos_stand_upright(tmp_path):
    pixels = picture(tmp_path / "a.png", "L")
    turned = Image.open(tmp_path / "a.png").transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # show it turned by 90° clockwise
    turned.save(tmp_path / "a.png", exif=exif)
    assert torch.equal(everything(load_data(tmp_path))[0, 0], scaled(pixels))


def test_image_size_keeps_the_middle(tmp_path):
    pixels = picture(tmp_path / "a.png", "L", (9, 5))
    tall = picture(tmp_path / "b.png", "L", (5, 8), seed=1)
    assert torch.equal(
        everything(load_data(tmp_path, image_size=5)), scaled(torch.stack([pixels[:, 2:7], tall[1:6]])[:, None])
    )


def test_image_size_antialiases(tmp_path):
    board = (np.indices((64, 128)).sum(0) % 2 * 255).astype(np.uint8)
    board[:, :32], board[:, 96:] = 0, 255
    Image.fromarray(board).save(tmp_path / "a.png")
    picture(tmp_path / "b.png", "L", (20, 30))
    images = everything(load_data(tmp_path, image_size=8))
    assert images.shape == (2, 1, 8, 8)
    assert images[0].abs().max() < 0.1  # a checkerboard seen from afar is grey


def test_unequal_images(tmp_path):
    picture(tmp_path / "a.png")
    picture(tmp_path / "b.png", size=(7, 6))
    with pytest.raises(ValueError, match=r"a\.png is 5x4 and .*b\.png is 7x6: image_size="):
        load_data(tmp_path)


@pytest.mark.parametrize("keep", [0, 20, 0.5])
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".gif"])
def test_a_corrupt_image_is_named(tmp_path, suffix, keep):
    picture(tmp_path / f"a{suffix}", size=(40, 40))
    picture(tmp_path / f"bad{suffix}", size=(40, 40))
    content = (tmp_path / f"bad{suffix}").read_bytes()
    (tmp_path / f"bad{suffix}").write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    with pytest.raises(ValueError, match=rf"bad{suffix} cannot be read as an image"):
        load_data(tmp_path)


def test_a_folder_without_images(tmp_path):
    (tmp_path / "a.txt").touch()
    (tmp_path / "b.png").mkdir()
    with pytest.raises(ValueError, match=f"{tmp_path.name} holds no images .*png, jpg"):
        load_data(tmp_path)


# Datasets


def test_a_dataset_is_read_item_by_item():
    values = rand(5000, 2, 3, lo=-1)
    source = Items(lambda i: (values[i], i), len(values))
    loaded = load_data(source)
    assert (loaded.name, loaded.event_shape, len(loaded)) == ("dataset:Items", (1, 2, 3), 5000)
    assert len(source.reads) <= 257 and min(source.reads) == 0 and max(source.reads) > 4900
    source.reads.clear()
    indices = torch.tensor([4999, 3, 3])
    assert torch.equal(loaded.batch(indices), values[indices][:, None])
    assert source.reads == [4999, 3, 3]


@pytest.mark.parametrize("wrap", [Items, Stream])
def test_kinds_of_items(wrap):
    rgb = [bytes_(4, 5, 3), bytes_(4, 5, 3) // 2]
    expected = scaled(torch.stack(rgb).permute(0, 3, 1, 2))
    pil = [Image.fromarray(x.numpy()) for x in rgb]
    kinds = [
        rgb,
        [x.numpy() for x in rgb],
        [x.permute(2, 0, 1) for x in rgb],
        pil,
        [(x, 7) for x in pil],
        [[x] for x in rgb],
    ]
    for items in kinds:
        loaded = load_data(wrap(items))
        assert loaded.event_shape == (3, 4, 5)
        assert torch.equal(everything(loaded), expected)
    grey = load_data(wrap([image.convert("L") for image in pil]), image_size=4)
    assert grey.event_shape == (1, 4, 4)
    assert torch.equal(everything(load_data(wrap([rand(3), rand(3) / 2]))), torch.stack([rand(3), rand(3) / 2]) * 2 - 1)


@pytest.mark.parametrize(
    "values, options, expected",
    [
        (rand(9, 3), {}, lambda x: 2 * x - 1),
        (rand(9, 3, lo=-1), {}, lambda x: x),
        (rand(9, 3, lo=-4, hi=4), {"value_range": (-4, 4)}, lambda x: x / 4),
        (rand(9, 3), {"value_range": (-1, 1)}, lambda x: x),
        (bytes_(9, 3), {}, scaled),
        (bytes_(9, 3), {"value_range": (0, 510)}, lambda x: x.float() / 255 - 1),
        (torch.arange(2).reshape(2, 1), {}, lambda x: 2.0 * x - 1),
    ],
)
def test_a_datasets_range(values, options, expected):
    assert torch.equal(everything(load_data(TensorDataset(values), **options)), expected(values))


def test_a_datasets_unknown_range():
    values = rand(5, 3, lo=-4, hi=4)
    with pytest.raises(ValueError, match=r"value_range must be given for dataset:TensorDataset.*-4 … 4"):
        load_data(TensorDataset(values))
    assert torch.equal(everything(load_data(Stream(values))), everything(load_data(values)))


def odd_one(odd, usual, n=1000):
    """A Dataset whose item 1 alone is odd, too late for the look at every fourth."""
    return Items(lambda i: odd if i == 1 else usual, n)


@pytest.mark.parametrize(
    "odd, words",
    [
        (rand(1, 3, 3), r"item 0 is \(1, 2, 2\).* item 1 is \(1, 3, 3\)"),
        (bytes_(1, 2, 2), r"float32 and item 1 is \(1, 2, 2\) torch.uint8"),
        (rand(1, 2, 2) * 3, r"0 … 1, got 0 … 3; value_range="),
        (torch.full((1, 2, 2), float("nan")), "finite.*item 1"),
        (torch.tensor(3.0), r"item 1 must have items of shape .* got \(\)"),
        ({"image": rand(1, 2, 2)}, "item 1 must be a tensor, an array or a PIL image.* got dict"),
        ((), "item 1 must be.* got tuple"),
        (np.array(["text"]), "item 1 must hold real numbers"),
    ],
)
def test_items_that_are_unlike_the_others(odd, words):
    usual = rand(1, 2, 2)
    loaded = load_data(odd_one(odd, usual))
    assert loaded.batch(torch.tensor([0, 2])).shape == (2, 1, 2, 2)
    with pytest.raises((ValueError, TypeError), match=words):
        loaded.batch(torch.tensor([2, 0, 1]))


@pytest.mark.parametrize(
    "odd, words",
    [
        (rand(1, 3, 3), r"item 0 is \(1, 2, 2\).* item 1 is \(1, 3, 3\)"),
        (torch.full((1, 2, 2), float("nan")), "finite.*item 1"),
        ("text", "item 1 must be.* got str"),
    ],
)
@pytest.mark.parametrize("wrap", [Items, Stream])
def test_unlike_items_are_met_at_the_start_where_they_can_be(wrap, odd, words):
    with pytest.raises((ValueError, TypeError), match=words):
        load_data(wrap([rand(1, 2, 2), odd]))


@pytest.mark.parametrize("source", [Items([]), Stream([])])
def test_empty_datasets(source):
    with pytest.raises(ValueError, match=f"at least one item.*{type(source).__name__}"):
        load_data(source)


def test_a_dataset_without_a_length():
    class Endless(Dataset):
        def __getitem__(self, i):
            return rand(2)

    with pytest.raises(TypeError, match="with a length, got Endless"):
        load_data(Endless())


@pytest.mark.parametrize("wrap", [Items, Stream])
def test_random_transforms_keep_the_fingerprint_and_the_random_state(wrap):
    class Noisy(wrap):
        def __iter__(self):
            return (self[i] for i in range(50))

        def __getitem__(self, i):
            return torch.rand(2) + 3 * random.random() + 9 * np.random.rand()

    def states():
        return torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()

    fingerprints = set()
    for seed in (4, 5):
        torch.manual_seed(seed), random.seed(seed), np.random.seed(seed)
        before = states()
        fingerprints.add(load_data(Noisy(range(50)), value_range=(0, 13)).fingerprint)
        assert states() == before
    assert len(fingerprints) == 1


# torchvision


@pytest.fixture
def torchvision(monkeypatch, tmp_path):
    """A stand-in; its Datasets hold two photos of 218 by 178 pixels, and tell how they were made."""
    made = []

    def maker(name):
        def make(*args, **options):
            made.append((name, args, options))
            photos = np.random.default_rng(0).integers(0, 256, (2, 178, 218, 3), dtype=np.uint8)
            return Items([(Image.fromarray(photo), 0) for photo in photos])

        return make

    package, datasets = ModuleType("torchvision"), ModuleType("torchvision.datasets")
    package.datasets = datasets
    for name in ("CIFAR10", "CelebA", "LSUN"):
        setattr(datasets, name, maker(name))
    monkeypatch.setitem(sys.modules, "torchvision", package)
    monkeypatch.setitem(sys.modules, "torchvision.datasets", datasets)
    monkeypatch.setenv("FASTLANGEVIN_DATA", str(tmp_path))
    (tmp_path / "bedroom_train_lmdb").mkdir()
    return made


@pytest.mark.parametrize(
    "name, size, call",
    [
        ("cifar10", 32, ("CIFAR10", {"train": True, "download": True})),
        ("CIFAR10", 32, ("CIFAR10", {"train": True, "download": True})),
        ("CelebA", 64, ("CelebA", {"split": "train", "download": True})),
        ("lsun", 64, ("LSUN", {"classes": ["bedroom_train"]})),
    ],
)
def test_torchvisions_data(torchvision, tmp_path, name, size, call):
    loaded = load_data(name)
    assert torchvision == [(call[0], (str(tmp_path),), call[1])]
    assert (loaded.name, loaded.event_shape) == (name.lower(), (3, size, size))
    assert everything(loaded).shape == (2, 3, size, size)
    assert load_data(name, image_size=16).event_shape == (3, 16, 16)


def test_the_usual_folder(torchvision, monkeypatch, tmp_path):
    monkeypatch.delenv("FASTLANGEVIN_DATA")
    monkeypatch.chdir(tmp_path)
    load_data("cifar10")
    assert torchvision[0][1] == ("data",)
    with pytest.raises(FileNotFoundError, match=r"data.bedroom_train_lmdb, which.*FASTLANGEVIN_DATA"):
        load_data("lsun")


def test_without_torchvision(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(
        ImportError, match=r"'celeba' needs torchvision.*pip install 'fastlangevin\[vision\]'"
    ) as caught:
        load_data("celeba")
    assert isinstance(caught.value.__cause__, ImportError)


def test_a_broken_torchvision(monkeypatch):
    class Broken(ModuleType):
        def __getattr__(self, name):
            raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setitem(sys.modules, "torchvision", Broken("torchvision"))
    with pytest.raises(ImportError, match=r"operator torchvision::nms.*pip install"):
        load_data("cifar10")


# order


@pytest.mark.parametrize("n", [1, 2, 100])
def test_an_epoch_visits_every_item_once(n):
    order = epoch_order(n, seed=3, epoch=5)
    assert order.dtype == torch.int64
    assert order.sort().values.tolist() == list(range(n))


def test_orders_differ_with_seed_and_epoch():
    # 2^32: torch's CPU generator would not tell it from 0
    orders = [epoch_order(50, seed=s, epoch=e) for s in (0, 1, 2**32, 2**64 - 1) for e in (0, 1, 2**32)]
    assert len({tuple(order.tolist()) for order in orders}) == len(orders)


def test_orders_are_uniform():
    firsts = torch.stack([epoch_order(4, seed=0, epoch=e) for e in range(2000)])
    for place in firsts.T:
        assert (place.bincount(minlength=4) - 500).abs().max() < 100


def test_the_order_has_no_part_in_the_global_random_state():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = epoch_order(50, seed=3, epoch=0), batch_indices(50, 7, seed=9, iteration=3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    order._recent_order.cache_clear()
    again = epoch_order(50, seed=3, epoch=0), batch_indices(50, 7, seed=9, iteration=3)
    assert all(map(torch.equal, first, again))


@pytest.mark.parametrize("n, batch_size", [(10, 1), (10, 3), (10, 5), (10, 10), (10, 11), (10, 37), (1, 4)])
def test_batches_are_consecutive_pieces_of_the_epochs(n, batch_size):
    batches = [batch_indices(n, batch_size, seed=3, iteration=i) for i in range(40)]
    assert all(batch.shape == (batch_size,) and batch.dtype == torch.int64 for batch in batches)
    epochs = [epoch_order(n, seed=3, epoch=e) for e in range(-(-40 * batch_size // n))]
    assert torch.equal(torch.cat(batches), torch.cat(epochs)[: 40 * batch_size])


def test_a_batch_follows_from_its_arguments_alone():
    forward = [batch_indices(100, 64, seed=3, iteration=i) for i in range(9)]
    kept = [batch.clone() for batch in forward]
    for batch in forward:
        batch.zero_()  # the caller's own, and no part of a cache
    epoch_order(100, seed=3, epoch=0).zero_()
    for i in reversed(range(9)):
        batch_indices(100, 64, seed=4, iteration=i)
        assert torch.equal(batch_indices(100, 64, seed=3, iteration=i), kept[i])
    assert not torch.equal(kept[0], batch_indices(100, 64, seed=4, iteration=0))
    far = batch_indices(1000, 64, seed=3, iteration=10**12)
    assert len(set(far.tolist())) == 64


def test_an_epochs_order_is_made_once(monkeypatch):
    order._recent_order.cache_clear()
    for i in range(31):
        batch_indices(1000, 64, seed=3, iteration=i)
    assert order._recent_order.cache_info().misses == 2


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: epoch_order(0, seed=1, epoch=0), "n must be an int of at least 1, got 0"),
        (lambda: epoch_order(5, seed=1, epoch=-1), "epoch must be an int of at least 0, got -1"),
        (lambda: batch_indices(0, 4, seed=1, iteration=0), "n must be"),
        (lambda: batch_indices(5, 0, seed=1, iteration=0), "batch_size must be an int of at least 1, got 0"),
        (lambda: batch_indices(5, 4, seed=1, iteration=-2), "iteration must be an int of at least 0, got -2"),
        (lambda: batch_indices(5, 4.0, seed=1, iteration=0), "batch_size must be .* got 4.0"),
    ],
)
def test_bad_numbers(call, words):
    with pytest.raises(ValueError, match=words):
        call()
