"""Networks within DistributedDataParallel, without what DDP does around an evaluation.

Before an evaluation DDP broadcasts buffers and rebuilds its buckets, after it its reducer waits for gradients of the
weights. A chain has none, and the ranks may run different numbers of chains.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import types
from collections.abc import Callable, Iterator
from typing import Any, TypeGuard

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from .dependencies import Dependencies


def unwrapped(function: Callable[..., Any]) -> Callable[..., Any]:
    """The network in place of a DDP module, of its forward, and in a partial of these; any other function as it is."""
    if type(function) is functools.partial:
        inner = unwrapped(function.func)
        return function if inner is function.func else functools.partial(inner, *function.args, **function.keywords)
    if isinstance(function, types.MethodType) and function.__func__ in _CALLS:
        owner = function.__self__
        return unwrapped(owner) if _is_ddp(owner) else function
    return unwrapped(function.module) if _is_ddp(function) else function


@contextlib.contextmanager
def without_ddp(function: Callable[..., Any]) -> Iterator[None]:
    """In the body, and in its thread, a call of a DDP module that the function reads is a call of the network in it."""
    networks = [module for module in Dependencies(function).modules if _is_ddp(module)]
    if not networks:
        yield
        return
    _here.depth = getattr(_here, "depth", 0) + 1
    try:
        with contextlib.ExitStack() as stack:
            for ddp in networks:
                stack.enter_context(_replaced(ddp))
            yield
    finally:
        _here.depth -= 1


class NetworkAlone:
    """The forward of a DDP module within chains: that of the network, and DDP's own in other threads."""

    def __init__(self, ddp: DistributedDataParallel) -> None:
        self._ddp = ddp
        self.n_chains = 0  # that run now

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        ddp = self._ddp
        return ddp.module(*args, **kwargs) if getattr(_here, "depth", 0) else type(ddp).forward(ddp, *args, **kwargs)


_CALLS = (DistributedDataParallel.forward, nn.Module.__call__)
_here = threading.local()
_lock = threading.Lock()


@contextlib.contextmanager
def _replaced(ddp: DistributedDataParallel) -> Iterator[None]:
    with _lock:
        alone = vars(ddp).setdefault("forward", NetworkAlone(ddp))
        alone.n_chains += 1
    try:
        yield
    finally:
        with _lock:
            alone.n_chains -= 1
            if alone.n_chains == 0:
                del vars(ddp)["forward"]


def _is_ddp(thing: object) -> TypeGuard[DistributedDataParallel]:
    """Whether it is a DDP module with DDP's own forward."""
    if not isinstance(thing, DistributedDataParallel) or type(thing).forward is not DistributedDataParallel.forward:
        return False
    return isinstance(vars(thing).get("forward"), (NetworkAlone, type(None)))
