"""torch Datasets, and the data sets of torchvision."""

from __future__ import annotations

import random
import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from support.data_sources import Items, Stream, bytes_, everything, rand, scaled
from torch.utils.data import Dataset, IterableDataset, TensorDataset

import fastlangevin as fl
from fastlangevin.data import load_data

pytestmark = pytest.mark.any_processor

# Datasets


def test_a_dataset_is_read_item_by_item():
    values = rand(5000, 2, 3, lo=-1)
    source = Items(lambda i: (values[i], i), len(values))
    loaded = load_data(source)
    assert (loaded.name, loaded.event_shape, len(loaded)) == ("dataset:Items", (1, 2, 3), 5000)
    assert len(source.reads) <= 1 + 2 * 256 and min(source.reads) == 0 and max(source.reads) > 4900
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
    """A Dataset in which only item 1 differs, which is not among the inspected items, every fourth."""
    return Items(lambda i: odd if i == 1 else usual, n)


@pytest.mark.parametrize(
    "odd, words",
    [
        (rand(1, 3, 3), r"item 0 is torch.float32 \(1, 2, 2\) and item 1 is torch.float32 \(1, 3, 3\)"),
        (bytes_(1, 2, 2), r"float32 \(1, 2, 2\) and item 1 is torch.uint8 \(1, 2, 2\)"),
        (rand(1, 2, 2) * 3, r"0 … 1, got 0 … 3; value_range="),
        (torch.full((1, 2, 2), float("nan")), "finite.*item 1"),
        (torch.tensor(3.0), r"item 1 must have items of shape .* got \(\)"),
        ({"image": rand(1, 2, 2)}, "item 1 must be a tensor, an array or a PIL image.* got dict"),
        ((), "item 1 must be.* got tuple"),
        (np.array(["text"]), "item 1 must hold real numbers"),
    ],
)
def test_items_that_differ_from_the_others(odd, words):
    usual = rand(1, 2, 2)
    loaded = load_data(odd_one(odd, usual))
    assert loaded.batch(torch.tensor([0, 2])).shape == (2, 1, 2, 2)
    with pytest.raises((ValueError, TypeError), match=words):
        loaded.batch(torch.tensor([2, 0, 1]))


@pytest.mark.parametrize(
    "odd, words",
    [
        (rand(1, 3, 3), r"item 0 is torch.float32 \(1, 2, 2\) and item 1 is torch.float32 \(1, 3, 3\)"),
        (torch.full((1, 2, 2), float("nan")), "finite.*item 1"),
        ("text", "item 1 must be.* got str"),
    ],
)
@pytest.mark.parametrize("wrap", [Items, Stream])
def test_items_that_differ_are_detected_at_loading_if_possible(wrap, odd, words):
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


class Augmented(Items):
    """Draws from a generator of its own whether to flip an item."""

    def __init__(self, items, chance=0.5):
        super().__init__(items)
        self.rng, self.chance = np.random.default_rng(), chance

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def __getitem__(self, i):
        return 1 - self.items[i] if self.rng.random() < self.chance else self.items[i]


class AugmentedStream(Augmented, IterableDataset):
    pass


@pytest.mark.parametrize("kind", [Augmented, AugmentedStream])
def test_a_random_generator_of_the_datasets_own(kind, tmp_path, capsys):
    """The run is resumed, and it is said what cannot be promised."""
    values = rand(50, 2)
    loaded = [load_data(kind(values)) for _ in range(2)]
    assert loaded[0].fingerprint == loaded[1].fingerprint and f"{kind.__name__} differ each time" in loaded[0].notes[0]
    assert loaded[0].fingerprint != load_data(kind(values[:49])).fingerprint
    options = dict(out=tmp_path / "run", batch_size=4, sampler={"n_steps": 2})
    for n in (1, 2):
        result = fl.train(kind(values), torch.nn.Linear(2, 1), n_iterations=n, resume=True, **options)
        assert f"the items of dataset:{kind.__name__} differ each time they are read" in capsys.readouterr().out
    assert [row["iteration"] for row in result.history] == [1, 2]
    never = load_data(kind(values, chance=0))
    assert never.notes == () and never.fingerprint == load_data(kind(values, chance=0)).fingerprint
    assert never.fingerprint != load_data(kind(values / 2, chance=0)).fingerprint


def test_a_stream_that_can_be_read_once():
    class Once(IterableDataset):
        def __init__(self, items):
            self.left = iter(items)

        def __iter__(self):
            return self.left

    loaded = load_data(Once(rand(300, 2)))
    assert torch.equal(everything(loaded), rand(300, 2) * 2 - 1) and loaded.notes == ()


# torchvision


@pytest.fixture
def torchvision(monkeypatch, tmp_path):
    """A fake torchvision; its Datasets hold two images of 218 by 178 pixels and record their arguments."""
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
