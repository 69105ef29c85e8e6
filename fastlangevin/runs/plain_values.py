"""Python's plain values as JSON and back, with the types that JSON alone does not keep."""

from __future__ import annotations

import numbers
from collections import Counter
from typing import Any

import numpy as np

_KEY = "__type__"
_PAIRS: dict[str, type[dict[Any, Any]]] = {"dict": dict, "Counter": Counter}


def to_json(value: object, name: str) -> Any:
    """Returns what `from_json` restores: None, bools, numbers, strings, and lists, tuples, dicts and Counters of these.

    Lists and dicts whose keys are strings stay what they are. NumPy's numbers become Python's.

    Raises:
        TypeError: a value of another type; the message says where in `name`.
    """
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, (float, np.floating)):
        return float(value)
    if isinstance(value, (list, tuple)) and type(value) in (list, tuple):
        items = [to_json(item, f"{name}[{i}]") for i, item in enumerate(value)]
        return items if type(value) is list else {_KEY: "tuple", "items": items}
    if isinstance(value, dict) and type(value) in _PAIRS.values():
        pairs = [(to_json(key, f"a key of {name}"), to_json(item, f"{name}[{key!r}]")) for key, item in value.items()]
        if type(value) is dict and all(isinstance(key, str) and key != _KEY for key in value):
            return dict(pairs)
        return {_KEY: type(value).__name__, "items": [list(pair) for pair in pairs]}
    raise TypeError(f"{name} is of type {type(value).__name__}")


def from_json(value: Any) -> Any:
    """The inverse of `to_json`.

    Raises:
        LookupError, TypeError, ValueError: not a result of `to_json`.
    """
    if isinstance(value, list):
        return [from_json(item) for item in value]
    if not isinstance(value, dict):
        return value
    if _KEY not in value:
        return {key: from_json(item) for key, item in value.items()}
    if value[_KEY] == "tuple":
        return tuple(from_json(value["items"]))
    return _PAIRS[value[_KEY]]({from_json(key): from_json(item) for key, item in value["items"]})
