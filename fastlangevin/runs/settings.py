"""The settings of a training, each declared once, and their resolution from overrides, a recipe and a saved run."""

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
from ..validation import check_int, check_shape, nearest
from . import checks, flags, piecewise
from .flags import Flag
from .piecewise import PiecewiseConstant

_BUFFER = {"capacity": 10_000}  # of JEM and IGEBM


@dataclass(frozen=True)
class Declaration:
    """The declaration of a setting, beyond its name and type.

    Attributes:
        default: the value if neither the caller nor a recipe gives one, and that of runs stored before the setting
            existed.
        check: maps (name, value) to the value as plain numbers, strings, lists and dicts; raises for a bad value.
        flags: of the command line, one for each option if the setting is a dict.
        options_of: the class whose options the setting, a dict, holds. Options that are not given are those of the
            recipe.
        in_recipes: whether recipes contain it.
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
    """Declares a field of `Settings` that is an argument of `train`."""
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
        70_000, check_int, Flag("--iterations", int, "Total number of iterations.", minimum=1), may_change=True
    )
    batch_size: int = setting(
        64, check_int, Flag("--batch-size", int, "Number of data items, and of chains, per iteration.", minimum=1)
    )
    lr: float | list[list[float]] = setting(
        1e-4,
        checks.positive_schedule,
        Flag("--lr", str, "Learning rate of Adam, and its changes.", flags.schedule, "LR[,ITERATION:LR…]"),
    )
    lr_decay: float = setting(
        0.0,
        checks.share,
        Flag("--lr-decay", float, "Fraction of the iterations, at the end, over which lr falls towards 0."),
    )
    adam_betas: list[float] = setting(
        (0.9, 0.999), checks.betas, Flag("--adam-betas", str, "Decay rates of Adam.", flags.pair, "BETA1,BETA2")
    )
    max_grad_norm: float | None = setting(
        None,
        checks.positive_or_none,
        Flag("--max-grad-norm", float, "Limit on the Euclidean norm of the weights' gradient."),
    )
    ema: float = setting(
        0.0,
        checks.share_below_one,
        Flag("--ema", float, "Decay of an average of the weights, used for sampling."),
    )
    data_noise: float | list[list[float]] = setting(
        0.03,
        checks.schedule,
        Flag("--data-noise", str, "Noise added to the data, and its changes.", flags.schedule, "STD[,ITERATION:STD…]"),
    )
    data_range: list[float] = setting(
        (-1.0, 1.0),
        checks.interval,
        Flag("--data-range", str, "Interval that the data are scaled to.", flags.pair, "LO,HI"),
    )
    clamp_data: bool = setting(
        False,
        checks.boolean,
        Flag("--clamp-data/--no-clamp-data", bool, "Clamp the noisy data to --bounds."),
    )
    energy_penalty: float = setting(
        0.0, piecewise.check_number, Flag("--energy-penalty", float, "Weight of the penalty on squared energies.")
    )
    kl_weight: float = setting(
        0.0, piecewise.check_number, Flag("--kl-weight", float, "Weight of the KL term through the last Langevin step.")
    )
    start: str = setting(
        "noise",
        checks.one_of("noise", "data", "buffer"),
        Flag("--start", str, "Initial states of chains: noise, data, or buffer (last states of earlier chains)."),
    )
    buffer: dict[str, Any] = setting(
        {},
        checks.buffer,
        Flag("--buffer-capacity", int, "Number of states in the replay buffer.", minimum=1, option="capacity"),
        Flag("--buffer-reinit", float, "Probability that a chain starts from noise instead.", option="reinit"),
        Flag("--buffer-policy", str, "Policy of the replay buffer: fifo, reservoir or indexed.", option="policy"),
        Flag("--buffer-storage", str, "Storage of states: float32 or uint8.", option="storage"),
        options_of="ReplayBuffer",
    )
    features: int | None = setting(
        64,
        checks.int_or_none,
        Flag("--features", int, "Number of channels of the default network's first layer.", minimum=1),
        of_model=True,
    )
    sampler: dict[str, Any] = setting(
        {"n_steps": 100, "step_size": 1.0, "noise_std": 0.01},
        checks.sampler,
        Flag("--steps", int, "Number of Langevin steps, K.", minimum=1, option="n_steps"),
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
            "--grad-clip",
            str,
            "Limit on the elements of the score.",
            flags.number_or_none,
            "LIMIT|none",
            option="grad_clip",
        ),
        Flag("--bounds", str, "Limits on the states.", flags.pair_or_none, "LO,HI|none", option="bounds"),
        Flag("--precision", str, "Precision of the sampler: fp32, tf32, bf16 or fp16.", option="precision"),
        options_of="Langevin",
    )
    sample_steps: int = setting(
        None,
        checks.int_or_none,
        Flag("--sample-steps", int, "Number of Langevin steps when the model is sampled after training.", minimum=1),
    )
    seed: int = setting(1, checks.seed, Flag("--seed", int, "Random seed."), in_recipes=False)

    def to_dict(self) -> dict[str, Any]:
        of_model = {name for name, declared in DECLARATIONS.items() if declared.of_model}
        return {name: value for name, value in asdict(self).items() if name not in of_model}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Settings:
        """Restores `to_dict` of this version or an earlier one. Settings that it lacks have their defaults.

        Raises:
            LookupError, TypeError, ValueError: the dict is not one of settings.
        """
        values: dict[str, Any] = {name: stored[name] for name in ("data", "data_fingerprint", "event_shape", "model")}
        check_shape(values["event_shape"])
        for name, declared in DECLARATIONS.items():
            if declared.of_model:
                values[name] = stored["model"].get(name)
            else:
                values[name] = declared.check(name, stored.get(name, copy.deepcopy(declared.default)))
        settings = cls(**values)
        if settings.model["class"] == "ConvNet":
            ConvNet.check(**{name: value for name, value in settings.model.items() if name != "class"})
        return settings

    @property
    def range(self) -> Range:
        return self.data_range[0], self.data_range[1]

    def lr_at(self, iteration: int) -> float:
        """The value of lr, which falls linearly towards 0 over the last lr_decay · n_iterations iterations."""
        left = self.n_iterations - iteration
        return piecewise.at(self.lr, iteration) * min(1.0, left / max(self.lr_decay * self.n_iterations, 1.0))

    def data_noise_at(self, iteration: int) -> float:
        return piecewise.at(self.data_noise, iteration)

    def langevin_options(self, **replaced: Any) -> dict[str, Any]:
        """Returns the options of the run's `Langevin`, with the given ones replaced."""
        return checks.without_unread_temperature({**self.sampler, **replaced})

    def make_model(self) -> nn.Module:
        arguments = dict(self.model)
        name = arguments.pop("class")
        if name != "ConvNet":
            raise ValueError(
                f"the run's model is {name}, a user-defined class: pass an instance as model= "
                "(in Python: fastlangevin.load, fastlangevin.evaluate)"
            )
        return ConvNet(**arguments)


DECLARATIONS: dict[str, Declaration] = {
    item.name: item.metadata["declaration"] for item in fields(Settings) if "declaration" in item.metadata
}


class Overrides(TypedDict, total=False):
    """The settings that a caller of `train` may give. None is the default."""

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
    """Adds the settings, which the function takes as **overrides, to its signature after the parameter `after`."""

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
    """Returns the defaults of the settings that recipes contain: the paper's recipe, `recipes.short_run`."""
    return {name: copy.deepcopy(d.default) for name, d in DECLARATIONS.items() if d.in_recipes}


def given(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the overrides that are not None.

    Raises:
        TypeError: an unknown setting, or a value that is not a dict for a setting that holds options.
    """
    for name, value in overrides.items():
        if name not in DECLARATIONS:
            raise TypeError(f"train has no setting {name!r}{nearest(name, DECLARATIONS)}")
        options_of = DECLARATIONS[name].options_of
        if options_of is not None and value is not None and not isinstance(value, dict):
            raise TypeError(f"{name} must be a dict of {options_of} options, got {type(value).__name__}")
    return {name: value for name, value in overrides.items() if value is not None}


def override(recipe: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a recipe with the overrides; settings that hold options are merged option by option.

    A setting that depends on an override is dropped: sample_steps if n_steps is given, the buffer's options if start is
    not "buffer".
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
    """Returns the settings of a new run, or those of a saved one, which the overrides must not contradict.

    Only settings declared `may_change` may differ from those of the saved run.

    Args:
        overrides: the settings given by the caller; None is the default.
        recipe: the defaults of a new run.
        saved: the settings of the run to resume, or None.
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
        raise ValueError("clamp_data=True clamps to the sampler's bounds, but sampler has none")
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
    """Merges overrides into defaults; settings that hold options are merged option by option."""
    merged = {**defaults, **overrides}
    for name, declared in DECLARATIONS.items():
        if declared.options_of is not None:
            merged[name] = {**defaults.get(name, {}), **overrides.get(name, {})}
    return merged


def _buffer_for(start: str, options: dict[str, Any]) -> dict[str, Any]:
    if start == "buffer":
        return {**_BUFFER, **options}
    if options:
        raise ValueError(f"buffer must not be given unless start='buffer', got {options!r} with start={start!r}")
    return {}


def _described(model: nn.Module | None, data: Data, features: Any) -> dict[str, Any]:
    """Returns the description of the network that settings store."""
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
    if features is None:  # the resumed run has a user-defined model
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
            "Omit the setting to keep the value of the run, or start a new run."
        )
