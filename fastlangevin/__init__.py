"""Fast, reproducible Langevin sampling and short-run MCMC training of energy-based models.

sampler = fastlangevin.Langevin(log_density=network, n_steps=100, step_size=1.0, noise_std=0.01, seed=1)
x = sampler.sample((64, 3, 32, 32))
"""

from . import energies, models, noise, recipes
from .checkpoint import CheckpointError
from .errors import BackendUnavailable, ChainDiverged
from .evaluation import evaluate
from .loading import load
from .sampler import Langevin, Plan, Trace
from .training import TrainResult, train
from .update import langevin_update_

__version__ = "0.1.0"

__all__ = [
    "BackendUnavailable",
    "ChainDiverged",
    "CheckpointError",
    "Langevin",
    "Plan",
    "Trace",
    "TrainResult",
    "__version__",
    "energies",
    "evaluate",
    "langevin_update_",
    "load",
    "models",
    "noise",
    "recipes",
    "train",
]
