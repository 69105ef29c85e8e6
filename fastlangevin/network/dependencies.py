"""What an energy reads besides its arguments: the network's tensors, and the Python values that affect it.

A captured graph contains both: the addresses of the tensors, and the values. If either changes, the graph is invalid.
"""

from __future__ import annotations

import contextlib
import enum
import functools
import itertools
import sys
import types
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from . import bytecode
from .inspection import PLAIN, attributes_of, has_hooks, is_a, is_class, is_implicit, is_torch, methods_of

_EXACTLY_PLAIN = {*PLAIN, bool}
_CONTAINERS = (list, tuple, dict, set, frozenset)
_CODE = (types.FunctionType, types.MethodType, types.BuiltinFunctionType)
_BY_COMPUTED_NAMES = {"getattr", "hasattr", "__dict__"}
_LIBRARIES = {*sys.stdlib_module_names, "numpy"} - {"__main__"}
_OF_ALL_MODULES = vars(nn.Module()).keys()


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
        self._names: set[str] = set()  # that functions read
        self._owners: list[Any] = []  # objects, classes and Python modules whose attributes they may read
        self._members: dict[type, dict[str, list[Any]]] = {}
        self._visit(function)
        self._visit_attributes()

    def fingerprint(self) -> tuple[Any, ...]:
        """Equal for two walks of the same callable if a CUDA graph captured at one is valid at the other."""
        return (*(t.data_ptr() for t in self.tensors), *self.structure())

    def structure(self) -> tuple[Any, ...]:
        """Equal for two walks of the same callable if they find the same values, and tensors that differ only in what
        they hold and where.
        """
        return (*map(_form, self.tensors), *self.constants)

    def hooks(self) -> str | None:
        """The class name of the first module with hooks, which must run at each evaluation; None if there is none."""
        return next((type(m).__name__ for m in self.modules if has_hooks(m)), None)

    def buffers(self) -> list[Tensor]:
        """The tensors that are not parameters: those that an evaluation may change."""
        return [t for t in self.tensors if not isinstance(t, nn.Parameter)]

    def containers(self) -> list[tuple[str, list[Any] | dict[Any, Any]]]:
        """The lists, dicts and objects that the energy may change, each as what holds its values, after its class."""
        found: list[tuple[str, Any]] = [
            (type(value).__name__, value) for _, value in self._seen.values() if is_a(value, (list, dict))
        ]
        objects = (o for o in self._owners if not is_a(o, (type, types.ModuleType, nn.Module)))
        return found + [(type(o).__name__, held) for o in objects if (held := attributes_of(o))]

    def _visit(self, value: Any) -> None:
        kind = type(value)
        if kind in _EXACTLY_PLAIN:
            self.constants += (kind, value)  # 1 == 1.0 == True
        elif (seen := self._seen.get(id(value))) is not None:
            self.constants.append(seen[0])
        elif kind is types.FunctionType:
            self._number(value)
            self._visit_function(value)
        elif issubclass(kind, np.generic):
            self._visit(value.item())
        elif kind is slice:  # not hashable before Python 3.12
            self._visit_all((value.start, value.stop, value.step))
        elif issubclass(kind, np.ndarray):
            mask = np.ma.getmaskarray(value).tobytes() if issubclass(kind, np.ma.MaskedArray) else None
            self.constants.append((value.dtype.str, value.shape, np.asarray(value).tobytes(), mask))
        elif kind is types.BuiltinFunctionType:
            self.constants.append(value)
            self._visit(value.__self__)  # of a bound method
        else:
            self._number(value)
            self._visit_object(value, kind)

    def _number(self, value: object) -> None:
        self._seen[id(value)] = len(self._seen), value

    def _visit_object(self, value: Any, kind: type) -> None:
        if issubclass(kind, Tensor):
            self.tensors.append(value)
        elif issubclass(kind, nn.Module):
            self._visit_module(value)
        elif kind is types.MethodType:
            self._visit_all((value.__self__, value.__func__))
        elif issubclass(kind, functools.partial):
            self._visit_all((value.func, value.args, value.keywords))
        elif issubclass(kind, (type, types.ModuleType)):
            self.constants.append(value)
            if not is_torch(value) and not _is_library(value):
                self._owners.append(value)
                if issubclass(kind, type) and issubclass(value, torch.autograd.Function):
                    self._visit_all(methods_of(value))  # which no code names
        else:
            if issubclass(kind, enum.Enum):
                self.constants.append(value)
            elif issubclass(kind, PLAIN):
                self.constants += (kind, value)  # an instance of a subclass, which may have attributes
            elif issubclass(kind, _CONTAINERS):
                self.constants.append((kind, len(value)))
                self._visit_all(itertools.chain.from_iterable(value.items()) if issubclass(kind, dict) else value)
            if kind not in _CONTAINERS:
                self._visit_implicit(value)
                self._owners.append(value)

    def _visit_all(self, values: Iterable[Any]) -> None:
        for value in values:
            self._visit(value)

    def _visit_module(self, module: nn.Module) -> None:
        self.modules.append(module)
        self.constants += [type(module), module.training]
        for part in (module._parameters, module._buffers, module._modules):
            for name, value in part.items():
                self.constants.append(name)
                self._visit(value)
        for kind, hooks in enumerate((module._forward_pre_hooks, module._forward_hooks)):
            for hook in hooks.values():
                self.constants.append(("hook", kind))
                self._visit(hook)
                self._visit_all(attributes_of(hook).values())
        self._owners.append(module)
        if is_torch(type(module)):
            own = sorted(module.__dict__.keys() - _OF_ALL_MODULES)
            values = [module.__dict__[name] for name in own]
            self.constants.append(tuple([item for item in zip(own, values, strict=True) if _is_plain(item[1])]))
            self._visit_all(value for value in values if isinstance(value, _CODE))
        else:
            self._visit_all((module.__dict__.get("forward"), type(module).forward))
            self._visit_implicit(module)

    def _visit_implicit(self, owner: Any) -> None:
        """Visits the methods that run without being named."""
        for name, members in self._members_of(type(owner)).items():
            if is_implicit(name):
                self._visit_all(member for member in members if is_a(member, types.FunctionType))

    def _visit_attributes(self) -> None:
        """Visits the attributes that functions name, of all objects that they may read them of.

        An attribute that no function names, such as a counter, is not visited.
        """
        done: set[str] = set()
        n_done = 0
        while len(done) < len(self._names) or n_done < len(self._owners):
            names, owners = set(self._names), list(self._owners)
            for i, owner in enumerate(owners):
                self._visit_named(owner, names if i >= n_done else names - done)
            done, n_done = names, len(owners)

    def _visit_named(self, owner: Any, names: set[str]) -> None:
        members = self._members_of(owner if is_class(owner) else type(owner))
        for name in sorted(names & members.keys()):
            self._visit_members(name, members)
            if is_class(owner):
                continue
            for slot in (member for member in members[name] if is_a(member, types.MemberDescriptorType)):
                with contextlib.suppress(AttributeError):  # not filled
                    self._visit(slot.__get__(owner))
        if is_class(owner):
            return
        held = attributes_of(owner)
        if names & _BY_COMPUTED_NAMES and not is_a(owner, types.ModuleType):
            names = held.keys() - _OF_ALL_MODULES
        for name in sorted(names & held.keys()):
            self.constants.append(name)
            self._visit(held[name])

    def _visit_members(self, name: str, members: dict[str, list[Any]]) -> None:
        self.constants.append(name)
        for member in members[name]:
            self._visit_member(member)

    def _visit_member(self, member: Any) -> None:
        if is_a(member, property):
            member = member.fget
        elif is_a(member, (staticmethod, classmethod)):
            member = member.__func__
        elif is_a(member, functools.cached_property):
            member = member.func
        self._visit(member)

    def _members_of(self, cls: type) -> dict[str, list[Any]]:
        """What the class and its bases define, other than those of torch and of libraries.

        super() may refer to any of them, so all that have the same name count.
        """
        members = self._members.get(cls)
        if members is None:
            members = self._members[cls] = {}
            for base in cls.__mro__:
                if not is_torch(base) and not _is_library(base):
                    for name, value in vars(base).items():
                        members.setdefault(name, []).append(value)
        return members

    def _visit_function(self, function: types.FunctionType) -> None:
        self.constants.append(function.__code__)
        for cell in function.__closure__ or ():
            try:
                self._visit(cell.cell_contents)
            except ValueError:  # not yet filled
                self.constants.append(None)
        if is_torch(function):
            return
        if function.__defaults__ or function.__kwdefaults__:
            self._visit_all((function.__defaults__, function.__kwdefaults__))
        if function.__dict__:
            self._owners.append(function)
        self._names |= _names(function.__code__)
        for name in sorted(bytecode.read(function.__code__).globals & function.__globals__.keys()):
            self._visit(function.__globals__[name])


def _form(tensor: Tensor) -> tuple[Any, ...]:
    try:
        return tensor.shape, tensor.stride(), tensor.dtype, tensor.device, tensor.requires_grad
    except RuntimeError:  # of a lazy layer, or in a layout without strides
        return tensor.layout, tensor.dtype, tensor.device, tensor.requires_grad


def _is_plain(value: Any) -> bool:
    return is_a(value, PLAIN) or (type(value) is tuple and all(is_a(v, PLAIN) for v in value))


def _is_library(thing: Any) -> bool:
    """Whether a class or module is part of Python's standard library or of NumPy: these do not affect an energy."""
    name = thing.__name__ if is_a(thing, types.ModuleType) else thing.__module__
    return str(name).split(".")[0] in _LIBRARIES


@functools.lru_cache(maxsize=4096)
def _names(code: types.CodeType) -> frozenset[str]:
    """The names of globals and attributes that code, and functions defined in it, may read."""
    inner = [_names(constant) for constant in code.co_consts if isinstance(constant, types.CodeType)]
    return frozenset(code.co_names).union(*inner)
