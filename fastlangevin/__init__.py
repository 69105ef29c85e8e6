"""Fast, reproducible Langevin sampling and short-run MCMC training of energy-based models.

sampler = fastlangevin.Langevin(log_density=network, n_steps=100, step_size=1.0, noise_std=0.01, seed=1)
x = sampler.sample((64, 3, 32, 32))
"""

from . import energies, models, noise, recipes
from .chains.update import langevin_update_
from .errors import BackendUnavailable, ChainDiverged, CheckpointError, TrainingDiverged
from .evaluation.evaluate import evaluate
from .reproduction.reproduce import Reproduction, reproduce
from .runs.opening import load
from .runs.result import TrainResult
from .samplers.generator import Reconstruction, interpolate, reconstruct
from .samplers.langevin import Langevin, Plan, Trace
from .samplers.replay_buffer import ReplayBuffer
from .training.train import train

__version__ = "0.1.0"

__all__ = [
    "BackendUnavailable",
    "ChainDiverged",
    "CheckpointError",
    "Langevin",
    "Plan",
    "Reconstruction",
    "ReplayBuffer",
    "Reproduction",
    "Trace",
    "TrainResult",
    "TrainingDiverged",
    "__version__",
    "energies",
    "evaluate",
    "interpolate",
    "langevin_update_",
    "load",
    "models",
    "noise",
    "recipes",
    "reconstruct",
    "reproduce",
    "train",
]
