"""On a GPU: captured chains against eager chains, what is not captured, streams, and memory."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn

import fastlangevin as fl

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]


def network() -> nn.Module:
    """In float64: where libraries choose another algorithm for a captured chain, its rounding is far below `close`."""
    torch.manual_seed(0)
    return fl.models.ConvNet(8, 1, 8).double().cuda()


def pair(net=None, **options) -> tuple[fl.Langevin, fl.Langevin]:
    net = network() if net is None else net
    options = {"n_steps": 12, "seed": 5, **options}
    return (
        fl.Langevin(log_density=net, graph=False, **options),
        fl.Langevin(log_density=net, graph=True, **options),
    )


X = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal but for float64's roundings: 12 steps magnify those of sums of 512 terms, γ_512 = 6e-14, some 100-fold."""
    return torch.allclose(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("backend", ["cuda", "triton", "reference"])
@pytest.mark.parametrize("unroll", [1, 4, 12, None])
def test_replays_agree_with_the_eager_chain(backend, unroll):
    options = dict(noise_std=[0.01 * k for k in range(12)], bounds=(-3, 3), grad_clip=1.0, unroll=unroll)
    eager, replayed = pair(backend=backend, **options)
    x = X.cuda()
    for _ in range(3):
        assert close(replayed(x), eager(x))


@pytest.mark.parametrize("backend", ["cuda", "triton"])
def test_the_noise_of_replays_has_the_eager_chain_s_bits(backend):
    energy = lambda x: (x * 0).sum((1, 2, 3))
    options = dict(n_steps=7, seed=2**64 - 9, noise_std=0.5, backend=backend)
    eager, replayed = fl.Langevin(energy, graph=False, **options), fl.Langevin(energy, graph=True, **options)
    x0 = X.float()
    for _ in range(3):
        x = replayed(x0.cuda())
        assert torch.equal(x, eager(x0.cuda()))
    on_cpu = fl.Langevin(energy, **{**options, "backend": "auto"})
    on_cpu(x0), on_cpu(x0)
    assert torch.equal(x.cpu(), on_cpu(x0))


def test_changed_weights_schedules_and_seeds_are_used():
    eager, replayed = pair()
    x = X.cuda()
    replayed(x), eager(x)
    with torch.no_grad():
        for p in eager.target.function.parameters():
            p.mul_(1.5)
    eager, replayed = (sampler.replace(step_size=0.3) for sampler in (eager, replayed))
    for sampler in (eager, replayed):
        sampler.load_state_dict({**sampler.state_dict(), "seed": 99})
    assert close(replayed(x), eager(x))
    assert len(replayed._graphs.captured) == 1


@pytest.mark.parametrize("graph", ["auto", True])
@pytest.mark.parametrize("unroll", [1, 4, 12, None])
@pytest.mark.filterwarnings("error")
def test_whole_chain_kernels_are_captured(graph, unroll):
    """By a graph that has never launched them, and torch's random numbers work afterwards."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 20), nn.SiLU(), nn.Linear(20, 1)).cuda()
    options = dict(n_steps=12, seed=5, step_size=0.1, noise_std=0.1, engine="mlp", backend="triton")
    eager, replayed = (
        fl.Langevin(net, graph=g, **more, **options) for g, more in ((False, {}), (graph, {"unroll": unroll}))
    )
    x = torch.randn(100, 3, device="cuda")
    got = replayed(x)
    torch.rand(3, device="cuda")
    assert len(replayed._graphs.captured) == 1
    assert torch.equal(got, eager(x))


@pytest.mark.parametrize("precision", ["tf32", "bf16", "fp16"])
def test_lower_precisions_see_changed_weights(precision):
    _, replayed = pair(network().float(), precision=precision, noise_std=0.0)
    x = X.float().cuda()
    before = replayed(x)
    with torch.no_grad():
        replayed.target.function.net[0].weight.mul_(2)
    assert not torch.equal(replayed(x), before)


def test_shapes_layouts_and_channels_last():
    eager, replayed = pair()
    for x in (X.cuda(), X[:3].cuda(), X.cuda().to(memory_format=torch.channels_last)):
        got = replayed(x)
        assert close(got, eager(x, step=replayed.step - 12)) and got.stride() == x.stride()


@pytest.mark.filterwarnings("always")
def test_what_cannot_be_captured_runs_eagerly_after_one_warning():
    item = lambda x: (x * float(x.abs().max().item())).sum((1, 2, 3))
    batch_norm = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(64, 1)).double().cuda()
    for energy, words in ((item, "makes the host wait"), (batch_norm, "changes the network's buffers")):
        with pytest.raises(fl.BackendUnavailable, match=words):
            fl.Langevin(energy, n_steps=3, seed=1, graph=True)(X.cuda())
        sampler = fl.Langevin(energy, n_steps=3, seed=1)
        with pytest.warns(RuntimeWarning, match=words):
            sampler(X.cuda())
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            sampler(X.cuda())
    torch.zeros(1 << 20, device="cuda").sum().item()  # the device still works


def test_a_capture_that_fails_leaves_torch_as_before():
    """The driver forbids the call while capturing, and torch reports it in no other way."""

    def energy(x):
        torch.cuda.synchronize()
        return x.square().sum((1, 2, 3))

    options = dict(n_steps=3, seed=1)
    with pytest.raises(fl.BackendUnavailable, match="the capture failed"):
        fl.Langevin(energy, graph=True, **options)(X.cuda())
    torch.manual_seed(1)
    drawn = torch.rand(3, device="cuda")
    with pytest.warns(RuntimeWarning, match="the capture failed"):
        got = fl.Langevin(energy, **options)(X.cuda())
    torch.manual_seed(1)
    assert torch.equal(torch.rand(3, device="cuda"), drawn)
    assert torch.equal(got, fl.Langevin(energy, graph=False, **options)(X.cuda()))
    eager, replayed = pair()
    assert close(replayed(X.cuda()), eager(X.cuda()))


def test_declining_leaves_batch_norm_s_averages_to_the_chain():
    net = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(64, 1)).double().cuda()
    twin = copy.deepcopy(net)
    with pytest.warns(RuntimeWarning):
        fl.Langevin(net, n_steps=3, seed=1)(X.cuda())
    fl.Langevin(twin, n_steps=3, seed=1, graph=False)(X.cuda())
    assert int(net[0].num_batches_tracked) == 3
    assert close(net[0].running_mean, twin[0].running_mean)


def test_extra_arguments():
    energy = lambda x, y: ((x.flatten(1) - y[:, None]) ** 2).sum(1)
    options = dict(n_steps=4, seed=1, step_size=0.1, noise_std=0.01)
    eager, replayed = fl.Langevin(energy, graph=False, **options), fl.Langevin(energy, graph=True, **options)
    for y in (torch.zeros(6, device="cuda"), torch.arange(6.0, device="cuda")):
        assert close(replayed(X.cuda(), y), eager(X.cuda(), y))


def test_calls_on_several_streams_are_serialized():
    eager, replayed = pair()
    xs = [torch.full_like(X, float(i)).cuda() for i in range(6)]
    expected = [eager(x, step=12 * i) for i, x in enumerate(xs)]
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream() for _ in xs]
    got = []
    for i, (x, stream) in enumerate(zip(xs, streams, strict=True)):
        with torch.cuda.stream(stream):
            got.append(replayed(x, step=12 * i))
    torch.cuda.synchronize()
    assert all(close(a, b) for a, b in zip(got, expected, strict=True))


def test_memory_does_not_grow():
    _, replayed = pair()
    x = X.cuda()
    for _ in range(5):
        replayed(x)
    torch.cuda.synchronize()
    before = torch.cuda.memory_reserved()
    for _ in range(1000):
        replayed(x)
    torch.cuda.synchronize()
    assert torch.cuda.memory_reserved() == before


def test_compiled_score_as_the_captured_body():
    eager, _ = pair()
    compiled = fl.Langevin(log_density=eager.target.function, engine="compiled", graph=True, n_steps=12, seed=5)
    x = X.cuda()
    for _ in range(2):
        assert close(compiled(x), eager(x))
