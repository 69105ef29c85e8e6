"""What `make test-processors` runs, and what it knows to skip."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

pytestmark = pytest.mark.any_processor


@pytest.fixture(scope="module")
def script():
    path = Path(__file__).parents[2] / "scripts" / "test_processors.py"
    spec = importlib.util.spec_from_file_location("processors", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_each_library_runs_with_each_set_and_no_two_pairs_are_alike(script):
    for i in range(3):
        named = [sets[i] for sets in script.COMBINATIONS.values()]
        assert len(set(named)) == 3 and all(named.count(n) == 2 for n in named)
        pairs = [(sets[i], sets[(i + 1) % 3]) for sets in script.COMBINATIONS.values()]
        assert len(set(pairs)) == 6


def test_what_a_processor_lacks(script):
    lacking = script.lacking
    assert lacking(("default", "SSE41", "SSE4_2"), set()) is None
    assert lacking(("avx2", "SSE41", "SSE4_2"), set()) == "AVX2"
    assert lacking(("default", "SSE41", "AVX2"), {"avx2"}) is None
    assert lacking(("default", "AVX512_CORE", "SSE4_2"), {"avx2", "avx512f"}) == "AVX-512"
    assert lacking(("avx512", "AVX2", "SSE4_2"), {"avx2", *script.AVX512}) is None


def test_a_failure_is_one_of_the_command(script, monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(script.build, "processor_flags", lambda: {"avx2"})
    monkeypatch.setattr(script, "run", lambda sets, arguments: seen.append((sets, arguments)) or len(seen) != 2)
    monkeypatch.setattr("sys.argv", ["test_processors.py", "-x", "-n", "2"])
    assert script.main() == 1
    assert seen == [(script.COMBINATIONS[name], ["-x", "-n", "2"]) for name in ("all-oldest", "all-avx2")]
    said = capsys.readouterr().out
    assert "all-avx2       FAILED" in said and "all-avx512     skipped: this processor has no AVX-512" in said
    monkeypatch.setattr("sys.argv", ["test_processors.py", "--only", "all-oldest"])
    assert script.main() == 0
