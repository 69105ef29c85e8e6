"""The score of convolutions with LeakyReLU, and Langevin steps along it, in two kernels per layer.

Kernels exchange only activations, one sign bit for each, and gradients, which overwrite the activations. All products
are computed on tensor cores, in fp16, bf16 or tf32; sums are float32.
"""

from .launches import DTYPES, Packed, Workspace, pack, unsupported
from .steps import energy, energy_and_score, run_chain_, score, step_

__all__ = [
    "DTYPES",
    "Packed",
    "Workspace",
    "energy",
    "energy_and_score",
    "pack",
    "run_chain_",
    "score",
    "step_",
    "unsupported",
]
