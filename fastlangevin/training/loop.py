"""The training loop, from the first iteration to the last."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from typing import Any

from torch.optim.swa_utils import AveragedModel

from ..display.plots import has_plots, save_training_plot
from ..display.progress import Reporter
from ..errors import ChainDiverged, TrainingDiverged
from ..runs import checkpoint, training_checkpoint
from ..runs.folder import RunFolder
from ..runs.metrics_log import MetricsLog
from ..runs.result import TrainResult
from . import interrupt
from .estimate import Estimate
from .guard import Guard
from .iteration_graph import NOT_CAPTURED, IterationGraph
from .pending import PendingRows
from .preview import Preview
from .state import TrainingState


class TrainingLoop:
    """Runs the iterations of a `TrainingState`, and handles logging, checkpoints, divergence and signals.

    Of several ranks all read the run's folder, and rank 0 alone writes to it.
    """

    def __init__(
        self,
        state: TrainingState,
        run: RunFolder | None,
        guard: Guard,
        *,
        progress: bool,
        notes: Sequence[str] = (),
    ) -> None:
        self.state, self.run, self.guard, self.ranks = state, run, guard, state.ranks
        self.preview = Preview(state)
        self.written = run if state.ranks.is_main else None
        self.settings, self.notes = state.settings, notes
        self.max_rollbacks = state.settings.max_rollbacks if state.settings.on_divergence == "rollback" else 0
        self.first, self.last = state.iteration, state.settings.n_iterations
        self.saved_at = state.iteration if state.iteration else None
        steps = (state.sampler.n_steps, type(state.sampler).__name__)
        self.reporter = Reporter(self.last, self.first, *steps, progress and state.ranks.is_main)
        self.history = self._history()
        self.rollbacks: list[dict[str, Any]] = []
        self.started = time.monotonic() - (self.history[-1]["seconds"] if self.history else 0.0)
        self.log = self._new_log(self.first)
        self.rows = PendingRows(self._show)
        self.graph = IterationGraph(state, guard.watch)
        self.estimate = Estimate(self.first, self.last, state.sampler.n_steps, on_cpu=state.device.type == "cpu")

    def run_to_end(self) -> TrainResult:
        graph = [f"{NOT_CAPTURED}: {why}"] if (why := self.graph.declined) and self.state.device.type == "cuda" else []
        for line in (describe(self.state), *graph, *self.notes):
            self.reporter.say(line)
        with interrupt.listening() as stop:
            self.ranks.wants_to_stop = lambda: bool(stop)
            try:
                if self.saved_at is None:
                    self._save()
                self.estimate.begin()
                with self.reporter:
                    while not self._reaches_its_end(stop):
                        pass
            finally:
                with contextlib.closing(self.log):
                    self.rows.show_all()
            signals = [signal for signal in self.ranks.gather(stop.signal) if signal is not None]
            stop.signal = signals[0] if signals else None
            if self.written is not None:
                self._finish(self.written, bool(stop))
        stop.raise_again()
        averaged = self.state.averaged
        return TrainResult(
            self.state.model,
            self.state.for_sampling(),
            self.history,
            None if self.run is None else self.run.folder,
            averaged.module if isinstance(averaged, AveragedModel) else averaged,
            self.state.settings.range,
            self.rollbacks,
        )

    def _reaches_its_end(self, stop: interrupt.Stop) -> bool:
        """Iterates to the last iteration and saves. Returns False if training diverged and was rolled back."""
        try:
            while self.state.iteration < self.last and not (self.ranks.stops if self.ranks.size > 1 else stop):
                self._iterate()
            self._settle()
            if self.saved_at != self.state.iteration:
                self._save()
        except ChainDiverged as error:
            self._roll_back(error)
            return False
        return True

    def _iterate(self) -> None:
        state = self.state
        try:
            step = self.graph.step()
        except Exception as error:
            if state.is_reading:
                self._save_before(error)
            raise
        self.guard.look(state.iteration, step.watched)
        self.reporter.advance(state.iteration)
        if line := self.estimate.after(state.iteration):
            self.reporter.say(line)
        if self._is_logged(state.iteration) or state.iteration == self.first + 1:
            seconds, of_chains = round(time.monotonic() - self.started, 3), state.metrics_of_chains(step)
            self.rows.add(state.iteration, seconds, step.lr, step.energy_data, step.energy_samples, of_chains)
        self.rows.show_arrived()
        if self.run is not None and state.iteration % self.settings.checkpoint_every == 0:
            self._settle()
            self._save()

    def _save_before(self, error: Exception) -> None:
        """Saves the state that an error of the data left as it was."""
        self._settle()
        if self.run is not None and self.saved_at != self.state.iteration:
            self._save()
        if self.run is not None:
            self.reporter.say(
                f"the data raised {type(error).__name__} after iteration {self.state.iteration}, checkpoint saved; "
                f"to continue, use --resume --out {self.run.folder} (in Python: resume=True and the same out)"
            )

    def _settle(self) -> None:
        """Waits for all pending numbers, and checks them."""
        with self.ranks.together():
            self.state.sampler.check()
            self.guard.look_at_all()
        self.rows.show_all()

    def _roll_back(self, error: ChainDiverged) -> None:
        """Restores a checkpoint from before the divergence; raises if there is none or max_rollbacks is reached.

        It is the newest one or, if training diverges again soon after a rollback, the one before that which the last
        rollback returned to.
        """
        state, run = self.state, self.run
        diverged = self._diverged(error)
        if run is None or state.attempt >= self.max_rollbacks:
            raise diverged from error
        before = diverged.since
        if state.back_to is not None and state.is_suspect(diverged.iteration):
            before = min(before, state.back_to)
        target = self.ranks.of_main(checkpoint.newest_before(run.checkpoints, before))
        if target is None:
            raise diverged from error
        further = before == state.back_to and checkpoint.iteration_of(target) < before
        self._forget_pending()
        # In this order: a target that cannot be read costs no checkpoint; and if the process is killed in between, a
        # resume repeats the divergence and this rollback.
        with self.ranks.together():
            state.roll_back(target, diverged.iteration)
        self.graph.forget()
        if self.written is not None:
            checkpoint.remove_after(run.checkpoints, state.iteration)
        training_checkpoint.save(target, state)  # with the new seed, so that a resume repeats the same iterations
        self.log.close()
        self.history = self._history()
        self.log = self._new_log(state.iteration)
        record = {
            "iteration": diverged.iteration,
            "reason": diverged.reason,
            "back_to": state.iteration,
            "lr": state.lr,
            "seed": state.seed,
        }
        self.rollbacks.append(record)
        if self.written is not None:
            self.written.add_rollback(record)
        step = " (further back than the last time)" if further else ""
        self.reporter.say(
            f"diverged at iteration {diverged.iteration}: {diverged.reason}; rolled back to iteration "
            f"{state.iteration}{step}, with a new seed and lr {state.lr:g} ({state.attempt} of {self.max_rollbacks})"
        )

    def _history(self) -> list[dict[str, Any]]:
        """The rows of the run up to now. Later ones, which will be computed again, leave its folder."""
        rows: list[dict[str, Any]] = []
        with self.ranks.together():
            if self.written is not None:
                rows = self.written.forget_after(self.state.iteration, self.reporter.say)
        return self.ranks.of_main(rows)

    def _new_log(self, first: int) -> MetricsLog:
        return MetricsLog(self.written, self.history, first, self.settings.to_dict(), self.reporter.say)

    def _forget_pending(self) -> None:
        self.guard.forget()
        self.rows.forget()
        with contextlib.suppress(ChainDiverged):
            self.state.sampler.check()

    def _diverged(self, error: ChainDiverged) -> TrainingDiverged:
        """The error with the iteration and the checkpoint from before it."""
        if isinstance(error, TrainingDiverged):
            diverged = error
        else:
            iteration, advice = self.state.iteration + 1, "a lower lr usually helps"
            diverged = TrainingDiverged(str(error), advice, iteration, step=error.step, n_chains=error.n_chains)
        return TrainingDiverged(
            diverged.reason,
            diverged.advice,
            diverged.iteration,
            since=diverged.since,
            kept=self._how_to_continue(diverged.since),
            step=diverged.step,
            n_chains=diverged.n_chains,
        )

    def _how_to_continue(self, since: int) -> str:
        """Names the checkpoint from before iteration `since`, and how to continue from it with a lower lr."""
        kept = None if self.run is None else checkpoint.newest_before(self.run.checkpoints, since)
        if self.run is None or kept is None:
            return ""
        lr = f"{self.settings.lr / 2:g}" if isinstance(self.settings.lr, float) else "…"
        if kept == checkpoint.newest(self.run.checkpoints):
            how = f"--resume --override lr={lr} (in Python: resume=True, resume_overrides={{'lr': {lr}}})"
        else:
            how = f"--from-checkpoint {kept} --lr {lr} and another --out (in Python: from_checkpoint=, lr=, out=)"
        return f"; {kept} was saved before the divergence; to continue from it: {how}"

    def _is_logged(self, iteration: int) -> bool:
        return iteration % self.settings.log_every == 0 or iteration == self.last

    def _show(self, row: dict[str, Any]) -> None:
        self.reporter.row(row)
        if self._is_logged(row["iteration"]):
            self.log.write(row)

    def _save(self) -> None:
        if self.run is None:
            return
        training_checkpoint.save(checkpoint.path_for(self.run.checkpoints, self.state.iteration), self.state)
        # That which the last rollback returned to, and those before, stay while another one may need them.
        back_to = self.state.back_to if self.state.is_suspect(self.state.iteration) else None
        since = 0 if back_to is None else back_to + 1
        self.saved_at = self.state.iteration
        with self.ranks.together():
            if self.written is not None:
                checkpoint.prune(self.run.checkpoints, self.settings.keep_checkpoints, since)
            if self.written is not None or self.state.is_sharded:
                self._draw_picture()

    def _draw_picture(self) -> None:
        try:
            self.preview.draw(self.written)
            self.log.add_picture(self.state.iteration)
        except ChainDiverged as error:  # its chains may be longer than those of training, which continues
            self.reporter.say(f"no picture of iteration {self.state.iteration}: {error}")

    def _finish(self, run: RunFolder, stopped: bool) -> None:
        """Draws the curves and prints the paths of the run's files."""
        if has_plots() and self.history:
            try:
                save_training_plot(self.history, run.training)
            except Exception as error:  # an installation may be broken in any way
                self.reporter.say(f"no training.png: matplotlib does not work ({type(error).__name__}: {error})")
        elif self.history:
            self.reporter.say("training.png and TensorBoard events are not written: pip install 'fastlangevin[plots]'")
        if stopped:
            self.reporter.say(
                f"stopped after iteration {self.state.iteration} of {self.last}, checkpoint saved; to continue in "
                f"Python: resume=True, out={str(run.folder)!r}"
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
        self.reporter.say(f"done: {self.state.iteration} iterations")
        for what, path in made.items():
            if path.exists():
                self.reporter.say(f"  {what:12} {path}")


def describe(state: TrainingState) -> str:
    n = sum(p.numel() for p in state.model.parameters())
    shape = "×".join(map(str, state.data.event_shape))
    plan = state.sampler.plan_for(state.device)
    kind = type(state.sampler).__name__
    steps = f"{state.sampler.n_steps} {kind} steps ({state.settings.sample_steps} to sample)"
    ranks = f", {state.ranks.size} ranks" if state.ranks.size > 1 else ""
    own = "" if state.optimization.is_default else f"; optimizer {state.optimization.name}, with an lr of its own"
    return (
        f"{state.data.name}: {len(state.data):,} items of {shape}; {type(state.model).__name__} with {n:,} parameters, "
        f"{steps}; on {plan.device}{ranks}, engine {plan.engine}, backend {plan.backend}{own}"
    )
