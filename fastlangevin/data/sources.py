"""`load_data`: data by name, from files and folders, arrays and torch Datasets."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from ..validation import check_int, nearest, unknown
from . import images
from . import labels as class_labels
from .dataset import Data, stored_data, with_labels
from .folders import image_files
from .ranges import Range
from .torch_dataset import StreamContent, from_map_style, read_stream
from .values import LAYOUTS, Layout, check_value_range, scaled, to_channels_first, to_tensor

_NAMES = ("digits", *images.TORCHVISION_SIZES)
_ARRAY_NAMES = ("images", "x", "data", "arr_0")
_DIGITS: Range = (0.0, 16.0)


def load_data(
    source: Any,
    *,
    image_size: int | None = None,
    value_range: tuple[float, float] | None = None,
    layout: Layout = "images",
) -> Data:
    """Loads data from an array, a file, a folder of images, a torch Dataset or a known name, scaled to [-1, 1].

    A value x becomes 2 (x - lo) / (hi - lo) - 1, where (lo, hi) is `value_range`. If that is None, (lo, hi) is (0, 255)
    for uint8; otherwise (0, 1) if all values lie in it, (-1, 1) if all values lie in that (which leaves them
    unchanged), else the minimum and maximum.

    Args:
        source: one of

            - "digits": the 1,797 images of `digits`.
            - "cifar10", "celeba" or "lsun" (bedrooms): torchvision's data sets, in the folder named by the environment
              variable FASTLANGEVIN_DATA, by default ./data. CIFAR-10 and CelebA are downloaded into it.
            - A tensor or NumPy array of points (N, D), of images (N, H, W), (N, C, H, W) or, if C is 1 or 3 and the
              second dimension is neither, (N, H, W, C), or of items of any other shape (N, *event). It is not copied
              unless it needs conversion.
            - A `.npy` or `.npz` file of such an array. Of several arrays in a `.npz`, the one named "images", "x",
              "data" or "arr_0" is used, and one named "labels" or "y" beside it holds the labels.
            - A folder: all images that Pillow reads in it and its subfolders, and in folders to which there are
              links, sorted by path, without hidden files and folders. `Data.notes` counts what was left out. Images
              have one channel if all are grey, else RGB. Transparent parts become white, 16 bits are reduced to 8, and
              of an animation the first frame is used. If every image lies in a folder directly below it, these folders
              are the classes.
            - A map-style torch Dataset, read item by item, each time it is needed. An item is one event (laid out as
              above, without N) or a PIL image, or a tuple or list that starts with one. 256 items determine the range
              of values that are not uint8; without `value_range` they must lie in [-1, 1]. They are read twice: where
              they differ (a random generator of the Dataset's own), `Data.notes` says so, and the fingerprint covers
              their number and shape only. Its `targets` or `labels`, or the second tensor of a TensorDataset, are the
              labels if they are integers, one per item.
            - A finite IterableDataset, read into memory, and its first 256 items once more, likewise.
            - A pair of one of these and its labels, integers or the path of an .npy file.
            - A `Data`, returned unchanged.

            Use "./name" for a file or folder that has the name of a data set.
        image_size: makes images square: the central square of each image is resampled (bicubic, antialiased) to this
            many pixels on each side. For folders, torchvision's data (None is 32 for "cifar10" and 64 for the others)
            and Datasets of PIL images. Without it all images must have one size.
        value_range: (lo, hi) of the source's values.
        layout: of arrays and of a Dataset's arrays: "images" makes (C, H, W) of (H, W) and (H, W, C) items, as above;
            "as_given" keeps the shape of items, such as signals (C, L), tokens' embeddings (L, D) or volumes.

    Returns:
        The data; `Data.batch` returns items as float32 in [-1, 1].

    Raises:
        ValueError: no items, or all values equal; NaN or infinite values, or values outside `value_range`; shapes that
            are not as above or differ; a file that cannot be read (the message names it); labels in a `.npz` that are
            not one per item, or negative.
        TypeError: not a source, or not real numbers; labels in a `.npz` that are not integers.
        FileNotFoundError: no such name, file or folder.
        ImportError: torchvision's data without torchvision, LSUN's without lmdb.

    Examples:
        >>> fl.load_data("digits").event_shape
        (1, 8, 8)
        >>> data = fl.load_data(torch.randint(256, (100, 32, 32, 3), dtype=torch.uint8))  # RGB images
        >>> data.event_shape, len(data)
        ((3, 32, 32), 100)
        >>> signals = fl.load_data((torch.rand(100, 2, 64), torch.arange(100) % 4), layout="as_given")  # with labels
        >>> signals.event_shape, signals.labels.bincount().tolist()
        ((2, 64), [25, 25, 25, 25])
    """
    if image_size is not None:
        check_int("image_size", image_size, 1)
    if value_range is not None:
        value_range = check_value_range("value_range", value_range)
    if layout not in LAYOUTS:
        raise unknown("layout", layout, LAYOUTS)
    if isinstance(source, Data):
        if image_size is not None or value_range is not None:
            raise ValueError("image_size and value_range must be None for a Data, which is already scaled")
        return source
    if isinstance(source, tuple) and len(source) == 2:
        data = load_data(source[0], image_size=image_size, value_range=value_range, layout=layout)
        return with_labels(data, source[1])
    source = _without_stream(source, image_size)
    if isinstance(source, StreamContent):
        return source.data(value_range, layout)
    if isinstance(source, Dataset):
        return from_map_style(_name_of(source), source, image_size, value_range, layout)
    if isinstance(source, str) and source.lower() in _NAMES:
        return _from_name(source.lower(), image_size, value_range)
    if isinstance(source, (str, os.PathLike)):
        return _from_path(Path(source).expanduser(), image_size, value_range, layout)
    if isinstance(source, (Tensor, np.ndarray)):
        images.check_no_size(image_size, "a tensor or array")
        return stored_data("tensor", to_channels_first(to_tensor(source, "data"), "data", layout), value_range)
    raise TypeError(
        f"data must be a name ({', '.join(map(repr, _NAMES))}), a tensor, a NumPy array, the path of a {_ENDINGS} "
        f"file or of a folder of images, or a torch Dataset, got {type(source).__name__}"
    )


def load_data_that(
    accepts: Callable[[Data], bool],
    source: Any,
    *,
    image_size: int | None = None,
    value_range: tuple[float, float] | None = None,
) -> Data:
    """Loads data like `load_data` in the layout of which `accepts` returns true; as images if it is true of both or
    neither. An IterableDataset is read once, because there are streams that can be read only once.
    """
    if isinstance(source, tuple) and len(source) == 2:
        source = (_without_stream(source[0], image_size), source[1])
    source = _without_stream(source, image_size)
    data = load_data(source, image_size=image_size, value_range=value_range)
    if accepts(data):
        return data
    as_given = load_data(source, image_size=image_size, value_range=value_range, layout="as_given")
    return as_given if as_given.event_shape != data.event_shape and accepts(as_given) else data


def load_data_of_shape(source: Any, event_shape: tuple[int, ...], **options: Any) -> Data:
    """Loads data like `load_data` in the layout whose items have the given shape; as images if neither has."""
    return load_data_that(lambda data: data.event_shape == event_shape, source, **options)


def _without_stream(source: Any, image_size: int | None) -> Any:
    """The source or, if it is an IterableDataset, what it gives."""
    return read_stream(_name_of(source), source, image_size) if isinstance(source, IterableDataset) else source


def _name_of(dataset: Dataset[Any]) -> str:
    return f"dataset:{type(dataset).__name__}"


def digits() -> tuple[Tensor, Tensor]:
    """The 1,797 handwritten digits of Alpaydin and Kaynak (UCI, CC BY 4.0; see assets/README.md), with their labels.

    Returns:
        images: float32 (1797, 1, 8, 8) in [-1, 1]; grey level x of 0 … 16 is x / 8 - 1.
        labels: int64 (1797,), 0 … 9.

    Examples:
        >>> images, labels = fl.digits()
        >>> images.shape, float(images.min()), float(images.max())
        (torch.Size([1797, 1, 8, 8]), -1.0, 1.0)
        >>> labels.bincount().tolist()
        [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    """
    values, labels = _digits()
    return scaled(values, _DIGITS), labels.to(torch.int64)


def _from_name(name: str, image_size: int | None, value_range: Range | None) -> Data:
    if name == "digits":
        images.check_no_size(image_size, repr(name))
        values, labels = _digits()
        return stored_data(name, values, value_range or _DIGITS, class_labels.check(labels, len(values)))
    return from_map_style(name, _torchvision(name), image_size or images.TORCHVISION_SIZES[name], value_range, "images")


def _digits() -> tuple[Tensor, Tensor]:
    with resources.files("fastlangevin").joinpath("assets/digits.npz").open("rb") as file, np.load(file) as arrays:
        return torch.from_numpy(arrays["images"]).unsqueeze(1), torch.from_numpy(arrays["labels"])


def _torchvision(name: str) -> Dataset[Any]:
    try:
        from torchvision import datasets
    except Exception as error:  # a torchvision built for another torch raises other errors than ImportError
        raise ImportError(
            f"data={name!r} needs torchvision, which cannot be imported ({error}): pip install 'fastlangevin[vision]'"
        ) from error
    root = os.environ.get("FASTLANGEVIN_DATA", "data")
    if name == "cifar10":
        return datasets.CIFAR10(root, train=True, download=True)
    if name == "celeba":
        return datasets.CelebA(root, split="train", download=True)
    folder = Path(root, "bedroom_train_lmdb")
    if not folder.is_dir():
        raise FileNotFoundError(
            f"data='lsun' needs the folder {folder}, which torchvision cannot download: unpack LSUN's "
            f"bedroom_train_lmdb.zip in {root}, or name another folder in the environment variable FASTLANGEVIN_DATA"
        )
    try:
        return datasets.LSUN(root, classes=["bedroom_train"])
    except ImportError as error:
        raise ImportError(f"data='lsun' needs lmdb, which cannot be imported ({error}): pip install lmdb") from error


def _from_path(path: Path, image_size: int | None, value_range: Range | None, layout: Layout) -> Data:
    if path.is_dir():
        files, left_out = image_files(path)
        name, labels = f"folder:{path.resolve().name}", class_labels.of_files(files, path)
        notes = () if left_out is None else (f"left out of {name}: {left_out}",)
        return replace(stored_data(name, images.read(files, image_size), value_range, labels), notes=notes)
    if not path.exists():
        hint = "" if path.suffix or len(path.parts) > 1 else nearest(str(path).lower(), _NAMES)
        raise FileNotFoundError(
            f"data={str(path)!r}: no such file or folder, and not one of the names {', '.join(_NAMES)}{hint}"
        )
    read = _READERS.get(path.suffix.lower())
    if read is None:
        raise ValueError(f"data as a path must be a folder of images or a {_ENDINGS} file, got {str(path)!r}")
    images.check_no_size(image_size, f"a {path.suffix} file")
    array, beside = read(path)
    values = to_channels_first(to_tensor(array, str(path)), str(path), layout)
    labels = None if beside is None else class_labels.check(beside, len(values), f"the labels in {path}")
    return stored_data(f"file:{path.name}", values, value_range, labels)


def _arrays(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """The items of an .npy or .npz file, and the labels beside them."""
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded, None
        with loaded:
            names = [name for name in _ARRAY_NAMES if name in loaded.files][:1] or loaded.files
            if len(names) > 1:
                names = [name for name in names if name not in class_labels.NAMES]
            if len(names) == 1:
                beside = [name for name in class_labels.NAMES if name in loaded.files and name not in names]
                return loaded[names[0]], loaded[beside[0]] if beside else None
    except Exception as error:  # a damaged file raises errors of many kinds
        raise ValueError(f"{path} cannot be read as plain arrays (pickled objects are refused): {error}") from error
    raise ValueError(
        f"{path} must hold one array, or one named {', '.join(map(repr, _ARRAY_NAMES))}, got {loaded.files}"
    )


# What reads a file of this ending: its items (N, …), and their labels if it has any.
_READERS: dict[str, Callable[[Path], tuple[np.ndarray, np.ndarray | None]]] = {".npy": _arrays, ".npz": _arrays}
_ENDINGS = " or ".join(_READERS)
