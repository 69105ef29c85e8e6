"""The score of convolutions with LeakyReLU, and a Langevin step along it, in twice as many kernels as there are layers.

Between kernels there are only activations, one bit of sign for each, and gradients, which take the activations' place.
All products are the tensor cores', in fp16, bf16 or tf32; sums are float32.
"""

from .launches import DTYPES, Packed, Workspace, pack, score, step_, unsupported

__all__ = ["DTYPES", "Packed", "Workspace", "pack", "score", "step_", "unsupported"]
