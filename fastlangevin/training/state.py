"""The state of a training, and one iteration of it."""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from .. import noise
from ..data.dataset import Data
from ..data.order import batch_indices
from ..data.ranges import UNIT, rescaled
from ..network.target import note_log_density
from ..runs import training_checkpoint
from ..runs.folder import RunFolder
from ..runs.opening import make_sampler
from ..runs.settings import Settings
from ..samplers.langevin import Langevin
from ..samplers.preserve import aside
from ..samplers.replay_buffer import ReplayBuffer
from ..transfer import to_device
from . import losses
from .gap_history import GapHistory
from .optimizers import MakeOptimizer, TrainingOptimizer

_PREVIEW, _SHOWN = 64, 8  # samples and data items in the picture
_LOOKED_AT = 8  # chains along which gradient_strength is measured


class Step(NamedTuple):
    """The result of one iteration: mean energies, the chains' first and last states (B, *event), their classes (B,) if
    they have any, their noise step, and lr. `watched` is what the guard looks at, if it is known already.
    """

    energy_data: Tensor
    energy_samples: Tensor
    x0: Tensor
    x: Tensor
    classes: tuple[Tensor, ...]
    noise_step: int
    lr: float
    watched: Tensor | None = None


@dataclass
class TrainingState:
    """The state that iterations change. `runs.training_checkpoint` saves and restores it.

    Attributes:
        attempt: number of rollbacks. It and the seed determine the noise, the order of the data and the draws from the
            buffer; each rollback halves lr.
        is_reading: whether an iteration is reading its data, or has failed to.
        diverged_at, back_to: the iteration at which the last rollback was needed, and the one that it returned to.
    """

    settings: Settings
    data: Data
    model: nn.Module
    device: torch.device
    make_optimizer: MakeOptimizer | None = None
    iteration: int = 0
    attempt: int = 0
    is_reading: bool = False
    diverged_at: int | None = None
    back_to: int | None = None
    gaps: GapHistory = field(default_factory=GapHistory)

    def __post_init__(self) -> None:
        settings = self.settings
        self.model = self.model.to(self.device)
        learned = [p for p in self.model.parameters() if p.requires_grad]
        if not learned:
            raise ValueError(f"model must have parameters that require grad, but {type(self.model).__name__} has none")
        self.dtype = learned[0].dtype
        self.sampler = Langevin(log_density=self.model, seed=settings.seed, **settings.langevin_options())
        self.buffer = self._make_buffer()
        note_log_density(self.model, settings.n_classes)
        self.averaged: AveragedModel | None = None
        if settings.ema:
            self.averaged = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(settings.ema))
            note_log_density(self.averaged.module, settings.n_classes)
        self.optimization = TrainingOptimizer(list(self.model.parameters()), settings, self.make_optimizer)
        self.optimizer = self.optimization.optimizer

    def check(self) -> None:
        """Raises for a model or an option that does not work, before anything is written."""
        with aside(self.model, self.device):
            indices = torch.arange(2, device="cpu") % len(self.data)
            x, classes = self.items(indices), self.classes(indices)
            self.sampler.score(x, *classes)
            f = self.log_density(x, *classes)
            if not f.isfinite().all():
                raise ValueError("model must return finite values, got NaN or infinity for the first two items")
            learned = [p for p in self.model.parameters() if p.requires_grad]
            torch.autograd.grad(f.mean(), learned, allow_unused=True)

    def log_density(self, x: Tensor, *classes: Tensor) -> Tensor:
        return self.model(x.to(self.dtype), *classes)

    def step(self) -> Step:
        """One iteration of `train`."""
        settings, i = self.settings, self.iteration
        with self.reading():
            indices = batch_indices(len(self.data), settings.batch_size, seed=self.seed, iteration=i)
            x_data, classes = self.items(indices), self.classes(indices)
        z = noise.normal(x_data.shape, seed=self.seed, step=i, stream=noise.Stream.DATA_NOISE, device=self.device)
        self.add_data_noise_(x_data, z)
        noise_step = self.sampler.step
        x0, slots = self._first_states(x_data, *classes)
        if settings.kl_weight:
            x_kl = self.sampler.with_last_step(x0, *classes)
            x = x_kl.detach()
        else:
            x = self.sampler(x0, *classes)
        if self.buffer is not None:
            self.buffer.store(x, slots, *(classes if slots is None else ()))
        energy_data, energy_samples = self.backward(x_data, x, classes, x_kl if settings.kl_weight else None)
        lr = self.lr
        self.optimization.step(settings, i, self.lr_scale)
        if self.averaged is not None:
            self.averaged.update_parameters(self.model)
        self.iteration += 1
        return Step(energy_data, energy_samples, x0, x, classes, noise_step, lr)

    def add_data_noise_(self, x_data: Tensor, z: Tensor) -> None:
        """Adds the noise of the next iteration to its data, in place; z: standard normal."""
        x_data.add_(z, alpha=self.settings.data_noise_at(self.iteration))
        if self.settings.clamp_data:
            x_data.clamp_(*self.settings.sampler["bounds"])

    def backward(
        self, x_data: Tensor, x: Tensor, classes: tuple[Tensor, ...], x_kl: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Computes the loss and its gradient. Returns the mean energies of data and samples.

        Args:
            x_kl: the samples, with a graph through the last step, if the loss has the KL term.
        """
        settings = self.settings
        f_data, f_samples = self.log_density(x_data, *classes), self.log_density(x, *classes)
        loss = losses.contrastive(f_data, f_samples, settings.energy_penalty)
        if x_kl is not None:
            loss = loss + settings.kl_weight * losses.kl_through_samples(self.model, x_kl.to(self.dtype), *classes)
        self.optimizer.zero_grad()
        loss.backward()
        if settings.max_grad_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), settings.max_grad_norm)
        return -f_data.detach().mean(), -f_samples.detach().mean()

    @torch.no_grad()
    def average_(self) -> None:
        """Updates the average of the weights like `AveragedModel.update_parameters`, but for its counter, which is on
        the host and no part of a captured iteration.
        """
        if self.averaged is None:
            return
        means, current = ([p.detach() for p in m.parameters()] for m in (self.averaged.module, self.model))
        if self.averaged.n_averaged == 0:
            torch._foreach_copy_(means, current)
        else:
            torch._foreach_lerp_(means, current, 1 - self.settings.ema)
        for mean, buffer in zip(self.averaged.module.buffers(), self.model.buffers(), strict=True):
            mean.copy_(buffer)

    def gradient_strengths(self, step: Step) -> tuple[Tensor, Tensor]:
        """Returns mean |∇ log p| at the samples, and v, its mean at up to four states of each of up to eight chains.

        v is the average gradient magnitude of Nijkamp et al. (AAAI 2020, arXiv:1903.12370, Section 3). The noise should
        be of the same size.
        """
        with aside(self.model, self.device):
            last = torch.linalg.vector_norm(self.sampler.score(step.x, *step.classes).flatten(1).float(), dim=1).mean()
            every = -(-self.sampler.n_steps // 4)
            classes = [y[:_LOOKED_AT] for y in step.classes]
            trace = self.sampler.trace(step.x0[:_LOOKED_AT], *classes, every=every, step=step.noise_step)
            return last, trace.score_norm[:-1].mean()

    @property
    def seed(self) -> int:
        """The seed of all randomness since the last rollback."""
        if self.attempt == 0:
            return self.settings.seed
        digest = hashlib.blake2b(f"{self.settings.seed},{self.attempt}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "little")

    @property
    def lr(self) -> float:
        """The learning rate of the next iteration."""
        return self.optimization.lr(self.settings, self.iteration, self.lr_scale)

    @property
    def lr_scale(self) -> float:
        """The factor by which rollbacks have lowered the learning rate."""
        return 0.5**self.attempt

    def is_suspect(self, iteration: int) -> bool:
        """Whether an iteration follows a rollback so soon that the state that it returned to may be the cause.

        "Soon" is until as many checkpoints as are kept lie after the iteration that diverged, and until it is four
        times as far from that state: at half the lr a divergence takes longer to develop.
        """
        if self.diverged_at is None or self.back_to is None:
            return False
        kept = self.settings.keep_checkpoints * self.settings.checkpoint_every
        return iteration <= self.diverged_at + max(kept, 3 * (self.diverged_at - self.back_to))

    def roll_back(self, path: Path, diverged_at: int) -> None:
        """Restores a checkpoint, with a new seed and half the lr."""
        attempt = self.attempt + 1
        training_checkpoint.restore(self, training_checkpoint.load(path))
        self.attempt, self.diverged_at, self.back_to = attempt, diverged_at, self.iteration
        self._reseed()

    def resume(self, stored: training_checkpoint.TrainingCheckpoint) -> None:
        """Restores a checkpoint of the run. Its settings may have changed."""
        training_checkpoint.restore(self, stored)
        if self.settings.seed != stored.settings.seed:
            self._reseed()

    def start_from(self, stored: training_checkpoint.TrainingCheckpoint) -> None:
        """Starts at iteration 0 with the weights, optimiser, buffer and noise counter of another run's checkpoint."""
        training_checkpoint.restore(self, stored)
        self.iteration, self.attempt, self.diverged_at, self.back_to = 0, 0, None, None
        self.gaps.load_state_dict({})
        self._reseed()

    def _reseed(self) -> None:
        self.sampler.load_state_dict({**self.sampler.state_dict(), "seed": self.seed})
        if self.buffer is not None:
            self.buffer.load_state_dict({**self.buffer.state_dict(), "seed": self.seed})

    def draw_picture(self, run: RunFolder) -> None:
        """Writes samples of the current model, always from the same initial noise."""
        preview = self.for_sampling(graph=False)  # capturing a graph costs more than one picture saves
        with aside(preview.target.module, self.device):
            n, columns, classes = self._preview_classes()
            shape = (n, *self.data.event_shape)
            preview.load_state_dict({**preview.state_dict(), "seed": self.settings.seed})
            x = preview.sample(shape, *classes, step=0, device=self.device)
            run.write_samples(x, self._shown_data, self.settings.range, columns)

    @functools.cached_property
    def _shown_data(self) -> Tensor:
        """Items spread over the data, or one of each class, for the picture."""
        n, labels = self._preview_classes()[1] or _SHOWN, self.data.labels
        indices = torch.arange(n, device="cpu") * len(self.data) // n
        if self.settings.n_classes == n and labels is not None:
            first = [(labels == y).nonzero().flatten()[:1] for y in range(n)]
            indices = torch.stack(
                [found[0] if len(found) else index for found, index in zip(first, indices, strict=True)]
            )
        return self.items(indices)

    def for_sampling(self, **options: Any) -> Langevin:
        """Returns a sampler with `sample_steps` steps, of the averaged weights if any, else of the learned ones."""
        model = self.model if self.averaged is None else self.averaged.module
        return make_sampler(model, self.settings, self.settings.sample_steps, self.sampler.state_dict(), options)

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Marks the part of an iteration in which an error leaves the state, and torch's random state, as it was."""
        random, self.is_reading = torch.get_rng_state(), True
        try:
            yield
        except BaseException:
            torch.set_rng_state(random)
            raise
        self.is_reading = False

    def items(self, indices: Tensor) -> Tensor:
        """Returns items, (n, *event), as a new tensor in the interval `data_range`."""
        return rescaled(to_device(self.data.batch(indices), self.device), UNIT, self.settings.range)

    def classes(self, indices: Tensor) -> tuple[Tensor, ...]:
        """The classes of items, int64 (n,), if the run is class-conditional."""
        if not self.settings.class_conditional:
            return ()
        assert self.data.labels is not None
        return (to_device(self.data.labels[indices], self.device),)

    def _preview_classes(self) -> tuple[int, int | None, tuple[Tensor, ...]]:
        """The number of samples in the picture, its columns, and their classes: one to a column, if they are few."""
        n_classes = self.settings.n_classes
        if n_classes is None:
            return _PREVIEW, None, ()
        columns = n_classes if n_classes <= 2 * _SHOWN else _SHOWN
        n = _SHOWN * columns
        return n, columns, (torch.arange(n, device=self.device) % n_classes,)

    def _first_states(self, x_data: Tensor, *classes: Tensor) -> tuple[Tensor, Tensor | None]:
        """Returns the initial states of the chains, and their slots in the buffer if its policy needs them."""
        if self.settings.start == "data":
            return x_data, None
        if self.buffer is None:
            return self.sampler.initial(x_data.shape, device=self.device), None
        draw = self.buffer.sample(len(x_data), *classes)
        return draw.x, draw.slots if self.buffer.policy == "indexed" else None

    def _make_buffer(self) -> ReplayBuffer | None:
        if self.settings.start != "buffer":
            return None
        p0 = {"init": self.settings.sampler.get("init", "uniform"), "bounds": self.settings.sampler.get("bounds")}
        shape, options = tuple(self.data.event_shape), self.settings.buffer
        if n := self.settings.n_classes:
            options = {**options, "per_class": n, "capacity": max(n, options["capacity"] // n * n)}
        return ReplayBuffer(shape=shape, seed=self.settings.seed, device=self.device, **p0, **options)
