"""Triton's interpreter with the same values for a third of the time: without work that nothing reads, or twice.

It looks for overflows of integers in seven operations each, and drops what it finds (`sanitize_overflow`, of which
`device_assert` says nothing without `debug`); builds a table to look up a NumPy type; patches the members of
`triton.language` anew at each call of a function, after listing them all; and folds the elements of a reduction one by
one, where one line of an array after the other has the same bits.
"""

from __future__ import annotations

import dataclasses
import inspect

import numpy as np
import triton.language as tl
from triton.runtime import interpreter

_patch_lang = interpreter._patch_lang
_np_dtype = interpreter._get_np_dtype
_generic_reduce = interpreter.ReduceOps.generic_reduce
_np_dtypes: dict[str, np.dtype] = {}
_builtins: dict[object, list[str]] = {}


def np_dtype(dtype: tl.dtype) -> np.dtype:
    """That of a block is that of its elements."""
    name = dtype.scalar.name
    if name not in _np_dtypes:
        _np_dtypes[name] = _np_dtype(dtype)
    return _np_dtypes[name]


def patch_builtins(package, builder, scope) -> None:
    for name in _builtins[package]:
        member = getattr(package, name)
        if tl.core.is_builtin(member):  # which it is not where it is patched
            interpreter._patch_attr(package, name, member, builder, scope)


def patch_lang(function):
    """Nothing where all is patched, as in the functions that a kernel calls."""
    if not any(tl.core.is_builtin(getattr(package, names[0])) for package, names in _builtins.items()):
        return interpreter._LangPatchScope()
    return _patch_lang(function)


def generic_reduce(self, blocks):
    """Line by line along the axis, of two dimensions or more."""
    if self.axis is None or len(blocks[0].shape) < 2:
        return _generic_reduce(self, blocks)
    lines = [np.moveaxis(block.handle.data, self.axis, 0) for block in blocks]
    at = [
        tuple(self.to_tensor(v[i], b.dtype) for v, b in zip(lines, blocks, strict=True)) for i in range(len(lines[0]))
    ]
    folded = at[0]
    for line in at[1:]:
        folded = self.combine_fn.fn(*folded, *line)
        folded = folded if isinstance(folded, tuple) else (folded,)
    arrays = [f.handle.data for f in folded]
    arrays = [np.expand_dims(a, self.axis) for a in arrays] if self.keep_dims else arrays
    return [self.to_tensor(a, b.dtype) for a, b in zip(arrays, blocks, strict=True)]


def install() -> None:
    """Before the first launch."""
    for package in (tl, tl.core, tl.tensor, tl.math, tl.core.tensor_descriptor_base):
        _builtins[package] = [name for name, member in inspect.getmembers(package) if tl.core.is_builtin(member)]
    builder = interpreter.interpreter_builder
    if not builder.options.debug:
        builder.options = dataclasses.replace(builder.options, sanitize_overflow=False)
    interpreter._get_np_dtype = np_dtype
    interpreter._patch_builtin, interpreter._patch_lang = patch_builtins, patch_lang
    interpreter.ReduceOps.generic_reduce = generic_reduce
