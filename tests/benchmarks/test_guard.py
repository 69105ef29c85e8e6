"""The check of the ratios against their floors."""

from __future__ import annotations

import json

import guard
import processor
import pytest
import works

KIND, OTHER = processor.name(), "another processor"


def test_the_guard_allows_thirty_percent():
    floors = {"a": 10.0, "b": 2.0}
    assert guard.lost({"a": 7.01, "b": 9.0}, floors) == []
    (complaint,) = guard.lost({"a": 6.99, "b": 2.0}, floors)
    assert complaint == "a: 6.99× the eager loop, 30% below 10.00×"
    assert guard.lost({"b": 2.0}, floors) == ["a: not measured, the floor is 10.00×"]
    assert guard.lost({"a": 10.0, "b": 2.0, "c": 1.0}, floors) == ["c: no floor in floors.json (--update)"]


def test_the_guard_fails_on_a_loss(monkeypatch, capsys, tmp_path):
    floors = tmp_path / "floors.json"
    floors.write_text(json.dumps({KIND: {"a": 10.0}, OTHER: {"a": 30.0}}))
    monkeypatch.setattr(guard, "FLOORS", floors)
    monkeypatch.setattr(guard, "NAMES", ("a",))
    for ratio, code in ((9.0, 0), (5.0, 1)):
        monkeypatch.setattr(guard, "measure", lambda names, ratio=ratio: ({"a": ratio}, []))
        assert guard.main([]) == code
    assert "LOST: a: 5.00× the eager loop, 50% below 10.00×" in capsys.readouterr().err
    monkeypatch.setattr(guard, "measure", lambda names: ({"a": 20.0}, ["b: failed"]))
    assert guard.main(["--update"]) == 1 and json.loads(floors.read_text())[KIND] == {"a": 10.0}
    monkeypatch.setattr(guard, "measure", lambda names: ({"a": 20.0}, []))
    assert guard.main(["--update"]) == 0 and json.loads(floors.read_text()) == {KIND: {"a": 20.0}, OTHER: {"a": 30.0}}


def test_the_guard_asks_for_floors_of_this_processor(monkeypatch, capsys, tmp_path):
    floors = tmp_path / "floors.json"
    floors.write_text(json.dumps({OTHER: {"a": 10.0}}))
    monkeypatch.setattr(guard, "FLOORS", floors)
    monkeypatch.setattr(guard, "NAMES", ("a",))
    monkeypatch.setattr(guard, "measure", lambda names: ({"a": 1.0}, []))
    assert guard.main([]) == 1
    assert f"floors.json has no floors of this processor, {KIND} (--update)" in capsys.readouterr().err
    assert guard.main(["--update"]) == 0
    assert json.loads(floors.read_text()) == {OTHER: {"a": 10.0}, KIND: {"a": 1.0}}
    assert guard.main([]) == 0


def test_the_guard_measures_named_works(monkeypatch, capsys, tmp_path):
    """Works without a floor are shown only, and floors of other works are not asked for and stay."""
    floors = tmp_path / "floors.json"
    floors.write_text(json.dumps({KIND: {"jem": 2.0, "ncsn": 3.0}}))
    monkeypatch.setattr(guard, "FLOORS", floors)
    monkeypatch.setattr(guard, "measure", lambda names: (dict.fromkeys(names, 1.5), []))
    assert guard.main(["jem", "formula-1"]) == 0
    assert "formula-1                   1.50× the eager loop, no floor yet" in capsys.readouterr().out
    assert guard.main(["ncsn"]) == 1
    assert guard.main(["jem", "formula-1", "--update"]) == 0
    assert json.loads(floors.read_text()) == {KIND: {"jem": 1.5, "ncsn": 3.0}}
    with pytest.raises(SystemExit):
        guard.main(["jmm"])
    assert "no work 'jmm', known are mixture, " in capsys.readouterr().err


def test_the_floors_are_of_the_guard_s_works():
    assert guard.read_floors()
    for floors in guard.read_floors().values():
        assert set(floors) == set(guard.NAMES) <= set(works.WORKS | works.NETWORKS)
