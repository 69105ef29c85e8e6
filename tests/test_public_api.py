"""The public API equals `public_api.txt`: names, signatures, operators, commands, checkpoints.

After an intended change, `python tests/test_public_api.py` regenerates the file.
"""

from __future__ import annotations

import ast
import enum
import inspect
import types
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import typer

import fastlangevin as fl
from fastlangevin import cli, kernels

WRITTEN = Path(__file__).with_name("public_api.txt")
MODULES = ("distributed", "energies", "models", "noise", "recipes")


def lines() -> Iterator[str]:
    assert kernels.BACKENDS
    for name in sorted(fl.__all__):
        yield from described(f"fl.{name}", getattr(fl, name))
    for adapter in fl.adapters.__all__:
        own = getattr(fl.adapters, adapter)
        for name in own.__all__:
            yield from described(f"fl.adapters.{adapter}.{name}", getattr(own, name))
    for module in MODULES:
        own = vars(getattr(fl, module))
        for name, value in sorted(own.items()):
            is_own = getattr(value, "__module__", "") == f"fastlangevin.{module}" or name in own.get("__all__", ())
            if is_own and not name.startswith(("_", "check_")):
                yield from described(f"fl.{module}.{name}", value)
            elif module == "recipes" and isinstance(value, dict) and "sampler" in value:
                yield f"fl.recipes.{name}: {', '.join(value)}"
    for schema in sorted(map(str, torch._C._jit_get_all_schemas())):
        if schema.startswith("fastlangevin::"):
            yield schema
    for name, command in sorted(typer.main.get_command(cli.app).commands.items()):
        yield f"fastlangevin {name}: {' '.join(sorted('/'.join(p.opts + p.secondary_opts) for p in command.params))}"


def described(name: str, value: object) -> Iterator[str]:
    if isinstance(value, types.ModuleType):
        return
    if isinstance(value, type) and issubclass(value, enum.Enum):
        yield f"{name}: {', '.join(f'{member.name} = {member.value}' for member in value)}"
        return
    yield name + signature(value)
    if isinstance(value, type):
        for member in dir(value):
            if member.startswith("_") and member not in ("__call__", "__len__"):
                continue
            owner = next(cls for cls in value.__mro__ if member in vars(cls))
            found = vars(owner)[member]
            if member in fields(value):
                yield f"{name}.{member}"
            elif not owner.__module__.startswith("fastlangevin"):
                continue
            elif isinstance(found, property):
                yield f"{name}.{member}: property"
            elif isinstance(found, (types.FunctionType, staticmethod, classmethod)):
                yield f"{name}.{member}{signature(getattr(value, member))}"


def fields(value: type) -> tuple[str, ...]:
    return tuple(getattr(value, "_fields", ())) + tuple(getattr(value, "__dataclass_fields__", ()))


def signature(value: object) -> str:
    """Names and defaults. Annotations are printed differently by each version of Python."""
    if not callable(value):
        return ""
    if isinstance(value, type) and issubclass(value, BaseException) and "__init__" not in vars(value):
        return f"({value.__bases__[0].__name__})"
    found = inspect.signature(value)
    bare = [parameter.replace(annotation=parameter.empty) for parameter in found.parameters.values()]
    return str(found.replace(parameters=bare, return_annotation=found.empty))


def test_public_api():
    assert list(lines()) == WRITTEN.read_text().splitlines()


def test_what_is_imported_when_it_is_first_read():
    """What type checkers read is what Python imports."""
    block = next(node for node in ast.parse(Path(fl.__file__).read_text()).body if isinstance(node, ast.If))
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    assert {alias.name: node.module or alias.name for node in imports for alias in node.names} == fl._HOMES
    assert set(fl.__all__) <= {*dir(fl)}
    with pytest.raises(AttributeError, match="module 'fastlangevin' has no attribute 'trian'"):
        fl.trian  # noqa: B018


if __name__ == "__main__":
    WRITTEN.write_text("".join(f"{line}\n" for line in lines()))
