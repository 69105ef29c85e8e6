"""Networks whose parameters are divided over the ranks by torch.distributed.fsdp.fully_shard.

Each evaluation of such a network gathers parameters from the other ranks: all ranks must evaluate it equally often.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

from .ranks import Ranks

if TYPE_CHECKING:
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor


SHARDED = "its parameters are sharded (fully_shard), and gathered from the other ranks at each evaluation"


def is_sharded(module: nn.Module | None) -> bool:
    """Whether `fully_shard` was called on the module or on a part of it."""
    return module is not None and any(map(is_sharded_itself, module.modules()))


def is_sharded_itself(module: nn.Module) -> bool:
    """Whether `fully_shard` was called on the module."""
    return (fsdp := _fsdp()) is not None and isinstance(module, fsdp.FSDPModule)


def class_of(module: nn.Module) -> type:
    """The class of a module, before `fully_shard` gave it another."""
    if not is_sharded_itself(module):
        return type(module)
    return next(base for base in type(module).__mro__ if not issubclass(base, _fsdp().FSDPModule))


def is_divided(value: Any) -> bool:
    """Whether it is a tensor of which this rank has a part."""
    tensors = sys.modules.get("torch.distributed.tensor")  # slow to import, and needed for any such tensor
    return tensors is not None and isinstance(value, tensors.DTensor)


def check(module: nn.Module, ranks: Ranks, device: torch.device) -> None:
    """Raises ValueError on all ranks unless the network is divided over the ranks of a training, on its device."""
    members = sorted(ranks.members)
    for name, parameter in module.named_parameters():
        if not is_divided(parameter):
            continue
        mesh, placements = _divided(parameter).device_mesh, _divided(parameter).placements
        if not placements[-1].is_shard() or not all(placement.is_replicate() for placement in placements[:-1]):
            raise ValueError(
                f"model's {name} must be divided by fully_shard alone, over the last dimension of its mesh, got "
                f"placements {placements}"
            )
        if sorted(mesh.mesh.flatten().tolist()) != members:
            raise ValueError(
                f"model's {name} must be divided over the ranks that train, {members}, got those of {mesh}: pass "
                "fully_shard a mesh of them, of one dimension or of two (replicas, shards)"
            )
        if mesh.device_type != device.type:
            raise ValueError(f"model's {name} must be on the training's device, {device.type}, got {mesh.device_type}")


@contextlib.contextmanager
def summing_gradients(module: nn.Module) -> Iterator[None]:
    """Within the body gradients are the sums over the ranks; after it their means, which is torch's default."""
    n_ranks = {_divided(p).device_mesh.size() for p in module.parameters() if is_divided(p)}
    for part in _sharded_parts(module):
        part.set_gradient_divide_factor(1.0)
        part.set_force_sum_reduction_for_comms(True)  # else PREMUL_SUM, which gloo lacks
    try:
        yield
    finally:
        for part in _sharded_parts(module):
            part.set_gradient_divide_factor(float(max(n_ranks, default=1)))
            part.set_force_sum_reduction_for_comms(False)


def reshard(module: nn.Module) -> None:
    """Makes `module.parameters()` this rank's parts, which a forward pass without a backward pass may have replaced."""
    for part in _sharded_parts(module):
        part.reshard()


def copy_replicas_(tensors: Sequence[Tensor]) -> None:
    """Where ranks have the same part of a divided tensor, gives them that of the first. Other tensors stay."""
    for tensor in tensors:
        if not is_divided(tensor):
            continue
        mesh, local = _divided(tensor).device_mesh, _divided(tensor).to_local()
        for dimension, placement in enumerate(_divided(tensor).placements):
            if placement.is_replicate():
                dist.broadcast(local, group=mesh.get_group(dimension), group_src=0)


def whole(state: Mapping[str, Any], is_kept: bool) -> dict[str, Any]:
    """The values of a state, with divided tensors put together on the host, one by one. All ranks call it.

    Args:
        is_kept: whether this rank needs the values; else those of divided tensors are left out.
    """
    found: dict[str, Any] = {}
    for name, value in state.items():
        if not is_divided(value):
            found[name] = value
            continue
        tensor = _divided(value).full_tensor()
        if is_kept:
            found[name] = tensor.cpu()
    return found


def like(own: Any, value: Any) -> Any:
    """A whole tensor, which all ranks have, divided as `own` is, if it is. Nothing is exchanged."""
    if not is_divided(own):
        return value
    from torch.distributed.tensor import distribute_tensor

    mesh, placements = _divided(own).device_mesh, _divided(own).placements
    return distribute_tensor(value.to(own.device), mesh, placements, src_data_rank=None)


def plain_parameters_of(module: nn.Module, f: Tensor) -> list[nn.Parameter]:
    """The parameters that f depends on, a tensor of one number, except for divided ones: those whose gradients
    `fully_shard` does not sum. A backward pass finds them, which leaves no gradients.
    """
    reshard(module)
    module.zero_grad()
    f.backward()
    found = [p for p in module.parameters() if p.grad is not None and not is_divided(p)]
    module.zero_grad()
    return found


@torch.no_grad()
def clip_grad_norm_(parameters: Sequence[nn.Parameter], max_norm: float) -> None:
    """Like `torch.nn.utils.clip_grad_norm_`, of parameters some of which are divided."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    divided = [gradient for gradient in gradients if is_divided(gradient)]
    plain = [gradient for gradient in gradients if not is_divided(gradient)]
    norms = [nn.utils.get_total_norm(plain)] if plain else []
    if divided:
        norms.append(_divided(nn.utils.get_total_norm(divided)).full_tensor())
    if not norms:
        return
    total = torch.linalg.vector_norm(torch.stack([norm.to(norms[0].device) for norm in norms]))
    nn.utils.clip_grads_with_norm_(parameters, max_norm, total, foreach=False)


class ShardedAverage:
    """An exponential moving average of a sharded network's weights, divided as they are:

        with result.ema.applied():  # on all ranks
            x = result.sampler.sample(shape)

    It is what `torch.optim.swa_utils.AveragedModel` is for other networks, which copies the network; a sharded one
    cannot be copied, so it has either weights. Buffers are not averaged.

    Args:
        module: the network, on which `fully_shard` was called.
        decay: of the average, which starts with the weights at the first update.

    Attributes:
        module: the network.
        n_averaged: number of updates, a tensor on the host.

    Examples:
        On each rank of `torchrun`, or here on one rank:

        >>> from torch.distributed.fsdp import fully_shard
        >>> torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
        >>> mesh = torch.distributed.init_device_mesh("cpu", (1,))
        >>> network = fully_shard(fl.models.ConvNet(8, 1, features=8), mesh=mesh)
        >>> average = fl.distributed.ShardedAverage(network, decay=0.99)
        >>> average.update_parameters(network)  # after each step of the optimiser
        >>> with average.applied():
        ...     f = network(torch.zeros(4, 1, 8, 8))
        >>> int(average.n_averaged)
        1
        >>> torch.distributed.destroy_process_group()
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        reshard(module)
        self.module, self.n_averaged, self._decay = module, torch.zeros((), dtype=torch.int64), decay
        self._means = [parameter.detach().clone() for parameter in module.parameters()]
        self._is_applied = False

    @torch.no_grad()
    def update_parameters(self, module: nn.Module) -> None:
        """Moves the average by 1 - decay towards the weights."""
        reshard(module)
        for mean, parameter in zip(self._means, module.parameters(), strict=True):
            mean.lerp_(parameter.to(mean.dtype), 1 - self._decay) if self.n_averaged else mean.copy_(parameter)
        self.n_averaged += 1

    @contextlib.contextmanager
    def applied(self) -> Iterator[nn.Module]:
        """Within the body the network has the averaged weights; after it those that it had before."""
        if self._is_applied:
            yield self.module
            return
        self._exchange()
        self._is_applied = True
        try:
            yield self.module
        finally:
            self._exchange()
            self._is_applied = False

    @torch.no_grad()
    def _exchange(self) -> None:
        reshard(self.module)
        for mean, parameter in zip(self._means, self.module.parameters(), strict=True):
            before = parameter.detach().clone()
            parameter.copy_(mean)
            mean.copy_(before)

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        names = (name for name, _ in self.module.named_parameters())
        return ((f"module.{name}", mean) for name, mean in zip(names, self._means, strict=True))

    def state_dict(self) -> dict[str, Any]:
        """The entries of `AveragedModel.state_dict()`; parameters are divided tensors."""
        reshard(self.module)
        means = {id(p): mean for p, mean in zip(self.module.parameters(), self._means, strict=True)}
        state = self.module.state_dict(keep_vars=True)
        return {"n_averaged": self.n_averaged, **{f"module.{k}": means.get(id(v), v) for k, v in state.items()}}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores `state_dict()`, except for buffers and extra state, which are the network's own."""
        for name, mean in self.named_parameters():
            mean.copy_(state[name])
        self.n_averaged.copy_(state["n_averaged"])


def _fsdp() -> Any:
    """torch.distributed.fsdp, if it was imported: it is slow to import, and needed to make such a network."""
    return sys.modules.get("torch.distributed.fsdp")


def _sharded_parts(module: nn.Module) -> Iterator[FSDPModule]:
    return (part for part in module.modules() if is_sharded_itself(part))  # type: ignore[misc]


def _divided(tensor: Tensor) -> DTensor:
    from torch.distributed.tensor import DTensor

    assert isinstance(tensor, DTensor)
    return tensor
