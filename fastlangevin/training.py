"""Maximum-likelihood learning of an energy-based model by short-run MCMC (Nijkamp et al., arXiv:1904.09770, Alg. 1)."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from . import checkpoint, interrupt, noise, settings
from .data import Data, load_data
from .errors import ChainDiverged, check_int
from .loading import make_sampler, resolve_device
from .order import batch_indices
from .pending import PendingRows
from .pictures import save_training_plot
from .progress import MetricsLog, Reporter
from .run import Run, has_plots
from .sampler import Langevin
from .settings import Settings
from .transfer import to_device

_PREVIEW = 64  # samples in the picture


@dataclass(frozen=True)
class TrainResult:
    """What `train` returns.

    Attributes:
        model: the trained network, a log-density, on the device it was trained on.
        sampler: of that network, with `sample_steps` steps, its counter where training left it.
        history: one dict a logged iteration: iteration, energy_data, energy_samples, energy_gap, score_norm, seconds.
        out: the run's folder, or None where nothing was written.
    """

    model: nn.Module
    sampler: Langevin
    history: list[dict[str, Any]]
    out: Path | None


def train(
    data: Any,
    model: nn.Module | None = None,
    *,
    out: str | Path | None = None,
    n_iterations: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    lr_decay: float | None = None,
    data_noise: float | None = None,
    features: int | None = None,
    sampler: dict[str, Any] | None = None,
    sample_steps: int | None = None,
    seed: int | None = None,
    device: str | torch.device = "auto",
    image_size: int | None = None,
    value_range: tuple[float, float] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    checkpoint_every: int = 50,
    keep_checkpoints: int = 3,
    log_every: int = 10,
    progress: bool = True,
) -> TrainResult:
    """Learns a model of the data. One iteration:

        x⁻ = K Langevin steps of f from p0                      (`sampler.sample`)
        x⁺ = a batch of data + data_noise · z
        f ascends mean f(x⁺) - mean f(x⁻)                       (Adam, betas (0.9, 0.999))

    A setting left None comes from `recipes` (for data known by name), else is the paper's; on resuming, it is the
    run's own. Everything random follows from `seed`: on one machine with one number of threads, the same call gives
    the same weights bit for bit, and so does a run that was killed and resumed, however often (except with a Dataset
    that draws from Python's or NumPy's random state). torch's global random state is left as it was.

    Args:
        data: "digits"; a tensor or array, `.npy` or `.npz`; a folder of images; a torch Dataset; "cifar10", "celeba" or
            "lsun" (extra "vision"). Scaled to [-1, 1]; see `data.load_data`.
        model: a module (B, *event) to (B,) or (B, 1), read as a log-density f and trained in place. None:
            `models.ConvNet` for the data's size.
        out: the run's folder (see `run.Run` for its files); None writes nothing.
        n_iterations: in all, those before a resume included.
        batch_size: data, and chains.
        lr: Adam's.
        lr_decay: the share of the iterations, at the end, over which lr falls linearly towards 0.
        data_noise: standard deviation of the noise added to the data.
        features: n_f of the ConvNet.
        sampler: options of `Langevin`; those not named are the recipe's.
        sample_steps: Langevin steps of a chain when the model is sampled afterwards: for the picture, by the result's
            sampler, `load` and `fastlangevin sample`. Default: as many as in training.
        seed: of the weights' initialisation, data order and noise; default 1.
        device: "auto" is CUDA where there is one, else the CPU.
        image_size, value_range: see `data.load_data`.
        resume: go on from the newest checkpoint in `out`; start anew where there is none.
        overwrite: replace the run in `out`.
        checkpoint_every, log_every: in iterations; the first state and the last are always saved.
        keep_checkpoints: how many of the newest stay.
        progress: show it: a live bar on a terminal, plain lines elsewhere.

    Raises:
        ValueError, TypeError: an argument that is not as above; a resume with other data or settings than the run's.
        FileExistsError: `out` holds a run and neither resume nor overwrite was said, or files that no run made.
        BlockingIOError: another process trains into `out` now.
        ChainDiverged: chains or energies stopped being finite; the newest checkpoint is from before.
        KeyboardInterrupt, SystemExit: Ctrl-C or SIGTERM, after a checkpoint was saved.
    """
    if resume and overwrite:
        raise ValueError("resume and overwrite exclude each other, got both")
    if resume and out is None:
        raise ValueError("resume needs out, the folder of the run to go on with")
    check_int("checkpoint_every", checkpoint_every)
    check_int("keep_checkpoints", keep_checkpoints)
    check_int("log_every", log_every)
    if out is not None and not str(out):
        raise ValueError("out must be a folder's name or None, got an empty string")
    run = None if out is None else Run(Path(out))
    if run is not None:
        _check_outside(run.folder, data)
        run.check(resume=resume, overwrite=overwrite)
    where = resolve_device(device)
    source = load_data(data, image_size=image_size, value_range=value_range)
    asked = settings.Asked(n_iterations, batch_size, lr, lr_decay, data_noise, features, sampler, sample_steps, seed)
    with contextlib.ExitStack() as stack:
        if run is not None and run.folder.exists():
            stack.enter_context(run.locked())
        newest = checkpoint.newest(run.checkpoints) if run is not None and resume else None
        state = None if newest is None else checkpoint.load(newest)
        chosen = settings.resolve(asked, source, model, None if state is None else state[1]["settings"])
        if state is not None and chosen.n_iterations < state[1]["iteration"]:
            raise ValueError(
                f"n_iterations counts those before a resume too: got {chosen.n_iterations}, and the run has done "
                f"{state[1]['iteration']}"
            )
        stack.enter_context(_own_randomness(where))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        torch.manual_seed(chosen.seed)
        trainer = _Trainer(chosen, source.to(where), model, where)
        trainer.check()
        if run is not None:
            if not run.folder.exists():
                stack.enter_context(run.locked())
            run.prepare(chosen.to_dict(), overwrite=overwrite)
        if newest is not None and state is not None:
            trainer.restore(newest, *state)
        return trainer.fit(run, checkpoint_every, keep_checkpoints, log_every, progress)


class _Trainer:
    """The state of a training, and how it moves, is saved and is restored."""

    def __init__(self, chosen: Settings, data: Data, model: nn.Module | None, device: torch.device) -> None:
        self.settings, self.data, self.device = chosen, data, device
        self.model = (chosen.make_model() if model is None else model).to(device)
        learned = [p for p in self.model.parameters() if p.requires_grad]
        if not learned:
            raise ValueError(f"model must have parameters that require grad, and {type(self.model).__name__} has none")
        self.dtype = learned[0].dtype
        self.sampler = Langevin(log_density=self.model, seed=chosen.seed, **chosen.sampler)
        on_gpu = learned[0].is_cuda
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=chosen.lr, betas=(0.9, 0.999), capturable=on_gpu)
        self.iteration = 0
        self.saved_at: int | None = None

    def check(self) -> None:
        """Meets a model or an option that cannot work before anything is written."""
        with self.aside():
            x = to_device(self.data.batch(torch.arange(2) % len(self.data)), self.device)
            self.sampler.score(x)
            f = self.log_density(x)
            if not f.isfinite().all():
                raise ValueError("model must give finite numbers, and gives NaN or infinity for the first two items")
            learned = [p for p in self.model.parameters() if p.requires_grad]
            torch.autograd.grad(f.mean(), learned, allow_unused=True)

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Leaves random state and buffers as they were: looking at a model in train mode must not change its course."""
        before = [(buffer, buffer.clone()) for buffer in self.model.buffers()]
        with _own_randomness(self.device):
            try:
                yield
            finally:
                with torch.no_grad():
                    for buffer, value in before:
                        buffer.copy_(value)

    def log_density(self, x: Tensor) -> Tensor:
        return self.model(x.to(self.dtype))

    def fit(
        self, run: Run | None, checkpoint_every: int, keep_checkpoints: int, log_every: int, progress: bool
    ) -> TrainResult:
        first, last = self.iteration, self.settings.n_iterations
        history = [] if run is None else run.forget_after(first)
        started = time.monotonic() - (history[-1]["seconds"] if history else 0.0)
        reporter = Reporter(last, first, self.sampler.n_steps, progress)
        reporter.say(self.describe())
        log = MetricsLog(run, history, first)

        def is_logged(iteration: int) -> bool:
            return iteration % log_every == 0 or iteration == last

        def show(row: dict[str, Any]) -> None:
            reporter.row(row)
            if is_logged(row["iteration"]):
                log.write(row)

        rows = PendingRows(show)
        with interrupt.listening() as stop:
            try:
                if run is not None and first == 0:
                    self.save(run, keep_checkpoints)
                with reporter:
                    while self.iteration < last and not stop:
                        energies, x = self.step()
                        reporter.advance(self.iteration)
                        if is_logged(self.iteration) or self.iteration == first + 1:
                            score_norm = self.mean_score_norm(x)
                            rows.add(self.iteration, round(time.monotonic() - started, 3), *energies, score_norm)
                        rows.show_arrived()
                        if run is not None and self.iteration % checkpoint_every == 0:
                            rows.show_all()
                            self.save(run, keep_checkpoints)
                    rows.show_all()
                    self.sampler.check()
                    if run is not None and self.saved_at != self.iteration:
                        self.save(run, keep_checkpoints)
            except ChainDiverged as error:
                raise self.diverged(error, run) from error
            finally:
                with contextlib.closing(log):
                    rows.show_all()
            if run is not None:
                self.finish(run, history, reporter, bool(stop))
        stop.raise_again()
        return TrainResult(self.model, self.for_sampling(), history, None if run is None else run.folder)

    def describe(self) -> str:
        n = sum(p.numel() for p in self.model.parameters())
        shape = "×".join(map(str, self.data.event_shape))
        plan = self.sampler.plan_for(self.device)
        steps = f"{self.sampler.n_steps} Langevin steps ({self.settings.sample_steps} to sample)"
        return (
            f"{self.data.name}: {len(self.data):,} of {shape}; {type(self.model).__name__} with {n:,} parameters, "
            f"{steps}; on {plan.device}, engine {plan.engine}, backend {plan.backend}"
        )

    def step(self) -> tuple[tuple[Tensor, Tensor], Tensor]:
        """One iteration. Returns the mean energies of data and samples, and the samples."""
        chosen, i = self.settings, self.iteration
        x = self.sampler.sample((chosen.batch_size, *self.data.event_shape), device=self.device)
        indices = batch_indices(len(self.data), chosen.batch_size, seed=chosen.seed, iteration=i)
        batch = to_device(self.data.batch(indices), self.device)
        stream = noise.Stream.DATA_NOISE
        z = noise.normal(batch.shape, seed=chosen.seed, step=i, stream=stream, device=self.device)
        f_data = self.log_density(batch.add_(z, alpha=chosen.data_noise)).mean()
        f_samples = self.log_density(x).mean()
        for group in self.optimizer.param_groups:
            group["lr"] = chosen.lr_at(i)
        self.optimizer.zero_grad()
        (f_samples - f_data).backward()
        self.optimizer.step()
        self.iteration += 1
        return (-f_data.detach(), -f_samples.detach()), x

    def mean_score_norm(self, x: Tensor) -> Tensor:
        with self.aside():
            return torch.linalg.vector_norm(self.sampler.score(x).flatten(1), dim=1).mean()

    def save(self, run: Run, keep: int) -> None:
        """A checkpoint and a picture of what the model samples now, always from the same initial noise."""
        optimizer, groups = checkpoint.optimizer_tensors(self.optimizer)
        tensors = {
            **{f"model.{name}": tensor for name, tensor in self.model.state_dict().items()},
            **{f"optimizer.{name}": tensor for name, tensor in optimizer.items()},
            "random.cpu": torch.get_rng_state(),
        }
        if self.device.type == "cuda":
            tensors["random.cuda"] = torch.cuda.get_rng_state(self.device)
        learned = {**dict(self.model.named_parameters()), **{f"Adam's {k}": v for k, v in optimizer.items()}}
        bad = [name for name, tensor in learned.items() if not tensor.isfinite().all()]
        if bad:
            raise ChainDiverged(f"{', '.join(bad[:3])} are not finite", step=None, n_chains=0)
        meta = {
            "iteration": self.iteration,
            "settings": self.settings.to_dict(),
            "sampler": self.sampler.state_dict(),
            "optimizer_groups": groups,
        }
        checkpoint.save(checkpoint.path_for(run.checkpoints, self.iteration), tensors, meta)
        checkpoint.prune(run.checkpoints, keep)
        self.saved_at = self.iteration
        with self.aside():
            shape = (_PREVIEW, *self.data.event_shape)
            preview = self.for_sampling(graph=False)  # for one picture a capture is not worth its time
            run.write_samples(preview.sample(shape, step=0, device=self.device))

    def for_sampling(self, **options: Any) -> Langevin:
        return make_sampler(self.model, self.settings, self.settings.sample_steps, self.sampler.state_dict(), options)

    def restore(self, path: Path, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        checkpoint.load_model(self.model, checkpoint.part(tensors, "model."), path)
        checkpoint.load_optimizer(self.optimizer, checkpoint.part(tensors, "optimizer."), meta["optimizer_groups"])
        self.sampler.load_state_dict(meta["sampler"])
        self.iteration = self.saved_at = meta["iteration"]
        torch.set_rng_state(tensors["random.cpu"])
        if self.device.type == "cuda" and "random.cuda" in tensors:
            torch.cuda.set_rng_state(tensors["random.cuda"], self.device)

    def diverged(self, error: ChainDiverged, run: Run | None) -> ChainDiverged:
        newest = None if run is None else checkpoint.newest(run.checkpoints)
        kept = "" if newest is None else f"; {newest} is from before"
        return ChainDiverged(
            f"training diverged at iteration {self.iteration}: {error}. A lower lr helps most often{kept}",
            step=error.step,
            n_chains=error.n_chains,
        )

    def finish(self, run: Run, history: list[dict[str, Any]], reporter: Reporter, stopped: bool) -> None:
        """Says where everything is."""
        if has_plots() and history:
            save_training_plot(history, run.training)
        elif history:
            reporter.say("no training.png and no TensorBoard events: pip install 'fastlangevin[plots]'")
        if stopped:
            reporter.say(
                f"stopped after iteration {self.iteration} of {self.settings.n_iterations}, and saved; to go on, say "
                f"the same again with --resume (in Python resume=True) and out {run.folder}"
            )
            return
        made = {
            "samples": run.samples if run.samples.exists() else run.samples_array,
            "curves": run.training,
            "metrics": run.metrics,
            "settings": run.config,
            "checkpoints": run.checkpoints,
            "TensorBoard": run.tensorboard,
        }
        reporter.say(f"done: {self.iteration} iterations")
        for what, path in made.items():
            if path.exists():
                reporter.say(f"  {what:12} {path}")


def _own_randomness(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """Leaves torch's random state, which dropout in a network draws from, as it was before the body."""
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])


def _check_outside(out: Path, data: Any) -> None:
    """A run inside the folder of images that it learns from would take its own pictures for data."""
    if isinstance(data, (str, os.PathLike)) and Path(data).is_dir() and Path(data).resolve() in out.resolve().parents:
        raise ValueError(f"out must not lie inside the data's folder, got out={str(out)!r} and data={str(data)!r}")
