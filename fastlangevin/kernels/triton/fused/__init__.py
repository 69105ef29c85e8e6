"""Fused calls of recorded graphs (network/graph_fusion.py): pointwise operators, means over 2×2 pixels and, in half
precision, the convolution or input gradient before them, in one kernel.
"""

from .launches import Launch, computes, unsupported

__all__ = ["Launch", "computes", "unsupported"]
