"""Whether chains have converged, how far their averages can be trusted, and log Z."""

from .convergence import summary
from .page import report

__all__ = ["report", "summary"]
