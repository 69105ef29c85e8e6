"""Data to learn from: arrays, files, folders of images and torch Datasets, all scaled to [-1, 1]."""

from .dataset import Data
from .sources import digits, load_data

__all__ = ["Data", "digits", "load_data"]
