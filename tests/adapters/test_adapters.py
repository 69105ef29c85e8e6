"""`fl.adapters` imports nothing but what is read of it."""

from __future__ import annotations

import importlib
import sys

import pytest

import fastlangevin as fl

LIBRARIES = {"ebmkit": "ebm", "lightning": "pytorch_lightning", "torchebm": "torchebm"}


@pytest.mark.parametrize("name", LIBRARIES)
def test_a_library_that_is_missing_is_an_error_that_names_the_extra(name, monkeypatch):
    for module in [m for m in sys.modules if m.partition(".")[0] == LIBRARIES[name]]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, LIBRARIES[name], None)  # as if it were not installed
    monkeypatch.delitem(sys.modules, "lightning.pytorch", raising=False)
    monkeypatch.delitem(sys.modules, f"fastlangevin.adapters.{name}", raising=False)
    monkeypatch.delattr(fl.adapters, name, raising=False)
    with pytest.raises(ImportError, match=rf"{LIBRARIES[name]} cannot be imported .*fastlangevin\[{name}\]"):
        getattr(fl.adapters, name)


def test_names():
    assert set(LIBRARIES) == set(fl.adapters.__all__) <= set(dir(fl.adapters))
    with pytest.raises(AttributeError, match=r"module 'fastlangevin.adapters' has no attribute 'numpyro'"):
        fl.adapters.numpyro  # noqa: B018
    with pytest.raises(ImportError):
        importlib.import_module("fastlangevin.adapters.numpyro")
