"""A training under way, from its first iteration to its last."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any

from ..display.plots import has_plots, save_training_plot
from ..display.progress import MetricsLog, Reporter
from ..errors import ChainDiverged, TrainingDiverged
from ..runs import checkpoint
from ..runs.folder import Run
from ..runs.result import TrainResult
from . import interrupt
from .guard import Guard
from .pending import PendingRows
from .state import Trainer


class Fit:
    """A training under way: the loop around `Trainer.step`, what it shows and writes, and how it ends."""

    def __init__(
        self,
        trainer: Trainer,
        run: Run | None,
        guard: Guard,
        *,
        checkpoint_every: int,
        keep_checkpoints: int,
        log_every: int,
        max_rollbacks: int,
        progress: bool,
    ) -> None:
        self.trainer, self.run, self.guard = trainer, run, guard
        self.checkpoint_every, self.keep_checkpoints, self.log_every = checkpoint_every, keep_checkpoints, log_every
        self.max_rollbacks = max_rollbacks
        self.first, self.last = trainer.iteration, trainer.settings.n_iterations
        self.saved_at = trainer.iteration if trainer.iteration else None
        self.history = [] if run is None else run.forget_after(self.first)
        self.rollbacks: list[dict[str, Any]] = []
        self.started = time.monotonic() - (self.history[-1]["seconds"] if self.history else 0.0)
        self.reporter = Reporter(self.last, self.first, trainer.sampler.n_steps, progress)
        self.log = MetricsLog(run, self.history, self.first)
        self.rows = PendingRows(self._show)

    def __call__(self) -> TrainResult:
        self.reporter.say(describe(self.trainer))
        with interrupt.listening() as stop:
            try:
                if self.saved_at is None:
                    self._save()
                with self.reporter:
                    while not self._reaches_its_end(stop):
                        pass
            finally:
                with contextlib.closing(self.log):
                    self.rows.show_all()
            if self.run is not None:
                self._finish(self.run, bool(stop))
        stop.raise_again()
        averaged = self.trainer.averaged
        return TrainResult(
            self.trainer.model,
            self.trainer.for_sampling(),
            self.history,
            None if self.run is None else self.run.folder,
            None if averaged is None else averaged.module,
            self.trainer.settings.range,
            self.rollbacks,
        )

    def _reaches_its_end(self, stop: interrupt.Stop) -> bool:
        """Iterates to the end, and saves; False where it diverged on the way and was rolled back."""
        try:
            while self.trainer.iteration < self.last and not stop:
                self._iterate()
            self._settle()
            if self.saved_at != self.trainer.iteration:
                self._save()
        except ChainDiverged as error:
            self._roll_back(error)
            return False
        return True

    def _iterate(self) -> None:
        trainer = self.trainer
        step = trainer.step()
        self.guard.look(trainer.iteration, step.energy_data, step.energy_samples, step.x)
        self.reporter.advance(trainer.iteration)
        if self._is_logged(trainer.iteration) or trainer.iteration == self.first + 1:
            numbers = (step.energy_data, step.energy_samples, *trainer.gradient_strengths(step))
            self.rows.add(trainer.iteration, round(time.monotonic() - self.started, 3), *numbers)
        self.rows.show_arrived()
        if self.run is not None and trainer.iteration % self.checkpoint_every == 0:
            self._settle()
            self._save()

    def _settle(self) -> None:
        """Waits for what is still on its way, and judges it."""
        self.trainer.sampler.check()
        self.guard.look_at_all()
        self.rows.show_all()

    def _roll_back(self, error: ChainDiverged) -> None:
        """Goes on from the newest checkpoint, or raises where that may not be."""
        trainer, run = self.trainer, self.run
        newest = None if run is None else checkpoint.newest(run.checkpoints)
        diverged = self._diverged(error, newest)
        if run is None or newest is None or trainer.attempt >= self.max_rollbacks:
            raise diverged from error
        self._forget_pending()
        trainer.roll_back(newest)
        trainer.save(newest)  # with its new seed, so that a resume takes the same way
        self.log.close()
        self.history = run.forget_after(trainer.iteration)
        self.log = MetricsLog(run, self.history, trainer.iteration)
        record = {
            "iteration": diverged.iteration,
            "reason": diverged.reason,
            "back_to": trainer.iteration,
            "lr": trainer.lr,
            "seed": trainer.seed,
        }
        self.rollbacks.append(record)
        run.add_rollback(record)
        self.reporter.say(
            f"diverged at iteration {diverged.iteration}: {diverged.reason}; rolled back to iteration "
            f"{trainer.iteration}, with a fresh seed and lr {trainer.lr:g} ({trainer.attempt} of {self.max_rollbacks})"
        )

    def _forget_pending(self) -> None:
        self.guard.forget()
        self.rows.forget()
        with contextlib.suppress(ChainDiverged):
            self.trainer.sampler.check()

    def _diverged(self, error: ChainDiverged, newest: Path | None) -> TrainingDiverged:
        kept = "" if newest is None else f"; {newest} is from before"
        if isinstance(error, TrainingDiverged):
            return TrainingDiverged(error.reason, error.advice, error.iteration, kept=kept)
        return TrainingDiverged(
            str(error),
            "a lower lr helps most often",
            self.trainer.iteration + 1,
            kept=kept,
            step=error.step,
            n_chains=error.n_chains,
        )

    def _is_logged(self, iteration: int) -> bool:
        return iteration % self.log_every == 0 or iteration == self.last

    def _show(self, row: dict[str, Any]) -> None:
        self.reporter.row(row)
        if self._is_logged(row["iteration"]):
            self.log.write(row)

    def _save(self) -> None:
        if self.run is None:
            return
        self.trainer.save(checkpoint.path_for(self.run.checkpoints, self.trainer.iteration))
        checkpoint.prune(self.run.checkpoints, self.keep_checkpoints)
        self.saved_at = self.trainer.iteration
        try:
            self.trainer.draw_picture(self.run)
        except ChainDiverged as error:  # of `sample_steps`, perhaps more than training has: no reason to stop
            self.reporter.say(f"no picture of iteration {self.trainer.iteration}: {error}")

    def _finish(self, run: Run, stopped: bool) -> None:
        """Says where everything is."""
        if has_plots() and self.history:
            save_training_plot(self.history, run.training)
        elif self.history:
            self.reporter.say("no training.png and no TensorBoard events: pip install 'fastlangevin[plots]'")
        if stopped:
            self.reporter.say(
                f"stopped after iteration {self.trainer.iteration} of {self.last}, and saved; to go on, say "
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
        self.reporter.say(f"done: {self.trainer.iteration} iterations")
        for what, path in made.items():
            if path.exists():
                self.reporter.say(f"  {what:12} {path}")


def describe(trainer: Trainer) -> str:
    chosen = trainer.settings
    n = sum(p.numel() for p in trainer.model.parameters())
    shape = "×".join(map(str, trainer.data.event_shape))
    plan = trainer.sampler.plan_for(trainer.device)
    steps = f"{trainer.sampler.n_steps} Langevin steps ({chosen.sample_steps} to sample)"
    return (
        f"{trainer.data.name}: {len(trainer.data):,} of {shape}; {type(trainer.model).__name__} with {n:,} parameters, "
        f"{steps}; on {plan.device}, engine {plan.engine}, backend {plan.backend}"
    )
