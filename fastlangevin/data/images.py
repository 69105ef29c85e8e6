"""Pictures in files, and Pillow's images, as uint8 tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff")
GREY_MODES = ("1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B", "I;16N")


def files_in(path: Path) -> list[Path]:
    """All images of a folder and its subfolders, hidden files left out, in the order of their paths."""
    files = [p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.name[0] != "." and p.is_file()]
    if not files:
        raise ValueError(f"the folder {path} holds no images ({', '.join(s[1:] for s in SUFFIXES)})")
    return sorted(files, key=lambda file: file.relative_to(path).as_posix())


def read(files: Sequence[Path], image_size: int | None) -> Tensor:
    """The images in these files, uint8 (N, C, H, W); one channel where all are grey."""
    grey = all(map(_is_grey, files))
    with _image(files[0]) as image:
        first = pixels_of(image, grey, image_size)
    images = torch.empty((len(files), *first.shape), dtype=torch.uint8, device="cpu")
    for i, file in enumerate(files):
        with _image(file) as image:
            pixels = pixels_of(image, grey, image_size)
        if pixels.shape != first.shape:
            (_, h0, w0), (_, h, w) = first.shape, pixels.shape
            raise ValueError(
                f"images must have one size (width x height), but {files[0]} is {w0}x{h0} and {file} is {w}x{h}: "
                "image_size= makes them equal"
            )
        images[i] = pixels
    return images


@contextmanager
def _image(file: Path) -> Iterator[Image.Image]:
    try:
        with Image.open(file) as image:
            yield image
    except Exception as error:  # Pillow's decoders fail with errors of every kind
        raise ValueError(f"{file} cannot be read as an image: {error}") from error


def _is_grey(file: Path) -> bool:
    with _image(file) as image:
        return image.mode in GREY_MODES


def pixels_of(image: Image.Image, grey: bool, size: int | None) -> Tensor:
    """An image as uint8 (1 or 3, H, W), upright as its EXIF data say."""
    image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise ValueError("its values are floats of unknown range; save it as .npy and give value_range=")
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError(f"its values do not fit 16 bits: {values.min()} … {values.max()}")
        image = Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("L" if grey else "RGB")
    if size is not None:
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))
    pixels = torch.from_numpy(np.array(image))
    return pixels.unsqueeze(0) if grey else pixels.permute(2, 0, 1)
