"""torchvision's own data sets, on small files in their formats; `test_datasets.py` has a stand-in for them."""

from __future__ import annotations

import hashlib
import io
import pickle
import sys

import numpy as np
import pytest
import torch

from fastlangevin.data.sources import load_data

datasets = pytest.importorskip("torchvision.datasets", exc_type=Exception)
pytestmark = pytest.mark.cuda_build

GENERATOR = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path):
    """LSUN's reader writes a file to the working directory."""
    monkeypatch.setenv("FASTLANGEVIN_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def picture(height: int, width: int, ending: str) -> tuple[np.ndarray, bytes]:
    from PIL import Image

    pixels = GENERATOR.integers(0, 256, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, ending)
    return pixels, file.getvalue()


def test_cifar10(folder, monkeypatch):
    """Batches are pickled dicts of bytes (N, 3072), channel by channel."""
    base = folder / "cifar-10-batches-py"
    base.mkdir()
    images = GENERATOR.integers(0, 256, (10, 3072), dtype=np.uint8)
    contents = {f"data_batch_{i + 1}": {"data": images[2 * i :][:2], "labels": [i, 9 - i]} for i in range(5)}
    contents["test_batch"] = {"data": images[:1], "labels": [0]}
    contents["batches.meta"] = {"label_names": list("abcdefghij")}
    sums = {}
    for name, content in contents.items():
        stored = pickle.dumps(content)
        (base / name).write_bytes(stored)
        sums[name] = hashlib.md5(stored).hexdigest()
    for attribute in ("train_list", "test_list"):
        rows = [[name, sums[name]] for name, _ in getattr(datasets.CIFAR10, attribute)]
        monkeypatch.setattr(datasets.CIFAR10, attribute, rows)
    monkeypatch.setattr(datasets.CIFAR10, "meta", {**datasets.CIFAR10.meta, "md5": sums["batches.meta"]})
    data = load_data("cifar10")
    assert (data.name, len(data), data.event_shape) == ("cifar10", 10, (3, 32, 32))
    expected = torch.from_numpy(images).view(10, 3, 32, 32).float() / 127.5 - 1
    assert torch.allclose(data.batch(torch.arange(10)), expected, rtol=0, atol=2**-22)
    assert data.labels is not None and data.labels.tolist() == [0, 9, 1, 8, 2, 7, 3, 6, 4, 5]


def test_celeba(folder, monkeypatch):
    """Photographs of 178 by 218 pixels, of which the square in the middle is scaled to 64; the train split is read."""
    base = folder / "celeba"
    (base / "img_align_celeba").mkdir(parents=True)
    names = [f"{i:06}.jpg" for i in range(1, 4)]
    for name in names:
        (base / "img_align_celeba" / name).write_bytes(picture(218, 178, "JPEG")[1])
    rows = lambda values: "".join(f"{name} {values}\n" for name in names)
    (base / "list_eval_partition.txt").write_text(f"{names[0]} 0\n{names[1]} 2\n{names[2]} 0\n")
    (base / "identity_CelebA.txt").write_text(rows("7"))
    (base / "list_bbox_celeba.txt").write_text(f"3\nimage_id x_1 y_1 width height\n{rows('1 2 3 4')}")
    (base / "list_landmarks_align_celeba.txt").write_text(f"3\na b\n{rows('1 2')}")
    (base / "list_attr_celeba.txt").write_text(f"3\nBald Young\n{rows('-1 1')}")
    unchecked = [(key, None, name) for key, _, name in datasets.CelebA.file_list]
    monkeypatch.setattr(datasets.CelebA, "file_list", unchecked)
    data = load_data("celeba")
    assert (data.name, len(data), data.event_shape) == ("celeba", 2, (3, 64, 64))
    batch = data.batch(torch.tensor([0, 1]))
    assert batch.abs().max() <= 1 and batch.std() > 0.05 and not torch.equal(*batch)


def test_lsun(folder):
    """A database of encoded photographs of any size."""
    lmdb = pytest.importorskip("lmdb")
    with (
        lmdb.open(str(folder / "bedroom_train_lmdb"), map_size=1 << 20) as database,
        database.begin(write=True) as change,
    ):
        for i in range(3):
            change.put(f"{i:040}".encode(), picture(70 + i, 90, "WEBP")[1])
    data = load_data("lsun", image_size=16)
    assert (data.name, len(data), data.event_shape) == ("lsun", 3, (3, 16, 16))
    batch = data.batch(torch.arange(3))
    assert batch.abs().max() <= 1 and batch.std() > 0.02 and not torch.equal(*batch[:2])


def test_lsun_without_lmdb(folder, monkeypatch):
    (folder / "bedroom_train_lmdb").mkdir()
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(ImportError, match="data='lsun' needs lmdb, which cannot be imported .*: pip install lmdb"):
        load_data("lsun")
