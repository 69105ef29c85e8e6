"""Captured chains without a GPU: a stand-in for the capture replays by running the body again, on CPU tensors.
Everything but the graph itself is as on a GPU: the tables that replays read, keys, the cache, the plan, the errors.
"""

from __future__ import annotations

import copy
import functools

import pytest
import torch
from support.fake_capture import FakeCapture
from torch import nn

import fastlangevin as fl
from fastlangevin.chains.cuda_graph import GraphCache, unrolls
from fastlangevin.score.convnet import NativeConvNetScore
from fastlangevin.score.sequential import SequentialScore

X = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True)
def made():
    FakeCapture.made = []
    return FakeCapture.made


def captured(sampler: fl.Langevin, mode="auto", unroll=None, **options) -> fl.Langevin:
    sampler._graphs = GraphCache(mode, unroll, functools.partial(FakeCapture, **options), "cpu")
    return sampler


def pair(**options) -> tuple[fl.Langevin, fl.Langevin]:
    """An eager and a captured sampler of the same network."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1))
    defaults = dict(n_steps=6, seed=3)
    return fl.Langevin(net, **{**defaults, **options}), captured(fl.Langevin(net, **{**defaults, **options}))


@pytest.mark.parametrize("unroll", [1, 2, 3, 6, None])
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_replays_give_the_eager_chain_s_bits(unroll, backend, made):
    schedule = dict(step_size=[0.1 * (k + 1) for k in range(6)], noise_std=lambda k: 0.0 if k == 3 else 0.02 * k)
    eager, replayed = pair(**schedule, backend=backend, bounds=(-2, 2), grad_clip=0.4)
    captured(replayed, unroll=unroll)
    for _ in range(3):  # new noise at each call
        assert torch.equal(replayed(X), eager(X))
    assert torch.equal(replayed(X, step=2**32 - 6), eager(X, step=2**32 - 6))
    assert len(made) == 1
    if unroll:
        assert made[0].bodies == 1 and made[0].replays == 4 * 6 // unroll


@pytest.mark.parametrize("engine", ["auto", "autograd"])
@pytest.mark.parametrize("unroll", [1, 2, 6, None])
def test_all_that_is_captured_has_run_before(unroll, engine, made):
    """A kernel cannot be loaded while capturing: kernels of whole chains, and those that advance the table."""
    _, replayed = pair(engine=engine)
    captured(replayed, unroll=unroll)
    replayed(X)
    assert replayed.plan.engine == ("mlp" if engine == "auto" else engine)
    assert made[0].replays and made[0].cold == set()


@pytest.mark.parametrize("unroll", [1, 2, 6, None])
def test_what_is_captured_for_tensors_of_each_step_has_run_before(unroll, made):
    """Step sizes of each chain, and arguments that change from step to step, are rows of the table."""
    energy = lambda x, y: ((x - y[:, None]) ** 2).sum(1)
    options = dict(n_steps=6, seed=3, step_size=torch.linspace(0.01, 0.24, 24).view(6, 4), noise_std=0.1)
    eager, replayed = fl.Langevin(energy, **options), captured(fl.Langevin(energy, **options), unroll=unroll)
    for y in (torch.zeros(6, 4), torch.arange(24.0).view(6, 4)):
        assert torch.equal(replayed(X, fl.PerStep(y)), eager(X, fl.PerStep(y)))
    assert len(made) == 1 and made[0].replays and made[0].cold == set()


@pytest.mark.parametrize("noise_first", [False, True, "clamp"])
def test_noise_first(noise_first):
    eager, replayed = pair(noise_first=noise_first, bounds=(-1, 1), noise_std=0.3)
    assert torch.equal(replayed(X), eager(X))


def test_no_noise_draws_none():
    eager, replayed = pair(noise_std=0.0)
    assert torch.equal(replayed(X), eager(X))


def test_changed_weights_schedules_and_seeds_are_not_captured_again(made):
    eager, replayed = pair()
    replayed(X), eager(X)
    optimizer = torch.optim.Adam(eager.target.function.parameters(), lr=0.1)
    eager.target.function(X).sum().backward()
    optimizer.step()
    assert torch.equal(replayed(X), eager(X))
    eager, replayed = (s.replace(step_size=0.3, noise_std=[0.1 * k for k in range(6)]) for s in (eager, replayed))
    for sampler in (eager, replayed):
        sampler.load_state_dict({**sampler.state_dict(), "seed": 2**64 - 7, "step": 99})
    assert torch.equal(replayed(X), eager(X))
    assert len(made) == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda s, x: s(x[:2]),
        lambda s, x: s(x.double()),
        lambda s, x: s(x, n_steps=3),
        lambda s, x: s(x, chain_offset=1),
        lambda s, x: (s.target.function.eval(), s(x)),
        lambda s, x: (s.target.function.float().double(), s(x)),
        lambda s, x: s.replace(noise_std=0.0)(x),
        lambda s, x: (s.target.function[0].weight.requires_grad_(False), s(x)),
    ],
    ids=["shape", "dtype", "n_steps", "offset", "eval", "storage", "noise", "requires_grad"],
)
def test_other_changes_are_captured_again(change, made):
    _, replayed = pair()
    replayed(X)
    replayed(X)
    assert len(made) == 1
    change(replayed, X)
    assert len(made) == 2
    _, again = pair()
    change(again, X)


def test_extra_arguments_are_read_at_each_call(made):
    energy = lambda x, y, scale: ((x - y[:, None]) ** 2).sum(1) * scale
    eager, replayed = fl.Langevin(energy, n_steps=4, seed=1), captured(fl.Langevin(energy, n_steps=4, seed=1))
    for y in (torch.zeros(4), torch.arange(4.0)):
        assert torch.equal(replayed(X, y, 0.1), eager(X, y, 0.1))
    assert len(made) == 1
    assert torch.equal(replayed(X, torch.ones(4), 0.2), eager(X, torch.ones(4), 0.2))
    assert len(made) == 2


def test_states_given_and_returned_do_not_share_memory():
    _, replayed = pair()
    before = X.clone()
    first = replayed(X)
    kept = first.clone()
    second = replayed(X)
    assert torch.equal(X, before) and torch.equal(first, kept)
    assert len({X.data_ptr(), first.data_ptr(), second.data_ptr()}) == 3


LAYOUTS = {
    "transposed": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "sliced": lambda x: torch.cat((x, x))[::2],
    "expanded": lambda x: x[:1].expand(len(x), -1, -1, -1),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_state_of_a_graph_is_contiguous(layout, made, monkeypatch):
    """So that kernels which include the update take it; the result has the caller's layout."""
    seen = []
    update_ = SequentialScore.fused_step_
    monkeypatch.setattr(
        SequentialScore, "fused_step_", lambda self, x, args: seen.append(x.stride()) or update_(self, x, args)
    )
    monkeypatch.setattr(NativeConvNetScore, "run_chain_", lambda self, x, args: False)  # as the kernels of a GPU
    x = LAYOUTS[layout](torch.rand(4, 3, 8, 8))
    torch.manual_seed(0)
    net = fl.models.ConvNet(8, 3, 4)
    sampler = captured(fl.Langevin(log_density=net, n_steps=3, seed=1))
    expected = fl.Langevin(log_density=net, n_steps=3, seed=1)(x.contiguous())
    got = sampler(x, step=0)
    assert torch.equal(got, expected) and got.stride() == x.clone().stride()
    assert set(seen) == {x.contiguous().stride()}
    assert torch.equal(sampler(x.contiguous(), step=0), expected)
    assert len(made) == 1


def test_the_fastest_plan_is_used_and_kept(made):
    assert unrolls(100) == [1, 25, 100] and unrolls(60) == [1, 20, 60] and unrolls(7) == [1, 7]
    assert unrolls(1) == [1] and unrolls(1000) == [1, 25] and unrolls(10_007) == [1]
    for fastest, replays in ((1, 60), (20, 3), (60, 1)):
        _, replayed = pair(n_steps=60)
        captured(replayed, times={replays: 1.0})
        replayed(X)
        (chain,) = replayed._graphs.captured
        assert chain.unroll == fastest and set(chain.times) == {1, 20, 60}
        before = made[-1].replays
        replayed(X)
        assert made[-1].replays - before == replays and made[-1].bodies == 3


def test_the_cache_is_bounded_and_forgets_the_least_recently_used(made):
    _, replayed = pair()
    for n in range(1, 9):
        replayed(torch.zeros(n, 3))
    replayed(torch.zeros(1, 3))
    replayed(torch.zeros(9, 3))
    assert len(replayed._graphs.captured) == 8 and made[1].waited == 1 and made[0].waited == 0
    replayed(torch.zeros(1, 3))
    assert len(made) == 9
    replayed(torch.zeros(2, 3))
    assert len(made) == 10


BUILT_IN = [  # options that are constants of a graph
    {"grad_clip": 0.01},
    {"grad_clip_norm": 0.01},
    {"bounds": (-0.1, 0.1)},
    {"noise_first": True},
    {"noise_first": "clamp"},
    {"noise_last": True},
    {"preconditioner": fl.RMSprop()},
    {"precision": "bf16"},
    {"engine": "autograd"},
    {"backend": "reference"},
    {"backend": "cpu"},
    {"n_steps": 3},
    {"noise_std": 0.0},
]
READ = {"step_size", "noise_std", "temperature"}  # by each replay
BEFORE = {"init", "graph", "unroll"}  # what chooses x0 or the graphs


def sampler_of(net, **options) -> fl.Langevin:
    defaults = {"n_steps": 6, "seed": 3, "step_size": 0.3, "noise_std": 0.2, "bounds": (-1, 1)}
    return fl.Langevin(net, **{**defaults, **options})


@pytest.mark.parametrize("options", BUILT_IN, ids=str)
def test_samplers_that_share_graphs_replay_with_their_options(options, made):
    """Each option that is a constant of a graph is part of the key."""
    net = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1))
    first, second, eager = captured(sampler_of(net)), sampler_of(net, **options), sampler_of(net, **options)
    second._graphs = first._graphs
    first(X, step=0)
    assert torch.equal(second(X, step=0), eager(X, step=0))
    assert len(made) == 2
    second(X, step=0), first(X, step=0)
    assert len(made) == 2


@pytest.mark.parametrize("options", BUILT_IN, ids=str)
def test_a_replaced_sampler_replays_with_its_options(options):
    net = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1))
    first = captured(sampler_of(net))
    first(X, step=0)
    second = first.replace(**options)
    if second._graphs is not first._graphs:
        captured(second)
    assert torch.equal(second(X, step=0), sampler_of(net, **options)(X, step=0))


def test_every_option_is_a_constant_of_a_graph_or_read_by_it():
    """A new option belongs into one of the three."""
    assert {name for options in BUILT_IN for name in options} | READ | BEFORE == set(fl.Langevin._defaults())


@pytest.mark.parametrize(
    ("module", "flag"),
    [
        (torch.backends.cudnn, "enabled"),
        (torch.backends.cudnn, "benchmark"),
        (torch.backends.cudnn, "deterministic"),
        (torch.backends.cuda.matmul, "allow_fp16_reduced_precision_reduction"),
        (torch.backends.cuda.matmul, "allow_bf16_reduced_precision_reduction"),
        (torch.backends.cuda.matmul, "allow_fp16_accumulation"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_flag_of_torch_s_operators_is_captured_again(module, flag, made):
    _, replayed = pair()
    replayed(X)
    before = getattr(module, flag)
    setattr(module, flag, not before)
    try:
        replayed(X)
    finally:
        setattr(module, flag, before)
    assert len(made) == 2


def test_kinds_of_targets_that_share_graphs(made):
    net = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1))
    energy = captured(fl.Langevin(net, n_steps=3, seed=1))
    log_density = captured(fl.Langevin(log_density=net, n_steps=3, seed=1))
    log_density._graphs = energy._graphs
    energy(X)
    assert torch.equal(log_density(X), fl.Langevin(log_density=net, n_steps=3, seed=1)(X))
    assert len(made) == 2


def test_copies_capture_separately(made):
    _, replayed = pair()
    replayed(X)
    assert copy.deepcopy(replayed)._graphs.captured == []


def test_what_cannot_be_captured_runs_eagerly_after_one_warning():
    eager, replayed = pair()
    captured(replayed, why="an evaluation makes the host wait")
    with pytest.warns(RuntimeWarning, match="runs eagerly, without a CUDA graph: an evaluation makes the host wait"):
        assert torch.equal(replayed(X), eager(X))
    assert torch.equal(replayed(X), eager(X))
    assert "an evaluation makes the host wait" in str(replayed._graphs.unsupported(torch.device("cpu")))


def test_true_raises_where_it_cannot_be_captured():
    _, replayed = pair()
    captured(replayed, True, why="an evaluation makes the host wait")
    for _ in range(2):
        with pytest.raises(fl.BackendUnavailable, match="graph=True cannot be met: an evaluation makes"):
            replayed(X)


def test_hooks_and_unsupported_arguments_are_declined():
    _, replayed = pair()
    captured(replayed, True)
    handle = replayed.target.function[1].register_forward_hook(lambda *_: None)
    with pytest.raises(fl.BackendUnavailable, match="a Tanh has hooks"):
        replayed(X)
    handle.remove()
    replayed(X)
    energy = lambda x, more: x.sum(1)
    with pytest.raises(fl.BackendUnavailable, match="extra argument 0 is neither a tensor nor a plain number: list"):
        captured(fl.Langevin(energy, n_steps=2, seed=1), True)(X, [1.0])


def test_changes_at_every_call_stop_the_captures(made):
    _, replayed = pair()
    with pytest.warns(RuntimeWarning, match="was different at each of 8 consecutive calls"):
        for k in range(12):
            replayed(X, chain_offset=k)
    assert len(made) == 8


def test_unroll_has_to_divide():
    _, replayed = pair(unroll=4)
    captured(replayed, unroll=4)
    with pytest.raises(ValueError, match="unroll must divide n_steps = 6, got 4"):
        replayed(X)


def test_graphs_need_a_gpu():
    sampler = fl.Langevin(lambda x: x.sum(1), seed=1, graph=True)
    with pytest.raises(fl.BackendUnavailable, match="graph=True cannot be met: CUDA graphs need an NVIDIA GPU"):
        sampler(X)
    assert not fl.Langevin(lambda x: x.sum(1), seed=1).plan.graph


def test_data_parallel_networks_are_sampled_without_their_hooks(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        net = nn.Linear(3, 1)
        sampler = fl.Langevin(nn.parallel.DistributedDataParallel(net), n_steps=3, seed=1)
        assert sampler.target.function is net
        assert torch.equal(sampler(X), fl.Langevin(net, n_steps=3, seed=1)(X))
    finally:
        torch.distributed.destroy_process_group()


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.utils.parametrizations.spectral_norm(nn.Linear(3, 3))
        self.norm = nn.LayerNorm(3)

    def forward(self, x):
        return (x + torch.tanh(self.inner(self.norm(x)))).logsumexp(1)


@pytest.mark.parametrize("train", [True, False])
def test_a_captured_recording(train, made):
    """In train mode the spectral norm iterates at each captured step, not at those that warm up."""
    torch.manual_seed(0)
    net = Residual().train(train)
    twin = copy.deepcopy(net)
    options = dict(n_steps=6, seed=3)
    eager, replayed = fl.Langevin(twin, **options), captured(fl.Langevin(net, **options), unroll=3)
    for _ in range(2):
        assert torch.equal(replayed(X), eager(X))
    assert replayed.plan.engine == "graph"
    for a, b in zip(net.state_dict().values(), twin.state_dict().values(), strict=True):
        assert torch.equal(a, b)
