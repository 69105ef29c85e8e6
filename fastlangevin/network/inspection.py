"""Properties of Python objects that both `purity` and `dependencies` check."""

from __future__ import annotations

import types

import torch
from torch import nn

# Immutable and hashable values, compared by value. A bool is an int.
PLAIN = (int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.memory_format)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def has_hooks(module: nn.Module) -> bool:
    """Whether evaluating the module runs hooks: its own, or those registered for all modules."""
    return any(getattr(module, hooks, None) for hooks in _HOOKS) or nn.modules.module._has_any_global_hook()


def has_other_hooks(module: nn.Module) -> bool:
    """Whether evaluating the module runs hooks that are not its own forward hooks."""
    return bool(module._backward_hooks or module._backward_pre_hooks) or nn.modules.module._has_any_global_hook()


def is_torch(thing: object) -> bool:
    """Whether it is one of torch's own modules, classes or functions; an instance of a torch class is not."""
    if isinstance(thing, types.ModuleType):
        name = thing.__name__
    elif isinstance(thing, (type, types.FunctionType, types.BuiltinFunctionType)):
        name = thing.__module__ or ""
    else:
        return False
    return is_torch_name(name)


def is_torch_name(name: str | None) -> bool:
    """Whether a module of this dotted name belongs to torch."""
    return (name or "").split(".")[0] == "torch"
