from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset

from fastlangevin.data import digits, labels, load_data
from fastlangevin.data.dataset import with_labels

pytestmark = pytest.mark.any_processor

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 4, 4), dtype=np.uint8)
NUMBERS = [3, 0, 1, 1, 0, 2]


class Labelled(Dataset):
    def __init__(self, **attributes):
        self.__dict__.update(attributes)

    def __len__(self):
        return len(IMAGES)

    def __getitem__(self, i):
        return torch.from_numpy(IMAGES[i]), "anything"


def test_digits_have_theirs():
    found = load_data("digits").labels
    assert found.dtype == torch.int64 and torch.equal(found, digits()[1])


def test_labels_are_on_the_cpu_whatever_the_default_device(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        Image.fromarray(IMAGES[0]).save(tmp_path / name / "1.png")
    np.savez(tmp_path / "x.npz", images=IMAGES, labels=np.array(NUMBERS))
    with torch.device("meta"):
        given = [torch.from_numpy(IMAGES), Labelled(targets=NUMBERS), Labelled(labels=np.array(NUMBERS))]
        loaded = [load_data(source) for source in ("digits", tmp_path, tmp_path / "x.npz", *given)]
        loaded[3] = with_labels(loaded[3], NUMBERS)
    for data in loaded:
        assert data.labels.device == data._items.batch(torch.tensor([0])).device == torch.device("cpu")
    assert loaded[1].labels.tolist() == [0, 1] and loaded[3].labels.tolist() == NUMBERS


@pytest.mark.parametrize("name", ["labels", "y"])
@pytest.mark.parametrize("images", ["images", "mine"])
def test_beside_the_images_in_an_npz(tmp_path, name, images):
    np.savez(tmp_path / "x.npz", **{images: IMAGES, name: np.array(NUMBERS, np.uint8)})
    data = load_data(tmp_path / "x.npz")
    assert data.labels.tolist() == NUMBERS and data.labels.dtype == torch.int64
    np.savez(tmp_path / "plain.npz", IMAGES)
    plain = load_data(tmp_path / "plain.npz")
    assert plain.labels is None and plain.fingerprint == data.fingerprint


def test_a_single_array_is_the_data_whatever_its_name(tmp_path):
    np.savez(tmp_path / "x.npz", y=IMAGES)
    data = load_data(tmp_path / "x.npz")
    assert len(data) == 6 and data.labels is None


@pytest.mark.parametrize(
    "wrong, kind, words",
    [
        (np.array(NUMBERS[:5]), ValueError, "must have shape (6,), one per item, got (5,)"),
        (np.array(NUMBERS, float), TypeError, "must be integers, got"),
        (np.array(NUMBERS) - 1, ValueError, "must not be negative, got -1 for item 1"),
        (np.array(list("abcdef")), TypeError, "must be integers"),
        (np.eye(6, dtype=int), ValueError, "got (6, 6)"),
    ],
)
def test_bad_labels(tmp_path, wrong, kind, words):
    np.savez(tmp_path / "x.npz", images=IMAGES, labels=wrong)
    with pytest.raises(kind) as error:
        load_data(tmp_path / "x.npz")
    assert words in str(error.value) and str(tmp_path / "x.npz") in str(error.value)


def write(folder, *names):
    for i, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(IMAGES[i % 6]).save(folder / name)
    return load_data(folder)


def test_folders_are_classes_in_the_order_of_their_names(tmp_path):
    data = write(tmp_path, "dog/1.png", "cat/2.png", "cat/1.png", "emu/0.png")
    assert data.labels.tolist() == [0, 0, 1, 2]
    assert torch.equal(data.batch(torch.tensor([3]))[0, 0], torch.from_numpy(IMAGES[3]).float() / 127.5 - 1)


@pytest.mark.parametrize("names", [("1.png", "2.png"), ("cat/1.png", "2.png"), ("cat/a/1.png", "dog/2.png")])
def test_other_folders_are_not_classes(tmp_path, names):
    assert write(tmp_path, *names).labels is None


@pytest.mark.parametrize("name", ["targets", "labels"])
@pytest.mark.parametrize("make", [list, np.array, torch.tensor, lambda n: np.array(n, np.uint8)[:, None]])
def test_of_a_dataset(name, make):
    assert load_data(Labelled(**{name: make(NUMBERS)})).labels.tolist() == NUMBERS


@pytest.mark.parametrize("wrong", [NUMBERS[:3], [0.5] * 6, [-1] * 6, ["a"] * 6, None, 3])
def test_attributes_of_a_dataset_that_are_not_labels(wrong):
    assert load_data(Labelled(targets=wrong)).labels is None
    assert load_data(Labelled(targets=wrong, labels=NUMBERS)).labels.tolist() == NUMBERS


def test_fingerprints_do_not_depend_on_labels():
    assert load_data("digits").fingerprint == "f7f11ebe9cb2af86"
    assert load_data(Labelled(targets=NUMBERS)).fingerprint == load_data(Labelled()).fingerprint


def test_reading_a_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        labels.read(tmp_path / "y.npy")
    (tmp_path / "y.npy").write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"y\.npy cannot be read as a plain array"):
        labels.read(tmp_path / "y.npy")
    np.savez(tmp_path / "y.npz", a=1, b=2)
    with pytest.raises(ValueError, match=r"must be an \.npy file"):
        labels.read(tmp_path / "y.npz")
