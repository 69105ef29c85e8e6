"""The enumerations that Python and csrc share."""

from __future__ import annotations

import re

import pytest

from fastlangevin.kernels import build
from fastlangevin.kernels.arguments import ActivationKind, NoiseFirst, TransitionKind


@pytest.mark.parametrize("enumeration", [ActivationKind, NoiseFirst, TransitionKind], ids=lambda e: e.__name__)
def test_enumerations_are_those_of_the_headers(enumeration):
    header = "transitions.h" if enumeration is TransitionKind else "chain.h"
    source = (build.csrc() / "cpu" / header).read_text()
    (members,) = re.findall(rf"enum class {enumeration.__name__} : int64_t {{(.*?)}};", source, re.DOTALL)
    names = [member.strip() for member in members.split(",")]  # numbered from 0: no member has an explicit value
    assert all(name.isidentifier() for name in names)
    assert {member.name: int(member) for member in enumeration} == {name: i for i, name in enumerate(names)}
