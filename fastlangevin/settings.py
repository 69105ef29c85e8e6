"""What a training was told, what it came to, and whether a resumed one is still the same."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from numbers import Integral, Real
from typing import Any

from torch import nn

from . import recipes
from .data import Data
from .errors import check_int, check_positive
from .models import ConvNet
from .sampler import Langevin
from .schedule import resolve as resolve_schedule


@dataclass(frozen=True)
class Asked:
    """The caller's settings; None is "whatever is usual"."""

    n_iterations: int | None
    batch_size: int | None
    lr: float | None
    lr_decay: float | None
    data_noise: float | None
    features: int | None
    sampler: dict[str, Any] | None
    sample_steps: int | None
    seed: int | None


@dataclass(frozen=True)
class Settings:
    """Every setting of a training, resolved: plain numbers, strings, lists and dicts."""

    data: str
    data_fingerprint: str
    event_shape: list[int]
    model: dict[str, Any]  # {"class": "ConvNet", and its arguments} or the class of the caller's own
    n_iterations: int
    batch_size: int
    lr: float
    lr_decay: float
    data_noise: float
    sampler: dict[str, Any]
    sample_steps: int
    seed: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Settings:
        return cls(**{field.name: values[field.name] for field in fields(cls)})

    def lr_at(self, iteration: int) -> float:
        """lr, and over the last lr_decay · n_iterations iterations linearly from there towards 0."""
        left = self.n_iterations - iteration
        return self.lr * min(1.0, left / max(self.lr_decay * self.n_iterations, 1.0))

    def make_model(self) -> nn.Module:
        arguments = dict(self.model)
        name = arguments.pop("class")
        if name != "ConvNet":
            raise ValueError(f"the run's model is {name}, which only you can make: pass it as model=")
        return ConvNet(**arguments)


def resolve(asked: Asked, data: Data, model: nn.Module | None, saved: dict[str, Any] | None) -> Settings:
    """The settings of a new run, or those of a saved one, which what was asked may not contradict.

    n_iterations alone may differ from the saved run's: more iterations go on from where it stood (and lr_decay then
    counts from the new end).
    """
    usual = _usual(data) if saved is None else {**saved, "features": saved["model"].get("features")}
    given = {name: value for name, value in vars(asked).items() if value is not None}
    if not isinstance(given.get("sampler", {}), dict):
        raise TypeError(f"sampler must be a dict of Langevin options, got {type(asked.sampler).__name__}")
    plain = {**usual, **given}
    plain["sampler"] = _plain_sampler({**usual["sampler"], **(asked.sampler or {})})
    if asked.sample_steps is None and "n_steps" in (asked.sampler or {}):
        plain["sample_steps"] = None  # what is usual belongs to the usual n_steps
    chosen = Settings(
        data.name,
        data.fingerprint,
        list(data.event_shape),
        _model(data, model, plain["features"]),
        check_int("n_iterations", plain["n_iterations"]),
        check_int("batch_size", plain["batch_size"]),
        check_positive("lr", plain["lr"]),
        _share("lr_decay", plain["lr_decay"]),
        _not_negative("data_noise", plain["data_noise"]),
        plain["sampler"],
        check_int("sample_steps", plain.get("sample_steps") or plain["sampler"]["n_steps"]),
        _seed(plain.get("seed", 1)),
    )
    if saved is not None:
        _check_same(chosen.to_dict(), saved)
    return chosen


def _usual(data: Data) -> dict[str, Any]:
    return {**recipes.short_run, **recipes.BY_DATA.get(data.name, {})}


def _model(data: Data, model: nn.Module | None, features: int) -> dict[str, Any]:
    if model is not None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a torch.nn.Module or None, got {type(model).__name__}")
        return {"class": type(model).__name__}
    if len(data.event_shape) != 3 or data.event_shape[1] != data.event_shape[2]:
        raise ValueError(
            f"model must be given for data of shape {data.event_shape}: the default network takes square images "
            "(for images of another shape, image_size= resizes and crops a folder's)"
        )
    channels, size, _ = data.event_shape
    ConvNet.check(size, channels, features)
    return {"class": "ConvNet", "image_size": size, "channels": channels, "features": features}


def _plain_sampler(options: dict[str, Any]) -> dict[str, Any]:
    """Langevin's options as a file can hold them: schedules as lists. Checks them on the way."""
    for name in ("energy", "log_density", "score", "seed", "generator"):
        if name in options:
            raise ValueError(f"sampler may not hold {name!r}: training sets it")
    if callable(options.get("init")):
        raise ValueError("sampler's init must be 'uniform' or 'normal' in training: a function cannot be saved")
    n_steps = Langevin(energy=_unused, seed=0, **options).n_steps
    plain = {name: _plain(value) for name, value in options.items()}
    for name in ("step_size", "noise_std"):
        value = plain.get(name)
        if value is not None and not isinstance(value, (int, float)):
            plain[name] = resolve_schedule(name, value, n_steps)
    return plain


def _plain(value: Any) -> Any:
    """A NumPy number as Python's, a tuple as a list."""
    if isinstance(value, (tuple, list)):
        return [_plain(v) for v in value]
    if isinstance(value, Integral) and not isinstance(value, bool):
        return int(value)
    return float(value) if isinstance(value, Real) and not isinstance(value, (bool, int)) else value


def _unused(x: Any) -> Any:
    raise AssertionError("only the options are checked")


def _check_same(chosen: dict[str, Any], saved: dict[str, Any]) -> None:
    differences = [
        f"{name} is {chosen[name]!r} now and {saved[name]!r} in the run"
        for name in chosen
        if name != "n_iterations" and chosen[name] != saved[name]
    ]
    if differences:
        raise ValueError(
            f"resume must go on with the run's own data and settings, but {'; '.join(differences)}. "
            "Leave the setting out to keep the run's, or start another run."
        )


def _not_negative(name: str, value: Any) -> float:
    if not isinstance(value, Real) or isinstance(value, bool) or not 0 <= float(value) < math.inf:
        raise ValueError(f"{name} must be a finite number, not negative, got {value!r}")
    return float(value)


def _share(name: str, value: Any) -> float:
    if _not_negative(name, value) > 1:
        raise ValueError(f"{name} must lie in 0 … 1, got {value!r}")
    return float(value)


def _seed(seed: Any) -> int:
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**64:
        raise ValueError(f"seed must be an int in 0 … 2^64 - 1, got {seed!r}")
    return seed
