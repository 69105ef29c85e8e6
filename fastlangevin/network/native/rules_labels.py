"""Rules of operators that read, or write to, one number for each sample, by its label."""

from __future__ import annotations

import torch
from torch import Tensor

from ..graph import Call, Ref
from .lowering import Lowering, rule
from .operations import Op
from .rules_reductions import reduced
from .values import Node, NotLowered, View

_aten = torch.ops.aten


@rule(_aten.gather.default)
def _gather(lo: Lowering, call: Call) -> Node:
    node, dim, index = lo.node(call.args[0]), *call.args[1:3]
    picked = lo.pointwise(Op.where, _chosen(lo, node, dim, index), node, lo.number(0.0, node.shape, node.batch))
    return reduced(lo, picked, [1], True)


@rule(_aten.scatter_add.default)
def _scatter_add(lo: Lowering, call: Call) -> Node:
    node, dim, index, added = lo.node(call.args[0]), *call.args[1:4]
    spread = lo.like(lo.node(added), node.shape)
    chosen = lo.pointwise(Op.where, _chosen(lo, node, dim, index), spread, lo.number(0.0, node.shape, node.batch))
    return lo.pointwise(Op.add, chosen, node, number=1.0)


def _chosen(lo: Lowering, node: Node, dim: int, index: Ref) -> Node:
    """1 at the label of each sample, else 0. index: (B, 1)."""
    n_samples, n_classes = lo.n_samples, node.shape[-1]
    if lo.varies(index) or len(node.shape) != 2 or dim % 2 != 1 or lo.shape(index) != (n_samples, 1):
        raise NotLowered("there is no kernel for indices other than one constant label for each sample")

    def make(index: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(index[:, 0], n_classes).float()

    constant = lo.constant((index,), make, n_classes, ("chosen", n_classes), is_per_sample=True)
    return lo.of_view(View(constant, (1, n_classes), (n_classes, 1)), 0)
