"""The check of the ratios against their floors."""

from __future__ import annotations

import json

import guard
import works


def test_the_guard_allows_thirty_percent():
    floors = {"a": 10.0, "b": 2.0}
    assert guard.lost({"a": 7.01, "b": 9.0}, floors) == []
    (complaint,) = guard.lost({"a": 6.99, "b": 2.0}, floors)
    assert complaint == "a: 6.99× the eager loop, 30% below 10.00×"
    assert guard.lost({"b": 2.0}, floors) == ["a: not measured, the floor is 10.00×"]
    assert guard.lost({"a": 10.0, "b": 2.0, "c": 1.0}, floors) == ["c: no floor in floors.json (--update)"]


def test_the_guard_fails_on_a_loss(monkeypatch, capsys, tmp_path):
    floors = tmp_path / "floors.json"
    floors.write_text('{"a": 10.0}')
    monkeypatch.setattr(guard, "FLOORS", floors)
    for ratio, code in ((9.0, 0), (5.0, 1)):
        monkeypatch.setattr(guard, "measure", lambda ratio=ratio: ({"a": ratio}, []))
        assert guard.main([]) == code
    assert "LOST: a: 5.00× the eager loop, 50% below 10.00×" in capsys.readouterr().err
    monkeypatch.setattr(guard, "measure", lambda: ({"a": 20.0}, ["b: failed"]))
    assert guard.main(["--update"]) == 1 and json.loads(floors.read_text()) == {"a": 10.0}
    monkeypatch.setattr(guard, "measure", lambda: ({"a": 20.0}, []))
    assert guard.main(["--update"]) == 0 and json.loads(floors.read_text()) == {"a": 20.0}


def test_the_guard_has_a_floor_for_each_of_its_works():
    assert set(json.loads(guard.FLOORS.read_text())) == set(guard.NAMES) <= set(works.WORKS)
