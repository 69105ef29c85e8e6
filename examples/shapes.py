"""Draws a folder of coloured shapes to train on: `python examples/shapes.py [folder] [number] [seed]`.

    python examples/shapes.py shapes
    fastlangevin train shapes --recipe small

The folder gets one folder for each class (crosses, discs, rings, squares, triangles) with RGB images of 32×32 pixels in
which a shape of random colour, size and place is on a plain ground. The defaults are 500 images and seed 0.
"""

from __future__ import annotations

import colorsys
import math
import random
import sys
from collections.abc import Callable
from pathlib import Path

from PIL import Image, ImageDraw

SIZE, SCALE = 32, 4  # pixels of an image, and the factor at which it is drawn before it is reduced
GROUND = (16, 16, 24)

Colour = tuple[int, int, int]


def square(draw: ImageDraw.ImageDraw, x: float, y: float, r: float, colour: Colour) -> None:
    draw.rectangle((x - 0.85 * r, y - 0.85 * r, x + 0.85 * r, y + 0.85 * r), fill=colour)


def disc(draw: ImageDraw.ImageDraw, x: float, y: float, r: float, colour: Colour) -> None:
    draw.ellipse((x - r, y - r, x + r, y + r), fill=colour)


def triangle(draw: ImageDraw.ImageDraw, x: float, y: float, r: float, colour: Colour) -> None:
    corners = [math.radians(angle) for angle in (-90, 30, 150)]
    draw.polygon([(x + 1.1 * r * math.cos(a), y + 1.1 * r * math.sin(a)) for a in corners], fill=colour)


def cross(draw: ImageDraw.ImageDraw, x: float, y: float, r: float, colour: Colour) -> None:
    draw.rectangle((x - r, y - 0.3 * r, x + r, y + 0.3 * r), fill=colour)
    draw.rectangle((x - 0.3 * r, y - r, x + 0.3 * r, y + r), fill=colour)


def ring(draw: ImageDraw.ImageDraw, x: float, y: float, r: float, colour: Colour) -> None:
    disc(draw, x, y, r, colour)
    disc(draw, x, y, 0.55 * r, GROUND)


SHAPES: dict[str, Callable[[ImageDraw.ImageDraw, float, float, float, Colour], None]] = {
    "crosses": cross,
    "discs": disc,
    "rings": ring,
    "squares": square,
    "triangles": triangle,
}


def picture(shape: str, random: random.Random) -> Image.Image:
    """Draws one image, with a saturated colour, a radius of 7 to 12 pixels, and the whole shape within the image."""
    red, green, blue = colorsys.hsv_to_rgb(random.random(), random.uniform(0.7, 1.0), random.uniform(0.5, 0.95))
    r = random.uniform(7, 12)
    x, y = (random.uniform(1.1 * r + 1, SIZE - 1.1 * r - 1) for _ in range(2))
    image = Image.new("RGB", (SIZE * SCALE, SIZE * SCALE), GROUND)
    colour = (round(255 * red), round(255 * green), round(255 * blue))
    SHAPES[shape](ImageDraw.Draw(image), x * SCALE, y * SCALE, r * SCALE, colour)
    return image.resize((SIZE, SIZE), Image.Resampling.BOX)


def main(folder: str = "shapes", number: str = "500", seed: str = "0") -> None:
    generator = random.Random(int(seed))
    names = list(SHAPES)
    for i in range(int(number)):
        name = names[i % len(names)]
        path = Path(folder, name, f"{i:04d}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(name, generator).save(path)
    print(f"{number} images of {len(names)} classes in {folder}")


if __name__ == "__main__":
    main(*sys.argv[1:])
