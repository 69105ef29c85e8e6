"""Records the energy gaps of the recipes on the digits, which must raise no alarm: tests/fixtures/energy_gaps.json.

    python scripts/record_gaps.py [recipe …]

The gap of every iteration is written, to three digits: of the whole training for recipes of the digits, else of the
first hundreds of iterations (`LENGTHS`) with 16 features, or 4 where chains have 500 steps. Without names all are
recorded: half an hour on two cores.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import fastlangevin as fl

PATH = Path(__file__).parents[1] / "tests" / "fixtures" / "energy_gaps.json"
LENGTHS = {"short_run": 400, "anatomy": 400, "anatomy_persistent": 150, "igebm": 500, "uva": 500, "jem": 600}
LENGTHS |= {"improved_cd": 500, "small": 800}


def main(*names: str) -> None:
    recorded = json.loads(PATH.read_text()) if PATH.exists() else {}
    for name in names or fl.recipes.BY_NAME:
        recipe = fl.recipes.named(name)
        if name in LENGTHS:
            recipe.update(n_iterations=LENGTHS[name], features=4 if recipe["sampler"]["n_steps"] >= 500 else 16)
        history = fl.train("digits", log_every=1, max_relative_gap=float("inf"), **recipe).history
        recorded[name] = [float(f"{row['energy_gap']:.3g}") for row in history]
        lines = [f' "{key}": {json.dumps(gaps, separators=(",", ":"))}' for key, gaps in sorted(recorded.items())]
        PATH.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
