"""The optimiser of a training: Adam with the run's settings, or the caller's with its own schedule."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from ..distributed.sharded_module import is_divided
from ..runs import training_checkpoint
from ..runs.settings import Settings
from ..samplers.preserve import own_randomness

CAPTURABLE_ON = ("cuda",)  # devices on which Adam keeps its state, and lr, in memory that a captured graph reads
MakeOptimizer = Callable[[list[nn.Parameter]], Any]


class TrainingOptimizer:
    """Steps an optimiser, and its scheduler if it has one, at a learning rate that rollbacks scale.

    Args:
        parameters: of the network.
        settings: lr and the betas, for Adam.
        make: the caller's function of the parameters, which returns an optimiser, or one and a scheduler. None: Adam.

    Raises:
        TypeError: `make` returns something else, or one whose step needs arguments.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], settings: Settings, make: MakeOptimizer | None) -> None:
        self.is_default, self.scheduler = make is None, None
        self._lr: Tensor | None = None  # of Adam where a captured graph reads it: all its iterations round lr alike
        if make is None:
            lr, device = settings.lr_at(0), parameters[0].device
            capturable = device.type in CAPTURABLE_ON and not any(map(is_divided, parameters))
            self._lr = torch.full((), lr, dtype=torch.float32, device=device) if capturable else None
            self.optimizer: torch.optim.Optimizer = torch.optim.Adam(parameters, lr=lr, capturable=capturable)
            return
        self.optimizer, self.scheduler = _made(make, list(parameters))

    @property
    def name(self) -> str:
        """The class of the optimiser, and that of the scheduler after a "+"."""
        made = [self.optimizer, *([] if self.scheduler is None else [self.scheduler])]
        return "+".join(type(part).__name__ for part in made)

    def lr(self, settings: Settings, iteration: int, scale: float) -> float:
        """The learning rate of the next iteration."""
        own = settings.lr_at(iteration) if self.is_default else float(self.optimizer.param_groups[0]["lr"])
        return own * scale

    def step(self, settings: Settings, iteration: int, scale: float) -> None:
        if self._lr is not None:
            self._lr.fill_(self.lr(settings, iteration, scale))
            self.step_on_device(self._lr, settings)
            self.note(settings, iteration, scale)
            return
        groups = self.optimizer.param_groups
        if self.is_default:
            self.note(settings, iteration, scale)
        own: list[float | Tensor] = [group["lr"] for group in groups]
        if not self.is_default and scale != 1:
            for group in groups:
                group["lr"] = group["lr"] * scale
        self.optimizer.step()
        for group, lr in zip(groups, own, strict=True):
            group["lr"] = lr
        if self.scheduler is not None:
            self.scheduler.step()

    def step_on_device(self, lr: Tensor, settings: Settings) -> None:
        """A step of Adam at an lr of one element on the device, which a captured graph reads at each replay."""
        assert self._lr is not None
        self._lr.copy_(lr)
        for group in self.optimizer.param_groups:
            group["lr"], group["betas"] = self._lr, tuple(settings.adam_betas)
        self.optimizer.step()

    def note(self, settings: Settings, iteration: int, scale: float) -> None:
        """Writes the learning rate of an iteration and the betas to the groups of Adam, which checkpoints store."""
        for group in self.optimizer.param_groups:
            group["lr"], group["betas"] = self.lr(settings, iteration, scale), tuple(settings.adam_betas)

    def state_dict(self) -> dict[str, Any]:
        """The state of the scheduler: plain numbers, strings, lists and dicts."""
        return {} if self.scheduler is None else self.scheduler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state)


def check_state(make: MakeOptimizer, parameters: Sequence[nn.Parameter]) -> None:
    """Makes an optimiser of copies of the parameters, and steps it, to see whether its state can be saved.

    Raises:
        ValueError: it cannot; the message names what.
    """
    copies = [nn.Parameter(p.detach().clone(), requires_grad=p.requires_grad) for p in parameters]
    for copy in copies:
        copy.grad = torch.zeros_like(copy) if copy.requires_grad else None
    with own_randomness(copies[0].device), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what it says of its arguments has been said for the real one
        optimizer, scheduler = _made(make, copies)
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
    try:
        training_checkpoint.check_optimization(optimizer, {} if scheduler is None else scheduler.state_dict())
    except TypeError as error:
        raise ValueError(
            "optimizer must have a state of dense tensors, numbers, strings, lists, tuples and dicts, to be written to "
            f"checkpoints, but {error}: choose another, or train without out="
        ) from error


def _made(make: MakeOptimizer, parameters: list[nn.Parameter]) -> tuple[torch.optim.Optimizer, LRScheduler | None]:
    made = make(parameters)
    optimizer, scheduler = made if isinstance(made, (tuple, list)) and len(made) == 2 else (made, None)
    _check("an optimiser", optimizer, torch.optim.Optimizer)
    if scheduler is not None:
        _check("a scheduler", scheduler, LRScheduler)
    return optimizer, scheduler


def _check(what: str, made: object, kind: type) -> None:
    if not isinstance(made, kind):
        got = type(made).__name__
        raise TypeError(f"optimizer must return an optimiser of torch, or one and a scheduler, got {got} for {what}")
    step = inspect.signature(type(made).step).parameters.values()  # type: ignore[attr-defined]
    needed = [p.name for p in step if p.default is p.empty and p.name != "self" and p.kind is p.POSITIONAL_OR_KEYWORD]
    if needed:
        raise TypeError(f"optimizer returned {what}, {type(made).__name__}, whose step needs {', '.join(needed)}")
