"""Draws docs/speed.svg from the committed results of the benchmarks: `python scripts/draw_speed.py [OUT.svg]`.

Each row is a work of `benchmarks/works.py` or `benchmarks/public_networks/`, each mark the speed of a contender in
fp32, as a ratio to the eager loop of the same rounds. The file has neither fonts nor scripts, and a light and a dark
form.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"

ROWS = {
    "mixture": "Gaussian mixture in 2-D, 10,000 chains",
    "double-well": "double well in 2-D, 10,000 chains",
    "mlp-2-64-64-1": "MLP 2→64→64→1, 10,000 chains",
    "mlp-128-200-200-1": "MLP 128→200→200→1, 10,000 chains",
    "latent-prior": "latent EBM prior, 100 chains",
    "convnet-1x8x8-32": "the paper's ConvNet, 1×8×8",
    "convnet-1x16x16-32": "the paper's ConvNet, 1×16×16",
    "convnet-3x32x32-32": "the paper's ConvNet, 3×32×32",
    "swish-cnn": "UvA tutorial, Swish CNN, 1×28×28",
    "jem": "JEM, wide ResNet, 3×32×32",
    "igebm-parametrization": "IGEBM, spectral ResNet, 3×32×32",
    "improved-cd": "improved CD, attention, 3×32×32",
    "ncsn": "NCSN, score network, 3×32×32",
    "formula-20": "Python code that must run at each step",
}
# Name, shape, and the contenders of which the fastest is drawn. Ours comes last, over the others.
MARKS = {
    "eager, channels_last": ("square", ("eager channels_last",)),
    "torch.compile": ("diamond", ("torch.compile", "torch.compile 10 steps", "torch.compile of the network")),
    "JAX, blackjax": ("triangle", ("JAX scan", "JAX loop", "blackjax")),
    "torchebm, ebmkit, posteriors": ("cross", ("torchebm", "ebmkit", "posteriors")),
    "fastlangevin": ("disc", ("fastlangevin",)),
}
WIDTH, LEFT, RIGHT, TOP, STEP = 860, 292, 40, 62, 25
LOWEST, HIGHEST = 0.5, 128.0
STYLE = """
text { font: 13px system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; fill: #24292f; }
.small { font-size: 12px; } .number { font-weight: 700; fill: #c2410c; }
.ground { fill: #fff; } .grid { stroke: #d8dee4; } .one { stroke: #57606a; stroke-dasharray: 4 3; }
.disc { fill: #e8590c; stroke: none; }
.square, .diamond, .triangle, .cross { fill: none; stroke-width: 1.7; }
.square { stroke: #57606a; } .diamond { stroke: #1d6fd1; } .triangle { stroke: #1a7f37; } .cross { stroke: #8250df; }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3; } .number { fill: #ff9b5e; }
.ground { fill: #161b22; } .grid { stroke: #30363d; } .one { stroke: #9198a1; }
.square { stroke: #9198a1; } .diamond { stroke: #58a6ff; } .triangle { stroke: #3fb950; } .cross { stroke: #bc8cff; }
}"""


def place(ratio: float) -> float:
    share = math.log(ratio / LOWEST) / math.log(HIGHEST / LOWEST)
    return LEFT + share * (WIDTH - LEFT - RIGHT)


def mark(shape: str, x: float, y: float) -> str:
    if shape == "disc":
        return f'<circle class="disc" cx="{x:.1f}" cy="{y:.1f}" r="6"/>'
    corners = {
        "square": "M-4,-4H4V4H-4Z",
        "diamond": "M0,-5.5L5.5,0L0,5.5L-5.5,0Z",
        "triangle": "M0,-5L5,4.2H-5Z",
        "cross": "M-4,-4L4,4M4,-4L-4,4",
    }
    return f'<path class="{shape}" transform="translate({x:.1f} {y:.1f})" d="{corners[shape]}"/>'


def speeds(results: Path) -> dict[str, dict[str, float]]:
    """Of each work, by the name in its benchmark, the ratios of the contenders that were timed."""
    found = {}
    files = sorted(results.glob("cpu*.json"))
    for benchmark in (b for file in files for b in json.loads(file.read_text())["benchmarks"]):
        entry = benchmark["extra_info"]
        if entry.get("kind") in ("chain", "network"):
            found[benchmark["param"]] = {r["contender"]: r["ratio"] for r in entry["rows"] if r["status"] == "timed"}
    return found


def chart(found: dict[str, dict[str, float]]) -> str:
    bottom = TOP + STEP * len(ROWS)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {bottom + 44}" role="img">',
        "<title>Speed of Langevin chains relative to the eager PyTorch loop</title>",
        f"<style>{STYLE}</style>",
        f'<rect class="ground" width="{WIDTH}" height="{bottom + 44}" rx="6"/>',
    ]
    x = 22.0
    for name, (shape, _) in reversed(MARKS.items()):
        lines += [mark(shape, x, 24), f'<text x="{x + 11:.1f}" y="28.5">{name}</text>']
        x += 36 + 7.2 * len(name)
    for ratio in (0.5, 1, 2, 4, 8, 16, 32, 64, 128):
        at = place(ratio)
        style = "one" if ratio == 1 else "grid"
        lines.append(f'<line class="{style}" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP - 14}" y2="{bottom - 8}"/>')
        lines.append(f'<text class="small" text-anchor="middle" x="{at:.1f}" y="{bottom + 9}">{ratio:g}×</text>')
    for row, (work, title) in enumerate(ROWS.items()):
        y = TOP + STEP * row
        lines.append(f'<text text-anchor="end" x="{LEFT - 14}" y="{y + 4.5}">{title}</text>')
        for shape, contenders in MARKS.values():
            timed = [found[work][name] for name in contenders if name in found[work]]
            if timed:
                lines.append(mark(shape, place(max(timed)), y))
        ours = found[work]["fastlangevin"]
        number = f"{ours:.0f}×" if ours >= 10 else f"{ours:.1f}×"
        fastest = max(ratio for name, ratio in found[work].items() if "bf16" not in name)
        lines.append(f'<text class="number" x="{place(fastest) + 11:.1f}" y="{y + 4.5}">{number}</text>')
    axis = "times as fast as the eager PyTorch loop (log scale); two CPU cores, fp32; of several contenders the fastest"
    lines.append(f'<text class="small" text-anchor="middle" x="{WIDTH / 2}" y="{bottom + 32}">{axis}</text>')
    return "\n".join([*lines, "</svg>"]) + "\n"


if __name__ == "__main__":
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "speed.svg"
    out.write_text(chart(speeds(RESULTS)))
