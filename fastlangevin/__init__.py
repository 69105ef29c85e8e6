"""Fast, reproducible Langevin sampling and short-run MCMC training of energy-based models.

sampler = fastlangevin.Langevin(log_density=network, n_steps=100, step_size=1.0, noise_std=0.01, seed=1)
x = sampler.sample((64, 3, 32, 32))
"""

import importlib
from typing import TYPE_CHECKING

from . import energies, models, noise
from .chains.preconditioner import RMSprop
from .chains.update import langevin_update_
from .errors import BackendUnavailable, ChainDiverged, CheckpointError, RankFailed, TrainingDiverged
from .network.inputs import PerStep
from .samplers.annealed import AnnealedLangevin
from .samplers.hmc import HMC
from .samplers.inpaint import inpaint
from .samplers.langevin import Langevin
from .samplers.mala import MALA
from .samplers.plan import Plan
from .samplers.replay_buffer import ReplayBuffer
from .samplers.tempering import ParallelTempering
from .samplers.trace import Trace
from .samplers.underdamped import Underdamped
from .version import __version__

if TYPE_CHECKING:
    from . import adapters, diagnostics, distributed, recipes
    from .data import Data, digits, load_data
    from .diagnostics.annealed_importance import LogPartition, log_partition
    from .display.pictures import save_grid
    from .evaluation.evaluate import evaluate
    from .reproduction.reproduce import Reproduction, reproduce
    from .runs.opening import load
    from .runs.result import TrainResult
    from .samplers.generator import Reconstruction, interpolate, reconstruct
    from .samplers.sharded_buffer import ShardedReplayBuffer
    from .training.train import train
else:
    # What chains do not need is imported when it is first read, and with it PIL, rich, yaml and safetensors.
    _HOMES = {
        "Data": "data",
        "LogPartition": "diagnostics.annealed_importance",
        "Reconstruction": "samplers.generator",
        "Reproduction": "reproduction.reproduce",
        "ShardedReplayBuffer": "samplers.sharded_buffer",
        "TrainResult": "runs.result",
        "adapters": "adapters",
        "diagnostics": "diagnostics",
        "digits": "data",
        "distributed": "distributed",
        "evaluate": "evaluation.evaluate",
        "interpolate": "samplers.generator",
        "load": "runs.opening",
        "load_data": "data",
        "log_partition": "diagnostics.annealed_importance",
        "recipes": "recipes",
        "reconstruct": "samplers.generator",
        "reproduce": "reproduction.reproduce",
        "save_grid": "display.pictures",
        "train": "training.train",
    }

    def __getattr__(name):
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        home = importlib.import_module(f"{__name__}.{_HOMES[name]}")
        globals()[name] = value = home if _HOMES[name] == name else getattr(home, name)
        return value

    def __dir__():
        return sorted({*globals(), *__all__})


__all__ = [
    "HMC",
    "MALA",
    "AnnealedLangevin",
    "BackendUnavailable",
    "ChainDiverged",
    "CheckpointError",
    "Data",
    "Langevin",
    "LogPartition",
    "ParallelTempering",
    "PerStep",
    "Plan",
    "RMSprop",
    "RankFailed",
    "Reconstruction",
    "ReplayBuffer",
    "Reproduction",
    "ShardedReplayBuffer",
    "Trace",
    "TrainResult",
    "TrainingDiverged",
    "Underdamped",
    "__version__",
    "adapters",
    "diagnostics",
    "digits",
    "distributed",
    "energies",
    "evaluate",
    "inpaint",
    "interpolate",
    "langevin_update_",
    "load",
    "load_data",
    "log_partition",
    "models",
    "noise",
    "recipes",
    "reconstruct",
    "reproduce",
    "save_grid",
    "train",
]
