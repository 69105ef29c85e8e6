"""Records an evaluation of an energy and its gradient, as the operators that torch's dispatcher is asked for.

Gradients, hooks, parametrizations and code of any library are recorded by the operators that they call, so that every
operation is known and its derivative is torch's own.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .effects import ADDS_TO_GRADIENTS
from .errors import NotRecognised
from .graph import Attribute, Call, Graph, Ref, Value
from .operator_mode import OperatorMode
from .purity import Impure, Purity

_aten = torch.ops.aten
# Their schemas do not say that they write to the running averages.
_BATCH_NORMS = {_aten.native_batch_norm.default, _aten.cudnn_batch_norm.default, _aten.miopen_batch_norm.default}
_UNSEEN = {
    Tensor.data.__set__: "the energy assigns .data of a tensor: copy_ does the same",  # type: ignore[attr-defined]
    **{
        function: f"the energy takes a tensor out of torch with {function.__name__}"
        for function in (
            *(Tensor.numpy, Tensor.__array__, Tensor.tolist, Tensor.data_ptr, Tensor.untyped_storage),
            *(Tensor.__dlpack__, Tensor.storage),
        )
    },
}
_MOVING = {"set_", "resize_", "resize_as_"}


class GraphRecorder(OperatorMode):
    """While it is active, runs every operator and records it.

    Args:
        state: the tensor that stands for the state.
        tensors: those that exist before, and that the energy may read.
    """

    def __init__(self, state: Tensor, tensors: Sequence[Tensor]) -> None:
        super().__init__()
        self._values: list[Value] = []
        self._calls: list[Call] = []
        self._sources: dict[int, int | Tensor] = {}
        self._index: dict[int, int] = {}
        self._storages: dict[int, int] = {}
        self._kept: list[object] = []  # so that no id and no address is used twice
        self._tensors: dict[int, Tensor] = {}  # of the sources
        self._before: dict[int, tuple[Tensor, Tensor]] = {}  # and values of those that were written to
        self._fixed: set[int] = set()  # values that depend on constants alone
        self._refusal: Exception | None = None
        self.state = self._add(state)
        self._known = {id(t): i for i, t in enumerate(tensors)}
        self._gradients = {id(t.grad) for t in tensors if t.is_leaf and t.grad is not None} - self._known.keys()

    def __torch_dispatch__(
        self, operator: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        with self.refusing():
            return self._run(operator, args, kwargs or {})

    @contextlib.contextmanager
    def refusing(self) -> Iterator[None]:
        """Keeps the reason if the body refuses to go on, since the energy may catch the error."""
        try:
            yield
        except (NotRecognised, Impure) as error:
            self._refusal = self._refusal or error
            raise

    def raise_if_declined(self) -> None:
        """Raises the first error of the recorder or of the Python checks, if there was one."""
        if self._refusal is not None:
            raise self._refusal from None

    def _run(self, operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if operator is _aten.lift_fresh.default and id(args[0]) not in self._index:
            self._lift(args[0])
        self._check(operator, args, kwargs)
        recorded_args, recorded_kwargs = self._refs(args), self._refs(kwargs)
        written = _written(operator, args, kwargs)
        self._save(written)
        output = operator(*args, **kwargs)
        results = output if isinstance(output, (tuple, list)) else (output,)
        if not any(isinstance(r, Tensor) for r in results) and operator._schema.returns:
            return output  # of constants alone, which _check has seen to
        writes = frozenset(self._index[id(tensor)] for tensor in written)
        read = [self._index[id(t)] for t in _tensors((args, kwargs))]
        found = tuple(self._add(r) if isinstance(r, Tensor) else None for r in results)
        if all(i in self._fixed for i in read):
            self._fixed.update(i for i in found if i is not None)
        elif writes:
            self._fixed -= writes
        is_single = not isinstance(output, (tuple, list))
        self._calls.append(Call(operator, recorded_args, recorded_kwargs, found, is_single, writes))
        return output

    def index(self, tensor: Tensor) -> int:
        """The value of a tensor that an operator returned or read."""
        if id(tensor) not in self._index:
            raise NotRecognised("the energy returns a tensor that does not come from torch's operators")
        return self._index[id(tensor)]

    def index_if_read(self, tensor: Tensor) -> int | None:
        return self._index.get(id(tensor))

    def writes_to(self, value: int) -> bool:
        """Whether an operator wrote to the memory of a value."""
        storage = self._values[value].storage
        return any(self._values[w].storage == storage for call in self._calls for w in call.writes)

    def restore(self) -> None:
        """Gives tensors that existed before and were written to their values back."""
        with torch.no_grad():
            for tensor, value in self._before.values():
                tensor.copy_(value)

    def _save(self, written: Sequence[Tensor]) -> None:
        for tensor in written:
            storage = self._values[self._index[id(tensor)]].storage
            for index, source in self._sources.items():
                if isinstance(source, int) and self._values[index].storage == storage and index not in self._before:
                    whole = self._tensors[index]
                    self._before[index] = (whole, whole.detach().clone())

    def graph(self, score: Tensor, energies: Tensor | None, attributes: Sequence[Attribute]) -> Graph:
        return Graph(
            tuple(self._values),
            tuple(self._calls),
            self.state,
            self._sources,
            self.index(score),
            None if energies is None else self.index(energies),
            tuple(attributes),
        )

    def _check(self, operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        name = getattr(operator, "__name__", str(operator))
        if not isinstance(operator, torch._ops.OpOverload):
            raise NotRecognised(f"{name} is not an operator of tensors")
        if operator.namespace == "fastlangevin":
            raise NotRecognised("the energy draws noise or runs chains of its own")
        name = operator.overloadpacket.__name__
        if name in _MOVING:
            raise NotRecognised(f"the energy gives a tensor other memory with {name}")
        tags = operator.tags
        if torch.Tag.nondeterministic_seeded in tags and _draws(operator, args, kwargs):
            raise NotRecognised(f"the energy draws random numbers with {name}")
        if torch.Tag.dynamic_output_shape in tags and not _has_fixed_shape(operator, args):
            raise NotRecognised(f"the shape of what {name} returns depends on the values of tensors")
        reads_values = torch.Tag.data_dependent_output in tags
        if reads_values and not all(self._index.get(id(t)) in self._fixed for t in _tensors((args, kwargs))):
            raise NotRecognised("the energy reads values of tensors in Python (item, float, bool, if)")

    def _refs(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            if id(value) not in self._index:
                self._introduce(value)
            return Ref(self._index[id(value)])
        if isinstance(value, (list, tuple)):
            return type(value)(self._refs(item) for item in value)
        if isinstance(value, dict):
            return {key: self._refs(item) for key, item in value.items()}
        return value

    def _introduce(self, tensor: Tensor) -> None:
        """Adds a tensor that no recorded operator returned."""
        if id(tensor) in self._gradients:
            raise NotRecognised(ADDS_TO_GRADIENTS)
        if id(tensor) not in self._known:
            raise NotRecognised("the energy reads a tensor that is neither the network's nor an argument")
        index = self._add(tensor)
        self._sources[index] = self._known[id(tensor)]
        self._tensors[index] = tensor.detach()

    def _lift(self, tensor: Tensor) -> None:
        """Adds a tensor made from Python values."""
        index = self._add(tensor)
        self._sources[index] = tensor.detach().clone()
        self._fixed.add(index)

    def _add(self, tensor: Tensor) -> int:
        if id(tensor) in self._index:
            return self._index[id(tensor)]
        if type(tensor) not in (Tensor, nn.Parameter, nn.Buffer) or tensor.layout != torch.strided:
            raise NotRecognised(f"the energy computes with a {type(tensor).__name__} of layout {tensor.layout}")
        storage = tensor.untyped_storage()._cdata
        number = self._storages.setdefault(storage, len(self._storages))
        index = len(self._values)
        self._values.append(
            Value(
                tuple(tensor.shape), tensor.stride(), int(tensor.storage_offset()), tensor.dtype, number, tensor.device
            )
        )
        self._index[id(tensor)] = index
        self._kept += (tensor, tensor.untyped_storage())
        return index


class PythonWatcher(TorchFunctionMode):
    """Checks the Python code that torch's functions are called from."""

    def __init__(self, purity: Purity, recorder: GraphRecorder) -> None:
        super().__init__()
        self._purity, self._recorder = purity, recorder

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        with self._recorder.refusing():
            if function in _UNSEEN:
                raise NotRecognised(_UNSEEN[function])
            self._purity.check_frames(sys._getframe(1))
        return function(*args, **(kwargs or {}))


def _draws(operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether an operator that may draw random numbers does so with these arguments: attention draws for dropout."""
    for i, argument in enumerate(operator._schema.arguments):
        if argument.name == "dropout_p":
            return bool(args[i] if i < len(args) else kwargs.get("dropout_p", argument.default_value))
    return True


def _has_fixed_shape(operator: Any, args: tuple[Any, ...]) -> bool:
    """Whether it indexes by integers: by a mask, the shape of its result depends on values."""
    if operator is not _aten.index.Tensor:
        return False
    return all(i is None or i.dtype not in (torch.bool, torch.uint8) for i in args[1])


def _written(operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """The tensors that the operator writes to."""
    if operator in _BATCH_NORMS and args[5]:
        return [a for a in args[3:5] if a is not None]
    written: list[Tensor] = []
    for i, argument in enumerate(operator._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            written += _tensors(args[i] if i < len(args) else kwargs.get(argument.name))
    return written


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
