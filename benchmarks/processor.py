"""The name of this machine's processor."""

from __future__ import annotations

import platform
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")


def name(cpuinfo: str | None = None) -> str:
    """As the system gives it, with the numbers that tell chips of one name apart where it has them: of x86 family,
    model and stepping, of ARM implementer and part.

    Args:
        cpuinfo: the text of /proc/cpuinfo. None: of this machine.
    """
    if cpuinfo is None:
        cpuinfo = _CPUINFO.read_text() if _CPUINFO.exists() else ""
    fields: dict[str, str] = {}
    for line in cpuinfo.splitlines():
        field, _, value = line.partition(":")
        fields.setdefault(field.strip(), value.strip())
    numbers = ("cpu family", "model", "stepping", "CPU implementer", "CPU part")
    known = [field for field in numbers if field in fields]
    name = fields.get("model name") or platform.processor() or platform.machine()
    return ", ".join([name, *(f"{field.split()[-1]} {fields[field]}" for field in known)])
