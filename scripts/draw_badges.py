"""Draws the README's badges, docs/badge-*.svg, from what pyproject.toml says: `python scripts/draw_badges.py`."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def badges(pyproject: str) -> dict[str, str]:
    """The text of each badge's file, by the file's name."""
    licence = re.search(r'^license = "(.+)"', pyproject, re.M)
    python = re.search(r'^requires-python = ">=(.+)"', pyproject, re.M)
    assert licence and python and '"Typing :: Typed"' in pyproject
    values = {"licence": licence[1], "python": f"{python[1]}+", "typing": "typed"}
    return {f"badge-{name}.svg": badge(name, value) for name, value in values.items()}


def badge(name: str, value: str) -> str:
    left, right = 14 + round(6.6 * len(name)), 14 + round(6.6 * len(value))
    font = 'font-family="Verdana, DejaVu Sans, sans-serif" font-size="11" fill="#fff" text-anchor="middle"'
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" width="{left + right}" height="20" role="img" aria-label="{name}: {value}">
<clipPath id="r"><rect width="{left + right}" height="20" rx="3"/></clipPath>
<g clip-path="url(#r)">
<rect width="{left}" height="20" fill="#555"/><rect x="{left}" width="{right}" height="20" fill="#0a7bbb"/>
</g>
<g {font}><text x="{left / 2}" y="14">{name}</text><text x="{left + right / 2}" y="14">{value}</text></g>
</svg>
"""


if __name__ == "__main__":
    for file, text in badges((ROOT / "pyproject.toml").read_text()).items():
        (ROOT / "docs" / file).write_text(text)
