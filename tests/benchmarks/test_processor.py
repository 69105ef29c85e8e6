"""The name of the processor that figures are stored with."""

from __future__ import annotations

import platform

import processor
import pytest

INTEL = """processor\t: 0
cpu family\t: 6
model\t\t: 167
model name\t: Intel(R) Xeon(R) Processor
stepping\t: {}

processor\t: 1
stepping\t: 9
"""
ARM = """processor\t: 0
BogoMIPS\t: 50.00
CPU implementer\t: 0x41
CPU part\t: 0xd40
"""


@pytest.mark.parametrize(
    ("cpuinfo", "expected"),
    [
        (INTEL.format(1), "Intel(R) Xeon(R) Processor, family 6, model 167, stepping 1"),
        (INTEL.format(8), "Intel(R) Xeon(R) Processor, family 6, model 167, stepping 8"),
        (ARM, "some machine, implementer 0x41, part 0xd40"),
        ("", "some machine"),
    ],
)
def test_the_name_tells_chips_apart(monkeypatch, cpuinfo, expected):
    monkeypatch.setattr(platform, "processor", lambda: "")
    monkeypatch.setattr(platform, "machine", lambda: "some machine")
    assert processor.name(cpuinfo) == expected
