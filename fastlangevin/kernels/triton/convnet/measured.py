"""What `tune` has measured, by the name of a GPU: in `tiles.json`, which is part of the package. What is not in it, of
another GPU, layer or batch, has the kernels of this package with the tiles of `plan`, and no dependent launch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from ....files import replacing

PATH = Path(__file__).with_name("tiles.json")
_KEY = ("kernel", "itemsize", "rows", "channels", "products")

# In the order of `_KEY`: rows × channels sums of so many products. The batch is in the rows.
Key = tuple[str, int, int, int, int]


@dataclass(frozen=True)
class Tile:
    """A program's part of a matrix product: rows × columns, in steps of `depth` bytes.

    Attributes:
        stages: steps whose operands are in shared memory or on their way there.
        split: at most this number of programs share the steps of a tile if tiles alone would not occupy the GPU;
            "between" steps, the number that share an image.
        descriptor: whether weights are copied by the tensor memory accelerator (TMA) of 9.0 and 10.0.
    """

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int
    split: int = 16
    descriptor: bool = False


CUDNN: Final = "cudnn"  # cuDNN's convolution and a pass over its sums, of "forward" and "backward"
Choice = Tile | Literal["cudnn"]


@dataclass
class Measured:
    """Of one GPU: the fastest way to compute each product, and whether a step is faster with dependent launches."""

    dependent_launch: bool = False
    choices: dict[Key, Choice] = field(default_factory=dict)


def load(path: Path = PATH) -> dict[str, Measured]:
    """By the names of GPUs.

    Raises:
        ValueError, KeyError, TypeError: the file is not one of `save`.
    """
    return {
        name: Measured(stored["dependent_launch"], dict(map(_read, stored["choices"])))
        for name, stored in json.loads(path.read_text()).items()
    }


def _read(stored: dict[str, Any]) -> tuple[Key, Choice]:
    kernel, itemsize, rows, channels, products = (stored[part] for part in _KEY)
    choice = stored["choice"]
    if choice == CUDNN and kernel not in ("forward", "backward"):
        raise ValueError(f"cuDNN does not compute {kernel!r}")
    return (kernel, itemsize, rows, channels, products), CUDNN if choice == CUDNN else Tile(**choice)


def save(measured: Mapping[str, Measured], path: Path) -> None:
    """Writes atomically, one product a line."""
    entries = []
    for name, own in sorted(measured.items()):
        choices = [
            json.dumps({**dict(zip(_KEY, key, strict=True)), "choice": choice if choice == CUDNN else asdict(choice)})
            for key, choice in sorted(own.choices.items())
        ]
        lines = ",\n".join(f"      {choice}" for choice in choices)
        inside = f"[\n{lines}\n    ]" if choices else "[]"
        launch = json.dumps(own.dependent_launch)
        entries.append(f'  {json.dumps(name)}: {{\n    "dependent_launch": {launch},\n    "choices": {inside}\n  }}')
    with replacing(path) as temporary:
        temporary.write_text("{\n" + ",\n".join(entries) + "\n}\n" if entries else "{}\n")


BY_GPU = load()
