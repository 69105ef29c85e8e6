"""Errors for energies that are not recognised."""

from __future__ import annotations


class NotRecognised(ValueError):
    """The energy is not recognised as a sequence of supported layers; the message gives the reason."""


class WrongShape(NotRecognised):
    """The energy is not recognised, possibly because of the shape of the states."""
