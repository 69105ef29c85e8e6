"""The settings of a training, each declared once."""

# ruff: noqa: RUF009 (`setting` is a `dataclasses.field`)
from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, TypedDict

from torch import nn

from ..data.ranges import Range
from ..models import ConvNet
from ..samplers.base import Sampler
from ..samplers.kinds import KINDS
from ..validation import check_int, check_shape
from . import checks, flags, piecewise, sampler_options
from .flags import Flag
from .piecewise import PiecewiseConstant


@dataclass(frozen=True)
class Declaration:
    """The declaration of a setting, beyond its name and type.

    Attributes:
        default: the value if neither the caller nor a recipe gives one, and that of runs stored before the setting
            existed.
        check: maps (name, value) to the value as plain numbers, strings, lists and dicts; raises for a bad value.
        flags: of the command line, one for each option if the setting is a dict.
        options_of: what the setting, a dict, holds options of. Options that are not given are those of the recipe, by
            `merge`.
        merge: of (the recipe's options, the given ones).
        in_recipes: whether recipes contain it.
        of_model: whether it is an argument of the default network, with which it is stored.
        may_change: whether a resumed run may have another value.
    """

    default: Any
    check: checks.Check
    flags: tuple[Flag, ...]
    options_of: str | None = None
    merge: Callable[[Mapping[str, Any], Mapping[str, Any]], dict[str, Any]] = operator.or_
    in_recipes: bool = True
    of_model: bool = False
    may_change: bool = False


def setting(default: Any, check: checks.Check, *flags: Flag, **more: Any) -> Any:
    """Declares a field of `Settings` that is an argument of `train`."""
    return field(metadata={"declaration": Declaration(default, check, flags, **more)})


# Settings of how a run is watched and written, not of what it learns.
_OF_THE_CALL: dict[str, Any] = {"in_recipes": False, "may_change": True}


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
    class_conditional: bool = setting(
        False,
        checks.boolean,
        Flag(
            "--class-conditional/--no-class-conditional",
            bool,
            "Learn f(x, y) of the labels y (a folder for each class).",
        ),
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
        sampler_options.check,
        Flag("--sampler", str, f"Kind of sampler: {', '.join(KINDS)}.", option="kind"),
        Flag("--steps", int, "Number of steps of a chain, K.", minimum=1, option="n_steps"),
        Flag("--step-size", float, "Step size; of Langevin dynamics it needs --noise-std.", option="step_size"),
        Flag(
            "--noise-std",
            str,
            "Langevin noise: a number, or langevin for sqrt(2 · step size · temperature).",
            flags.noise,
            "STD|langevin",
            option="noise_std",
        ),
        Flag("--temperature", float, "Temperature; of Langevin it needs --noise-std langevin.", option="temperature"),
        Flag("--leapfrog", int, "Number of leapfrog steps of HMC.", minimum=1, option="n_leapfrog"),
        Flag("--friction", float, "Friction of underdamped dynamics.", option="friction"),
        Flag("--mass", float, "Mass of HMC and underdamped dynamics.", option="mass"),
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
        options_of="sampler",
        merge=sampler_options.merged,
    )
    sample_steps: int = setting(
        None,
        checks.int_or_none,
        Flag("--sample-steps", int, "Number of steps when the model is sampled after training.", minimum=1),
    )
    seed: int = setting(1, checks.seed, Flag("--seed", int, "Random seed."), in_recipes=False)
    checkpoint_every: int = setting(
        50,
        check_int,
        Flag("--checkpoint-every", int, "Number of iterations between checkpoints.", minimum=1),
        **_OF_THE_CALL,
    )
    keep_checkpoints: int = setting(
        3, check_int, Flag("--keep-checkpoints", int, "Number of checkpoints to keep.", minimum=1), **_OF_THE_CALL
    )
    log_every: int = setting(
        10,
        check_int,
        Flag("--log-every", int, "Number of iterations between lines of metrics.", minimum=1),
        **_OF_THE_CALL,
    )
    on_divergence: str = setting(
        "raise",
        checks.one_of("raise", "rollback"),
        Flag("--on-divergence", str, "raise; or rollback: return to a checkpoint, with a new seed and half the lr."),
        **_OF_THE_CALL,
    )
    max_rollbacks: int = setting(
        10,
        checks.count,
        Flag("--max-rollbacks", int, "Number of rollbacks after which a divergence is an error.", minimum=0),
        **_OF_THE_CALL,
    )
    max_energy_gap: float = setting(
        1e4,
        checks.limit,
        Flag("--max-energy-gap", str, "Limit on |energy gap|.", flags.limit, "LIMIT|none"),
        **_OF_THE_CALL,
    )
    max_relative_gap: float = setting(
        20.0,
        checks.limit,
        Flag(
            "--max-relative-gap",
            str,
            "Limit on |energy gap| above its running median, in running spreads.",
            flags.limit,
            "LIMIT|none",
        ),
        **_OF_THE_CALL,
    )
    max_saturation: float = setting(
        0.99,
        checks.limit,
        Flag("--max-saturation", str, "Limit on the share of values on the bounds.", flags.limit, "SHARE|none"),
        **_OF_THE_CALL,
    )

    n_classes: int | None = None  # of a class-conditional run
    label_fingerprint: str | None = None
    optimizer: str = "Adam"  # its class, and that of its scheduler
    from_checkpoint: str | None = None  # the checkpoint that the run started from
    changes: list[dict[str, Any]] = field(default_factory=list)  # by resumes: iteration, and settings before and after

    def to_dict(self) -> dict[str, Any]:
        of_model = {name for name, declared in DECLARATIONS.items() if declared.of_model}
        return {name: value for name, value in asdict(self).items() if name not in of_model}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Settings:
        """Restores `to_dict` of this version or an earlier one. Settings that it lacks have their defaults.

        Raises:
            LookupError, TypeError, ValueError: the dict is not one of settings.
        """
        values: dict[str, Any] = {}
        for item in fields(cls):
            declared = DECLARATIONS.get(item.name)
            if declared is not None and declared.of_model:
                values[item.name] = stored["model"].get(item.name)
            elif declared is not None:
                values[item.name] = declared.check(item.name, stored.get(item.name, copy.deepcopy(declared.default)))
            elif item.name in stored:
                values[item.name] = stored[item.name]
        check_shape(values["event_shape"])
        settings = cls(**values)
        if not isinstance(settings.changes, list):
            raise TypeError(f"changes must be a list, got {settings.changes!r}")
        checks.int_or_none("n_classes", settings.n_classes)
        if settings._is_convnet:
            ConvNet.check(**{name: value for name, value in settings.model.items() if name != "class"})
        return settings

    def with_origin(self, path: str) -> Settings:
        return replace(self, from_checkpoint=path)

    @property
    def range(self) -> Range:
        return self.data_range[0], self.data_range[1]

    def lr_at(self, iteration: int) -> float:
        """The value of lr, which falls linearly towards 0 over the last lr_decay · n_iterations iterations."""
        left = self.n_iterations - iteration
        return piecewise.at(self.lr, iteration) * min(1.0, left / max(self.lr_decay * self.n_iterations, 1.0))

    def data_noise_at(self, iteration: int) -> float:
        return piecewise.at(self.data_noise, iteration)

    def make_sampler(self, model: nn.Module, seed: int, **replaced: Any) -> Sampler:
        """Returns the run's sampler of a log-density. Options may be replaced, and its kind, without which those that
        another kind does not have are left out.
        """
        made, options = sampler_options.made_by(sampler_options.merged(self.sampler, replaced))
        return made(log_density=model, seed=seed, **options)  # type: ignore[call-arg]

    @property
    def _is_convnet(self) -> bool:
        """Whether the network is `models.ConvNet`: a user-defined class of that name is stored without arguments."""
        return self.model["class"] == "ConvNet" and len(self.model) > 1

    def make_model(self) -> nn.Module:
        arguments = dict(self.model)
        name = arguments.pop("class")
        if not self._is_convnet:
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
    class_conditional: bool | None
    energy_penalty: float | None
    kl_weight: float | None
    start: Literal["noise", "data", "buffer"] | None
    buffer: dict[str, Any] | None
    features: int | None
    sampler: dict[str, Any] | None
    sample_steps: int | None
    seed: int | None
    checkpoint_every: int | None
    keep_checkpoints: int | None
    log_every: int | None
    on_divergence: Literal["raise", "rollback"] | None
    max_rollbacks: int | None
    max_energy_gap: float | None
    max_relative_gap: float | None
    max_saturation: float | None


def defaults() -> dict[str, Any]:
    """Returns the defaults of the settings that recipes contain: the paper's recipe, `recipes.short_run`."""
    return {name: copy.deepcopy(d.default) for name, d in DECLARATIONS.items() if d.in_recipes}
