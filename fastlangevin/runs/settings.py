"""What a training was told, what it came to, and whether a resumed one is still the same."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from numbers import Integral, Real
from typing import Any

from torch import nn

from .. import recipes
from ..chains.schedule import resolve as resolve_schedule
from ..data.ranges import UNIT, Range
from ..data.sources import Data, check_value_range
from ..models import ConvNet
from ..samplers.langevin import Langevin
from ..samplers.replay_buffer import ReplayBuffer
from ..validation import check_int, unknown
from . import piecewise

_BUFFER = {"capacity": 10_000}  # JEM's and IGEBM's
_SET_BY_TRAINING = {
    "sampler": ("energy", "log_density", "score", "seed", "generator"),
    "buffer": ("shape", "init", "bounds", "seed", "generator", "device", "per_class"),
}

# The names of `train`'s arguments that are settings: left None, "whatever is usual".
ASKED = (
    *("n_iterations", "batch_size", "lr", "lr_decay", "adam_betas", "max_grad_norm", "ema"),
    *("data_noise", "data_range", "clamp_data", "energy_penalty", "kl_weight", "start", "buffer"),
    *("features", "sampler", "sample_steps", "seed"),
)


@dataclass(frozen=True)
class Settings:
    """Every setting of a training, resolved: plain numbers, strings, lists and dicts."""

    data: str
    data_fingerprint: str
    event_shape: list[int]
    model: dict[str, Any]  # {"class": "ConvNet", and its arguments} or the class of the caller's own
    n_iterations: int
    batch_size: int
    lr: float | list[list[float]]
    lr_decay: float
    data_noise: float | list[list[float]]
    sampler: dict[str, Any]
    sample_steps: int
    seed: int
    adam_betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    max_grad_norm: float | None = None
    data_range: list[float] = field(default_factory=lambda: [-1.0, 1.0])
    clamp_data: bool = False
    energy_penalty: float = 0.0
    kl_weight: float = 0.0
    start: str = "noise"
    buffer: dict[str, Any] = field(default_factory=dict)
    ema: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Settings:
        """From a file, in which settings that are newer than it are not there."""
        return cls(**{field.name: values[field.name] for field in fields(cls) if field.name in values})

    @property
    def range(self) -> Range:
        return self.data_range[0], self.data_range[1]

    def lr_at(self, iteration: int) -> float:
        """lr, and over the last lr_decay · n_iterations iterations linearly from there towards 0."""
        left = self.n_iterations - iteration
        return piecewise.at(self.lr, iteration) * min(1.0, left / max(self.lr_decay * self.n_iterations, 1.0))

    def data_noise_at(self, iteration: int) -> float:
        return piecewise.at(self.data_noise, iteration)

    def make_model(self) -> nn.Module:
        arguments = dict(self.model)
        name = arguments.pop("class")
        if name != "ConvNet":
            raise ValueError(
                f"the run's model is {name}, which only you can make: pass it as model= "
                "(in Python: fastlangevin.load, fastlangevin.evaluate)"
            )
        return ConvNet(**arguments)


def resolve(asked: Mapping[str, Any], data: Data, model: nn.Module | None, saved: dict[str, Any] | None) -> Settings:
    """The settings of a new run, or those of a saved one, which what was asked may not contradict.

    n_iterations alone may differ from the saved run's: more iterations go on from where it stood (and lr_decay then
    counts from the new end).

    Args:
        asked: the caller's settings; None is "whatever is usual".
        saved: `to_dict` of the run to go on with.
    """
    if saved is not None:
        saved = Settings.from_dict(saved).to_dict()
    usual = _usual(data) if saved is None else {**saved, "features": saved["model"].get("features")}
    given = {name: value for name, value in asked.items() if value is not None}
    for name in ("sampler", "buffer"):
        if not isinstance(given.get(name, {}), dict):
            wanted = {"sampler": "Langevin", "buffer": "ReplayBuffer"}[name]
            raise TypeError(f"{name} must be a dict of {wanted} options, got {type(given[name]).__name__}")
    plain = {**usual, **given}
    plain["sampler"] = _plain_sampler({**usual["sampler"], **given.get("sampler", {})})
    if saved is None and "sample_steps" not in given and "n_steps" in given.get("sampler", {}):
        plain["sample_steps"] = None  # what is usual belongs to the usual n_steps
    data_range = check_value_range("data_range", plain.get("data_range", UNIT))
    start = plain.get("start", "noise")
    chosen = Settings(
        data.name,
        data.fingerprint,
        list(data.event_shape),
        _model(data, model, plain["features"]),
        check_int("n_iterations", plain["n_iterations"]),
        check_int("batch_size", plain["batch_size"]),
        piecewise.check("lr", plain["lr"], positive=True),
        _share("lr_decay", plain["lr_decay"]),
        piecewise.check("data_noise", plain["data_noise"], positive=False),
        plain["sampler"],
        check_int("sample_steps", plain.get("sample_steps") or plain["sampler"]["n_steps"]),
        _seed(plain.get("seed", 1)),
        adam_betas=_betas(plain.get("adam_betas", (0.9, 0.999))),
        max_grad_norm=_positive_or_none("max_grad_norm", plain.get("max_grad_norm")),
        data_range=list(data_range),
        clamp_data=_clamp_data(plain.get("clamp_data", False), plain["sampler"]),
        energy_penalty=piecewise.check_number("energy_penalty", plain.get("energy_penalty", 0.0)),
        kl_weight=piecewise.check_number("kl_weight", plain.get("kl_weight", 0.0)),
        start=_start(start),
        buffer=_plain_buffer(plain.get("buffer", {}), start),
        ema=_share("ema", plain.get("ema", 0.0), below_one=True),
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
    for name in _SET_BY_TRAINING["sampler"]:
        if name in options:
            raise ValueError(f"sampler may not hold {name!r}: training sets it")
    _check_names("sampler", options, Langevin)
    if callable(options.get("init")):
        raise ValueError("sampler's init must be 'uniform' or 'normal' in training: a function cannot be saved")
    n_steps = Langevin(energy=_unused, seed=0, **options).n_steps
    plain = {name: _plain(value) for name, value in options.items()}
    for name in ("step_size", "noise_std"):
        value = plain.get(name)
        if value is not None and not isinstance(value, (int, float)):
            plain[name] = resolve_schedule(name, value, n_steps)
    return plain


def _check_names(argument: str, options: dict[str, Any], made: type) -> None:
    """Raises for an option that `made` does not have."""
    names = [name for name in inspect.signature(made).parameters if name not in _SET_BY_TRAINING[argument]]
    for name in options:
        if name not in names:
            raise TypeError(str(unknown(f"{argument}'s options", name, names)))


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


def _start(start: Any) -> str:
    if start not in ("noise", "data", "buffer"):
        raise unknown("start", start, ("noise", "data", "buffer"))
    return start


def _plain_buffer(options: dict[str, Any], start: str) -> dict[str, Any]:
    """`ReplayBuffer`'s options; none where chains do not start from one."""
    if start != "buffer":
        if options:
            raise ValueError(f"buffer must be left out unless start='buffer', got {options!r} with start={start!r}")
        return {}
    for name in _SET_BY_TRAINING["buffer"]:
        if name in options:
            raise ValueError(f"buffer may not hold {name!r}: training sets it, and knows no classes")
    _check_names("buffer", options, ReplayBuffer)
    return {name: _plain(value) for name, value in {**_BUFFER, **options}.items()}


def _clamp_data(clamp: Any, sampler: dict[str, Any]) -> bool:
    if not isinstance(clamp, bool):
        raise TypeError(f"clamp_data must be True or False, got {clamp!r}")
    if clamp and sampler.get("bounds") is None:
        raise ValueError("clamp_data=True clamps to the sampler's bounds, and sampler has none")
    return clamp


def _betas(betas: Any) -> list[float]:
    values = list(betas) if isinstance(betas, (tuple, list)) else []
    if len(values) != 2:
        raise ValueError(f"adam_betas must be two numbers (β1, β2), got {betas!r}")
    return [_share(f"adam_betas[{i}]", value, below_one=True) for i, value in enumerate(values)]


def _positive_or_none(name: str, value: Any) -> float | None:
    return None if value is None else piecewise.check_number(name, value, positive=True)


def _share(name: str, value: Any, below_one: bool = False) -> float:
    number = piecewise.check_number(name, value)
    if number > 1 or (below_one and number == 1):
        raise ValueError(f"{name} must lie in 0 … 1{', and below 1' if below_one else ''}, got {value!r}")
    return number


def _seed(seed: Any) -> int:
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**64:
        raise ValueError(f"seed must be an int in 0 … 2^64 - 1, got {seed!r}")
    return seed
