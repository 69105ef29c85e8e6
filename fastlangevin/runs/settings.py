"""The settings of a training, each declared once, and how overrides, defaults and a saved run make them up."""

# ruff: noqa: RUF009 (`setting` is a `dataclasses.field`)
from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, TypedDict, TypeVar, get_type_hints

from torch import nn

from ..data.dataset import Data
from ..data.ranges import Range
from ..models import ConvNet
from ..validation import check_int, nearest
from . import checks, flags, piecewise
from .flags import Flag
from .piecewise import PiecewiseConstant

_BUFFER = {"capacity": 10_000}  # JEM's and IGEBM's


@dataclass(frozen=True)
class Declaration:
    """What is declared of a setting beside its name and type.

    Attributes:
        default: the value if neither the caller nor a recipe names one, and of runs stored before the setting existed.
        check: (name, value) to the value as plain numbers, strings, lists and dicts; raises for a bad one.
        flags: of the command line, one for each option where the setting is a dict.
        options_of: the class whose options the setting, a dict, holds. Options that are not named are the default's.
        in_recipes: whether recipes have it.
        of_model: whether it is an argument of the default network, with which it is stored.
        may_change: whether a resumed run may have another value.
    """

    default: Any
    check: checks.Check
    flags: tuple[Flag, ...]
    options_of: str | None = None
    in_recipes: bool = True
    of_model: bool = False
    may_change: bool = False


def setting(default: Any, check: checks.Check, *flags: Flag, **more: Any) -> Any:
    """A field of `Settings` that is an argument of `train`."""
    return field(metadata={"declaration": Declaration(default, check, flags, **more)})


@dataclass(frozen=True)
class Settings:
    """The settings of a training, resolved to plain numbers, strings, lists and dicts.

    The fields declared by `setting` are arguments of `train` (with `Overrides`, for editors), keys of the recipes,
    entries of config.yaml and of checkpoints, and flags of `fastlangevin train`. The defaults are those of Nijkamp,
    Hill, Zhu and Wu, NeurIPS 2019, arXiv:1904.09770, Sections 3 and 5 and the authors' minimal script
    (enijkamp/short_run, train_cifar10_minimal.py, which runs for 100,000 iterations).
    """

    data: str
    data_fingerprint: str
    event_shape: list[int]
    model: dict[str, Any]  # {"class": "ConvNet", and its arguments} or the class of a user-defined model
    n_iterations: int = setting(
        70_000, check_int, Flag("--iterations", int, "Iterations in all.", minimum=1), may_change=True
    )
    batch_size: int = setting(64, check_int, Flag("--batch-size", int, "Data, and chains, per iteration.", minimum=1))
    lr: float | list[list[float]] = setting(
        1e-4,
        checks.positive_schedule,
        Flag("--lr", str, "Adam's learning rate, and changes of it.", flags.schedule, "LR[,ITERATION:LR…]"),
    )
    lr_decay: float = setting(
        0.0,
        checks.share,
        Flag("--lr-decay", float, "Share of the iterations, at the end, over which lr falls to 0."),
    )
    adam_betas: list[float] = setting(
        (0.9, 0.999), checks.betas, Flag("--adam-betas", str, "Adam's decay rates.", flags.pair, "BETA1,BETA2")
    )
    max_grad_norm: float | None = setting(
        None,
        checks.positive_or_none,
        Flag("--max-grad-norm", float, "Largest Euclidean norm of the weights' gradient."),
    )
    ema: float = setting(
        0.0,
        checks.share_below_one,
        Flag("--ema", float, "Decay of a moving average of the weights, to sample from."),
    )
    data_noise: float | list[list[float]] = setting(
        0.03,
        checks.schedule,
        Flag(
            "--data-noise", str, "Noise added to the data, and changes of it.", flags.schedule, "STD[,ITERATION:STD…]"
        ),
    )
    data_range: list[float] = setting(
        (-1.0, 1.0),
        checks.interval,
        Flag("--data-range", str, "The interval that data are scaled to.", flags.pair, "LO,HI"),
    )
    clamp_data: bool = setting(
        False,
        checks.boolean,
        Flag("--clamp-data/--no-clamp-data", bool, "Clamp the noisy data to --bounds."),
    )
    energy_penalty: float = setting(
        0.0, piecewise.check_number, Flag("--energy-penalty", float, "Weight of the squared energies' penalty.")
    )
    kl_weight: float = setting(
        0.0, piecewise.check_number, Flag("--kl-weight", float, "Weight of the KL term through the last Langevin step.")
    )
    start: str = setting(
        "noise",
        checks.one_of("noise", "data", "buffer"),
        Flag("--start", str, "Where chains start: noise, data, or buffer, where earlier chains ended."),
    )
    buffer: dict[str, Any] = setting(
        {},
        checks.buffer,
        Flag("--buffer-capacity", int, "States in the replay buffer.", minimum=1, option="capacity"),
        Flag("--buffer-reinit", float, "Share of its chains that start anew from noise.", option="reinit"),
        Flag("--buffer-policy", str, "What it keeps: fifo, reservoir or indexed.", option="policy"),
        Flag("--buffer-storage", str, "How it keeps states: float32 or uint8.", option="storage"),
        options_of="ReplayBuffer",
    )
    features: int | None = setting(
        64,
        checks.int_or_none,
        Flag("--features", int, "Channels of the network's first layer.", minimum=1),
        of_model=True,
    )
    sampler: dict[str, Any] = setting(
        {"n_steps": 100, "step_size": 1.0, "noise_std": 0.01},
        checks.sampler,
        Flag("--steps", int, "Langevin steps, K.", minimum=1, option="n_steps"),
        Flag("--step-size", float, "Langevin step size; needs --noise-std.", option="step_size"),
        Flag(
            "--noise-std",
            str,
            "Langevin noise: a number, or langevin for sqrt(2 · step size · temperature).",
            flags.noise,
            "STD|langevin",
            option="noise_std",
        ),
        Flag("--temperature", float, "Langevin temperature; needs --noise-std langevin.", option="temperature"),
        Flag(
            "--grad-clip", str, "Limit on the score's elements.", flags.number_or_none, "LIMIT|none", option="grad_clip"
        ),
        Flag("--bounds", str, "Limits on the states.", flags.pair_or_none, "LO,HI|none", option="bounds"),
        Flag("--precision", str, "What the sampler runs in: fp32, tf32, bf16, fp16.", option="precision"),
        options_of="Langevin",
    )
    sample_steps: int = setting(
        None,
        checks.int_or_none,
        Flag("--sample-steps", int, "Langevin steps when the model is sampled afterwards.", minimum=1),
    )
    seed: int = setting(1, checks.seed, Flag("--seed", int, "Of everything random."), in_recipes=False)

    def to_dict(self) -> dict[str, Any]:
        of_model = {name for name, declared in DECLARATIONS.items() if declared.of_model}
        return {name: value for name, value in asdict(self).items() if name not in of_model}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Settings:
        """From `to_dict` of this version or an earlier one, which lacks the settings that are newer."""
        values: dict[str, Any] = {}
        for item in fields(cls):
            declared = DECLARATIONS.get(item.name)
            if declared is not None and declared.of_model:
                values[item.name] = stored["model"].get(item.name)
            elif declared is None or item.name in stored:
                values[item.name] = stored[item.name]
            else:
                values[item.name] = declared.check(item.name, copy.deepcopy(declared.default))
        return cls(**values)

    @property
    def range(self) -> Range:
        return self.data_range[0], self.data_range[1]

    def lr_at(self, iteration: int) -> float:
        """lr, and over the last lr_decay · n_iterations iterations linearly from there towards 0."""
        left = self.n_iterations - iteration
        return piecewise.at(self.lr, iteration) * min(1.0, left / max(self.lr_decay * self.n_iterations, 1.0))

    def data_noise_at(self, iteration: int) -> float:
        return piecewise.at(self.data_noise, iteration)

    def langevin_options(self, **replaced: Any) -> dict[str, Any]:
        """Options of the run's `Langevin`, some of them replaced."""
        return checks.without_unread_temperature({**self.sampler, **replaced})

    def make_model(self) -> nn.Module:
        arguments = dict(self.model)
        name = arguments.pop("class")
        if name != "ConvNet":
            raise ValueError(
                f"the run's model is {name}, which only you can make: pass it as model= "
                "(in Python: fastlangevin.load, fastlangevin.evaluate)"
            )
        return ConvNet(**arguments)


DECLARATIONS: dict[str, Declaration] = {
    item.name: item.metadata["declaration"] for item in fields(Settings) if "declaration" in item.metadata
}


class Overrides(TypedDict, total=False):
    """The settings as a caller of `train` may give them; None is the default."""

    n_iterations: int | None
    batch_size: int | None
    lr: PiecewiseConstant | None
    lr_decay: float | None
    adam_betas: tuple[float, float] | None
    max_grad_norm: float | None
    ema: float | None
    data_noise: PiecewiseConstant | None
    data_range: tuple[float, float] | None
    clamp_data: bool | None
    energy_penalty: float | None
    kl_weight: float | None
    start: Literal["noise", "data", "buffer"] | None
    buffer: dict[str, Any] | None
    features: int | None
    sampler: dict[str, Any] | None
    sample_steps: int | None
    seed: int | None


_Function = TypeVar("_Function", bound=Callable[..., Any])


def takes_overrides(after: str) -> Callable[[_Function], _Function]:
    """Shows the settings, which the function takes as **overrides, in its signature, after the parameter `after`."""

    def decorate(function: _Function) -> _Function:
        signature, types = inspect.signature(function), get_type_hints(Overrides)
        own = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
        place = [parameter.name for parameter in own].index(after) + 1
        shown = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=types[name])
            for name in DECLARATIONS
        ]
        function.__signature__ = signature.replace(  # type: ignore[attr-defined]
            parameters=[*own[:place], *shown, *own[place:]]
        )
        return function

    return decorate


def defaults() -> dict[str, Any]:
    """The defaults of the settings that recipes have: a recipe, the paper's."""
    return {name: copy.deepcopy(d.default) for name, d in DECLARATIONS.items() if d.in_recipes}


def given(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The overrides that are not None.

    Raises:
        TypeError: a setting that there is not, or no dict where options are wanted.
    """
    for name, value in overrides.items():
        if name not in DECLARATIONS:
            raise TypeError(f"train has no setting {name!r}{nearest(name, DECLARATIONS)}")
        options_of = DECLARATIONS[name].options_of
        if options_of is not None and value is not None and not isinstance(value, dict):
            raise TypeError(f"{name} must be a dict of {options_of} options, got {type(value).__name__}")
    return {name: value for name, value in overrides.items() if value is not None}


def override(recipe: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe with settings that were given in place of its own, options one by one.

    What belongs to another setting goes with it: sample_steps with n_steps, the buffer's options with start="buffer".
    """
    settings = _merged(recipe, overrides)
    if "n_steps" in overrides.get("sampler", {}) and "sample_steps" not in overrides:
        settings["sample_steps"] = None
    if overrides.get("start", "buffer") != "buffer" and "buffer" not in overrides:
        settings["buffer"] = {}
    return settings


def resolve(
    overrides: Mapping[str, Any],
    recipe: Mapping[str, Any],
    data: Data,
    model: nn.Module | None,
    saved: Settings | None,
) -> Settings:
    """The settings of a new run; or those of a saved one, which the overrides may not contradict.

    Only settings declared `may_change` may differ from the saved run's.

    Args:
        overrides: the caller's settings; None is the default.
        recipe: the defaults of a new run.
        saved: the settings of the run to resume.
    """
    overrides = given(overrides)
    if saved is None:
        recipe = {**{name: d.default for name, d in DECLARATIONS.items()}, **recipe}
        checks.check_sampler_pair(overrides.get("sampler", {}), recipe["sampler"])
        merged = override(recipe, overrides)
    else:
        merged = _merged({name: getattr(saved, name) for name in DECLARATIONS}, overrides)
    values = {name: declared.check(name, merged[name]) for name, declared in DECLARATIONS.items()}
    values["sample_steps"] = values["sample_steps"] or values["sampler"]["n_steps"]
    values["buffer"] = _buffer_for(values["start"], values["buffer"])
    if values["clamp_data"] and values["sampler"].get("bounds") is None:
        raise ValueError("clamp_data=True clamps to the sampler's bounds, and sampler has none")
    settings = Settings(
        data=data.name,
        data_fingerprint=data.fingerprint,
        event_shape=list(data.event_shape),
        model=_described(model, data, values["features"]),
        **values,
    )
    if saved is not None:
        _check_same(settings.to_dict(), saved.to_dict())
    return settings


def _merged(defaults: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The overrides over the defaults; of settings that hold options, option by option."""
    merged = {**defaults, **overrides}
    for name, declared in DECLARATIONS.items():
        if declared.options_of is not None:
            merged[name] = {**defaults.get(name, {}), **overrides.get(name, {})}
    return merged


def _buffer_for(start: str, options: dict[str, Any]) -> dict[str, Any]:
    if start == "buffer":
        return {**_BUFFER, **options}
    if options:
        raise ValueError(f"buffer must be left out unless start='buffer', got {options!r} with start={start!r}")
    return {}


def _described(model: nn.Module | None, data: Data, features: Any) -> dict[str, Any]:
    """The network as settings store it."""
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
    if features is None:  # the run that is resumed has a user-defined model
        features = DECLARATIONS["features"].default
    ConvNet.check(size, channels, features)
    return {"class": "ConvNet", "image_size": size, "channels": channels, "features": features}


def _check_same(settings: dict[str, Any], saved: dict[str, Any]) -> None:
    differences = [
        f"{name} is {settings[name]!r} now and {saved[name]!r} in the run"
        for name in settings
        if settings[name] != saved[name] and not (name in DECLARATIONS and DECLARATIONS[name].may_change)
    ]
    if differences:
        raise ValueError(
            f"resume must use the run's own data and settings, but {'; '.join(differences)}. "
            "Leave the setting out to keep the run's, or start another run."
        )
