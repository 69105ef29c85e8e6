"""Checks that the Python code of an energy does the same at every run, so that one run can represent a whole chain."""

from __future__ import annotations

import argparse
import builtins
import contextlib
import enum
import functools
import math
import sys
import types
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from ..distributed.sharded_module import SHARDED, is_sharded_itself
from . import bytecode
from .data_parallel import NetworkAlone
from .inputs import Inputs, Steps
from .inspection import (
    PLAIN,
    attributes_of,
    has_hooks,
    has_other_hooks,
    is_a,
    is_class,
    is_implicit,
    is_torch,
    is_torch_name,
    methods_of,
)
from .operator_mode import OperatorMode

_REAL_BUILTINS = (getattr, hasattr, type)  # `Dependencies` visits all attributes for the first two
_EVALUATES = {
    *("fastlangevin.score.autograd", "fastlangevin.network.target", "fastlangevin.network.inputs"),
    *("fastlangevin.network.graph_recorder", "fastlangevin.network.data_parallel"),
}
_PURE_BUILTINS = (
    *(abs, all, any, bool, dict, enumerate, float, int, isinstance, len, list, map, max),
    *(min, range, reversed, str, sum, super, tuple, zip),
)
_VALUES = (Tensor, *PLAIN, slice)
_PURE_PARAMETRIZATIONS = (parametrizations._SpectralNorm, parametrizations._WeightNorm, parametrizations._Orthogonal)
_CALLABLES = (nn.Module, types.FunctionType, types.MethodType, functools.partial)
_EXACT = {*PLAIN, bool, list, tuple, dict}
_LIBRARIES = {*sys.stdlib_module_names, "numpy", "torch"} - {"__main__"}
_BUILT_IN_DESCRIPTORS = {
    *(types.GetSetDescriptorType, types.MemberDescriptorType, types.WrapperDescriptorType),
    *(types.MethodDescriptorType, types.ClassMethodDescriptorType),
}
_CONFIGURATIONS = (argparse.Namespace, types.SimpleNamespace)
_COMPUTED = {"__getattr__", "__getattribute__", "__setattr__"}
_MOST_VALUES = 1000  # checked in a container, at every call
_CALL = nn.Module._call_impl.__code__


class Impure(Exception):
    """The code may behave differently at another run, or must run each time; the message gives the reason."""


class Purity:
    """Checks the Python code of an energy, before it runs and at each operation on the state.

    The checks reject user-defined code that writes to anything but its local variables, draws random numbers, or reads
    anything but tensors, modules, plain values and functions that pass the same checks.

    Args:
        records_all: whether the state is a tensor like any other and everything that happens to tensors is recorded:
            gradients, hooks, in-place operations. If not, the checks also reject hooks, parametrizations other than
            spectral, weight and orthogonal norms, autocast and no_grad regions, in-place operations, and `type`.
    """

    def __init__(self, device_type: str, records_all: bool = False) -> None:
        self._device_type, self._records_all = device_type, records_all
        self._base: types.FrameType | None = None
        self._mode = self._current_mode()
        self._seen: dict[tuple[object, ...], list[object]] = {}  # holds the objects whose ids are in the keys
        self._modules: dict[int, nn.Module] = {}
        self._hooks: set[types.CodeType] = set()
        self._with_context: set[types.CodeType] = set()  # methods of autograd functions, whose ctx is new at each call

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Runs the body, in which each operation on the state calls `check_frames`.

        Raises:
            Impure: an operation draws random numbers or writes to a tensor.
        """
        self._base = sys._getframe(2)
        self._mode = self._current_mode()
        try:
            with contextlib.nullcontext() if self._records_all else _Operations():
                yield
        finally:
            self._base = None

    def check_frames(self, frame: types.FrameType | None) -> None:
        """Checks the frame that an operation is called from, and those above it.

        Raises:
            Impure: the energy may behave differently at another run.
        """
        if self._current_mode() != self._mode and not self._records_all:
            raise Impure("its Python code switches gradients or autocast")
        while frame is not None and frame is not self._base:
            code = frame.f_code
            if code is _CALL:
                self._check_module(frame.f_locals["self"])
            elif not is_torch_name(module := frame.f_globals.get("__name__")) and module not in _EVALUATES:
                self._check_code(code, frame.f_locals, frame.f_globals)
            frame = frame.f_back

    def check_callable(self, function: Any) -> None:
        """Checks a function, method or partial, an object with `__call__`, or a module and all its submodules, without
        running them.

        Raises:
            Impure: the energy may behave differently at another run.
        """
        if isinstance(function, nn.Module):
            for module in function.modules():
                self._check_module(module)
        elif isinstance(function, types.MethodType):
            self._check_function(function.__func__, function.__self__)
        elif isinstance(function, types.FunctionType):
            self._check_function(function)
        elif type(function) is functools.partial:
            self._check_values({"func": function.func, "args": function.args, **function.keywords}, [], None)
        elif _is_plain_object(function):
            self._check_implicit(function)
        else:
            raise Impure(f"the energy is {_description(function)}, whose code cannot be checked")

    def check_inputs(self, inputs: Inputs) -> None:
        """Raises Impure for extra arguments of the energy that are neither tensors nor plain values."""
        for name, value in inputs.named():
            if isinstance(value, Steps):
                raise Impure(f"{name} changes from step to step")
            if not _is_harmless(value):
                raise Impure(f"{name} is {_description(value)}")

    def _current_mode(self) -> tuple[bool, bool, bool]:
        autocast = torch.is_autocast_enabled(self._device_type)
        return torch.is_grad_enabled(), torch.is_inference_mode_enabled(), autocast

    def _check_module(self, module: nn.Module) -> None:
        if id(module) in self._modules:
            return
        self._modules[id(module)] = module
        if isinstance(module, torch.jit.ScriptModule):
            raise Impure(f"the code of a {type(module).__name__} cannot be checked")
        if is_sharded_itself(module):
            raise Impure(SHARDED)
        if has_hooks(module):
            self._check_hooks(module)
        for each in {} if self._records_all else getattr(module, "parametrizations", {}).values():
            other = next((p for p in each if not isinstance(p, _PURE_PARAMETRIZATIONS)), None)
            if other is not None:
                raise Impure(f"a layer has an unsupported parametrization, {type(other).__name__}")
            if any(isinstance(p, parametrizations._SpectralNorm) and p.training for p in each):
                raise Impure("a spectral norm in train mode iterates at each evaluation")
        self._check_implicit(module)
        own = vars(module).get("forward")
        if own is None:
            self._check_function(type(module).forward, module)
        elif not isinstance(own, NetworkAlone):
            self.check_callable(own)

    def _check_implicit(self, owner: Any) -> None:
        """Checks the methods that run without being named, where they are written in Python."""
        for cls in type(owner).__mro__:
            if not _is_library(cls):
                for name, method in vars(cls).items():
                    if isinstance(method, types.FunctionType) and is_implicit(name):
                        self._check_function(method, owner)

    def _check_hooks(self, module: nn.Module) -> None:
        """Hooks of the forward are part of what is recorded, if everything is; their attributes are compared later."""
        hooks = [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
        if not self._records_all or has_other_hooks(module):
            raise Impure(f"a {type(module).__name__} has hooks, which must run at each evaluation")
        for hook in hooks:
            if not is_torch(type(hook)):
                function, owner = _function_and_owner(hook)
                if isinstance(function, types.FunctionType):
                    self._hooks.add(function.__code__)
                self._check_function(function, owner)

    def _check_function(self, function: Any, owner: Any = None) -> None:
        if is_torch(function):
            return
        if not isinstance(function, types.FunctionType):
            raise Impure(f"the energy calls {_description(function)}, whose code cannot be checked")
        code = function.__code__
        local = {}
        with contextlib.suppress(ValueError):  # a cell that is not yet filled
            cells = function.__closure__ or ()
            local = {name: cell.cell_contents for name, cell in zip(code.co_freevars, cells, strict=True)}
        defaults = function.__defaults__ or ()
        names = code.co_varnames[: code.co_argcount]
        local.update(zip(names[len(names) - len(defaults) :], defaults, strict=True), **(function.__kwdefaults__ or {}))
        if owner is not None and names:
            local[names[0]] = owner
        self._check_code(code, local, function.__globals__)

    def _check_code(self, code: types.CodeType, local: Mapping[str, Any], outer: dict[str, Any]) -> None:
        found = bytecode.read(code)
        reason = found.impure or (None if code in self._with_context else found.to_first)
        reason = reason or (None if self._records_all else found.in_place)
        if reason is not None:
            raise Impure(f"its Python code ({code.co_name}, {reason}")
        names = (*code.co_varnames[: code.co_argcount + code.co_kwonlyargcount], *code.co_freevars)
        values = {name: local[name] for name in names if name in local and name != "__class__"}
        held = [value for value in values.values() if not is_a(value, _VALUES)]
        key = (code, *map(id, held))
        if key in self._seen:
            return
        self._seen[key] = held
        for name in found.globals:
            values[name] = outer.get(name, getattr(builtins, name, None))
        owners: list[Any] = []
        first = code.co_varnames[0] if code.co_argcount else None
        if first in values and not is_a(values[first], _VALUES):
            owners.append(values.pop(first))
        self._check_values(values, owners, code)
        for owner in owners:  # grows while attributes are checked
            self._check_attributes(owner, found.attributes, owners, code)

    def _check_values(self, values: Mapping[str, Any], owners: list[Any], code: types.CodeType | None) -> None:
        for name, value in values.items():
            if is_a(value, (list, tuple, dict)) and len(value) > _MOST_VALUES:
                raise Impure(f"{_place(code)} reads {name}, a {type(value).__name__} of {len(value)} values")
            if is_a(value, nn.Module):
                self.check_callable(value)
                if not any(value is owner for owner in owners):
                    owners.append(value)
            elif is_a(value, _CALLABLES):
                self.check_callable(value)
                if vars(value) and not is_torch(value) and not any(value is owner for owner in owners):
                    owners.append(value)
            elif is_a(value, (list, tuple)):
                self._check_values({f"{name}[{i}]": v for i, v in enumerate(value)}, owners, code)
                self._check_object(value, owners)
            elif is_a(value, dict):
                self._check_values({f"{name}[{k!r}]": v for k, v in value.items()}, owners, code)
                self._check_object(value, owners)
            elif is_a(value, PLAIN) or (self._records_all and _is_plain_object(value)):
                self._check_object(value, owners)
            elif self._records_all and is_class(value) and issubclass(value, torch.autograd.Function):
                self._check_autograd_function(value)
            elif is_a(value, enum.Enum):
                self._check_enumeration(type(value))
            elif is_class(value) and issubclass(value, enum.Enum):
                self._check_enumeration(value)
            elif self._records_all and (
                any(value is b for b in _REAL_BUILTINS) or (value is setattr and code in self._hooks)
            ):
                pass
            elif not _is_harmless(value):
                raise Impure(f"{_place(code)} reads {name}, {_description(value)}")

    def _check_autograd_function(self, cls: type[torch.autograd.Function]) -> None:
        for method in methods_of(cls):
            self._with_context.add(method.__code__)
            self._check_function(method)

    def _check_enumeration(self, cls: type[enum.Enum]) -> None:
        if type(cls) is not enum.EnumMeta:
            raise Impure(f"{cls.__name__}, an enumeration, is {_description(cls)}, whose code cannot be checked")
        for member in (m for base in cls.__mro__ if not _is_library(base) for m in vars(base).values()):
            function = _function_of(member)
            if is_a(function, types.FunctionType) and function.__module__ != enum.__name__:
                self._check_function(function)

    def _check_object(self, value: Any, owners: list[Any]) -> None:
        """Has the attributes checked that functions read of an instance of a user's class."""
        if type(value) not in _EXACT and not any(value is owner for owner in owners):
            owners.append(value)
            self._check_implicit(value)

    def _check_attributes(self, owner: Any, names: frozenset[str], owners: list[Any], code: types.CodeType) -> None:
        held = {**attributes_of(owner), **(owner._modules if is_a(owner, nn.Module) else {})}
        for name in names:
            # super() may refer to any class of the hierarchy, so all of them are checked
            shared = [vars(cls)[name] for cls in type(owner).__mro__ if name in vars(cls)]
            for value in map(_function_of, [held[name]] if name in held else shared):
                if is_a(value, types.FunctionType):
                    self._check_function(value, None if name in held else owner)
                elif type(value) not in _BUILT_IN_DESCRIPTORS:
                    self._check_values({name: value}, owners, code)


class _Operations(OperatorMode):
    """Rejects operations that draw random numbers or write to a tensor."""

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if torch.Tag.nondeterministic_seeded in operation.tags:
            raise Impure(f"the energy draws random numbers with {operation.overloadpacket.__name__}")
        if operation._schema.is_mutable:
            raise Impure(f"the energy writes to a tensor with {operation.overloadpacket.__name__}")
        return operation(*args, **(kwargs or {}))


def _function_and_owner(value: Any) -> tuple[Any, Any]:
    """The function that a call of the value runs, and the object that is its first argument."""
    if is_a(value, types.FunctionType):
        return value, None
    if is_a(value, types.MethodType):
        return value.__func__, value.__self__
    return type(value).__call__, value


def _function_of(member: Any) -> Any:
    """The function that stands behind a static or class method or a property; everything else as it is."""
    if is_a(member, (staticmethod, classmethod)):
        return member.__func__
    if is_a(member, property):
        return member.fget
    return member.func if is_a(member, functools.cached_property) else member


def _is_library(cls: type) -> bool:
    return cls.__module__.split(".")[0] in _LIBRARIES


def _is_plain_object(value: Any) -> bool:
    """Whether all that an object holds is in its __dict__, as for a configuration: its classes are written in Python
    and compute no attributes.
    """
    return (
        bool(type(value).__dictoffset__)
        and not is_a(value, torch.jit.ScriptFunction)
        and all(
            base in _CONFIGURATIONS or (_is_written_in_python(base) and not _COMPUTED & vars(base).keys())
            for base in type(value).__mro__[:-1]
        )
    )


def _is_written_in_python(cls: type) -> bool:
    if cls.__module__.split(".")[0] in sys.stdlib_module_names - {"__main__"}:
        return False
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    return file is None or file.endswith(".py")


def _is_harmless(value: Any) -> bool:
    if is_a(value, (*_VALUES, np.generic)) or is_torch(value) or value is math:
        return True
    if is_class(value) and issubclass(value, BaseException):
        return True
    return any(value is b for b in _PURE_BUILTINS)


def _place(code: types.CodeType | None) -> str:
    """Of a function's code, or of a partial."""
    if code is None:
        return "the call of a partial"
    return f"its Python code ({code.co_name}, line {code.co_firstlineno})"


def _description(value: Any) -> str:
    return f"a {type(value).__name__}" if not is_a(value, types.ModuleType) else f"the module {value.__name__}"
