"""First-call cost, in separate processes: seconds from the start to the first x_K, and peak memory.

Cold: the first process, with empty caches, so that kernels are built and code is compiled. Warm: alternating processes
with filled caches. Both include imports.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from contenders import BASELINE, CONTENDERS, OURS
from timing import paired_ratio, spread
from torch.utils import cpp_extension
from works import WORKS

from fastlangevin.kernels import build, native

ROUNDS = 3
NAMES = [n for n in CONTENDERS if not n.endswith(("bf16", "fp16", "TF32", "channels_last", "10 steps"))]
FIRST_CALL = Path(__file__).with_name("first_call.py")


@pytest.mark.parametrize("name", ["mlp-128-200-200-1", "convnet-3x32x32-32"])
def test_first_call(compare, benchmark, tmp_path, name):
    work = WORKS[name]()
    rows, contenders = [], []
    for contender in NAMES:
        why, status = CONTENDERS[contender].missing, "missing"
        if why is None:
            why, status = CONTENDERS[contender].supports(work), "unsupported"
        if why is None:
            contenders.append(contender)
        else:
            rows.append({"contender": contender, "status": status, "reason": why})
    load = os.getloadavg()[0]
    cold = {contender: measure(name, contender, tmp_path)["first"] for contender in contenders}
    cold[OURS] += build_seconds(tmp_path)
    warm: dict[str, list[dict[str, float]]] = {contender: [] for contender in contenders}

    def others() -> None:
        for contender in contenders:
            if contender != OURS:
                warm[contender].append(measure(name, contender, tmp_path))

    benchmark.pedantic(lambda: warm[OURS].append(measure(name, OURS, tmp_path)), setup=others, rounds=ROUNDS)
    for contender, runs in warm.items():
        seconds = [run["first"] for run in runs]
        ratio, quartiles = paired_ratio([run["first"] for run in warm[BASELINE]], seconds)
        peak, _ = spread([run["peak"] for run in runs])
        own, _ = spread([run["own_peak"] for run in runs])
        row = {"contender": contender, "status": "timed", "rounds": ROUNDS, "seconds": spread(seconds)[0]}
        row |= {"ratio": ratio, "ratio_quartiles": quartiles, "peak": peak, "own_peak": own}
        rows.append(row | {"cold_ratio": cold[BASELINE] / cold[contender]})
    compare.record("first-call", f"first call, {work.title}, K = {work.n_steps}", rows, load=load)


def build_seconds(folder: Path) -> float:
    """Seconds to compile the kernels if they were installed compiled; else 0, as the cold process compiles them."""
    if not (native.prebuilt_directory() / build.CPU.filename()).exists():
        return 0.0
    libraries = [str(Path(torch.__file__).parent / "lib")]
    start = time.perf_counter()
    build.build(native.first_use_library(), folder, include=cpp_extension.include_paths(), libraries=libraries)
    return time.perf_counter() - start


def measure(work: str, contender: str, caches: Path) -> dict[str, float]:
    """Runs a separate process; `caches` is the folder of everything that earlier processes built and compiled."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, (str(FIRST_CALL.parent.parent), os.environ.get("PYTHONPATH")))),
        "FASTLANGEVIN_CACHE": str(caches / "fastlangevin"),
        "TORCHINDUCTOR_CACHE_DIR": str(caches / "inductor"),
        "TRITON_CACHE_DIR": str(caches / "triton"),
    }
    command = [sys.executable, "-W", "ignore", str(FIRST_CALL), work, contender]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    if done.returncode != 0:
        raise RuntimeError(f"{contender}: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout.strip().splitlines()[-1])
