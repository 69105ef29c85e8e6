"""A network that fully_shard divides over the ranks trains like the same network in one process, to rounding."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.ranks import on_ranks, unwrapped
from support.thorough import thorough
from support.training_runs import tensors_of
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate, distribute_tensor

import fastlangevin as fl
from fastlangevin.training import state

ITEMS, LABELS = torch.linspace(-1, 1, 23 * 64).sin().view(23, 1, 8, 8), torch.arange(23) % 3
SHARED: dict[str, Any] = {
    **{"batch_size": 17, "n_iterations": 12, "lr": 1e-3, "lr_decay": 0.0, "data_noise": 0.1, "log_every": 4},
    **{"sampler": {"n_steps": 5, "step_size": 0.1, "noise_std": 0.1, "bounds": (-1.0, 1.0)}, "sample_steps": 5},
    **{"progress": False, "seed": 3, "max_saturation": float("inf"), "ema": 0.9, "max_grad_norm": 0.02},
}


class Network(nn.Module):
    """A small network in float64: its sizes are no multiples of the number of ranks. It has a buffer, and a parameter
    that nothing reads.
    """

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first = nn.Sequential(nn.Conv2d(1, 5, 3, 2, 1), nn.LeakyReLU(0.1), nn.Conv2d(5, 3, 3, 2, 1), nn.SiLU())
        self.norm, self.last = nn.GroupNorm(1, 3), nn.Linear(12, 1)
        self.unused = nn.Parameter(torch.ones(2))
        self.register_buffer("scale", torch.tensor(1.5))
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.last(self.norm(self.first(x)).flatten(1))[:, 0]


def network(kind: str) -> nn.Module:
    """The network: "plain"; or divided over the ranks: "sharded", the whole of it; "mixed", a part of it;
    "replicated", with a replica on each rank, of which rank 0's is meant.
    """
    if kind == "plain":
        return Network()
    size = dist.get_world_size()
    if kind == "replicated":
        mesh = init_device_mesh("cpu", (size, 1), mesh_dim_names=("replicas", "shards"))
        return fully_shard(Network(dist.get_rank()), mesh=mesh)
    net, mesh = Network(), init_device_mesh("cpu", (size,))
    fully_shard(net.first, mesh=mesh)
    return fully_shard(net, mesh=mesh) if kind == "sharded" else net


def whole(tensors: Any) -> Tensor:
    return torch.cat([getattr(t, "full_tensor", lambda t=t: t)().detach().flatten() for t in tensors])


def train(kind: str, **options: Any) -> tuple[Tensor, Tensor, list, Tensor]:
    """The weights, their average, the history, and samples of the averaged network."""
    result = fl.train(ITEMS, network(kind), **{**SHARED, **options})
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in result.history]
    if kind == "plain":
        return (
            whole(result.model.parameters()),
            whole(result.ema.parameters()),
            rows,
            result.sampler.sample((3, 1, 8, 8)),
        )
    learned = whole(result.model.parameters())
    with result.ema.applied() as averaged:
        average, x = whole(averaged.parameters()), result.sampler.sample((3, 1, 8, 8))
    assert torch.equal(whole(result.model.parameters()), learned)
    return learned, average, rows, x


def sgd(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """Unlike Adam's, its steps are as long as the gradients, so that clipping shows."""
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


KINDS = {2: ("sharded", "mixed", "replicated"), 3: ("sharded", "mixed")}


def _kinds(folder: Path) -> list[Any]:
    kinds = KINDS[dist.get_world_size()]
    return [train(kind, out=folder if kind == "mixed" else None, optimizer=sgd) for kind in kinds]


@pytest.mark.parametrize("size", thorough([2, 3], [2]))
def test_a_sharded_network_trains_as_in_one_process(size, tmp_path):
    expected = train("plain", out=tmp_path / "one", optimizer=sgd)
    for found in unwrapped(on_ranks(size, _kinds, tmp_path / "all")):
        for kind, got in zip(KINDS[size], found, strict=True):
            for value, want in zip(got[:2], expected[:2], strict=True):
                assert torch.allclose(value, want, rtol=0, atol=1e-10), kind
            for row, want in zip(got[2], expected[2], strict=True):
                assert row == pytest.approx(want, rel=1e-5, abs=1e-5), kind
            assert torch.allclose(got[3], expected[3], rtol=0, atol=1e-5), kind
    assert_same(tensors_of(tmp_path / "all"), tensors_of(tmp_path / "one"))
    pictures = [np.asarray(Image.open(tmp_path / run / "samples.png"), dtype=int) for run in ("all", "one")]
    assert np.abs(pictures[0] - pictures[1]).max() <= 1


def assert_same(got: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        assert got[name].shape == value.shape, name
        assert torch.allclose(got[name].double(), value.double(), rtol=0, atol=1e-10), name


def _goes_on(out: Path, n: int) -> list[Tensor]:
    train("sharded" if dist.is_initialized() else "plain", out=out, n_iterations=n, checkpoint_every=2, resume=True)
    loaded = fl.load(out, model=network("sharded" if dist.is_initialized() else "plain"))[0]
    return [whole([value]) for value in loaded.state_dict().values()]


def test_a_run_goes_on_sharded_or_not_with_another_number_of_ranks(tmp_path):
    for n, size in ((2, 2), (4, 1), (6, 3)):
        for found in unwrapped(on_ranks(size, _goes_on, tmp_path / "run", n)):
            expected = fl.load(tmp_path / "run", model=Network())[0].state_dict().values()
            assert all(torch.equal(got, value.flatten()) for got, value in zip(found, expected, strict=True))
    train("plain", out=tmp_path / "one", n_iterations=6)
    assert_same(tensors_of(tmp_path / "run"), tensors_of(tmp_path / "one"))


def _mean_gradients() -> bool:
    """Whether a loop of the caller's own has the mean of the ranks' gradients, as before the training."""
    net, copy, x = network("sharded"), Network(), ITEMS[:3].double()
    fl.train(ITEMS, net, **{**SHARED, "n_iterations": 1})
    set_model_state_dict(copy, get_model_state_dict(net, options=StateDictOptions(full_state_dict=True)))
    for module, part in ((net, x * (dist.get_rank() + 1)), (copy, torch.cat([x, 2 * x]))):
        module.zero_grad()
        (module(part).sum() / (len(part) / len(x))).backward()
    got, expected = (whole(p.grad for p in module.parameters() if p.grad is not None) for module in (net, copy))
    return torch.allclose(got, expected, rtol=0, atol=1e-12)


def _refusals() -> dict[str, str]:
    assert _mean_gradients()
    net, x = network("sharded"), torch.zeros(2, 1, 8, 8)
    other, tensor_parallel = Network(), Network()
    alone = DeviceMesh("cpu", [dist.get_rank()])
    fully_shard(other.last, mesh=alone)
    fully_shard(tensor_parallel.first, mesh=init_device_mesh("cpu", (2,)))
    weight = distribute_tensor(tensor_parallel.last.weight, init_device_mesh("cpu", (2,)), [Replicate()])
    tensor_parallel.last.weight = nn.Parameter(weight)
    attempts: dict[str, Any] = {
        **{e: lambda e=e: fl.Langevin(log_density=net, engine=e)(x) for e in ("convnet", "mlp", "graph", "compiled")},
        "second": lambda: fl.Langevin(log_density=net)(x.double().requires_grad_()).sum().backward(),
        "kl_weight": lambda: train("sharded", kl_weight=0.5),
        "evaluate": lambda: fl.evaluate((net, fl.Langevin(log_density=net)), ITEMS, progress=False),
        "other ranks": lambda: fl.train(ITEMS, other, **SHARED),
        "tensor parallel": lambda: fl.train(ITEMS, tensor_parallel, **SHARED),
    }
    found = {}
    for name, attempt in attempts.items():
        with pytest.raises((ValueError, fl.BackendUnavailable)) as raised:
            attempt()
        found[name] = str(raised.value)
    sampler = fl.Langevin(log_density=net, n_steps=2)
    for n in (1, 2):  # before and after a call
        assert sampler.plan.engine == "autograd"
        found[f"plan {n}"] = "; ".join(sampler.plan.reasons)
        sampler.sample((2, 1, 8, 8), chain_offset=1)
    lambdas = fl.Langevin(log_density=lambda x: net(x), n_steps=2)
    lambdas.sample((2, 1, 8, 8), chain_offset=1, dtype=torch.float64)
    return {**found, "lambda": "; ".join(lambdas.plan.reasons)}


def test_what_a_sharded_network_cannot_do_is_refused_with_the_reason():
    first, second = unwrapped(on_ranks(2, _refusals))
    assert first.keys() == second.keys()
    why = "its parameters are sharded (fully_shard), and gathered from the other ranks at each evaluation"
    for name in ("convnet", "mlp", "graph"):
        assert first[name] == f"engine={name!r} cannot be used for this log_density: {why}"
    assert first["compiled"] == "engine='compiled' cannot compile this log_density: parameters are sharded"
    for name in ("plan 1", "plan 2", "lambda"):
        assert f"engines 'mlp' and 'convnet' not used: {why}" in first[name]
        assert f"engine 'graph' not used: {why}" in first[name]
    assert first["second"] == "log_density has no second derivatives, because its parameters are sharded"
    assert first["kl_weight"].startswith("kl_weight must be 0 for a network whose parameters are sharded, got 0.5")
    assert first["evaluate"].startswith("run must have a network whose parameters each rank has whole")
    assert first["other ranks"].startswith("model's last.weight must be divided over the ranks that train, [0, 1], got")
    assert first["tensor parallel"].startswith("model's last.weight must be divided by fully_shard alone")


class Fragile(Network):
    """Has an infinite gradient at a bright image, or fails, on the rank that has it."""

    fails = False

    def forward(self, x: Tensor) -> Tensor:
        bright = x.detach().flatten(1).mean(1) > 0.9
        if self.fails and bright.any():
            raise OSError("a broken network")
        return super().forward(x) - x.square().sum((1, 2, 3)) * torch.where(bright, torch.inf, 1e-3)


def _breaks() -> list[str]:
    items, found, sampler = ITEMS / 2, [], {"n_steps": 5, "step_size": 0.1, "noise_std": 0.1}
    items[14], items[0, 0, 0, 0] = 1.0, -1.0  # the range stays (-1, 1)
    state._PATIENCE = 0.5
    for fails in (False, True):
        net = fully_shard(Fragile().double(), mesh=init_device_mesh("cpu", (3,)))
        net.fails = fails
        try:
            options = {"start": "data", "data_noise": 0.0, "n_iterations": 50, "sampler": sampler}
            fl.train(items, net, **{**SHARED, **options})
        except Exception as error:
            found.append(f"{type(error).__name__}: {error}")
    return found


def test_an_error_of_chains_on_one_rank_ends_all():
    by_rank = unwrapped(on_ranks(3, _breaks))
    assert by_rank[0][0].startswith("TrainingDiverged: training diverged at iteration ")
    assert re.search("1 of [56] chains are not finite", by_rank[0][0])
    assert {found[0] for found in by_rank} == {by_rank[0][0]}
    kinds = [found[1].split(":")[0] for found in by_rank]
    assert sorted(kinds) == ["OSError", "RankFailed", "RankFailed"]
