"""Runs the tests as on other processors: torch's libraries are told to use older instruction sets than there are.

    python scripts/test_processors.py [--only NAME] [argument of pytest …]

Which kernel a library takes, and so in which order it adds, depends on the processor. ATen, oneDNN and MKL each read
how new an instruction set they may use, so that one machine can stand for several. A combination that needs a set which
this processor lacks is skipped, and said to be.

All tests run but those marked "gpu", those marked "any_processor", which look at no results of such kernels, and those
marked "compiled": torch.compile writes past the end of vectors where it is told of another capability of ATen's than it
would choose. Exit code: 0 where all that ran passed, 1 where a combination failed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from fastlangevin.kernels import build

ROOT = Path(__file__).resolve().parent.parent
VARIABLES = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS")
# Each set with each variable twice, beside another of the other variables' each time.
COMBINATIONS = {
    "all-oldest": ("default", "SSE41", "SSE4_2"),
    "aten-oldest": ("default", "AVX512_CORE", "AVX2"),
    "all-avx2": ("avx2", "AVX2", "AVX2"),
    "onednn-oldest": ("avx2", "SSE41", "AVX512"),
    "mkl-oldest": ("avx512", "AVX2", "SSE4_2"),
    "all-avx512": ("avx512", "AVX512_CORE", "AVX512"),
}
AVX512 = {"avx512f", "avx512bw", "avx512dq", "avx512vl"}


def lacking(sets: tuple[str, ...], flags: set[str]) -> str | None:
    """The instruction set among `sets` that a processor with these flags does not have."""
    needed = {name for name in ("AVX2", "AVX512") if any(name in s.upper() for s in sets)}
    if "AVX512" in needed and not flags >= AVX512:
        return "AVX-512"
    return "AVX2" if needed and "avx2" not in flags else None


def run(sets: tuple[str, ...], arguments: list[str]) -> bool:
    marks = "not gpu and not compiled and not any_processor"
    command = [sys.executable, "-m", "pytest", "-m", marks, *arguments]
    return (
        subprocess.run(command, cwd=ROOT, env={**os.environ, **dict(zip(VARIABLES, sets, strict=True))}).returncode == 0
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", choices=COMBINATIONS, action="append", help="this combination; may be repeated")
    chosen, arguments = parser.parse_known_args()
    flags, outcomes = build.processor_flags() or set(), {}
    print("tests of torch.compile are left out: it fails by itself where ATen's capability is forced")
    for name in chosen.only or COMBINATIONS:
        sets = COMBINATIONS[name]
        print(f"\n{name}: {' '.join(f'{v}={s}' for v, s in zip(VARIABLES, sets, strict=True))}", flush=True)
        missing = lacking(sets, flags)
        outcomes[name] = f"skipped: this processor has no {missing}" if missing else run(sets, arguments)
    print()
    for name, outcome in outcomes.items():
        print(f"{name:14} {outcome if isinstance(outcome, str) else 'passed' if outcome else 'FAILED'}")
    return 1 if False in outcomes.values() else 0


if __name__ == "__main__":
    sys.exit(main())
