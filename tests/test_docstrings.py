"""The examples of the docstrings run as they stand, and every public name has one.

What is public is what the pages of docs/api show: tests/test_docs.py holds them to `fl.__all__`.
"""

from __future__ import annotations

import contextlib
import doctest
import importlib
import inspect
import math
import re
import types
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import fastlangevin as fl
from fastlangevin.reproduction import reproduce, tables

PAGES = sorted((Path(__file__).parent.parent / "docs" / "api").glob("*.md"))
SHOWN = re.compile(r"^::: fastlangevin\.(\S+)(?:\n +options:(?:\n +(?! |members).*)*(?:\n +members: \[(.*)\])?)?", re.M)
NAMES = {m[1]: m[2] for page in PAGES for m in SHOWN.finditer(page.read_text())}  # members: where listed
NEEDS_ARVIZ = ("to_arviz", "diagnostics.summary", "diagnostics.report")


def found(name: str) -> object:
    """An attribute or submodule of the package by its dotted name; of a class as it is defined."""
    value: object = fl
    for part in name.split("."):
        if isinstance(value, types.ModuleType) and not hasattr(value, part):
            value = importlib.import_module(f"{value.__name__}.{part}")
        else:
            value = inspect.getattr_static(value, part) if isinstance(value, type) else getattr(value, part)
    return value.__func__ if isinstance(value, (classmethod, staticmethod)) else value


def members_of(name: str) -> list[str]:
    """Those that the pages show. Skips the test of a name that needs a library which is not installed."""
    try:
        value = found(name)
    except ImportError as error:
        pytest.skip(f"needs {error.name}, which is not installed")
    if NAMES[name] is not None:
        return NAMES[name].split(", ") if NAMES[name] else []
    own = vars(value) if isinstance(value, type) else ()
    return [member for member in own if not member.startswith("_") and is_documented(found(f"{name}.{member}"))]


def is_documented(value: object) -> bool:
    return isinstance(value, (types.FunctionType, property)) and bool(value.__doc__)


def example(name: str) -> str:
    doc = inspect.getdoc(found(name)) or ""
    return doc.partition("\nExamples:\n")[2]


@pytest.mark.parametrize("name", NAMES)
def test_every_public_name_has_an_example(name):
    """One of its own or, for a member of a class, a line in that of the class. Modules have those of their members."""
    members, value = members_of(name), found(name)
    is_module, is_base = isinstance(value, types.ModuleType), name.startswith("samplers.")
    assert is_module or is_base or ">>> " in example(name), f"{name} has no section 'Examples:' with a line '>>> '"
    for member in members:
        own = ">>> " in example(f"{name}.{member}")
        assert own or (not is_module and re.search(rf"\.{member}\b", example(name))), f"{name}.{member} has no example"


@contextlib.contextmanager
def without_a_group() -> Iterator[None]:
    try:
        yield
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


@pytest.mark.parametrize("name", NAMES)
def test_examples(name, tmp_path, monkeypatch):
    """Of a name and of its members, each in an empty folder."""
    monkeypatch.setattr(reproduce, "_n_iterations_within", lambda *a: 1)  # not the minutes that are given
    monkeypatch.setattr(tables, "_STEPS", {5: 0.15})
    for each in (name, *(f"{name}.{member}" for member in members_of(name))):
        if each.endswith(NEEDS_ARVIZ):
            pytest.importorskip("arviz", reason="needs ArviZ, of the extra diagnostics")
        folder = tmp_path / each
        folder.mkdir()
        monkeypatch.chdir(folder)
        torch.manual_seed(0)
        names = {"fl": fl, "torch": torch, "math": math}
        test = doctest.DocTestParser().get_doctest(example(each), names, f"fastlangevin.{each}", None, None)
        said: list[str] = []
        with without_a_group():
            doctest.DocTestRunner(verbose=False).run(test, out=said.append)
        assert not said, "".join(said)
