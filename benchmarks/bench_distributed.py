"""Weak and strong scaling of a training iteration, and what it exchanges (`training_on_ranks.py`).

On 2, 4, … ranks: as many as there are GPUs, with NCCL, or without two of them as there are cores, at most 8 and at
least 2, with gloo and one thread each.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import training_on_ranks
from training_on_ranks import WORKS, Row

SCRIPT = Path(training_on_ranks.__file__)
DEVICE, BACKEND = ("cuda", "nccl") if torch.cuda.device_count() > 1 else ("cpu", "gloo")
PLACES = torch.cuda.device_count() if DEVICE == "cuda" else os.cpu_count() or 1
NAMES = [name for name in WORKS if name != ("paper-cut" if DEVICE == "cuda" else "paper")]
_LIMIT = 300.0  # seconds for all rounds of a work


def numbers_of_ranks(places: int) -> list[int]:
    """Powers of two up to the number of GPUs or cores; 2 on one core too, to see what is exchanged."""
    return [n for n in (2, 4, 8) if n <= max(places, 2)]


def title(work: training_on_ranks.Work, size: int, places: int) -> str:
    crowded = f", more than the {places} cores" if size > places else ""
    return f"scaling, {work.title}, {size} ranks on {BACKEND}{crowded}"


@pytest.mark.parametrize("size", numbers_of_ranks(PLACES))
@pytest.mark.parametrize("name", NAMES)
def test_scaling(compare, benchmark, name, size):
    load, rows = os.getloadavg()[0], []
    benchmark.pedantic(lambda: rows.extend(on_ranks(name, size)), rounds=1)
    shown = title(WORKS[name], size, PLACES)
    compare.record("scaling", shown, rows, text=training_on_ranks.text, load=load, backend=BACKEND)


def on_ranks(name: str, size: int) -> list[Row]:
    """The rows that rank 0 prints."""
    paths = (str(SCRIPT.parent.parent), os.environ.get("PYTHONPATH"))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={size}", str(SCRIPT)]
    done = subprocess.run(
        [*command, name, "--device", DEVICE], env=environment, capture_output=True, text=True, timeout=_LIMIT
    )
    if done.returncode != 0:
        raise RuntimeError(f"{name} on {size} ranks: {done.stderr.strip()[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])
