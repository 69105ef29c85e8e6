"""Training by short-run MCMC as a module of PyTorch Lightning, and a callback that draws samples."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from .. import noise
from ..display.pictures import save_grid
from ..errors import ChainDiverged
from ..extras import require
from ..network.target import note_log_density
from ..runs import checks, piecewise, sampler_options
from ..runs.settings import DECLARATIONS
from ..samplers import continued
from ..samplers.langevin import Langevin
from ..samplers.preserve import aside
from ..samplers.replay_buffer import ReplayBuffer
from ..samplers.sharded_buffer import ShardedReplayBuffer
from ..training import losses
from ..training.gap_history import GapHistory
from ..training.guard import Guard
from ..training.optimizers import MakeOptimizer
from ..validation import check_int, dtype_and_shape

if TYPE_CHECKING:
    import pytorch_lightning as library
else:  # the package "lightning" has classes of its own, which do not go with those of "pytorch_lightning"
    _other = "lightning.pytorch" in sys.modules and "pytorch_lightning" not in sys.modules
    library = require("lightning.pytorch" if _other else "pytorch_lightning", "lightning")

__all__ = ["SampleGrid", "ShortRunEBM"]

_STATE = "fastlangevin"  # its key in a checkpoint
_CAPACITY = 10_000  # of a buffer, as in `train`
_UNBOUNDED = (-1.0, 1.0)  # the interval of data where the states have no bounds


class ShortRunEBM(library.LightningModule):
    """A log-density f learned by short-run MCMC, as by `fl.train`, in a Trainer of Lightning. A training step of a
    batch x⁺ of data:

        x⁺ ← x⁺ + data_noise·z
        x⁻ = K steps of the sampler from p0, from the data or from the buffer (`start`)
        loss = mean f(x⁻) - mean f(x⁺) + energy_penalty·mean(f(x⁺)² + f(x⁻)²)

    Batches are states, (B, *event) floating point, scaled to the interval that p0 covers, (-1, 1) without bounds; of a
    tuple or list the first entry counts. On the same batches the weights are those of `fl.train` with these settings:
    noise, chains and draws from the buffer are functions of the seed and of counters, which are part of Lightning's
    checkpoints, as is the buffer, so that a resumed run continues with the noise of an uninterrupted one.

    A run that diverges is stopped as by `fl.train`, on CUDA one training step later, and never rolled back: to continue
    from a checkpoint of Lightning is the caller's decision.

    It logs energy_data, energy_samples and energy_gap, as `fl.train` does. Limits on the gradient, accumulation,
    averages of weights and checkpoints are those of Lightning. `predict_step` takes initial states and returns the last
    states of chains; `module.sampler.sample(shape)` draws those too.

    On several ranks each runs the chains of its own batches, which must be of one size on all of them, as Lightning's
    distributed sampler makes them with ``drop_last=True``; the buffer is one `ShardedReplayBuffer`.

    Args:
        model: f, from (B, *event) to B numbers, high where data is likely.
        sampler: options of the sampler, as for `fl.train`, and its "kind". Those that are not given are the paper's:
            100 steps of `Langevin` with step_size 1 and noise_std 0.01.
        start: the initial states of chains: "noise" for p0, "data" for the batch, "buffer" for last states of earlier
            chains.
        buffer: options of `ReplayBuffer` for start="buffer", as for `fl.train`.
        data_noise: standard deviation of the noise added to the data: a number, or pairs (training step, value).
        energy_penalty: weight of the penalty on squared energies.
        kl_weight: weight of the KL term through the last step of `Langevin`.
        lr, adam_betas: of Adam.
        optimizer: a function of the list of parameters that returns an optimiser, or one and a scheduler, which steps
            after each training step. None: Adam.
        max_energy_gap, max_relative_gap, max_saturation: limits, beyond which training has diverged, as for `fl.train`;
            infinity for none.
        seed: 64 bits, of all noise.

    Attributes:
        sampler: the sampler of f.
        buffer: the replay buffer, from the first training step with start="buffer" on; else None.
        iteration: the number of training steps so far.

    Raises:
        ImportError: (by the import) pytorch-lightning, the extra "lightning", is not installed.
        TypeError, ValueError: an argument that is not as above; the message names it.
        ChainDiverged: (by a step) a state is not finite at the end of its chain.
        TrainingDiverged: (by a step, a checkpoint or the end) energies are not finite or too far apart, or samples are
            saturated.

    Examples:
        >>> from fastlangevin.adapters.lightning import ShortRunEBM
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 16), torch.nn.SiLU(), torch.nn.Linear(16, 1))
        >>> module = ShortRunEBM(net, sampler={"n_steps": 10, "step_size": 0.1, "noise_std": 0.1})
        >>> module.predict_step(torch.zeros(4, 2)).shape  # `Trainer(…).fit(module, loader)` trains it
        torch.Size([4, 2])
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        sampler: dict[str, Any] | None = None,
        start: Literal["noise", "data", "buffer"] = "noise",
        buffer: dict[str, Any] | None = None,
        data_noise: piecewise.PiecewiseConstant = 0.03,
        energy_penalty: float = 0.0,
        kl_weight: float = 0.0,
        lr: float = 1e-4,
        adam_betas: tuple[float, float] = (0.9, 0.999),
        optimizer: MakeOptimizer | None = None,
        max_energy_gap: float = DECLARATIONS["max_energy_gap"].default,
        max_relative_gap: float = DECLARATIONS["max_relative_gap"].default,
        max_saturation: float = DECLARATIONS["max_saturation"].default,
        seed: int = 1,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["model", "optimizer"])
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a module, got {type(model).__name__}")
        defaults, given = DECLARATIONS["sampler"].default, sampler or {}
        sampler_options.check_noise(given, defaults)
        options = sampler_options.check("sampler", sampler_options.merged(defaults, given))
        kind, made_with = sampler_options.made_by(options)
        self._start = checks.one_of("noise", "data", "buffer")("start", start)
        if buffer and start != "buffer":
            raise ValueError(f"buffer needs start='buffer', got {start!r}")
        self._buffer_options = {"capacity": _CAPACITY, **checks.buffer("buffer", buffer or {})}
        self._p0 = {"init": made_with["init"], "bounds": made_with.get("bounds")}
        self._data_noise = checks.schedule("data_noise", data_noise)
        self._energy_penalty = piecewise.check_number("energy_penalty", energy_penalty)
        self._kl_weight = piecewise.check_number("kl_weight", kl_weight)
        if self._kl_weight and kind is not Langevin:
            raise ValueError(f"kl_weight must be 0 with {kind.__name__}, whose last step is not differentiable")
        self._lr = piecewise.check_number("lr", lr, positive=True)
        self._adam_betas, self._make_optimizer = checks.betas("adam_betas", adam_betas), optimizer
        self.seed = checks.seed("seed", seed)
        self.model = model
        note_log_density(model)
        self.sampler = kind(log_density=model, seed=self.seed, **made_with)  # type: ignore[call-arg]
        self._gaps = GapHistory()
        self._guard = Guard(
            self._gaps,
            self.sampler.bounds,
            data_range=self.sampler.bounds or _UNBOUNDED,
            max_energy_gap=checks.limit("max_energy_gap", max_energy_gap),
            max_relative_gap=checks.limit("max_relative_gap", max_relative_gap),
            max_saturation=checks.limit("max_saturation", max_saturation),
        )
        self.buffer: ReplayBuffer | None = None
        self._stored_buffer: dict[str, Any] | None = None  # of a checkpoint, until the buffer is made
        self.iteration = 0
        self.event_shape: tuple[int, ...] | None = None  # of the last batch

    def forward(self, x: Tensor) -> Tensor:
        """The log-densities (B,) of (B, *event) states, up to a constant."""
        return self.model(x.to(next(self.model.parameters()).dtype))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x_data = _states(batch)
        self.event_shape = tuple(x_data.shape[1:])
        offset = self.global_rank * len(x_data)
        z = noise.normal(
            x_data.shape,
            seed=self.seed,
            step=self.iteration,
            stream=noise.Stream.DATA_NOISE,
            offset=offset * x_data[0].numel(),
            device=x_data.device,
        )
        x_data = torch.add(x_data, z.to(x_data.dtype), alpha=piecewise.at(self._data_noise, self.iteration))
        x0, velocity, slots = self._first_states(x_data, offset)
        x_kl = None
        if self._kl_weight:
            assert isinstance(self.sampler, Langevin)
            x_kl = self.sampler.with_last_step(x0, chain_offset=offset)
            x, velocity = x_kl.detach(), None
        else:
            x, velocity, _ = continued.run(self.sampler, x0, velocity=velocity, chain_offset=offset)
        f_data, f_samples = self(x_data), self(x)
        loss = losses.contrastive(f_data, f_samples, self._energy_penalty)
        if x_kl is not None:
            dtype = next(self.model.parameters()).dtype
            loss = loss + self._kl_weight * losses.kl_through_samples(self.model, x_kl.to(dtype))
        if self.buffer is not None:
            self.buffer.store(x, slots, velocity=velocity)
        energies = -f_data.detach().mean(), -f_samples.detach().mean()
        self.log_dict(
            {"energy_data": energies[0], "energy_samples": energies[1], "energy_gap": energies[0] - energies[1]}
        )
        self.iteration += 1
        watched = self._guard.watch(*energies, x)
        if self._world_size > 1:  # all ranks stop at one step
            watched = self.trainer.strategy.reduce(watched, reduce_op="mean")
        self._guard.look(self.iteration, watched)
        return loss

    def on_train_end(self) -> None:
        self._guard.look_at_all()

    def predict_step(self, batch: Any, batch_idx: int = 0, dataloader_idx: int = 0) -> Tensor:
        """The last states of chains from the states of a batch."""
        x0 = _states(batch)
        return self.sampler(x0, chain_offset=self.global_rank * len(x0))

    def configure_optimizers(self) -> Any:
        parameters = list(self.model.parameters())
        if self._make_optimizer is None:
            beta1, beta2 = self._adam_betas
            return torch.optim.Adam(parameters, lr=self._lr, betas=(beta1, beta2))
        made = self._make_optimizer(parameters)
        if not isinstance(made, (tuple, list)):
            return made
        optimizer, scheduler = made
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._guard.look_at_all()
        state: dict[str, Any] = {
            "iteration": self.iteration,
            "sampler": self.sampler.state_dict(),
            "gaps": self._gaps.state_dict(),
        }
        buffer = self._stored_buffer if self.buffer is None else self.buffer.state_dict()
        checkpoint[_STATE] = state if buffer is None else {**state, "buffer": buffer}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        state = checkpoint.get(_STATE)
        if state is None:
            raise ValueError(f"checkpoint must be one of a ShortRunEBM, with the entry {_STATE!r}")
        self.sampler.load_state_dict(state["sampler"])
        self._guard.forget()
        self._gaps.load_state_dict(state.get("gaps", {}))
        self.iteration = state["iteration"]
        self.buffer, self._stored_buffer = None, state.get("buffer")

    @property
    def _world_size(self) -> int:
        return 1 if self._trainer is None else self.trainer.world_size

    def _first_states(self, x_data: Tensor, offset: int) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """The initial states of the chains, the velocities that they continue with, and their slots if needed."""
        if self._start == "data":
            return x_data, None, None
        if self._start == "noise":
            return self.sampler.initial(x_data.shape, chain_offset=offset, device=x_data.device), None, None
        if self.buffer is None:
            self.buffer = self._new_buffer(x_data)
        draw = self.buffer.sample(len(x_data) * self._world_size)
        return draw.x, draw.velocity, draw.slots if self.buffer.policy == "indexed" else None

    def _new_buffer(self, x_data: Tensor) -> ReplayBuffer:
        options = {"velocities": continued.has_velocities(self.sampler), "seed": self.seed, **self._p0}
        made = ReplayBuffer if self._world_size == 1 else ShardedReplayBuffer
        buffer = made(shape=x_data.shape[1:], device=x_data.device, **options, **self._buffer_options)
        if self._stored_buffer is not None:
            buffer.load_state_dict(self._stored_buffer)
            self._stored_buffer = None
        return buffer


class SampleGrid(library.Callback):
    """Writes a grid of samples of a `ShortRunEBM` to folder/epoch-0001.png, … at the end of epochs. They start from the
    same noise each time, and advance no counter of the training. Rank 0 alone draws.

    Args:
        folder: which is made.
        every_n_epochs: between two pictures.
        n: number of samples.
        n_steps: of their chains. None: as many as in training.
        value_range: (lo, hi), the values that are drawn black and white.

    Warns:
        RuntimeWarning: chains that diverge, of which there is no picture.

    Raises:
        TypeError, ValueError: an argument that is not as above, a module of another class, or states that are no
            images, (1, H, W) or (3, H, W).

    Examples:
        >>> from fastlangevin.adapters.lightning import SampleGrid
        >>> pictures = SampleGrid("pictures", every_n_epochs=5, n=16)
        >>> pictures.every_n_epochs  # `Trainer(callbacks=[pictures])` draws them
        5
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        every_n_epochs: int = 1,
        n: int = 64,
        n_steps: int | None = None,
        value_range: tuple[float, float] = (-1.0, 1.0),
    ) -> None:
        self.folder, self.value_range = Path(folder), value_range
        self.every_n_epochs, self.n = check_int("every_n_epochs", every_n_epochs), check_int("n", n)
        self.n_steps = n_steps if n_steps is None else check_int("n_steps", n_steps)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        epoch = trainer.current_epoch + 1
        if epoch % self.every_n_epochs or not trainer.is_global_zero:
            return
        if not isinstance(pl_module, ShortRunEBM):
            raise TypeError(f"SampleGrid needs a ShortRunEBM, got {type(pl_module).__name__}")
        assert pl_module.event_shape is not None
        sampler = pl_module.sampler
        try:
            with aside(pl_module.model, pl_module.device):
                x = sampler.sample(
                    (self.n, *pl_module.event_shape),
                    n_steps=self.n_steps,
                    step=0,
                    chain_offset=0,
                    device=pl_module.device,
                )
                sampler.check()
        except ChainDiverged as error:  # its chains may be longer than those of training, which continues
            warnings.warn(f"no picture of epoch {epoch}: {error}", RuntimeWarning, stacklevel=2)
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        save_grid(x, self.folder / f"epoch-{epoch:04d}.png", value_range=self.value_range)


def _states(batch: Any) -> Tensor:
    x = batch[0] if isinstance(batch, (tuple, list)) and batch else batch
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.dim() < 2 or not len(x):
        raise TypeError(
            "batch must be a floating-point tensor (B, *event), or a tuple that begins with one, got "
            f"{dtype_and_shape(x)}"
        )
    return x
