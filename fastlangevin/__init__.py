"""Fast, reproducible Langevin sampling and short-run MCMC training of energy-based models.

sampler = fastlangevin.Langevin(log_density=network, n_steps=100, step_size=1.0, noise_std=0.01, seed=1)
x = sampler.sample((64, 3, 32, 32))
"""

from . import energies, models, noise, recipes
from .buffer import ReplayBuffer
from .checkpoint import CheckpointError
from .errors import BackendUnavailable, ChainDiverged, TrainingDiverged
from .evaluation import evaluate
from .fit import TrainResult
from .generation import Reconstruction, interpolate, reconstruct
from .loading import load
from .reproduction import Reproduction, reproduce
from .sampler import Langevin, Plan, Trace
from .training import train
from .update import langevin_update_

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
