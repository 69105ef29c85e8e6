"""Training beside a loop written out, one step of Adam at a time.

Adam divides a gradient by its own size: where one is 0 but for rounding, which is a library's affair, the step is ±lr.
So the loop's gradient is compared with training's, and then both step along the latter: to the same bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn


@contextmanager
def recorded_gradients() -> Iterator[list[list[Tensor]]]:
    """What each step of Adam within is given, one tensor a parameter."""
    gradients: list[list[Tensor]] = []
    step = torch.optim.Adam.step

    def spy(self, *args, **kwargs):
        gradients.append([p.grad.clone() for group in self.param_groups for p in group["params"]])
        return step(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.Adam, "step", spy)
        yield gradients


def step_along(adam: torch.optim.Adam, model: nn.Module, given: list[Tensor]) -> None:
    """A step along `given`, which the model's gradient must be: to 10^-3 of its norm, 10^4 roundings of float32. More
    than that could only come of a leaky ReLU that rounding takes across its kink, one of thousands in the mean.
    """
    difference, norm = (
        torch.cat([v.flatten() for v in values]).norm()
        for values in ([p.grad - g for p, g in zip(model.parameters(), given, strict=True)], given)
    )
    assert difference <= 1e-3 * norm and norm > 0
    for p, g in zip(model.parameters(), given, strict=True):
        p.grad = g.clone()
    adam.step()
