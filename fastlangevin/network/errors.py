"""Why an energy is not recognised."""

from __future__ import annotations


class NotRecognised(ValueError):
    """The energy is not seen to be a sequence of known layers; the message says what is in the way."""


class WrongShape(NotRecognised):
    """What is in the way may be the shape of the states."""
