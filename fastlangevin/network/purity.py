"""Checks that the Python code of an energy does the same at every run, so that one run can represent a whole chain."""

from __future__ import annotations

import builtins
import contextlib
import dis
import functools
import inspect
import math
import sys
import types
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils._python_dispatch import TorchDispatchMode

from .inputs import Inputs, Steps
from .inspection import PLAIN, has_hooks, is_torch, is_torch_name

_WRITES = {"STORE_ATTR", "STORE_GLOBAL", "STORE_SUBSCR", "STORE_SLICE", "DELETE_ATTR", "DELETE_GLOBAL", "DELETE_SUBSCR"}
_OTHERWISE_IMPURE = {"IMPORT_NAME", "YIELD_VALUE", "RETURN_GENERATOR", "GET_AWAITABLE"}
_MUTATORS = {
    *("append", "appendleft", "extend", "insert", "pop", "popleft", "popitem", "update", "setdefault", "clear"),
    *("add_module", "__setitem__", "__delitem__", "__setattr__", "__delattr__", "__dict__", "__iadd__"),
}
_RANDOM = {"bernoulli", "multinomial", "poisson", "normal", "manual_seed"}
_PURE_BUILTINS = {
    *("abs", "all", "any", "bool", "dict", "enumerate", "float", "int", "isinstance", "len", "list", "map", "max"),
    *("min", "range", "reversed", "str", "sum", "super", "tuple", "type", "zip"),
}
_VALUES = (Tensor, *PLAIN, slice)
_PURE_PARAMETRIZATIONS = (parametrizations._SpectralNorm, parametrizations._WeightNorm, parametrizations._Orthogonal)
_MOST_VALUES = 1000  # checked in a container, at every call
_CALL = nn.Module._call_impl.__code__
_POWER_ITERATION = inspect.unwrap(parametrizations._SpectralNorm._power_method).__code__


class Impure(Exception):
    """The code may behave differently at another run, or must run each time; the message gives the reason."""


class Purity:
    """Checks the Python code of an energy, before it runs and at each operation on the state.

    The checks reject hooks, parametrizations other than spectral, weight and orthogonal norms, and autocast and no_grad
    regions. They also reject user-defined code that writes to anything but its local variables, draws random numbers,
    or reads anything but tensors, modules, plain values and functions that pass the same checks.
    """

    def __init__(self, device_type: str) -> None:
        self._device_type = device_type
        self._base: types.FrameType | None = None
        self._mode = self._current_mode()
        self._seen: dict[tuple[object, ...], list[object]] = {}  # holds the objects whose ids are in the keys
        self._modules: dict[int, nn.Module] = {}

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Runs the body, in which each operation on the state calls `check_frames`.

        Raises:
            Impure: an operation draws random numbers or writes to a tensor.
        """
        self._base = sys._getframe(2)
        self._mode = self._current_mode()
        try:
            with _Operations():
                yield
        finally:
            self._base = None

    def check_frames(self, frame: types.FrameType | None) -> None:
        """Checks the frame that an operation is called from, and those above it.

        Raises:
            Impure: the energy may behave differently at another run.
        """
        if self._current_mode() != self._mode:
            raise Impure("its Python code switches gradients or autocast")
        while frame is not None and frame is not self._base:
            code = frame.f_code
            if code is _CALL:
                self._check_module(frame.f_locals["self"])
            elif not is_torch_name(frame.f_globals.get("__name__")):
                self._check_code(code, frame.f_locals, frame.f_globals)
            frame = frame.f_back

    def check_callable(self, function: Any) -> None:
        """Checks a function, a method, or a module and all its submodules, without running them.

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
        if has_hooks(module):
            raise Impure(f"a {type(module).__name__} has hooks, which must run at each evaluation")
        for each in getattr(module, "parametrizations", {}).values():
            other = next((p for p in each if not isinstance(p, _PURE_PARAMETRIZATIONS)), None)
            if other is not None:
                raise Impure(f"a layer has an unsupported parametrization, {type(other).__name__}")
        own = vars(module).get("forward")
        if own is None:
            self._check_function(type(module).forward, module)
        else:
            self.check_callable(own)

    def _check_function(self, function: Any, owner: Any = None) -> None:
        if is_torch(function):
            return
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
        found = _read(code)
        if found.impure is not None:
            raise Impure(f"{_place(code)} {found.impure}")
        names = (*code.co_varnames[: code.co_argcount + code.co_kwonlyargcount], *code.co_freevars)
        values = {name: local[name] for name in names if name in local and name != "__class__"}
        held = [value for value in values.values() if not isinstance(value, _VALUES)]
        key = (code, *map(id, held))
        if key in self._seen:
            return
        self._seen[key] = held
        for name in found.globals:
            values[name] = outer.get(name, getattr(builtins, name, None))
        owners: list[Any] = []
        first = code.co_varnames[0] if code.co_argcount else None
        if first in values and not isinstance(values[first], _VALUES):
            owners.append(values.pop(first))
        self._check_values(values, owners, code)
        for owner in owners:  # grows while attributes are checked
            self._check_attributes(owner, found.attributes, owners, code)

    def _check_values(self, values: Mapping[str, Any], owners: list[Any], code: types.CodeType) -> None:
        for name, value in values.items():
            if isinstance(value, (list, tuple, dict)) and len(value) > _MOST_VALUES:
                raise Impure(f"{_place(code)} reads {name}, a {type(value).__name__} of {len(value)} values")
            if isinstance(value, nn.Module):
                self.check_callable(value)
                if not any(value is owner for owner in owners):
                    owners.append(value)
            elif isinstance(value, (types.FunctionType, types.MethodType)):
                self.check_callable(value)
            elif isinstance(value, (list, tuple)):
                self._check_values({f"{name}[{i}]": v for i, v in enumerate(value)}, owners, code)
            elif isinstance(value, dict):
                self._check_values({f"{name}[{k!r}]": v for k, v in value.items()}, owners, code)
            elif not _is_harmless(value):
                raise Impure(f"{_place(code)} reads {name}, {_description(value)}")

    def _check_attributes(self, owner: Any, names: frozenset[str], owners: list[Any], code: types.CodeType) -> None:
        held = {**getattr(owner, "__dict__", {}), **getattr(owner, "_modules", {})}
        for name in names:
            # super() may refer to any class of the hierarchy, so all of them are checked
            shared = [vars(cls)[name] for cls in type(owner).__mro__ if name in vars(cls)]
            for value in [held[name]] if name in held else shared:
                if isinstance(value, (staticmethod, classmethod)):
                    value = value.__func__
                elif isinstance(value, property):
                    value = value.fget
                if isinstance(value, types.FunctionType):
                    self._check_function(value, None if name in held else owner)
                elif not inspect.isdatadescriptor(value) and not inspect.ismethoddescriptor(value):
                    self._check_values({name: value}, owners, code)


class _Operations(TorchDispatchMode):
    """Rejects operations that draw random numbers or write to a tensor, except spectral norm's power iterations."""

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if torch.Tag.nondeterministic_seeded in operation.tags:
            raise Impure(f"the energy draws random numbers with {operation.overloadpacket.__name__}")
        if operation._schema.is_mutable and not _iterates_a_norm():
            raise Impure(f"the energy writes to a tensor with {operation.overloadpacket.__name__}")
        return operation(*args, **(kwargs or {}))


def _iterates_a_norm() -> bool:
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code is not _POWER_ITERATION:
        frame = frame.f_back
    return frame is not None


class _Read(NamedTuple):
    """The names in a code object, and the reason why it is impure by itself, or None."""

    globals: frozenset[str]
    attributes: frozenset[str]
    impure: str | None


@functools.lru_cache(maxsize=1024)
def _read(code: types.CodeType) -> _Read:
    globals_, attributes = set(), set()
    impure = None
    for instruction in dis.get_instructions(code):
        operation, name = instruction.opname, instruction.argval
        in_place = operation.startswith("INPLACE_") or (operation == "BINARY_OP" and instruction.argrepr.endswith("="))
        if operation in _WRITES or in_place or (operation == "STORE_DEREF" and name in code.co_freevars):
            impure = impure or "writes to something other than its local variables"
        elif operation in _OTHERWISE_IMPURE:
            impure = impure or "imports or yields"
        elif operation in ("LOAD_GLOBAL", "LOAD_NAME"):
            globals_.add(name)
        elif operation in ("LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER_ATTR"):
            attributes.add(name)
            if name in _MUTATORS or (name.endswith("_") and not name.endswith("__")) or name.startswith("register_"):
                impure = impure or f"calls {name}, which modifies the object"
            elif name in _RANDOM or name.startswith("rand"):
                impure = impure or f"draws random numbers with {name}"
    for inner in code.co_consts:  # nested functions and comprehensions
        if isinstance(inner, types.CodeType):
            found = _read(inner)
            globals_ |= found.globals
            attributes |= found.attributes
            impure = impure or found.impure
    return _Read(frozenset(globals_), frozenset(attributes), impure)


def _is_harmless(value: Any) -> bool:
    if isinstance(value, _VALUES) or is_torch(value) or value is math:
        return True
    if isinstance(value, type) and issubclass(value, BaseException):
        return True
    name = getattr(value, "__name__", None)
    return name in _PURE_BUILTINS and getattr(builtins, name) is value


def _place(code: types.CodeType) -> str:
    return f"its Python code ({code.co_name}, line {code.co_firstlineno})"


def _description(value: Any) -> str:
    return f"a {type(value).__name__}" if not isinstance(value, types.ModuleType) else f"the module {value.__name__}"
