"""Draws folders of images of 32×32 pixels, of kinds that the recipe `small` was tried on beside the shapes and digits.

    python scripts/draw_images.py runs/images          (needs the extra "eval": scikit-learn)
    fastlangevin train runs/images/textures --recipe small --out runs/textures

photographs/ has 1,000 patches of the two photographs that come with scikit-learn, at a third of their size. textures/
has 600 images without objects, in two random colours: stripes, checks, and noise of one wavelength.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = 32

Random = np.random.Generator
Field = np.ndarray  # (SIZE, SIZE) in [0, 1]


def waves(random: Random) -> tuple[np.ndarray, np.ndarray]:
    """Two phases that grow along two perpendicular axes, by 2π in each 6 to 14 pixels."""
    angle, length = random.uniform(0, math.pi), random.uniform(6, 14)
    rows, columns = np.mgrid[:SIZE, :SIZE]
    along, across = (math.cos(angle + turn) * columns + math.sin(angle + turn) * rows for turn in (0, math.pi / 2))
    return tuple(2 * math.pi * (axis / length + random.uniform()) for axis in (along, across))  # type: ignore[return-value]


def stripes(random: Random) -> Field:
    return 0.5 + 0.5 * np.sin(waves(random)[0])


def checks(random: Random) -> Field:
    first, second = waves(random)
    return 0.5 + 0.5 * np.tanh(4 * np.sin(first) * np.sin(second))


def noise(random: Random) -> Field:
    """Gaussian noise whose spectrum is a ring at a wavelength of 4 to 10 pixels."""
    frequencies = np.hypot(np.fft.fftfreq(SIZE)[:, None], np.fft.fftfreq(SIZE)[None])
    ring = np.exp(-0.5 * ((frequencies - 1 / random.uniform(4, 10)) / 0.02) ** 2)
    field = np.fft.ifft2(ring * np.fft.fft2(random.standard_normal((SIZE, SIZE)))).real
    return (0.5 + 0.25 * field / field.std()).clip(0, 1)


TEXTURES: dict[str, Callable[[Random], Field]] = {"stripes": stripes, "checks": checks, "noise": noise}


def texture(kind: str, random: Random) -> Image.Image:
    field, colours = TEXTURES[kind](random)[..., None], random.uniform(0, 255, (2, 3))
    return Image.fromarray((field * colours[0] + (1 - field) * colours[1]).round().astype(np.uint8))


def patches(n: int, random: Random) -> list[Image.Image]:
    from sklearn.datasets import load_sample_images

    photographs = [Image.fromarray(image).reduce(3) for image in load_sample_images().images]
    found = []
    for i in range(n):
        photograph = photographs[i % len(photographs)]
        x, y = (int(random.integers(side - SIZE + 1)) for side in photograph.size)
        found.append(photograph.crop((x, y, x + SIZE, y + SIZE)))
    return found


def main(folder: str) -> None:
    random, kinds = np.random.default_rng(0), list(TEXTURES)
    drawn = {
        "textures": [texture(kinds[i % len(kinds)], random) for i in range(600)],
        "photographs": patches(1_000, random),
    }
    for name, images in drawn.items():
        Path(folder, name).mkdir(parents=True, exist_ok=True)
        for i, image in enumerate(images):
            image.save(Path(folder, name, f"{i:04d}.png"))
        print(f"{len(images)} images in {Path(folder, name)}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python scripts/draw_images.py FOLDER")
    main(sys.argv[1])
