"""Samplers of networks within DistributedDataParallel, on two ranks."""

from __future__ import annotations

import copy
import functools
import threading
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.ranks import on_ranks, unwrapped
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DataParallel, DistributedDataParallel

import fastlangevin as fl
from fastlangevin.network.data_parallel import without_ddp
from fastlangevin.network.target import note_log_density

STEPS = 3
ENGINES = {
    ("plain", True): "convnet",
    ("plain", False): "convnet",
    ("batch norm", True): "graph",
    ("batch norm", False): "graph",
    ("dropout", True): "autograd",
    ("dropout", False): "convnet",
}


class Holder(nn.Module):
    """A module that calls another one, from which its energies are taken."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)

    def energy(self, x: Tensor) -> Tensor:
        return self.inner(x)[:, 0]


def network(kind: str) -> nn.Module:
    torch.manual_seed(0)
    between = {"plain": [], "batch norm": [nn.BatchNorm2d(4)], "dropout": [nn.Dropout(0.2)]}[kind]
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), *between, nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(64, 1))


def ways(ddp: DistributedDataParallel) -> dict[str, Callable[..., Any]]:
    """The energies that a user may give for the network in it."""
    return {
        "itself": ddp,
        "its module": ddp.module,
        "its forward": ddp.forward,
        "its call": ddp.__call__,
        "a partial": functools.partial(ddp.forward),
        "compiled": torch.compile(ddp, backend="eager"),
        "a function": lambda x: ddp(x),
        "a function of its module": lambda x: ddp.module(x),
        "a module": Holder(ddp),
        "a method": Holder(ddp).energy,
        "DataParallel": DataParallel(ddp.module),
    }


def n_collectives() -> int:
    """The number of messages of the group of all ranks so far."""
    return dist.group.WORLD._get_sequence_number_for_group()


def collectives(function: Callable[..., Any], *args: Any) -> int:
    before = n_collectives()
    function(*args)
    return n_collectives() - before


def sampler(energy: Callable[..., Any]) -> fl.Langevin:
    return fl.Langevin(energy, n_steps=STEPS, step_size=0.1, noise_std=0.1, seed=1)


def start(n: int = 4) -> Tensor:
    rank = dist.get_rank()
    return torch.rand(n, 1, 4, 4, generator=torch.Generator().manual_seed(rank))


def drawn(energy: Callable[..., Any], buffers: nn.Module) -> tuple[str, Tensor, list[Tensor]]:
    """The engine, the last states, and the network's buffers, which a chain in train mode updates."""
    torch.manual_seed(dist.get_rank())
    langevin = sampler(energy)
    x = torch.stack([langevin(start(), chain_offset=4 * dist.get_rank()) for _ in range(2)])
    return langevin.plan.engine, x, [b.clone() for b in buffers.buffers()]


def _compared(kind: str, training: bool) -> dict[str, tuple[Any, ...]]:
    """Of each way, beside the network alone: the engines, whether states and buffers are the same bits, and the number
    of messages. DDP's next forward would rebuild its buckets and, in train mode, broadcast the buffers.
    """
    wrapped = DistributedDataParallel(network(kind).train(training))
    wrapped(start()).sum().backward()
    alone = copy.deepcopy(wrapped.module)
    engine, x, buffers = drawn(alone, alone)
    found = {}
    for way in ways(wrapped):
        ddp = DistributedDataParallel(network(kind).train(training))
        ddp(start()).sum().backward()
        before = n_collectives()
        own_engine, own_x, own_buffers = drawn(ways(ddp)[way], ddp.module)
        n = n_collectives() - before
        same = [torch.equal(x, own_x), *map(torch.equal, own_buffers, buffers)]
        found[way] = (engine, own_engine, all(same), n, "forward" in vars(ddp), collectives(ddp, start()) > 0)
    return found


def _chains() -> dict[tuple[str, bool], dict[str, tuple[Any, ...]]]:
    return {which: _compared(*which) for which in ENGINES}


def _weights(energy_of: Callable[[Any], Callable[..., Any]], every: int) -> tuple[list[Tensor], int]:
    """The weights after 6 iterations with chains before and after the forward of the loss, and the number of messages.
    Gradients of `every` iterations are accumulated.
    """
    ddp = DistributedDataParallel(network("batch norm"))
    langevin = sampler(energy_of(ddp))
    optimizer = torch.optim.SGD(ddp.parameters(), lr=0.1)
    before = n_collectives()
    for i in range(6):
        x = langevin(start(3), chain_offset=3 * dist.get_rank())
        with ddp.no_sync() if i % every else warnings.catch_warnings():
            energies = ddp(torch.cat([x, start(3)]))
            langevin(start(3), chain_offset=3 * dist.get_rank())
            (energies[3:].mean() - energies[:3].mean()).backward()
        if i % every == 0:
            optimizer.step()
            optimizer.zero_grad()
    return [p.detach() for p in ddp.parameters()], n_collectives() - before


def _trained() -> list[tuple[list[Tensor], int]]:
    energies = (lambda ddp: ddp.module, lambda ddp: lambda x: ddp(x), lambda ddp: Holder(ddp).energy)
    return [_weights(energy_of, every) for every in (1, 2) for energy_of in energies]


def _within_a_chain() -> dict[str, Any]:
    ddp = DistributedDataParallel(network("batch norm"))
    found: dict[str, Any] = {}

    def raises(x: Tensor) -> Tensor:
        raise KeyError(ddp(x))

    try:
        sampler(raises)(start(), chain_offset=0)
    except KeyError:
        found["after an error"] = "forward" in vars(ddp)
    with without_ddp(lambda x: ddp(x)):
        with without_ddp(Holder(ddp)):
            found["here"] = collectives(ddp, start())
        found["still"] = collectives(ddp, start())
    inside, done = threading.Event(), threading.Event()

    def chain() -> None:
        with without_ddp(lambda x: ddp(x)):
            found["in another thread"] = collectives(ddp, start())
            inside.set()
            done.wait()

    other = threading.Thread(target=chain)
    other.start()
    inside.wait()
    found["meanwhile"] = collectives(ddp, start())
    done.set()
    other.join()
    found["then"] = collectives(ddp, start())

    def loss(energy: Callable[..., Any]) -> list[Tensor]:
        x = sampler(energy).with_last_step(start(), chain_offset=0)
        return list(torch.autograd.grad(x.sum(), [*ddp.parameters()], allow_unused=True))

    ddp.eval()
    pairs = zip(loss(lambda x: ddp(x)), loss(ddp.module), strict=True)
    found["with_last_step"] = [a is b if a is None or b is None else torch.equal(a, b) for a, b in pairs]
    note_log_density(ddp.module)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fl.Langevin(ddp, seed=1)
        sampler(ddp)(start())  # through the wrappers of torch's compiler, which DDP imports
    found["warned"] = [(str(w.message).split(" ")[0], w.filename == __file__) for w in caught]
    return found


class Subclass(DistributedDataParallel):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def _of_a_subclass() -> bool:
    ddp = Subclass(network("plain"))
    alone = ddp.module
    return torch.equal(sampler(ddp).energy(start()), sampler(lambda x: 2 * alone(x)).energy(start()))


def _all() -> dict[str, Any]:
    return {f.__name__: f() for f in (_chains, _trained, _within_a_chain, _of_a_subclass)}


@pytest.fixture(scope="module")
def found() -> list[dict[str, Any]]:
    return unwrapped(on_ranks(2, _all))  # one start: DDP imports torch's compiler, in seconds


def test_chains_are_the_network_s_own_and_exchange_nothing(found):
    for rank in found:
        for which, of_ways in rank["_chains"].items():
            for way, result in of_ways.items():
                assert result == (ENGINES[which], ENGINES[which], True, 0, False, True), (which, way, result)


def test_chains_leave_the_reducer_of_gradients_as_it_is(found):
    first, second = (rank["_trained"] for rank in found)
    initial = next(network("batch norm").parameters())
    for own, *others in (first[:3], first[3:], second[:3], second[3:]):
        for weights, n in others:
            assert n == own[1] > 0 and all(map(torch.equal, weights, own[0]))
    for (one, _), (other, _) in zip(first, second, strict=True):
        assert all(map(torch.equal, one, other)) and not torch.equal(one[0], initial)


def test_ddp_is_itself_again_after_a_chain_and_in_other_threads(found):
    for rank, result in enumerate(dict(each["_within_a_chain"]) for each in found):
        assert result.pop("meanwhile") > 0 and result.pop("then") > 0
        assert result == {
            "after an error": False,
            "here": 0,
            "still": 0,
            "in another thread": 0,
            "with_last_step": [True] * 6,
            "warned": [("energy=Sequential", True), ("energy=Sequential", True), ("chain_offset", True)][: 2 + rank],
        }


def test_a_subclass_with_a_forward_of_its_own_is_not_replaced(found):
    assert [rank["_of_a_subclass"] for rank in found] == [True, True]
