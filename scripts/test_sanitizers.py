"""Runs the tests of the native CPU kernels with the library built for AddressSanitizer and UndefinedBehaviorSanitizer.

    python scripts/test_sanitizers.py [argument of pytest …]

A read or write outside an array, of freed memory, or an operation that C++ does not define ends the tests with a
report. torch allocates its tensors through the sanitizer, so that their ends are known to it. Without an argument that
names a file or a folder: the tests in `TESTS`. The tracked files are copied into .sanitizers, beside the library, which
is compiled there when its sources have changed, for all instruction sets.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import torch

from fastlangevin.kernels import build

ROOT = Path(__file__).resolve().parent.parent
COPY = ROOT / ".sanitizers"
PROGRAMS = ("program", "program_operands", "program_pack", "program_winograd")
KERNELS = ("analytic_chain", "convnet", "mlp_chain", "mlp_chain_bfloat16", *PROGRAMS, "update")
TESTS = (
    *(f"tests/kernels/cpu/test_{name}.py" for name in KERNELS),
    *("tests/chains/test_update.py", "tests/test_noise.py", "tests/score/test_convnet_implementations.py"),
)
FLAGS = "-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer -g1"


def copy_tracked_files() -> None:
    """Without the library of the installed package, which would be used first."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    shutil.rmtree(COPY / "tree", ignore_errors=True)
    for name in os.fsdecode(listed).split("\0"):
        if name and (ROOT / name).is_file():
            target = COPY / "tree" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target)


def runtime(compiler: str) -> str:
    """The libraries that must be loaded before all others: the sanitizer's, and that of C++ exceptions."""
    names = ("libasan.so", "libstdc++.so")
    found = [
        subprocess.run([compiler, f"-print-file-name={n}"], capture_output=True, text=True, check=True) for n in names
    ]
    paths = [Path(f.stdout.strip()) for f in found]
    missing = [n for n, path in zip(names, paths, strict=True) if not path.is_absolute()]
    if missing:
        sys.exit(f"{compiler} has no {' and no '.join(missing)}: install the sanitizer of the compiler, e.g. libasan")
    return " ".join(str(path.resolve()) for path in paths)


def main(arguments: list[str]) -> int:
    compiler = os.environ.get("CXX", "g++")
    copy_tracked_files()
    os.environ["CXX"] = f"{compiler} {FLAGS}"
    build.build(build.CPU, COPY / "cache", **build.torch_folders(Path(torch.__file__).parent))
    environment = {
        **os.environ,
        "FASTLANGEVIN_CACHE": str(COPY / "cache"),
        "LD_PRELOAD": runtime(compiler),
        # Python and torch keep memory to the end.
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }
    names_tests = any((ROOT / argument.split("::")[0]).exists() for argument in arguments)
    tests = () if names_tests else TESTS
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments, *tests]
    return subprocess.run(command, cwd=COPY / "tree", env=environment).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
