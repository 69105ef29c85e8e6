"""Image files and PIL images as uint8 tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

TORCHVISION_SIZES = {"cifar10": 32, "celeba": 64, "lsun": 64}  # image sizes by default of torchvision's data sets
GREY_MODES = ("1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B", "I;16N")


def read(files: Sequence[Path], image_size: int | None) -> Tensor:
    """Reads image files to uint8 (N, C, H, W), with one channel if all are grey."""
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
                "use image_size= to resize them"
            )
        images[i] = pixels
    return images


@contextmanager
def _image(file: Path) -> Iterator[Image.Image]:
    try:
        with Image.open(file) as image:
            yield image
    except Exception as error:  # Pillow's decoders raise errors of many kinds
        raise ValueError(f"{file} cannot be read as an image: {error}") from error


def _is_grey(file: Path) -> bool:
    with _image(file) as image:
        return image.mode in GREY_MODES


def pixels_of(image: Image.Image, grey: bool, size: int | None) -> Tensor:
    """Converts an image to uint8 (1 or 3, H, W), rotated as its EXIF data specify."""
    image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise ValueError("its values are floats of unknown range; save it as .npy and pass value_range=")
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


def check_no_size(image_size: int | None, source: str) -> None:
    """Raises ValueError if an image size is given for a source that is not resized."""
    if image_size is not None:
        raise ValueError(
            f"image_size must be None for {source}, got {image_size}: it is for folders of images, Datasets of PIL "
            f"images, and {', '.join(map(repr, TORCHVISION_SIZES))}"
        )
