"""Writes a recorded evaluation as a native program.

A call becomes nodes: views of numbers, or pointwise operations that are put off until something else needs their
result; then all that it depends on becomes one instruction, which also stores what later calls read.

Every tensor that depends on the state must have a dimension that counts the samples. An operator that reads numbers of
several samples has no rule here, or a rule that declines, so that each sample is computed by itself.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..graph import Call, Graph, Ref
from .instructions import MOST_DIMS, MOST_VALUES, Instruction, Pointwise, Step
from .operations import Op
from .values import Buffer, Constant, Node, NotLowered, Packing, Shape, View, dense_strides

Rule = Callable[["Lowering", Call], Any]
RULES: dict[Any, Rule] = {}
_MOST_STEPS, _MOST_OPERANDS = 24, 12
_TILE_WORDS = 2**17  # 512 KiB


def rule(*operators: Any) -> Callable[[Rule], Rule]:
    """Registers how calls of some operators are written: as the node of the result, or a tuple of those of several."""

    def register(function: Rule) -> Rule:
        for operator in operators:
            RULES[operator] = function
        return function

    return register


class Lowering:
    """Writes instructions call by call.

    Args:
        calls: whose results change from step to step, in order.
        outputs: the values that are needed after them.
        widest_tile: output channels of products whose weights may lie together.

    Attributes:
        graph: of the calls.
        n_samples: in a batch.
        instructions: so far.
        state: the buffer of a sample's state.
        reductions: the results of those so far, by what is reduced: norms begin with the same mean.
    """

    def __init__(self, graph: Graph, calls: Sequence[Call], outputs: Sequence[int], widest_tile: int) -> None:
        self.graph, self.instructions, self._outputs = graph, list[Instruction](), tuple(outputs)
        self._widest_tile = widest_tile
        shape = graph.values[graph.state].shape
        if not shape:
            raise NotLowered("the state has no dimension of samples")
        self.n_samples = shape[0]
        self._calls, self._now = calls, -1
        self._readers = defaultdict[int, list[int]](list)
        for i, call in enumerate(calls):
            for value in call.reads:
                self._readers[value].append(i)
        self._nodes: dict[int, Node] = {}
        self._constants: dict[object, Constant] = {}
        self.reductions: dict[object, View] = {}
        self.state = Buffer(math.prod(shape[1:]))
        sample = self.sample_shape(shape, 0)
        self._bind(graph.state, Node(sample, 0, View(self.state, sample, dense_strides(sample))))

    def run(self) -> list[View]:
        """Writes all calls. Returns the outputs in row-major order, each all of a buffer."""
        for i, call in enumerate(self._calls):
            self._now = i
            found = RULES.get(call.operator)
            if found is None or call.writes:
                raise NotLowered(f"there is no kernel for {call.operator}")
            results = found(self, call)
            for value, node in zip(call.results, (results,) if call.is_single else results, strict=True):
                if value is not None and node is not None:
                    self._bind(value, node)
        self._now = len(self._calls)
        return [self._result(value) for value in self._outputs]

    def _result(self, value: int) -> View:
        if value not in self._nodes:
            raise NotLowered("a result does not depend on the state")
        node = self._nodes[value]
        if self.n_samples > 1 and node.batch != 0:
            raise NotLowered("a result's first dimension does not count the samples")
        view = self.stored(node, tuple(range(len(node.shape))))
        is_own = view.is_whole and isinstance(view.base, Buffer) and view.base is not self.state
        if not is_own or not _same(view.strides, dense_strides(view.shape), view.shape):
            view = self.copied(node)
        return view

    def _bind(self, value: int, node: Node) -> None:
        if self.graph.values[value].dtype not in (torch.float32, torch.bool):
            raise NotLowered(f"a tensor is {self.graph.values[value].dtype}")
        node.values.append(value)
        self._nodes[value] = node

    # What rules read.

    def shape(self, ref: Any) -> Shape:
        """Of all samples."""
        return self.graph.values[ref if isinstance(ref, int) else ref.index].shape

    def varies(self, ref: Any) -> bool:
        return isinstance(ref, Ref) and ref.index in self._nodes

    def node(self, ref: Any) -> Node:
        """Of an argument that depends on the state.

        Raises:
            NotLowered: it does not.
        """
        if not self.varies(ref):
            raise NotLowered("an operator has a constant where its kernel needs a tensor that depends on the state")
        return self._nodes[ref.index]

    def constant(
        self,
        refs: Sequence[Ref],
        make: Callable[..., Tensor] | Packing,
        size: int,
        key: object = None,
        is_per_sample: bool = False,
    ) -> Constant:
        """`make` of fixed values, `size` float32 numbers; the same one for equal keys."""
        for ref in refs:
            if self.varies(ref):
                raise NotLowered("an operator has a tensor that depends on the state where its kernel needs a constant")
        values = tuple(r.index for r in refs)
        key = (values, key, is_per_sample) if key is not None else object()
        if key not in self._constants:
            self._constants[key] = Constant(values, make, is_per_sample, size)
        return self._constants[key]

    def numbers(self, values: Sequence[float], shape: Shape) -> Node:
        """A constant of the same numbers at each call."""
        tensor = torch.tensor(values, dtype=torch.float32)
        return self.of_view(View(self.constant((), lambda: tensor, tensor.numel()), shape, dense_strides(shape)), 0)

    def operand(self, ref: Any, batch_from_right: int, batch_size: int) -> Node:
        """An argument that is read element by element, for a result whose dimension of samples is the given one, which
        has batch_size elements of each sample.
        """
        if isinstance(ref, Node):
            return ref
        if self.varies(ref):
            return self._nodes[ref.index]
        shape = self.shape(ref)
        place = len(shape) - batch_from_right
        whole = self.n_samples * batch_size
        if place < 0 or shape[place] == 1 or self.n_samples == 1:
            constant = self.constant((ref,), _float, math.prod(shape), "dense")
            return self.of_view(View(constant, shape, dense_strides(shape)), max(place, 0))
        if shape[place] != whole or math.prod(shape[:place]) != 1:
            raise NotLowered("a constant's dimension of samples is not the state's")
        sample = self.sample_shape(shape, place)
        constant = self.constant((ref,), _float, math.prod(sample), "dense", is_per_sample=True)
        return self.of_view(View(constant, sample, dense_strides(sample)), place)

    def sample_shape(self, shape: Sequence[int], batch: int) -> Shape:
        """The part of a shape that belongs to one sample."""
        if not shape:
            if self.n_samples > 1:
                raise NotLowered("a number depends on several samples")
            return ()
        if shape[batch] % self.n_samples:
            raise NotLowered("a dimension does not count the samples")
        return (*shape[:batch], shape[batch] // self.n_samples, *shape[batch + 1 :])

    # What rules make.

    def of_view(self, view: View, batch: int) -> Node:
        return Node(view.shape, batch, view)

    def buffer(self, shape: Shape, order: Sequence[int] | None = None) -> View:
        return View(Buffer(math.prod(shape)), shape, dense_strides(shape, order))

    def pointwise(self, op: Op, *operands: Any, number: float = 0.0, other: float = 0.0) -> Node:
        """An operation on nodes or arguments that are broadcast."""
        known = (o if isinstance(o, Node) else self._nodes.get(o.index) for o in operands)
        varying = [n for n in known if n is not None and not _is_constant(n)]
        if not varying:
            raise NotLowered("an operator has only constants")
        first = max(varying, key=lambda n: len(n.shape))
        from_right, size = first.batch_from_right, first.shape[first.batch] if first.shape else 1
        nodes = tuple(self.operand(o, from_right, size) for o in operands)
        rank = max(len(n.shape) for n in nodes)
        for n in nodes:
            if self.n_samples > 1 and not _is_constant(n) and n.batch_from_right != from_right:
                raise NotLowered("an operator pairs samples with each other")
        try:
            shape = np.broadcast_shapes(*(n.shape for n in nodes))  # torch's own imports SymPy
        except ValueError:
            raise NotLowered("an operator broadcasts over samples") from None
        node = Node(shape, max(rank - from_right, 0), None, op, nodes, float(number), float(other))
        node = self._folded(node)
        for operand in node.operands:
            operand.users.append(node)
        return node

    def number(self, value: float, shape: Shape, batch: int) -> Node:
        return Node(shape, batch, None, Op.constant, (), float(value))

    def like(self, node: Node, shape: Sequence[int]) -> Node:
        """A stored node repeated along dimensions of size 1."""
        if node.is_number:
            return self.number(node.number, tuple(shape), node.batch + len(shape) - len(node.shape))
        return self.of_view(self.stored(node).expanded(shape), node.batch + len(shape) - len(node.shape))

    @staticmethod
    def _folded(node: Node) -> Node:
        """With numbers in place of tensors that repeat them."""
        if len(node.operands) != 2 or node.op not in (Op.add, Op.multiply, Op.divide):
            return node
        a, b = node.operands
        if b.is_number and a.shape == node.shape:
            op = {Op.add: Op.add_number, Op.multiply: Op.multiply_number, Op.divide: Op.divide_number}[node.op]
            number = b.number * (node.number if node.op is Op.add else 1.0)
        elif a.is_number and b.shape == node.shape and (node.op is not Op.add or node.number == 1.0):
            op = {Op.add: Op.add_number, Op.multiply: Op.multiply_number, Op.divide: Op.number_divide}[node.op]
            number, a = a.number, b
        else:
            return node
        return Node(node.shape, node.batch, None, op, (a,), number)

    # Instructions.

    def tile(self, n_terms: int) -> int:
        """Output channels of sums of n terms whose weights lie together: they stay in the L2 cache for all rows."""
        return next((t for t in (64, 32) if t <= self._widest_tile and n_terms * t <= _TILE_WORDS), 16)

    def emit(self, instruction: Instruction) -> None:
        self.instructions.append(instruction)

    def stored(self, node: Node, order: Sequence[int] | None = None) -> View:
        """The numbers of a node; computed now, in an order of the dimensions, unless they are stored already."""
        if node.view is None:
            self._compute(node, order, None)
        assert node.view is not None
        return node.view

    def copied(self, node: Node, order: Sequence[int] | None = None) -> View:
        """A copy in an order of the dimensions; None: row-major."""
        order = tuple(range(len(node.shape))) if order is None else order
        copy = self.pointwise(Op.move, node)
        return self.stored(copy, order)

    def put(self, node: Node, into: View) -> None:
        """Computes a node into a part of a buffer."""
        self._compute(self.pointwise(Op.move, node), None, into)

    def natural_order(self, node: Node) -> tuple[int, ...]:
        """The order in which a node's numbers lie, or would lie: that of its operands."""
        rank = len(node.shape)
        if node.view is not None:
            return node.view.order or tuple(range(rank))
        orders = [
            n.view.order
            for n in self._leaves(self._cone(node))
            if n.view is not None and n.shape == node.shape and isinstance(n.view.base, Buffer)
        ]
        found = [o for o in orders if o is not None]
        plain = tuple(range(rank))
        return next((o for o in found if not _same_order(o, plain, node.shape)), plain)

    def _cone(self, root: Node) -> list[Node]:
        """What is computed with a node: the operations of its shape that it depends on, in order."""
        cone: list[Node] = []

        def visit(node: Node) -> None:
            if node not in cone and node.view is None and (node is root or node.shape == root.shape):
                for operand in node.operands:
                    visit(operand)
                cone.append(node)

        visit(root)
        return cone

    @staticmethod
    def _leaves(cone: Sequence[Node]) -> list[Node]:
        operands = [o for n in cone for o in n.operands if o not in cone]
        return list(dict.fromkeys(operands))

    def _compute(self, root: Node, order: Sequence[int] | None, into: View | None) -> None:
        while True:
            cone = self._cone(root)
            leaves = self._leaves(cone)
            small = next((n for n in leaves if n.view is None and not n.is_number), None)
            if small is not None:
                self.stored(small)
            elif len(cone) > _MOST_STEPS or len(leaves) > _MOST_OPERANDS:
                # The deepest operand that makes about half of the work.
                parts = [n for n in cone if n is not root and not n.is_number]
                self.stored(min(parts, key=lambda n: abs(len(self._cone(n)) - len(cone) / 2)))
            else:
                break
        order = self.natural_order(root) if order is None else tuple(order)
        kept = [n for n in cone if n is not root and not n.is_number and self._is_needed(n, cone)]
        outputs = [*kept, root]
        views = [self.buffer(root.shape, order) for _ in kept]
        views.append(self.buffer(root.shape, order) if into is None else into)
        self.emit(_pointwise(cone, leaves, outputs, views, order))
        for node in cone:
            node.is_absorbed = True
        for node, view in zip(outputs, views, strict=True):
            node.view = view

    def _is_needed(self, node: Node, cone: Sequence[Node]) -> bool:
        """Whether an instruction after this one reads a node that this one computes."""
        if any(v in self._outputs or (self._readers[v] and self._readers[v][-1] >= self._now) for v in node.values):
            return True
        return any(u.view is None and not u.is_absorbed and u not in cone for u in node.users)


def _pointwise(
    cone: Sequence[Node], leaves: Sequence[Node], outputs: Sequence[Node], views: Sequence[View], order: Sequence[int]
) -> Pointwise:
    """The instruction that computes a cone in an order of the dimensions, of whose nodes some are stored."""
    shape = cone[-1].shape
    if len(shape) > MOST_DIMS:
        raise NotLowered(f"a tensor has more than {MOST_DIMS} dimensions")
    read = [n for n in leaves if n.view is not None]
    operands = [n.view.expanded(shape).permuted(order) for n in read if n.view is not None]
    places: dict[Node, int] = {n: i for i, n in enumerate(read)}
    targets = {n: len(read) + i for i, n in enumerate(outputs)}
    first_slot = len(read) + len(outputs)
    numbers = [n for n in leaves if n.view is None]
    steps, free, n_slots = list[Step](), list[int](), 0
    todo = [*numbers, *cone]
    last = {o: i for i, n in enumerate(todo) for o in n.operands}
    for i, node in enumerate(todo):
        sources = tuple(places[o] for o in node.operands)
        if node in targets:
            places[node] = targets[node]
        else:
            if not free:
                free.append(first_slot + n_slots)
                n_slots += 1
            places[node] = free.pop()
        steps.append(Step(int(node.op), sources, places[node], node.number, node.other))
        free += [places[o] for o in dict.fromkeys(node.operands) if last[o] == i and places[o] >= first_slot]
    if first_slot + n_slots > MOST_VALUES:
        raise NotLowered("an expression has too many values")
    permuted = tuple(shape[d] for d in order)
    return Pointwise(permuted, tuple(operands), tuple(v.permuted(order) for v in views), n_slots, tuple(steps))


def with_defaults(args: Sequence[Any], defaults: Sequence[Any]) -> tuple[Any, ...]:
    """The arguments of an operator with the defaults of those that are not given."""
    return (*args, *defaults[len(args) :])


def _is_constant(node: Node) -> bool:
    return node.view is not None and isinstance(node.view.base, Constant)


def _float(tensor: Tensor) -> Tensor:
    return tensor.to(torch.float32)


def _same(a: Shape, b: Shape, shape: Shape) -> bool:
    return all(x == y for x, y, n in zip(a, b, shape, strict=True) if n > 1)


def _same_order(a: Sequence[int], b: Sequence[int], shape: Shape) -> bool:
    return [d for d in a if shape[d] > 1] == [d for d in b if shape[d] > 1]
