"""What `tune` has measured, by the name of a GPU: in `tiles.json`, which is part of the package. A GPU that is not in
it has the tiles of `plan`, and no dependent launch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

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
        split: at most this number of programs share the steps of a tile if tiles alone would not occupy the GPU.
    """

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int
    split: int = 16


@dataclass
class Measured:
    """Of one GPU: the fastest tiles, and whether a step is faster with dependent launches."""

    dependent_launch: bool = False
    tiles: dict[Key, Tile] = field(default_factory=dict)


def load(path: Path = PATH) -> dict[str, Measured]:
    """By the names of GPUs.

    Raises:
        ValueError, KeyError, TypeError: the file is not one of `save`.
    """
    return {
        name: Measured(
            stored["dependent_launch"],
            {tuple(each[part] for part in _KEY): Tile(**each["tile"]) for each in stored["tiles"]},
        )
        for name, stored in json.loads(path.read_text()).items()
    }


def save(measured: Mapping[str, Measured], path: Path) -> None:
    """Writes atomically, one tile a line."""
    entries = []
    for name, own in sorted(measured.items()):
        tiles = [
            json.dumps({**dict(zip(_KEY, key, strict=True)), "tile": asdict(tile)})
            for key, tile in sorted(own.tiles.items())
        ]
        lines = ",\n".join(f"      {tile}" for tile in tiles)
        inside = f"[\n{lines}\n    ]" if tiles else "[]"
        launch = json.dumps(own.dependent_launch)
        entries.append(f'  {json.dumps(name)}: {{\n    "dependent_launch": {launch},\n    "tiles": {inside}\n  }}')
    with replacing(path) as temporary:
        temporary.write_text("{\n" + ",\n".join(entries) + "\n}\n" if entries else "{}\n")


BY_GPU = load()
