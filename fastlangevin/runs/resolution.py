"""Resolution of the settings of a training from what the caller gives, a recipe and a saved run."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar, get_type_hints

from torch import nn

from ..data.dataset import Data
from ..distributed.sharded_module import class_of
from ..models import ConvNet
from ..samplers.langevin import Langevin
from ..validation import nearest
from . import sampler_options
from .settings import DECLARATIONS, Overrides, Settings

_BUFFER = {"capacity": 10_000}  # of JEM and IGEBM

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


def given(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the overrides that are not None. Raises as `check_names`."""
    check_names(overrides)
    return {name: value for name, value in overrides.items() if value is not None}


def check_names(overrides: Mapping[str, Any]) -> None:
    """Raises TypeError for an unknown setting, or a value that is not a dict for a setting that holds options."""
    for name, value in overrides.items():
        if name not in DECLARATIONS:
            raise TypeError(f"train has no setting {name!r}{nearest(name, DECLARATIONS)}")
        options_of = DECLARATIONS[name].options_of
        if options_of is not None and value is not None and not isinstance(value, dict):
            raise TypeError(f"{name} must be a dict of {options_of} options, got {type(value).__name__}")


def override(recipe: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a recipe with the overrides; settings that hold options are merged option by option.

    A setting that depends on an override is dropped: sample_steps if n_steps is given, the buffer's options if start is
    not "buffer", and of the sampler's what another kind does not have (`sampler_options.dropped`).
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
        sampler_options.check_noise(overrides.get("sampler", {}), recipe["sampler"])
        merged = override(recipe, overrides)
    else:
        merged = _merged({name: getattr(saved, name) for name in DECLARATIONS}, overrides)
    values = _checked(merged)
    classes = _classes(data) if values["class_conditional"] else {}
    settings = Settings(
        data=data.name,
        data_fingerprint=data.fingerprint,
        event_shape=list(data.event_shape),
        model=_described(model, data, values["features"], classes.get("n_classes")),
        **values,
        **classes,
    )
    if saved is not None:
        past = {name: getattr(saved, name) for name in ("optimizer", "from_checkpoint", "changes")}
        settings = replace(settings, **past)
        _check_same(settings.to_dict(), saved.to_dict())
    return settings


def changed(settings: Settings, changes: Mapping[str, Any], iteration: int) -> Settings:
    """Returns the settings of a run after `iteration` with other values for some, and a record of the change.

    Raises:
        TypeError, ValueError: an unknown setting, a value that is not accepted, or `features`, which the shapes of the
            weights depend on.
    """
    check_names(changes)
    for name in changes:
        if DECLARATIONS[name].of_model:
            raise ValueError(f"{name} cannot change at a resume, because the shapes of the weights depend on it")
        if name == "class_conditional" and changes[name] != settings.class_conditional:
            raise ValueError("class_conditional cannot change at a resume, because the network depends on it")
        if settings.optimizer != "Adam" and name in ("lr", "lr_decay", "adam_betas"):
            raise ValueError(f"{name} has no effect in a run with an optimizer= of its own, {settings.optimizer}")
    sampler_options.check_noise(changes.get("sampler", {}), settings.sampler)
    values = _checked(override({name: getattr(settings, name) for name in DECLARATIONS}, changes))
    made = replace(settings, **values)
    before, after = settings.to_dict(), made.to_dict()
    names = [name for name in after if after[name] != before[name]]
    if not names:
        return settings
    record = {
        "iteration": iteration,
        "before": {name: before[name] for name in names},
        "after": {name: after[name] for name in names},
    }
    return replace(made, changes=[*settings.changes, record])


def _checked(merged: Mapping[str, Any]) -> dict[str, Any]:
    """Checks every setting, and completes those that depend on others."""
    values = {name: declared.check(name, merged[name]) for name, declared in DECLARATIONS.items()}
    values["sample_steps"] = values["sample_steps"] or values["sampler"]["n_steps"]
    values["buffer"] = _buffer_for(values["start"], values["buffer"])
    if values["clamp_data"] and values["sampler"].get("bounds") is None:
        raise ValueError("clamp_data=True clamps to the sampler's bounds, but sampler has none")
    made = sampler_options.class_of(values["sampler"])
    if values["kl_weight"] and not issubclass(made, Langevin):
        raise ValueError(
            f"kl_weight must be 0 with {made.__name__}, got {values['kl_weight']:g}: the KL term goes through the last "
            "step of Langevin dynamics, and the steps of other samplers have no gradient"
        )
    return values


def _merged(defaults: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Merges overrides into defaults; settings that hold options are merged option by option (`Declaration.merge`)."""
    merged = {**defaults, **overrides}
    for name, declared in DECLARATIONS.items():
        if declared.options_of is not None:
            merged[name] = declared.merge(defaults.get(name, {}), overrides.get(name, {}))
    return merged


def _buffer_for(start: str, options: dict[str, Any]) -> dict[str, Any]:
    if start == "buffer":
        return {**_BUFFER, **options}
    if options:
        raise ValueError(f"buffer must not be given unless start='buffer', got {options!r} with start={start!r}")
    return {}


def _classes(data: Data) -> dict[str, Any]:
    """The number of classes of the data, and a fingerprint of the labels."""
    if data.labels is None:
        raise ValueError(
            f"class_conditional=True needs labels, but {data.name} has none: pass (data, labels), or a folder of "
            "images with a folder for each class"
        )
    digest = hashlib.blake2b(data.labels.numpy().data, digest_size=8).hexdigest()
    return {"n_classes": int(data.labels.max()) + 1, "label_fingerprint": digest}


def _described(model: nn.Module | None, data: Data, features: Any, n_classes: int | None) -> dict[str, Any]:
    """Returns the description of the network that settings store."""
    if model is not None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a torch.nn.Module or None, got {type(model).__name__}")
        if isinstance(model, ConvNet) and class_of(model) is ConvNet:
            return _described_convnet(model.image_size, model.channels, model.features, model.n_classes)
        return {"class": class_of(model).__name__}
    if len(data.event_shape) != 3 or data.event_shape[1] != data.event_shape[2]:
        raise ValueError(
            f"data of shape {data.event_shape} need a model: the default network takes square images. Give one as "
            "model=, or image_size= (--image-size), which cuts squares from the images of a folder"
        )
    channels, size, _ = data.event_shape
    if features is None:  # the resumed run has a user-defined model
        features = DECLARATIONS["features"].default
    ConvNet.check(size, channels, features)
    return _described_convnet(size, channels, features, n_classes)


def _described_convnet(image_size: int, channels: int, features: int, n_classes: int | None) -> dict[str, Any]:
    described = {"class": "ConvNet", "image_size": image_size, "channels": channels, "features": features}
    return described if n_classes is None else {**described, "n_classes": n_classes}


def _check_same(settings: dict[str, Any], saved: dict[str, Any]) -> None:
    differences = [
        f"{name} is {settings[name]!r} now and {saved[name]!r} in the run"
        for name in settings
        if settings[name] != saved[name] and not (name in DECLARATIONS and DECLARATIONS[name].may_change)
    ]
    if differences:
        raise ValueError(
            f"resume must use the run's own data and settings, but {'; '.join(differences)}. "
            "Omit the setting to keep the value of the run, change it with resume_overrides= (--override NAME=VALUE), "
            "or start a new run."
        )
