"""The state of a training, and one iteration of it."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from .. import noise
from ..data.dataset import Data, in_memory
from ..data.order import batch_indices
from ..data.ranges import UNIT, rescaled
from ..distributed import sharded_module
from ..distributed.ranks import Ranks
from ..distributed.sharded_module import ShardedAverage
from ..network.target import note_log_density
from ..runs import training_checkpoint
from ..runs.opening import make_sampler
from ..runs.settings import Settings
from ..samplers import continued
from ..samplers.base import Sampler
from ..samplers.langevin import Langevin
from ..samplers.preserve import aside
from ..samplers.replay_buffer import ReplayBuffer
from ..samplers.sharded_buffer import ShardedReplayBuffer
from ..transfer import to_device
from . import losses
from .gap_history import GapHistory
from .optimizers import MakeOptimizer, TrainingOptimizer

_PATIENCE = 5.0  # seconds that a rank with an error waits for others that may be in an exchange of a sharded network
_LOOKED_AT = 8  # chains along which gradient_strength is measured

Watch = Callable[[Tensor, Tensor, Tensor], Tensor]


class Step(NamedTuple):
    """The result of one iteration: mean energies; of this rank's chains the first states (n, *event), the velocities
    that they continue with, if any, the last states and their classes (n,), if they have any; their noise step; lr;
    what the guard looks at; and the share of this rank's proposals that were accepted, if they were tested.
    """

    energy_data: Tensor
    energy_samples: Tensor
    x0: Tensor
    velocity: Tensor | None
    x: Tensor
    classes: tuple[Tensor, ...]
    noise_step: int
    lr: float
    watched: Tensor
    acceptance: Tensor | None


@dataclass
class TrainingState:
    """The state that iterations change. `runs.training_checkpoint` saves and restores it.

    Each of several ranks reads its part of the batch, runs the chains that stand there, and has all weights. What a
    method of `ranks` does, all ranks do.

    Attributes:
        part: the indices in the batch of this rank's items and chains.
        attempt: number of rollbacks. It and the seed determine the noise, the order of the data and the draws from the
            buffer; each rollback halves lr.
        is_reading: whether an iteration is reading its data, or has failed to.
        diverged_at, back_to: the iteration at which the last rollback was needed, and the one that it returned to.
        is_sharded: whether the network's parameters are divided over the ranks (fully_shard). All ranks then run every
            chain and every forward pass in step.
    """

    settings: Settings
    data: Data
    model: nn.Module
    device: torch.device
    make_optimizer: MakeOptimizer | None = None
    ranks: Ranks = field(default_factory=Ranks)
    iteration: int = 0
    attempt: int = 0
    is_reading: bool = False
    diverged_at: int | None = None
    back_to: int | None = None
    gaps: GapHistory = field(default_factory=GapHistory)

    def __post_init__(self) -> None:
        settings = self.settings
        self.is_sharded = sharded_module.is_sharded(self.model)
        if self.is_sharded:
            self._check_sharded()
        else:
            self.model = self.model.to(self.device)
        learned = [p for p in self.model.parameters() if p.requires_grad]
        if not learned:
            raise ValueError(f"model must have parameters that require grad, but {type(self.model).__name__} has none")
        self.dtype = learned[0].dtype
        self.part = self.ranks.part(settings.batch_size)
        self.sampler = settings.make_sampler(self.model, settings.seed)
        self.buffer = self._make_buffer()
        note_log_density(self.model, settings.n_classes)
        self.averaged: AveragedModel | ShardedAverage | None = None
        if settings.ema and self.is_sharded:
            self.averaged = ShardedAverage(self.model, settings.ema)
        elif settings.ema:
            self.averaged = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(settings.ema))
            note_log_density(self.averaged.module, settings.n_classes)
        self.optimization = TrainingOptimizer(list(self.model.parameters()), settings, self.make_optimizer)
        self.optimizer = self.optimization.optimizer

    def _check_sharded(self) -> None:
        """Raises ValueError for a sharded network or a setting of it that does not work."""
        sharded_module.check(self.model, self.ranks, self.device)
        sharded_module.reshard(self.model)
        if self.settings.kl_weight:
            raise ValueError(
                "kl_weight must be 0 for a network whose parameters are sharded, got "
                f"{self.settings.kl_weight:g}: fully_shard has no second derivatives"
            )

    def check(self) -> None:
        """Raises for a model or an option that does not work, before anything is written."""
        with self._together(), aside(self.model, self.device):
            indices = torch.arange(2, device="cpu") % len(self.data)
            x, classes = self.items(indices), self.classes(indices)
            self.sampler.score(x, *classes)
            f = self.log_density(x, *classes)
            if not f.isfinite().all():
                raise ValueError("model must return finite values, got NaN or infinity for the first two items")
            # Others keep no gradient, so that optimisers pass over them.
            if self.is_sharded:
                self._learned = sharded_module.plain_parameters_of(self.model, f.mean())
                return
            learned = [p for p in self.model.parameters() if p.requires_grad]
            gradients = torch.autograd.grad(f.mean(), learned, allow_unused=True)
            self._learned = [p for p, gradient in zip(learned, gradients, strict=True) if gradient is not None]

    def share(self) -> None:
        """Gives all ranks rank 0's weights and buffers. Of a divided weight, ranks with the same part get one."""
        if self.is_sharded:
            sharded_module.reshard(self.model)
        models = [self.model] if self.averaged is None else [self.model, self.averaged.module]
        tensors = [t.detach() for m in models for t in (*m.parameters(), *m.buffers())]
        if isinstance(self.averaged, ShardedAverage):
            tensors += [mean for _, mean in self.averaged.named_parameters()]
        sharded_module.copy_replicas_(tensors)
        self.ranks.copy_from_main_([tensor for tensor in tensors if not sharded_module.is_divided(tensor)])

    def log_density(self, x: Tensor, *classes: Tensor) -> Tensor:
        return self.model(x.to(self.dtype), *classes)

    def step(self, watch: Watch) -> Step:
        """One iteration of `train`.

        Args:
            watch: of the guard: maps mean energies of data and samples, and the samples, to what it looks at.
        """
        settings, i, part = self.settings, self.iteration, self.part
        # Ranks do not wait for each other to read what is in memory.
        is_shared = self.ranks.size == 1 or not in_memory(self.data)
        with self.reading() if is_shared else contextlib.nullcontext():
            batch = batch_indices(len(self.data), settings.batch_size, seed=self.seed, iteration=i)
            indices = batch[part.start : part.stop]
            x_data, classes = self.items(indices), self.classes(indices)
        offset = part.start * x_data[0].numel()
        z = noise.normal(
            x_data.shape, seed=self.seed, step=i, stream=noise.Stream.DATA_NOISE, offset=offset, device=self.device
        )
        self.add_data_noise_(x_data, z)
        noise_step = self.sampler.step
        in_batch = self.classes_of_buffer(batch)
        x0, velocity, slots = self._first_states(x_data, in_batch)
        with self._together():
            if settings.kl_weight:
                assert isinstance(self.sampler, Langevin)
                x_kl = self.sampler.with_last_step(x0, *classes, chain_offset=part.start)
                x, last_velocity, acceptance = x_kl.detach(), None, None
            else:
                with self.all_finite(self.sampler):
                    x, last_velocity, acceptance = continued.run(
                        self.sampler, x0, *classes, velocity=velocity, chain_offset=part.start
                    )
            energies = self.backward(x_data, x, classes, x_kl if settings.kl_weight else None)
            watched = watch(*energies, x)
        if self.buffer is not None:
            y = in_batch[0] if in_batch and slots is None else None
            self.buffer.store(x, slots, y, last_velocity)
        if self.ranks.size > 1:
            watched *= self.weight
            self.ranks.sum_([*self.gradients(), watched])
            energies = (watched[0], watched[1])
        self.limit_gradient_()
        lr = self.lr
        self.optimization.step(settings, i, self.lr_scale)
        if self.averaged is not None:
            self.averaged.update_parameters(self.model)
        self.iteration += 1
        return Step(*energies, x0, velocity, x, classes, noise_step, lr, watched, acceptance)

    def _together(self) -> contextlib.AbstractContextManager[None]:
        """`ranks.together` for a body that evaluates the network."""
        return self.ranks.together(_PATIENCE if self.is_sharded else None)

    @contextlib.contextmanager
    def all_finite(self, sampler: Sampler) -> Iterator[None]:
        """Makes chains of a sharded network that diverge on one rank an error of all before any goes on."""
        if not self.is_sharded:
            yield
            return
        with self._together():
            yield
            sampler.check()

    @property
    def weight(self) -> float:
        """The part of the batch that is this rank's. A mean over the batch is the sum of the ranks' weighted means."""
        return len(self.part) / self.settings.batch_size

    def add_data_noise_(self, x_data: Tensor, z: Tensor) -> None:
        """Adds the noise of the next iteration to its data, in place; z: standard normal."""
        x_data.add_(z, alpha=self.settings.data_noise_at(self.iteration))
        if self.settings.clamp_data:
            x_data.clamp_(*self.settings.sampler["bounds"])

    def backward(
        self, x_data: Tensor, x: Tensor, classes: tuple[Tensor, ...], x_kl: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Computes the loss and its gradient; of several ranks, their terms of it. Returns the mean energies of this
        rank's data and samples.

        Args:
            x_kl: the samples, with a graph through the last step, if the loss has the KL term.
        """
        settings = self.settings
        f_data, f_samples = self.log_density(x_data, *classes), self.log_density(x, *classes)
        loss = losses.contrastive(f_data, f_samples, settings.energy_penalty)
        if x_kl is not None:
            loss = loss + settings.kl_weight * losses.kl_through_samples(self.model, x_kl.to(self.dtype), *classes)
        self.optimizer.zero_grad()
        (loss if self.ranks.size == 1 else loss * self.weight).backward()
        return -f_data.detach().mean(), -f_samples.detach().mean()

    def gradients(self) -> list[Tensor]:
        """The gradients of the weights, the same on all ranks in number and shapes: zeros where this rank has none.

        Without those of weights that are divided, which `fully_shard` sums.
        """
        for parameter in self._learned:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        return [parameter.grad for parameter in self._learned if parameter.grad is not None]

    def limit_gradient_(self) -> None:
        if self.settings.max_grad_norm is None:
            return
        if self.is_sharded:
            sharded_module.clip_grad_norm_(list(self.model.parameters()), self.settings.max_grad_norm)
        else:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.max_grad_norm)

    @torch.no_grad()
    def average_(self) -> None:
        """Updates the average of the weights like `AveragedModel.update_parameters`, but for its counter, which is on
        the host and no part of a captured iteration.
        """
        if self.averaged is None:
            return
        assert isinstance(self.averaged, AveragedModel)
        means, current = ([p.detach() for p in m.parameters()] for m in (self.averaged.module, self.model))
        if self.averaged.n_averaged == 0:
            torch._foreach_copy_(means, current)
        else:
            torch._foreach_lerp_(means, current, 1 - self.settings.ema)
        for mean, buffer in zip(self.averaged.module.buffers(), self.model.buffers(), strict=True):
            mean.copy_(buffer)

    def metrics_of_chains(self, step: Step) -> dict[str, Tensor]:
        """Returns "score_norm", mean |∇ log p| at the samples; "gradient_strength", v, its mean at up to four states of
        each of up to eight chains; and of proposals that were tested "acceptance", the share that was accepted.

        v is the average gradient magnitude of Nijkamp et al. (AAAI 2020, arXiv:1903.12370, Section 3). The noise should
        be of the same size.
        """
        n, n_looked_at = len(self.part), min(_LOOKED_AT, self.settings.batch_size)
        here = min(max(n_looked_at - self.part.start, 0), n)
        names = ("score_norm", "gradient_strength", *(() if step.acceptance is None else ("acceptance",)))
        means = torch.zeros(len(names), device=self.device)
        with self._together(), aside(self.model, self.device), self.all_finite(self.sampler):
            norms = torch.linalg.vector_norm(self.sampler.score(step.x, *step.classes).flatten(1).float(), dim=1)
            means[0] = norms.mean() * self.weight
            n_traced = max(here, 1) if self.is_sharded else here  # at least one chain, for the others' sake
            if n_traced:
                every = -(-self.sampler.n_steps // 4)
                classes = [y[:n_traced] for y in step.classes]
                velocity = None if step.velocity is None else step.velocity[:n_traced]
                where = {"chain_offset": self.part.start, "step": step.noise_step}
                trace = continued.trace(
                    self.sampler, step.x0[:n_traced], *classes, velocity=velocity, every=every, **where
                )
            if here:
                means[1] = trace.score_norm[:-1].mean() * (here / n_looked_at)
        if step.acceptance is not None:
            means[2] = step.acceptance * self.weight
        self.ranks.sum_([means])
        return dict(zip(names, means.unbind(), strict=True))

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
            self.buffer.reseed(self.seed)

    def for_sampling(self, **options: Any) -> Sampler:
        """Returns a sampler with `sample_steps` steps, of the averaged weights if any, else of the learned ones."""
        model = self.model if self.averaged is None else self.averaged.module
        return make_sampler(model, self.settings, self.settings.sample_steps, self.sampler.state_dict(), options)

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Marks the part of an iteration in which an error leaves the state, and torch's random state, as it was."""
        random, self.is_reading = torch.get_rng_state(), True
        try:
            with self.ranks.together():
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

    def classes_of_buffer(self, batch: Tensor) -> tuple[Tensor, ...]:
        """The classes of the whole batch, where a buffer keeps each apart; for one of several ranks on the host."""
        if self.buffer is None or not self.settings.class_conditional:
            return ()
        assert self.data.labels is not None
        return (self.data.labels[batch],) if self.ranks.size > 1 else self.classes(batch)

    def _first_states(
        self, x_data: Tensor, in_batch: tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Returns the initial states of the chains, the velocities that they continue with, if any, and the slots of
        the batch if the buffer's policy needs them.
        """
        if self.settings.start == "data":
            return x_data, None, None
        if self.buffer is None:
            return self.sampler.initial(x_data.shape, chain_offset=self.part.start, device=self.device), None, None
        draw = self.buffer.sample(self.settings.batch_size, *in_batch)
        return draw.x, draw.velocity, draw.slots if self.buffer.policy == "indexed" else None

    def _make_buffer(self) -> ReplayBuffer | ShardedReplayBuffer | None:
        if self.settings.start != "buffer":
            return None
        p0 = {"init": self.settings.sampler.get("init", "uniform"), "bounds": self.settings.sampler.get("bounds")}
        shape, options = tuple(self.data.event_shape), self.settings.buffer
        if n := self.settings.n_classes:
            options = {**options, "per_class": n, "capacity": max(n, options["capacity"] // n * n)}
        velocities = continued.has_velocities(self.sampler)
        given = {"shape": shape, "velocities": velocities, "seed": self.settings.seed, "device": self.device}
        options = {**given, **p0, **options}
        return ReplayBuffer(**options) if self.ranks.size == 1 else ShardedReplayBuffer(group=self.ranks, **options)
