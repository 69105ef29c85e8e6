"""What a model learns from: arrays, files, folders of images and torch Datasets, all scaled to [-1, 1]."""

from __future__ import annotations

import hashlib
import math
import os
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from ..transfer import to_device
from ..validation import check_int, nearest
from . import images
from . import labels as class_labels
from .ranges import UNIT, Range

_VISION = {"cifar10": 32, "celeba": 64, "lsun": 64}  # torchvision's, and the image size each usually has
_NAMES = ("digits", *_VISION)
_ARRAY_NAMES = ("images", "x", "data", "arr_0")
_BYTES, _DIGITS = (0.0, 255.0), (0.0, 16.0)  # ranges of values
_WIDE = (torch.float64, torch.int32, torch.int64, torch.uint32, torch.uint64)  # more digits than float32's
_HUGE = 1e38  # the span of values up to it fits float32
_LOOK = 256  # items of a Dataset that are read to learn its shape, range and fingerprint


@dataclass(frozen=True, eq=False)
class Data:
    """Items to learn from, numbered from 0; `load_data` makes it.

    Attributes:
        name: where they come from: "digits", "cifar10", "tensor", "file:cats.npy", "folder:cats", "dataset:MyDataset".
        event_shape: of one item: (C, H, W) for images, (D,) for points.
        fingerprint: 16 hex digits that depend on the items' number, shape, scaling and content (of a Dataset that is
            read item by item: the content of up to 256 of them). The labels play no part in it.
        labels: int64 (n,), on the CPU: the class of each item, or None where the source has none.
    """

    name: str
    event_shape: tuple[int, ...]
    fingerprint: str
    _items: _Stored | _Lazy = field(repr=False)
    labels: Tensor | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self._items)

    def batch(self, indices: Tensor) -> Tensor:
        """The items of those numbers, int64 (n,), as a new float32 tensor (n, *event_shape) in [-1, 1].

        Raises:
            ValueError: an item of a Dataset, read only now, that has another shape or dtype than the first or values
                outside the range.
        """
        return self._items.batch(indices)

    def to(self, device: str | torch.device) -> Data:
        """The same data with what is in memory on `device`; a Dataset that is read item by item stays as it is."""
        return replace(self, _items=self._items.to(device))


@dataclass(frozen=True, eq=False)
class _Stored:
    """All items in memory: uint8 that a batch scales from `range`, or float32 that is scaled already."""

    values: Tensor
    range: Range

    def __len__(self) -> int:
        return len(self.values)

    def batch(self, indices: Tensor) -> Tensor:
        return _scaled(self.values[to_device(indices, self.values.device)], self.range)

    def to(self, device: str | torch.device) -> _Stored:
        return replace(self, values=self.values.to(device))


@dataclass(frozen=True, eq=False)
class _Lazy:
    """The items of a map-style Dataset, read when they are asked for; all must be like `first`."""

    dataset: Dataset[Any]
    image_size: int | None
    first: Tensor
    range: Range

    def __len__(self) -> int:
        return _length(self.dataset)

    def batch(self, indices: Tensor) -> Tensor:
        numbers = indices.tolist()
        values = torch.stack([_item(self.dataset[i], i, self.image_size, self.first) for i in numbers])
        _check_within(_extent(values, numbers), self.range)
        return _scaled(values, self.range)

    def to(self, device: str | torch.device) -> _Lazy:
        return self


def load_data(source: Any, *, image_size: int | None = None, value_range: tuple[float, float] | None = None) -> Data:
    """Data from almost anything, scaled to [-1, 1].

    A value x becomes 2 (x - lo) / (hi - lo) - 1, where (lo, hi) is `value_range` or, where that is None, (0, 255) for
    uint8; else (0, 1) where all values lie in it, (-1, 1) where all lie in that (which leaves them as they are), and
    the least and the greatest value where they do not.

    Args:
        source: one of
            "digits": the 1,797 digits of `digits`;
            "cifar10", "celeba", "lsun" (bedrooms): torchvision's, in the folder that the environment variable
                FASTLANGEVIN_DATA names, else ./data (CIFAR-10 and CelebA are downloaded into it);
            a tensor or NumPy array: (N, D) points; (N, H, W), (N, C, H, W) or, where C is 1 or 3 and the second
                dimension is neither, (N, H, W, C) images. Not copied where it needs no conversion;
            a `.npy` or `.npz` file of such an array; of several arrays in a `.npz`, the one named "images", "x", "data"
                or "arr_0", and one named "labels" or "y" beside it holds the labels;
            a folder: all images in it and its subfolders, hidden files left out, in the order of their paths; one
                channel where all are grey, else RGB; transparent parts become white, 16 bits become 8, and of an
                animation it is the first frame. Where every image lies in a folder directly below it, these folders
                are the classes;
            a map-style torch Dataset: read item by item, again each time; an item is one event (laid out as above, less
                N) or a PIL image, or a tuple or list that starts with it. 256 of its items decide the range of values
                that are not uint8, which without `value_range` must lie in [-1, 1]. Its `targets` or `labels`, where
                they are whole numbers, one an item, are the labels;
            an IterableDataset: a finite one, read into memory;
            a `Data`: returned as it is.
            A file or folder that has a data set's name is reached by "./name".
        image_size: makes images square: the middle of the image, as wide and high as its shorter side, resampled
            (bicubic, antialiased) to this many pixels. For folders, torchvision's data (where None is 32 for
            "cifar10" and 64 for the others) and Datasets of PIL images; without it all images must have one size.
        value_range: (lo, hi) of the source's values.

    Raises:
        ValueError: no items, or all values equal; NaN or infinite values, or values outside `value_range`; shapes that
            are not as above or differ; a file that cannot be read, which the message names; labels in a `.npz` that
            are not one an item, or negative.
        TypeError: not a source, or not real numbers; labels in a `.npz` that are not whole numbers.
        FileNotFoundError: no such name, file or folder.
        ImportError: torchvision's data without torchvision.
    """
    if image_size is not None:
        check_int("image_size", image_size, 1)
    if value_range is not None:
        value_range = check_value_range("value_range", value_range)
    if isinstance(source, Data):
        if image_size is not None or value_range is not None:
            raise ValueError("image_size and value_range must be None for a Data, which is scaled already")
        return source
    if isinstance(source, Dataset):
        name = f"dataset:{type(source).__name__}"
        if isinstance(source, IterableDataset):
            return _iterable(name, source, image_size, value_range)
        return _map_style(name, source, image_size, value_range)
    if isinstance(source, str) and source.lower() in _NAMES:
        return _named(source.lower(), image_size, value_range)
    if isinstance(source, (str, os.PathLike)):
        return _path(Path(source).expanduser(), image_size, value_range)
    if isinstance(source, (Tensor, np.ndarray)):
        _check_no_image_size(image_size, "a tensor or array")
        return _stored("tensor", _layout(_tensor(source, "data"), "data"), value_range)
    raise TypeError(
        f"data must be a name ({', '.join(map(repr, _NAMES))}), a tensor, a NumPy array, the path of a .npy, a .npz or "
        f"a folder of images, or a torch Dataset, got {type(source).__name__}"
    )


def digits() -> tuple[Tensor, Tensor]:
    """1,797 real handwritten digits and what they show (Alpaydin and Kaynak, UCI, CC BY 4.0; see assets/README.md).

    Returns:
        images, float32 (1797, 1, 8, 8) in [-1, 1]: the 17 grey levels 0 … 16 as x / 8 - 1; and labels, int64 (1797,).
    """
    values, labels = _digits()
    return _scaled(values, _DIGITS), labels.to(torch.int64)


def _named(name: str, image_size: int | None, value_range: Range | None) -> Data:
    if name == "digits":
        _check_no_image_size(image_size, repr(name))
        values, labels = _digits()
        return _stored(name, values, value_range or _DIGITS, class_labels.check(labels, len(values)))
    return _map_style(name, _torchvision(name), image_size or _VISION[name], value_range)


def _digits() -> tuple[Tensor, Tensor]:
    with resources.files("fastlangevin").joinpath("assets/digits.npz").open("rb") as file, np.load(file) as arrays:
        return torch.from_numpy(arrays["images"]).unsqueeze(1), torch.from_numpy(arrays["labels"])


def _torchvision(name: str) -> Dataset[Any]:
    try:
        from torchvision import datasets
    except Exception as error:  # a torchvision built for another torch fails with other errors than ImportError
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
    return datasets.LSUN(root, classes=["bedroom_train"])


def _path(path: Path, image_size: int | None, value_range: Range | None) -> Data:
    if path.is_dir():
        files = images.files_in(path)
        labels = class_labels.of_files(files, path)
        return _stored(f"folder:{path.resolve().name}", images.read(files, image_size), value_range, labels)
    if not path.exists():
        hint = "" if path.suffix or len(path.parts) > 1 else nearest(str(path).lower(), _NAMES)
        raise FileNotFoundError(f"data={str(path)!r}: no such file or folder, nor a name of {', '.join(_NAMES)}{hint}")
    if path.suffix.lower() not in (".npy", ".npz"):
        raise ValueError(f"data must be a folder of images, a .npy or a .npz where it is a path, got {str(path)!r}")
    _check_no_image_size(image_size, f"a {path.suffix} file")
    array, beside = _arrays(path)
    values = _layout(_tensor(array, str(path)), str(path))
    labels = None if beside is None else class_labels.check(beside, len(values), f"the labels in {path}")
    return _stored(f"file:{path.name}", values, value_range, labels)


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
    except Exception as error:  # a damaged file fails with errors of every kind
        raise ValueError(f"{path} cannot be read as plain arrays (pickled objects are refused): {error}") from error
    raise ValueError(
        f"{path} must hold one array, or one named {', '.join(map(repr, _ARRAY_NAMES))}, got {loaded.files}"
    )


def _stored(name: str, values: Tensor, value_range: Range | None, labels: Tensor | None = None) -> Data:
    """Data of (N, *event) values in memory, as `_layout` makes them."""
    if len(values) == 0:
        raise ValueError(f"data must hold at least one item, got shape {tuple(values.shape)}")
    low, high = extent = _extent(values, range(len(values)))
    if low == high:
        raise ValueError(f"data must not be constant, got {low:g} for every value")
    scale = _range_of(values.dtype, extent, value_range) or extent
    if values.dtype != torch.uint8:
        values = _scaled(values, scale)
    digest = hashlib.blake2b(values.numpy().data, digest_size=8)
    items = _Stored(values, scale if values.dtype == torch.uint8 else UNIT)
    return _data(name, items, values[0], scale, digest, labels)


def _iterable(name: str, dataset: IterableDataset[Any], image_size: int | None, value_range: Range | None) -> Data:
    items: list[Tensor] = []
    with _fixed_randomness():
        for i, raw in enumerate(dataset):
            items.append(_item(raw, i, image_size, items[0] if items else None))
    if not items:
        raise ValueError(f"data must hold at least one item, got an empty {name}")
    return _stored(name, torch.stack(items), value_range, class_labels.of_dataset(dataset, len(items)))


def _map_style(name: str, dataset: Dataset[Any], image_size: int | None, value_range: Range | None) -> Data:
    n = _length(dataset)
    if n == 0:
        raise ValueError(f"data must hold at least one item, got an empty {name}")
    low, high = math.inf, -math.inf
    digest = hashlib.blake2b(digest_size=8)
    with _fixed_randomness():
        first = _item(dataset[0], 0, image_size, None)
        for i in range(0, n, math.ceil(n / _LOOK)):
            item = _item(dataset[i], i, image_size, first)
            item_low, item_high = _extent(item[None], [i])
            low, high = min(low, item_low), max(high, item_high)
            digest.update(item.numpy().data)
    scale = _range_of(first.dtype, (low, high), value_range)
    if scale is None:
        raise ValueError(
            f"value_range must be given for {name}, whose values are not all in [-1, 1]: of the items looked at they "
            f"are {low:g} … {high:g}"
        )
    labels = class_labels.of_dataset(dataset, n)
    return _data(name, _Lazy(dataset, image_size, first, scale), first, scale, digest, labels)


def _data(
    name: str,
    items: _Stored | _Lazy,
    first: Tensor,
    scale: Range,
    digest: hashlib.blake2b,
    labels: Tensor | None,
) -> Data:
    shape = tuple(first.shape)
    digest.update(repr((len(items), shape, scale)).encode())
    return Data(name, shape, digest.hexdigest(), items, labels)


@contextmanager
def _fixed_randomness() -> Iterator[None]:
    """Makes random transforms give the same at every load, and leaves the caller's random state as it was."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=()):
        torch.default_generator.manual_seed(0)
        random.seed(0)
        np.random.seed(0)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def _length(dataset: Dataset[Any]) -> int:
    try:
        return len(dataset)  # type: ignore[arg-type]
    except (TypeError, NotImplementedError) as error:
        raise TypeError(f"data must be a Dataset with a length, got {type(dataset).__name__} without") from error


def _item(raw: Any, number: int, image_size: int | None, first: Tensor | None) -> Tensor:
    """A Dataset's item as an event like the first: uint8, float32 or float64, (C, H, W) or (D,)."""
    if isinstance(raw, (tuple, list)) and raw:
        raw = raw[0]
    if isinstance(raw, Image.Image):
        item = images.pixels_of(raw, raw.mode in images.GREY_MODES, image_size).contiguous()
    elif isinstance(raw, (Tensor, np.ndarray)):
        _check_no_image_size(image_size, "a Dataset of tensors or arrays")
        item = _layout(_tensor(raw, f"item {number}").unsqueeze(0), f"item {number}")[0]
    else:
        raise TypeError(
            f"item {number} must be a tensor, an array or a PIL image, or a tuple or list that starts with one, got "
            f"{type(raw).__name__}"
        )
    if first is not None and (item.shape, item.dtype) != (first.shape, first.dtype):
        raise ValueError(
            f"items must have one shape and dtype, but item 0 is {tuple(first.shape)} {first.dtype} and item {number} "
            f"is {tuple(item.shape)} {item.dtype}"
        )
    return item


def _tensor(values: Tensor | np.ndarray, what: str) -> Tensor:
    """The values on the CPU: uint8 as it is, all else as float32, or float64 where float32 would round."""
    if isinstance(values, np.ndarray):
        if values.dtype.kind not in "biuf":
            raise TypeError(f"{what} must hold real numbers, got dtype {values.dtype}")
        values = torch.from_numpy(np.require(values, values.dtype.newbyteorder("="), ["C", "W"]))
    if values.is_complex() or values.layout != torch.strided:
        raise TypeError(f"{what} must be dense and real, got dtype {values.dtype}, layout {values.layout}")
    if values.dtype != torch.uint8:
        values = values.to(torch.float64 if values.dtype in _WIDE else torch.float32)
    return values.detach().cpu()


def _layout(values: Tensor, what: str) -> Tensor:
    """(N, D) points as they are; (N, H, W), (N, C, H, W) and (N, H, W, C) images as (N, C, H, W)."""
    shape = tuple(values.shape)
    if len(shape) not in (2, 3, 4) or 0 in shape[1:]:
        raise ValueError(f"{what} must have items of shape (D,), (H, W), (C, H, W) or (H, W, C), got {shape[1:]}")
    if len(shape) == 3:
        values = values.unsqueeze(1)
    if len(shape) == 4 and shape[1] not in (1, 3) and shape[3] in (1, 3):
        values = values.permute(0, 3, 1, 2)
    return values.contiguous()


def _extent(values: Tensor, numbers: Sequence[int]) -> Range:
    """The least and the greatest value of items that have these numbers."""
    low, high = (float(value) for value in values.aminmax())
    if not (low >= -_HUGE and high <= _HUGE):  # not: either is NaN where any value is
        bad = int((~(values.abs() <= _HUGE)).flatten(1).any(1).int().argmax())
        raise ValueError(f"data must be finite, got NaN, infinite or enormous values in item {numbers[bad]}")
    return low, high


def _range_of(dtype: torch.dtype, extent: Range, value_range: Range | None) -> Range | None:
    """The (lo, hi) to scale from, None where neither the caller nor the values tell."""
    if value_range is not None:
        _check_within(extent, value_range)
        return value_range
    if dtype == torch.uint8:
        return _BYTES
    return next((r for r in ((0.0, 1.0), UNIT) if r[0] <= extent[0] and extent[1] <= r[1]), None)


def _scaled(values: Tensor, scale: Range) -> Tensor:
    """float32 values in [-1, 1]; a float32 tensor from (-1, 1) is returned as it is, not copied."""
    lo, hi = scale
    if scale != UNIT:
        values = values if values.is_floating_point() else values.to(torch.float32)
        values = values.sub(lo).div_((hi - lo) / 2).sub_(1).clamp_(-1, 1)
    return values.to(torch.float32)


def _check_within(extent: Range, scale: Range) -> None:
    # In float32, whose 0.1 is greater than Python's and yet within 0 … 0.1.
    low, high, lo, hi = torch.tensor((*extent, *scale), dtype=torch.float32, device="cpu").tolist()
    if not lo <= low <= high <= hi:
        raise ValueError(f"data must lie in {lo:g} … {hi:g}, got {low:g} … {high:g}; value_range= sets another range")


def check_value_range(name: str, value: Any) -> Range:
    """The pair of finite numbers lo < hi, whose distance float32 holds."""
    try:
        lo, hi = map(float, value)
    except (TypeError, ValueError):
        lo = hi = math.nan
    if not torch.finfo(torch.float32).tiny <= hi - lo <= torch.finfo(torch.float32).max:
        raise ValueError(f"{name} must be two finite numbers (lo, hi) with lo < hi, got {value!r}")
    return lo, hi


def _check_no_image_size(image_size: int | None, source: str) -> None:
    if image_size is not None:
        raise ValueError(
            f"image_size must be None for {source}, got {image_size}: it is for folders of images, Datasets of PIL "
            f"images, and {', '.join(map(repr, _VISION))}"
        )
