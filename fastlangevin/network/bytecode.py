"""What the bytecode of a function says that it reads and writes."""

from __future__ import annotations

import dis
import functools
import itertools
import types
from typing import NamedTuple

_WRITES = {"STORE_ATTR", "STORE_GLOBAL", "DELETE_ATTR", "DELETE_GLOBAL"}
_ITEM_WRITES = {"STORE_SUBSCR", "STORE_SLICE", "DELETE_SUBSCR"}
_LOADS = {"LOAD_FAST", "LOAD_DEREF"}
_LITERALS = {"BUILD_LIST", "BUILD_MAP", "BUILD_SET"}
_OTHERWISE_IMPURE = {"IMPORT_NAME", "YIELD_VALUE", "RETURN_GENERATOR", "GET_AWAITABLE"}
_FILLS = {
    *("append", "appendleft", "extend", "insert", "pop", "popleft", "popitem", "update", "setdefault", "clear"),
    *("reverse", "remove", "discard"),
}
_MUTATORS = {"add_module", "__setitem__", "__delitem__", "__setattr__", "__delattr__", "__dict__", "__iadd__"}
_RANDOM = {"bernoulli", "multinomial", "poisson", "normal", "manual_seed"}


class CodeRead(NamedTuple):
    """The names in a code object, and the reason why it is impure by itself, or None.

    Attributes:
        in_place: the same, of what may be an operation on a tensor in place.
        to_first: the same, of attributes of its first argument that it writes to.
    """

    globals: frozenset[str]
    attributes: frozenset[str]
    impure: str | None
    in_place: str | None
    to_first: str | None


@functools.lru_cache(maxsize=1024)
def read(code: types.CodeType) -> CodeRead:
    """Reads a code object and those of the functions that are defined in it."""
    globals_, attributes = set(), set()
    impure = in_place = to_first = None
    first = code.co_varnames[0] if code.co_argcount else None
    line = code.co_firstlineno
    instructions = list(dis.get_instructions(code))
    containers = _local_containers(code, instructions)
    for before, instruction in zip([None, *instructions], instructions, strict=False):
        operation, name = instruction.opname, instruction.argval
        line = instruction.starts_line or line
        is_first = before is not None and before.opname == "LOAD_FAST" and before.argval == first
        if operation == "STORE_ATTR" and is_first:
            to_first = to_first or f"line {line}) writes to {name}, which is not a local variable"
        elif operation in _WRITES or (operation == "STORE_DEREF" and name in code.co_freevars):
            impure = impure or f"line {line}) writes to {name}, which is not a local variable"
        elif operation in _OTHERWISE_IMPURE and code.co_name != "<genexpr>":
            impure = impure or f"line {line}) imports or yields"
        elif operation in _ITEM_WRITES:
            in_place = in_place or f"line {line}) writes to an item"
        elif operation.startswith("INPLACE_") or (operation == "BINARY_OP" and instruction.argrepr.endswith("=")):
            in_place = in_place or f"line {line}) writes in place"
        elif operation in ("LOAD_GLOBAL", "LOAD_NAME"):
            globals_.add(name)
        elif operation in ("LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER_ATTR"):
            attributes.add(name)
            is_local = before is not None and before.opname in _LOADS and before.argval in containers
            if name in _MUTATORS or (name in _FILLS and not is_local) or name.startswith("register_"):
                impure = impure or f"line {line}) calls {name}, which modifies the object"
            elif name.endswith("_") and not name.endswith("__"):
                in_place = in_place or f"line {line}) calls {name}, which modifies the object"
            elif name in _RANDOM or name.startswith("rand"):
                impure = impure or f"line {line}) draws random numbers with {name}"
    for inner in code.co_consts:  # nested functions and comprehensions
        if isinstance(inner, types.CodeType):
            found = read(inner)
            globals_ |= found.globals
            attributes |= found.attributes
            impure, in_place = impure or found.impure or found.to_first, in_place or found.in_place
    return CodeRead(frozenset(globals_), frozenset(attributes), impure, in_place, to_first)


def _local_containers(code: types.CodeType, instructions: list[dis.Instruction]) -> set[str]:
    """The local variables to which only lists, dicts and sets are assigned that are made on the spot."""
    made: set[str] = set()
    other = {*code.co_varnames[: code.co_argcount + code.co_kwonlyargcount], *code.co_freevars}
    for before, instruction in itertools.pairwise(instructions):
        if instruction.opname in ("STORE_FAST", "STORE_DEREF"):  # the latter if an inner function reads it
            (made if before.opname in _LITERALS else other).add(instruction.argval)
    return made - other
