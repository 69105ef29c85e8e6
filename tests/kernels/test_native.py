"""Queries of the loaded library."""

from __future__ import annotations

import pytest

from fastlangevin.kernels import build, native


@pytest.mark.parametrize("ask", [native.cpu_has_bfloat16, native.cpu_capability], ids=lambda f: f.__name__)
def test_a_query_reads_no_sources(monkeypatch, ask):
    """Finding the library reads and hashes all of csrc: once per process, not at each call."""
    if native.load_cpu():
        pytest.skip(native.load_cpu())
    expected = ask()
    digests = []
    monkeypatch.setattr(build.Library, "digest", lambda self: digests.append(self.name))
    assert ask() == expected and not digests
