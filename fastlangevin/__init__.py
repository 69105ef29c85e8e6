"""Fast, reproducible Langevin sampling and short-run MCMC training of energy-based models.

sampler = fastlangevin.Langevin(log_density=network, n_steps=100, step_size=1.0, noise_std=0.01, seed=1)
x = sampler.sample((64, 3, 32, 32))
"""

from . import energies, models, noise, recipes
from .chains.update import langevin_update_
from .data import Data, digits, load_data
from .display.pictures import save_grid
from .errors import BackendUnavailable, ChainDiverged, CheckpointError, TrainingDiverged
from .evaluation.evaluate import evaluate
from .network.inputs import PerStep
from .reproduction.reproduce import Reproduction, reproduce
from .runs.opening import load
from .runs.result import TrainResult
from .samplers.generator import Reconstruction, interpolate, reconstruct
from .samplers.inpaint import inpaint
from .samplers.langevin import Langevin
from .samplers.plan import Plan
from .samplers.replay_buffer import ReplayBuffer
from .samplers.trace import Trace
from .training.train import train

__version__ = "0.1.0"

__all__ = [
    "BackendUnavailable",
    "ChainDiverged",
    "CheckpointError",
    "Data",
    "Langevin",
    "PerStep",
    "Plan",
    "Reconstruction",
    "ReplayBuffer",
    "Reproduction",
    "Trace",
    "TrainResult",
    "TrainingDiverged",
    "__version__",
    "digits",
    "energies",
    "evaluate",
    "inpaint",
    "interpolate",
    "langevin_update_",
    "load",
    "load_data",
    "models",
    "noise",
    "recipes",
    "reconstruct",
    "reproduce",
    "save_grid",
    "train",
]
