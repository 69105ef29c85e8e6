"""Properties of Python objects that both `purity` and `dependencies` check."""

from __future__ import annotations

import types
from typing import Any

import torch
from torch import nn

# Immutable and hashable values, compared by value. A bool is an int.
PLAIN = (int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.memory_format)
# Methods that Python calls by themselves, but not while an energy reads an object; comparisons are of values.
_OTHER_IMPLICIT = {
    *("__init__", "__new__", "__init_subclass__", "__post_init__", "__set_name__", "__del__", "__class_getitem__"),
    *("__repr__", "__str__", "__eq__", "__hash__", "__reduce__", "__reduce_ex__", "__getstate__", "__setstate__"),
    *("__copy__", "__deepcopy__", "__dir__", "__setattr__", "__delattr__", "__getnewargs__", "__replace__"),
}
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def has_hooks(module: nn.Module) -> bool:
    """Whether evaluating the module runs hooks: its own, or those registered for all modules."""
    return any(getattr(module, hooks, None) for hooks in _HOOKS) or nn.modules.module._has_any_global_hook()


def has_other_hooks(module: nn.Module) -> bool:
    """Whether evaluating the module runs hooks that are not its own forward hooks."""
    return bool(module._backward_hooks or module._backward_pre_hooks) or nn.modules.module._has_any_global_hook()


def is_implicit(name: str) -> bool:
    """Whether a method of this name runs where an energy does not name it: by an operator, an index, a call."""
    return name.startswith("__") and name.endswith("__") and name not in _OTHER_IMPLICIT


def methods_of(cls: type) -> list[types.FunctionType]:
    """The methods that a class and its bases other than torch's define, static and class methods included."""
    members = [m for base in cls.__mro__ if not is_torch(base) for m in vars(base).values()]
    functions = (getattr(m, "__func__", m) for m in members)
    return [f for f in functions if isinstance(f, types.FunctionType)]


def is_a(thing: object, classes: type | tuple[type, ...]) -> bool:
    """Whether it is an instance; an object that only says so, as a proxy does in its `__class__`, is not."""
    return issubclass(type(thing), classes)


def is_class(thing: object) -> bool:
    """Whether it is a class, not an object that only says so."""
    return is_a(thing, type)


def attributes_of(thing: object) -> dict[str, Any]:
    """What an object holds in its `__dict__`, read without its `__getattr__`, which may raise or do anything."""
    try:
        held = object.__getattribute__(thing, "__dict__")
    except Exception:  # none, or computed by a property
        return {}
    return held if isinstance(held, dict) else {}


def is_torch(thing: Any) -> bool:
    """Whether it is one of torch's own modules, classes or functions; an instance of a torch class is not."""
    if is_a(thing, types.ModuleType):
        name = thing.__name__
    elif is_class(thing) or is_a(thing, (types.FunctionType, types.BuiltinFunctionType)):
        name = thing.__module__
    else:
        return False
    return is_torch_name(name)


def is_torch_name(name: str | None) -> bool:
    """Whether a module of this dotted name belongs to torch."""
    return (name or "").split(".")[0] == "torch"
