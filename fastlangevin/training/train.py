"""Maximum-likelihood learning of an energy-based model by short-run MCMC (Nijkamp et al., arXiv:1904.09770, Alg. 1)."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from .. import recipes
from ..data.load_once import load_once
from ..data.values import Layout
from ..distributed import sharded_module
from ..distributed.ranks import Ranks
from ..distributed.shards import Group
from ..distributed.start import is_restarted, joined, started_by_torchrun, starter
from ..runs import checkpoint, resuming, training_checkpoint
from ..runs.folder import RunFolder
from ..runs.opening import resolve_device
from ..runs.resolution import resolve, takes_overrides
from ..runs.result import TrainResult
from ..runs.sampler_options import note_on_dropped
from ..runs.settings import Overrides, Settings
from ..samplers.preserve import own_randomness
from ..validation import check_positive
from ..version import __version__
from .guard import Guard
from .layout import load_for
from .loop import TrainingLoop
from .optimizers import MakeOptimizer, check_state
from .state import TrainingState

if sys.version_info >= (3, 11):
    from typing import Unpack
else:
    from typing_extensions import Unpack


_SHOWN_WITHIN = 10.0  # seconds after which a file is to be seen on another node


@takes_overrides(after="out")
def train(
    data: Any,
    model: nn.Module | None = None,
    *,
    out: str | Path | None = None,
    device: str | torch.device = "auto",
    optimizer: MakeOptimizer | None = None,
    image_size: int | None = None,
    value_range: tuple[float, float] | None = None,
    layout: Layout | None = None,
    resume: bool = False,
    resume_overrides: dict[str, Any] | Literal["config.yaml"] | None = None,
    from_checkpoint: str | Path | None = None,
    overwrite: bool = False,
    progress: bool = True,
    group: Group | None = None,
    timeout: float = 1800.0,
    **overrides: Unpack[Overrides],
) -> TrainResult:
    """Trains a model of the data. One iteration:

        x⁺ = a batch of data + data_noise · z
        x⁻ = K Langevin steps of f from p0                      (or from the data, or from a replay buffer: `start`)
        f descends mean f(x⁻) - mean f(x⁺) + energy_penalty · mean(f(x⁺)² + f(x⁻)²)                        (Adam)

    The arguments from n_iterations to max_saturation are the settings of the run (`runs.settings`). The default of
    each, None, is the value in the recipe for the data (`recipes.BY_DATA`), or else the paper's; for a resumed run it
    is the run's. A resume may change n_iterations and the settings after seed.
    All randomness is determined by `seed`: on one machine with a fixed number of threads, the same call gives the same
    weights bit for bit, and so does a run that was killed and resumed any number of times (except with a Dataset that
    draws from Python's or NumPy's random state, or from a generator of its own, which `Data.notes` mentions). torch's
    global random state does not change.

    A logged iteration (a line of metrics.jsonl, a dict of `TrainResult.history`) has iteration; energy_data and
    energy_samples, the mean energies; energy_gap, the first minus the second (d_s of Nijkamp et al., AAAI 2020,
    arXiv:1903.12370, Section 3.1); score_norm, mean |∇ log p| at the samples; gradient_strength, its mean along chains
    (v there); lr; seconds; and of samplers with a Metropolis test acceptance, the share of proposals accepted.

    Args:
        data: "digits"; a tensor or array, or a file of one; a folder of images; a torch Dataset; "cifar10", "celeba" or
            "lsun" (extra "vision"). Or a pair (data, labels). Scaled to `data_range`; see `data.load_data`.
        model: a module that maps (B, *event) to B numbers, the log-density f, high where data is likely (-U; while
            ``Langevin(f)`` reads an energy: pass ``Langevin(log_density=f)``), trained in place. None:
            `models.ConvNet` for the data's size. On several ranks `torch.distributed.fsdp.fully_shard` may have divided
            its parameters (docs/distributed.md).
        out: the run's folder (see `runs.folder.RunFolder` for its files). None: nothing is written.
        n_iterations: total number, including the iterations before a resume. A resume may change it; lr_decay then
            counts from the new end.
        batch_size: number of data items, and of chains, per iteration.
        lr: learning rate of Adam: a number, or pairs (iteration, value) with the first iteration 0, where each value
            holds from its iteration on.
        lr_decay: fraction of the iterations, at the end, over which lr falls linearly towards 0.
        adam_betas: decay rates of Adam.
        max_grad_norm: limit on the Euclidean norm of the weights' gradient, which is scaled down to it.
        ema: decay of an exponential moving average of the weights, from which samples are then drawn; 0 for none.
        data_noise: standard deviation of the noise added to the data; a number or pairs as for `lr`.
        data_range: the interval that the data are scaled to; default (-1, 1).
        clamp_data: whether to clamp the noisy data to the sampler's bounds.
        class_conditional: whether to learn f(x, y) of the labels y: the model is called with int64 (B,) classes as
            second argument, chains run in the classes of the batch, and a buffer keeps each class apart (its capacity
            is rounded down to a multiple of their number). `result.sampler.sample(shape, y)` samples classes.
        energy_penalty: weight α of the penalty on squared energies (Du and Mordatch, NeurIPS 2019).
        kl_weight: weight of the KL term through the last Langevin step (Du et al., ICML 2021); 0 with other samplers.
        start: the initial states of chains: "noise": p0 (short-run MCMC); "data": the batch itself (contrastive
            divergence, Hinton, 2002); "buffer": the last states of earlier chains (Tieleman, ICML 2008).
        buffer: options of `ReplayBuffer`, for start="buffer". Options that are not given are the recipe's; the default
            capacity is 10,000. The buffer is part of checkpoints. With underdamped dynamics it stores velocities too.
        features: n_f of the ConvNet.
        sampler: options of the sampler, and its "kind": "langevin" (the default), "mala", "hmc" or "underdamped".
            Options that are not given are the recipe's, except those that another kind than the recipe's does not have,
            and except step_size, which must be given with another kind. Of `Langevin` step_size must be given with
            noise_std: a number, or None for sqrt(2·step_size·temperature). A temperature needs noise_std=None.
        sample_steps: number of steps when the model is sampled after training: for the picture, by the result's
            sampler, by `load` and by `fastlangevin sample`. Default: as many as in training.
        seed: of the weights' initialisation, the order of the data and the noise; default 1.
        checkpoint_every, log_every: in iterations. The initial and the final state are always saved.
        keep_checkpoints: number of checkpoints to keep, the newest ones.
        on_divergence: "raise", or "rollback": return to a checkpoint, with a new seed and half the lr: the
            newest one or, if training diverges again soon after, each time one further back.
        max_rollbacks: number of rollbacks after which a divergence raises an error.
        max_energy_gap: limit on |energy_gap|, above which training has diverged; infinity for no limit.
        max_relative_gap: limit c on |energy_gap| relative to the run's own history: training has diverged if for ten
            iterations it exceeds m + c·s (and 1), where m is its median over the last 300 iterations and s the median
            distance from m; infinity for no limit. Judged from the 101st iteration on.
        max_saturation: fraction of the samples' values on the bounds from which on training has diverged (without
            bounds: values ten times as far out as the data's interval); infinity for no limit. Samples that are so from
            the first iteration on have 100 iterations to return.
        device: "auto" is CUDA if available, else the CPU.
        optimizer: a function of the list of parameters that returns an optimiser of torch, or one and a scheduler,
            which steps after each iteration: ``lambda p: torch.optim.SGD(p, lr=1e-3)``. lr, lr_decay and adam_betas
            then have no effect. A resume needs the same function. With `out` it is called twice: the second time with
            copies of the parameters, for a step that shows whether its state can be saved. None: Adam.
        image_size, value_range: see `data.load_data`.
        layout: "images" or "as_given", see there. None: as images or, if the model takes only that, as given: signals
            (N, C, L) for a 1-D network, embeddings (N, L, D) for a transformer. A sharded model is not tried.
        resume: whether to continue from the newest checkpoint in `out`. If there is none, a new run is started.
        resume_overrides: settings that the resumed run has from now on, by name; "config.yaml" for those that were
            edited in the run's config.yaml. The change and its iteration are recorded there. `features` cannot change.
            A buffer of another kind starts empty.
        from_checkpoint: a checkpoint file, or a run's folder for its newest one: a new run starts at iteration 0 with
            the weights, the optimiser's state, the buffer and the noise counter of that one. Its settings are the
            defaults.
        overwrite: whether to replace the run in `out`.
        progress: whether to show progress: a bar on a terminal, plain lines elsewhere.
        group: the ranks that train together, a process group or a device mesh of one dimension. None: all ranks where
            torch.distributed is initialised, else those that torchrun has started, or this process alone. Each runs
            its part of the batch with the noise of the whole batch, and has the same weights; rank 0 writes `out`,
            which all can read. See docs/distributed.md.
        timeout: seconds that a rank waits for the others, for example while rank 0 prepares the data.

    Returns:
        The model, a sampler of it, and the history.

    Raises:
        ValueError, TypeError: an argument that is not as above, an unknown setting, data or settings of a resume that
            differ from the run's, or a model with extra state that `out` cannot store.
        FileNotFoundError, ImportError: data that `load_data` cannot read.
        FileExistsError: `out` holds a run and neither resume nor overwrite is set, or it holds files that do not belong
            to a run.
        NotADirectoryError: `out` is a file.
        BlockingIOError: another process is training in `out`, or has started a run in the new folder since the call.
        CheckpointError: the newest checkpoint of a resume is damaged (the message names the one before it) or does not
            fit the model.
        OSError: a file of the run cannot be written.
        TrainingDiverged: (a `ChainDiverged`) chains, energies or weights are not finite, the energies are too far apart
            or the samples are saturated. Raised within one iteration; the message says what to try, and the newest
            checkpoint was saved before the divergence.
        KeyboardInterrupt, SystemExit: Ctrl-C, or SIGTERM or SIGHUP, to any rank, after a checkpoint has been saved.
        RankFailed: another rank raised an error, ended or did not answer.
        Exception: what reading the data raises, after a checkpoint has been saved.

    Examples:
        >>> result = fl.train("digits", n_iterations=2, features=8, progress=False)
        >>> result.sampler.sample((16, 1, 8, 8)).shape
        torch.Size([16, 1, 8, 8])

        Your own items and network:

        >>> network = fl.models.MLP(2, hidden=(16,))  # a log-density
        >>> options = {"n_steps": 20, "step_size": 0.01, "noise_std": None}
        >>> points = torch.rand(200, 2) * 2 - 1
        >>> result = fl.train(points, network, n_iterations=2, sampler=options, progress=False)
        >>> result.model is network
        True

        A run in a folder, which goes on:

        >>> result = fl.train("digits", out="runs/digits", n_iterations=2, features=8, progress=False)
        >>> fl.train("digits", out="runs/digits", n_iterations=3, resume=True, progress=False)
        TrainResult(ConvNet after 3 iterations, out='runs/digits')
    """
    if resume and overwrite:
        raise ValueError("resume and overwrite are mutually exclusive, got both")
    if resume and out is None:
        raise ValueError("resume needs out, the folder of the run to continue")
    if resume_overrides is not None and not resume:
        raise ValueError("resume_overrides needs resume=True (on the command line: --override needs --resume)")
    if out is not None and not str(out):
        raise ValueError("out must be a folder's name or None, got an empty string")
    check_positive("timeout", timeout)
    if isinstance(model, nn.parallel.DistributedDataParallel):
        raise TypeError(
            "model must be the network itself, whose gradients train sums over the ranks, got it within "
            "DistributedDataParallel: pass model.module"
        )
    run = None if out is None else RunFolder(Path(out))
    if run is not None:
        _check_outside(run.folder, data)
    where = resolve_device(device)
    with contextlib.ExitStack() as stack:
        if where.type == "cuda":
            stack.enter_context(torch.cuda.device(where))
        ranks = stack.enter_context(joined(where.type, timeout, group))
        written = run if ranks.is_main else None
        is_new, newest = False, None
        with ranks.together():
            if written is not None and is_restarted() and written.was_started_by(starter()):
                resume, overwrite = True, False  # the run that the same command has begun
            if written is not None:
                written.check(resume=resume, overwrite=overwrite)
                is_new = not written.folder.exists()
            if written is not None and not is_new:
                stack.enter_context(written.locked())
                written.check(resume=resume, overwrite=overwrite)  # again: another process may have written before
                newest = checkpoint.newest(written.checkpoints) if resume else None
        newest = ranks.of_main(newest)
        options: dict[str, Any] = {"image_size": image_size, "value_range": value_range}
        source = load_once(ranks, data, lambda: load_for(model, data, layout, **options))
        with ranks.together():
            stored = None if newest is None else training_checkpoint.load(newest)
            origin = None if stored is not None or from_checkpoint is None else resuming.find(from_checkpoint)
            notes: list[str] = []
            if stored is not None:
                assert run is not None
                settings, notes = resuming.settings_of_resume(run, stored, overrides, resume_overrides, source, model)
            elif origin is not None:
                settings = resuming.settings_from(origin, overrides, source, model)
                notes = note_on_dropped(origin.settings.sampler, overrides.get("sampler") or {}, "the run before")
            else:
                recipe = recipes.BY_DATA.get(source.name, recipes.short_run)
                settings = resolve(overrides, recipe, source, model, None)
                notes = note_on_dropped(recipe["sampler"], overrides.get("sampler") or {}, "the default recipe")
            if settings.on_divergence == "rollback" and run is None:
                raise ValueError("on_divergence='rollback' needs out, the folder of the checkpoints to return to")
            if stored is not None and settings.n_iterations < stored.iteration:
                raise ValueError(
                    f"n_iterations includes the iterations before a resume and must be at least {stored.iteration}, "
                    f"got {settings.n_iterations}"
                )
            if settings.batch_size < ranks.size:
                raise ValueError(
                    f"batch_size, that of all ranks, must be at least their number, {ranks.size}, got "
                    f"{settings.batch_size}"
                )
        given = {"out": out, "optimizer": optimizer, "from_checkpoint": from_checkpoint}
        _check_agreement(ranks, settings, model, given)
        stack.enter_context(own_randomness(where))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        torch.manual_seed(settings.seed)
        with ranks.together():
            network = settings.make_model() if model is None else model
            stack.enter_context(sharded_module.summing_gradients(network))
            state = TrainingState(settings, source.to(where), network, where, optimizer, ranks)
            if stored is not None and settings.optimizer != state.optimization.name:
                raise ValueError(
                    f"optimizer= must be that of the run, {settings.optimizer}, at a resume, got "
                    f"{state.optimization.name}"
                )
            state.settings = settings = replace(settings, optimizer=state.optimization.name)
            state.check()
            if run is not None:
                training_checkpoint.check(state.model)
                if optimizer is not None:
                    check_state(optimizer, list(state.model.parameters()))
        with ranks.together():
            if written is not None and is_new:
                stack.enter_context(written.created())
            if written is not None:
                written.prepare(settings.to_dict(), overwrite=overwrite)
            if written is not None and started_by_torchrun():
                written.note_starter(starter())
        with ranks.together():
            if run is not None:
                _check_visible(run, ranks)
            if stored is not None:
                state.resume(stored)
            elif origin is not None:
                state.start_from(origin)
        if stored is not None and settings.changes != stored.settings.changes:
            training_checkpoint.save(stored.path, state)  # so that they hold if the process is killed soon
        state.share()
        loop = TrainingLoop(
            state,
            run,
            Guard.of(settings, state.gaps, state.sampler.bounds),
            progress=progress,
            notes=[*source.notes, *notes],
        )
        return loop.run_to_end()


def _check_agreement(
    ranks: Ranks, settings: Settings, model: nn.Module | None, arguments: Mapping[str, object]
) -> None:
    """Raises ValueError on all ranks if one of them was started with other settings, data or another network, or
    without one of these arguments where others have it. Their values may differ: a folder's name on another node.
    """
    parameters = [] if model is None else model.named_parameters()
    shapes = {name: (*p.shape, *map(str, getattr(p, "placements", ()))) for name, p in parameters}
    versions = {"the version of fastlangevin": __version__, "the version of torch": torch.__version__}
    facts = {**settings.to_dict(), **versions, "model's parameters": shapes}
    given = {name: "None" if value is None else "a value" for name, value in arguments.items()}
    ranks.check_agreement({**{name: repr(value) for name, value in facts.items()}, **given})


def _check_visible(run: RunFolder, ranks: Ranks) -> None:
    """Raises FileNotFoundError on a rank from which the files that rank 0 has written are not to be seen."""
    give_up = time.monotonic() + _SHOWN_WITHIN
    while not run.config.exists():
        if time.monotonic() > give_up:
            raise FileNotFoundError(
                f"out={str(run.folder)!r} must be a folder that all ranks see, but rank {ranks.rank} does not find the "
                f"{run.config.name} that rank 0 has written"
            )
        time.sleep(0.1)


def _check_outside(out: Path, data: Any) -> None:
    """Raises ValueError if `out` is in the folder of the data, because a run would then learn from its own pictures."""
    if isinstance(data, (str, os.PathLike)) and Path(data).is_dir() and Path(data).resolve() in out.resolve().parents:
        raise ValueError(f"out must not lie inside the data's folder, got out={str(out)!r} and data={str(data)!r}")
