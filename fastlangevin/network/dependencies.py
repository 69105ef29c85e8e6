"""What an energy reads besides its arguments: the network's tensors, and the Python values that affect it.

A captured graph contains both: the addresses of the tensors, and the values. If either changes, the graph is invalid.
"""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from torch import Tensor, nn

from .inspection import PLAIN, has_hooks, is_torch


class Dependencies:
    """The tensors, modules and constants that a callable reads, or several callables and values in a tuple.

    They are found by walking its closures, defaults, the globals that it names, attributes, partials and containers.

    Attributes:
        tensors: parameters, buffers and all other tensors, each once.
        modules: every module, submodules included.
        constants: plain Python values and the code of functions, in the order in which they are found.
    """

    def __init__(self, function: Callable[..., Any] | tuple[Any, ...]) -> None:
        self.tensors: list[Tensor] = []
        self.modules: list[nn.Module] = []
        self.constants: list[Any] = []
        # By id: the object's number, and the object itself, so that its id is not reused.
        self._seen: dict[int, tuple[int, object]] = {}
        self._visit(function)

    def fingerprint(self) -> tuple[Any, ...]:
        """Equal for two walks of the same callable if a CUDA graph captured at one is valid at the other."""
        return (*(t.data_ptr() for t in self.tensors), *self.structure())

    def structure(self) -> tuple[Any, ...]:
        """Equal for two walks of the same callable if they find the same values, and tensors that differ only in what
        they hold and where.
        """
        return (*((t.shape, t.stride(), t.dtype, t.device, t.requires_grad) for t in self.tensors), *self.constants)

    def hooks(self) -> str | None:
        """The class name of the first module with hooks, which must run at each evaluation; None if there is none."""
        return next((type(m).__name__ for m in self.modules if has_hooks(m)), None)

    def buffers(self) -> list[Tensor]:
        """The tensors that are not parameters: those that an evaluation may change."""
        return [t for t in self.tensors if not isinstance(t, nn.Parameter)]

    def _visit(self, value: Any) -> None:
        if isinstance(value, np.generic):
            self.constants.append(value.item())
            return
        if isinstance(value, PLAIN):
            self.constants.append(value)
            if not hasattr(value, "__dict__"):  # an instance of a subclass may have attributes
                return
        if isinstance(value, slice):  # not hashable before Python 3.12
            self._visit_all((value.start, value.stop, value.step))
            return
        if isinstance(value, np.ndarray):
            self.constants.append((value.dtype.str, value.shape, value.tobytes()))
            return
        if isinstance(value, (type, types.ModuleType)):
            return
        if isinstance(value, types.BuiltinFunctionType):
            self.constants.append(value)
            self._visit(value.__self__)  # of a bound method
            return
        if id(value) in self._seen:
            self.constants.append(self._seen[id(value)][0])
            return
        self._seen[id(value)] = len(self._seen), value
        if isinstance(value, Tensor):
            self.tensors.append(value)
        elif isinstance(value, nn.Module):
            self._visit_module(value)
        elif isinstance(value, types.FunctionType):
            self._visit_function(value)
        elif isinstance(value, types.MethodType):
            self._visit(value.__self__)
            self._visit_object(value.__self__, value.__func__)
        elif isinstance(value, functools.partial):
            self._visit_all((value.func, value.args, value.keywords))
        elif isinstance(value, dict):
            self._visit_all(item for pair in value.items() for item in pair)
        elif isinstance(value, (list, tuple, set, frozenset)):
            self._visit_all(value)
        elif callable(value):
            self._visit_object(value, type(value).__call__)
        else:
            self._visit_all(getattr(value, "__dict__", {}).values())

    def _visit_all(self, values: Iterable[Any]) -> None:
        for value in values:
            self._visit(value)

    def _visit_module(self, module: nn.Module) -> None:
        self.modules.append(module)
        self.constants += [type(module).__qualname__, module.training]
        for part in (module._parameters, module._buffers, module._modules):
            self._visit_all(part.values())
        for hook in (*module._forward_pre_hooks.values(), *module._forward_hooks.values()):
            self.constants.append("hook")
            self._visit(hook)
            self._visit_all(getattr(hook, "__dict__", {}).values())
        if is_torch(type(module)):
            self.constants.append(tuple([v for v in module.__dict__.values() if _is_plain(v)]))
        else:
            self._visit_object(module, type(module).forward)

    def _visit_object(self, owner: Any, function: Callable[..., Any]) -> None:
        """Visits the attributes of the owner that a method names, directly or through the methods and properties that
        it names. An attribute that is not read, such as a counter, is not visited.
        """
        functions: list[Any] = [function]
        read: set[str] = set()
        while functions:
            function = functions.pop()
            if not isinstance(function, types.FunctionType) or is_torch(function):
                continue
            self._visit_function(function)
            for name in _names(function.__code__):
                if name not in read:
                    read.add(name)
                    shared = getattr(type(owner), name, None)
                    if isinstance(shared, (property, types.FunctionType)):
                        functions.append(shared.fget if isinstance(shared, property) else shared)
                    elif shared is not None:
                        self._visit(shared)
        attributes = getattr(owner, "__dict__", {})
        if read & {"getattr", "hasattr"}:  # reads attributes by computed names
            read |= set(attributes) - set(vars(nn.Module()))
        self._visit_all(attributes[name] for name in sorted(read) if name in attributes)

    def _visit_function(self, function: types.FunctionType) -> None:
        self.constants.append(function.__code__)
        if is_torch(function):
            return
        for cell in function.__closure__ or ():
            try:
                self._visit(cell.cell_contents)
            except ValueError:  # not yet filled
                self.constants.append(None)
        self._visit_all((function.__defaults__, function.__kwdefaults__))
        names = _names(function.__code__)
        for name in names:
            found = function.__globals__.get(name)
            if isinstance(found, (type, types.ModuleType)) and not is_torch(found) and not _is_library(found):
                self._visit_all(vars(found)[n] for n in names if n in vars(found))  # the members that it names
            elif name in function.__globals__:
                self._visit(found)


def _is_plain(value: Any) -> bool:
    return isinstance(value, PLAIN) or (type(value) is tuple and all(isinstance(v, PLAIN) for v in value))


def _is_library(thing: Any) -> bool:
    """Whether a class or module is part of Python's standard library or of NumPy: these do not affect an energy."""
    name = thing.__name__ if isinstance(thing, types.ModuleType) else thing.__module__
    return name.split(".")[0] in {*sys.stdlib_module_names, "numpy"} - {"__main__"}


def _names(code: types.CodeType) -> list[str]:
    """The global names that code, and functions defined in it, may read."""
    inner = [name for constant in code.co_consts if isinstance(constant, types.CodeType) for name in _names(constant)]
    return [*code.co_names, *inner]
