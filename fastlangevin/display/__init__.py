"""Grids of images, plots, and progress on a terminal."""
