"""What an evaluation changes other than by torch's operators: found, and undone."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from .dependencies import Dependencies
from .errors import NotRecognised

ADDS_TO_GRADIENTS = "an evaluation adds to .grad of tensors that the energy reads: torch.autograd.grad does not"


class Snapshot:
    """What the modules, lists, dicts and objects hold that an energy reads, and the gradients of its tensors.

    Args:
        dependencies: of the energy and its arguments.
    """

    def __init__(self, dependencies: Dependencies) -> None:
        self._modules = [(m, _attributes(m)) for m in dependencies.modules]
        self._containers = [
            (kind, c, list(c) if isinstance(c, list) else dict(c)) for kind, c in dependencies.containers()
        ]
        self._gradients = [(t, t.grad) for t in dependencies.tensors if t.is_leaf]

    def assigned(self) -> list[tuple[int, str, Tensor, Tensor]]:
        """The tensors that were assigned to attributes of modules: the module's place, the name, the tensor, and what
        the attribute was before.

        Raises:
            NotRecognised: something else was changed.
        """
        for kind, container, held in self._containers:
            if not _same(container, held):
                raise NotRecognised(f"an evaluation of the energy changes a {kind} that it reads")
        if any(tensor.grad is not gradient for tensor, gradient in self._gradients):
            raise NotRecognised(ADDS_TO_GRADIENTS)
        assigned = []
        for i, (module, before) in enumerate(self._modules):
            now = _attributes(module)
            for name in sorted(before.keys() | now.keys()):
                if name in before and name in now and now[name] is before[name]:
                    continue
                old, new = before.get(name), now.get(name)
                if not isinstance(new, Tensor) or not isinstance(old, Tensor):
                    raise NotRecognised(f"an evaluation changes the attribute {name} of a {type(module).__name__}")
                assigned.append((i, name, new, old))
        return assigned

    def restore(self) -> None:
        for _, container, held in self._containers:
            if not _same(container, held):
                container.clear()
                container.extend(held) if isinstance(container, list) else container.update(held)
        for tensor, gradient in self._gradients:
            if tensor.grad is not gradient:
                tensor.grad = gradient
        for module, before in self._modules:
            for name in _attributes(module).keys() - before.keys():
                delattr(module, name)
            for name, value in before.items():
                part = holder(module, name)
                if part.get(name) is not value:
                    part[name] = value


def holder(module: nn.Module, name: str) -> dict[str, Any]:
    """The dict that holds an attribute of a module."""
    parts: tuple[dict[str, Any], ...] = (module._buffers, module._parameters)
    return next((d for d in parts if name in d), vars(module))


def _attributes(module: nn.Module) -> dict[str, Any]:
    return {**vars(module), **module._buffers, **module._parameters}


def _same(container: Any, old: Any) -> bool:
    """Whether two lists or dicts hold the same objects."""
    if len(container) != len(old):
        return False
    if isinstance(container, dict):
        return all(a is b and container[a] is old[b] for a, b in zip(container, old, strict=True))
    return all(a is b for a, b in zip(container, old, strict=True))
