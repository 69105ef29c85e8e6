"""On a GPU: every backend draws the noise and makes the updates of a CPU, bit for bit; chains, and training."""

from __future__ import annotations

import pytest
import torch
from test_update import DTYPES, layouts, same_bits, state

import fastlangevin as fl
from fastlangevin import kernels
from fastlangevin.data.sources import digits
from fastlangevin.runs import checkpoint
from fastlangevin.training import train as training

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]


@pytest.fixture(params=["cuda", "triton", "reference"])
def backend(request):
    why = kernels.BACKENDS[request.param].refuses(torch.device("cuda"))
    if why:
        pytest.skip(f"backend {request.param}: {why}")
    return request.param


def test_the_kernels_of_this_project_serve_a_gpu():
    for name in ("cuda", "triton"):
        assert kernels.BACKENDS[name].unavailable() is None, name


@pytest.mark.parametrize("draw", [fl.noise.normal, fl.noise.uniform])
@pytest.mark.parametrize("offset", [0, 1, 2**34 - 3])
def test_noise_bits(backend, draw, offset):
    key = {"seed": 2**64 - 5, "step": 7, "stream": 2, "offset": offset}
    for n in (1, 3, 4, 1023, 5005, 300_000):
        assert torch.equal(draw((n,), device="cuda", backend=backend, **key).cpu(), draw((n,), **key)), n


def test_golden_bits(backend, vectors):
    for row in vectors[:: 1 if backend == "cuda" else 16]:
        key = dict(seed=int(row["seed"]), step=row["step"], stream=row["stream"], offset=4 * int(row["group"]))
        got = fl.noise.normal((4,), device="cuda", backend=backend, **key)
        assert got.cpu().view(torch.int32).tolist() == [
            int(w, 16) - (1 << 32 if int(w, 16) >> 31 else 0) for w in row["normal_bits"]
        ]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("part", ["both", "score", "noise"])
@pytest.mark.parametrize("n", [1, 5, 1024, 4099, 196_608])
@pytest.mark.parametrize("start", [0, 1])
def test_update_bits(backend, dtype, part, n, start):
    x, score = (v[start:] for v in state((n + start,), dtype))
    arguments = (None, None) if part == "noise" else (score, 0.7)
    sigma = None if part == "score" else 0.3
    options = {"seed": 2**63 + 1, "step": 2, "offset": 4, "grad_clip": 0.7, "bounds": (-1.0, 1.5)}
    expected = fl.langevin_update_(x.clone(), *arguments, sigma, **options)
    whole = torch.full((n + start + 32,), 99.0, dtype=dtype, device="cuda")
    got = whole[start : start + n].copy_(x)
    on_gpu = (None, None) if part == "noise" else (score.cuda(), 0.7)
    fl.langevin_update_(got, *on_gpu, sigma, backend=backend, **options)
    assert same_bits(got.cpu(), expected)
    assert (whole[:start] == 99).all() and (whole[start + n :] == 99).all()


def test_update_on_any_strides_and_with_numbers_on_the_device(backend):
    x, score = state((3, 5, 6, 7))
    expected = fl.langevin_update_(x.clone(), score, 0.7, 0.3, seed=3, step=9, offset=5)
    f64 = dict(dtype=torch.float64, device="cuda")
    numbers = torch.tensor(0.7, **f64), torch.tensor(0.3, **f64)
    key = {"seed": torch.tensor(3, device="cuda"), "step": torch.tensor(9, device="cuda")}
    for i in range(5):
        for j in range(5):
            got, s = like_on_gpu(layouts(x)[i]), like_on_gpu(layouts(score)[j])
            assert torch.equal(
                fl.langevin_update_(got, s, *numbers, **key, offset=5, backend=backend).cpu(), expected
            ), (i, j)


def like_on_gpu(x: torch.Tensor) -> torch.Tensor:
    """The same values and strides on the GPU."""
    storage = torch.empty(x.untyped_storage().nbytes() // x.element_size(), dtype=x.dtype, device="cuda")
    return storage.as_strided(x.shape, x.stride(), x.storage_offset()).copy_(x)


def test_update_on_the_current_stream(backend):
    x = torch.zeros(1 << 20, device="cuda")
    fl.langevin_update_(x, None, None, 1.0, seed=1, step=1, backend=backend)
    expected = x.clone()
    stream = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        x.zero_()
        fl.langevin_update_(x, None, None, 1.0, seed=1, step=1, backend=backend)
        x.mul_(2)
    stream.synchronize()
    assert torch.equal(x, 2 * expected)


def test_more_than_2_31_elements(backend):
    n = 2**31 + 1029
    if backend == "reference" or torch.cuda.mem_get_info()[0] < 2 * n + 2**30:
        pytest.skip("slow, or too little memory")
    x = torch.zeros(n, dtype=torch.bfloat16, device="cuda")
    fl.langevin_update_(x, None, None, 1.0, seed=1, step=1, backend=backend)
    for start in (0, 2**31 - 2048, n - 2048):
        z = fl.noise.normal((2048,), seed=1, step=1, offset=start)
        assert torch.equal(x[start : start + 2048].cpu(), z.bfloat16())


def test_chain_agrees_with_the_cpu_to_rounding():
    net = fl.models.ConvNet(8, 1, 8).double()
    x0 = torch.randn(4, 1, 8, 8, dtype=torch.float64)
    expected = fl.Langevin(log_density=net, n_steps=5, seed=1)(x0)
    got = fl.Langevin(log_density=net.cuda(), n_steps=5, seed=1)(x0.cuda())
    assert torch.allclose(got.cpu(), expected, atol=1e-9)


def test_divergence_is_raised_by_the_next_call_or_check():
    sampler = fl.Langevin(lambda x: -(x**4).sum(1), n_steps=9, step_size=1.0, noise_std=0.0, seed=1)
    x0 = torch.ones(3, 1, device="cuda")
    sampler(x0)
    with pytest.raises(fl.ChainDiverged, match="3 of 3 chains"):
        sampler.check()
    sampler.check()
    sampler(x0)
    with pytest.raises(fl.ChainDiverged, match="3 of 3 chains"):
        sampler(x0)


def test_tf32_is_off_for_fp32_and_flags_are_restored():
    seen = []

    def energy(x):
        seen.append((torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision))
        return x.square().sum(1)

    before = torch.backends.cudnn.conv.fp32_precision
    for precision in ("fp32", "tf32"):
        fl.Langevin(energy, n_steps=1, precision=precision, graph=False, seed=1)(torch.zeros(1, 2, device="cuda"))
    assert seen == [("ieee", "ieee"), ("tf32", "tf32")]
    assert torch.backends.cudnn.conv.fp32_precision == before


def test_training_and_resuming(tmp_path):
    options = {"out": tmp_path, "batch_size": 8, "features": 4, "sampler": {"n_steps": 3}, "progress": False}
    result = fl.train("digits", n_iterations=3, device="cuda", **options)
    assert next(result.model.parameters()).is_cuda
    again = fl.train("digits", n_iterations=5, device="cuda", resume=True, out=tmp_path, progress=False)
    assert again.history[-1]["iteration"] == 5


@pytest.mark.parametrize("from_host", [False, True], ids=["data-on-the-gpu", "data-on-the-host"])
@pytest.mark.parametrize("log_every", [100, 1])
def test_a_steady_iteration_waits_for_nothing(monkeypatch, from_host, log_every):
    """Between the second iteration and the last, logging included, nothing that torch can tell makes the host wait."""
    if kernels.select(None, torch.device("cuda")).name == "reference":
        pytest.skip("the reference backend, which is all there is here, copies its coefficients synchronously")
    first, last = 2, 9
    step = training._Trainer.step
    strict = []

    def step_under_watch(self):
        watched = first <= self.iteration < last
        torch.cuda.set_sync_debug_mode("error" if watched else "default")
        strict.append(watched)
        return step(self)

    monkeypatch.setattr(training._Trainer, "step", step_under_watch)
    data = digits()[0]
    if from_host:
        data = torch.utils.data.TensorDataset(data)
    options = {"batch_size": 8, "features": 4, "sampler": {"n_steps": 3}, "progress": False, "device": "cuda"}
    try:
        result = fl.train(data, n_iterations=last + 1, log_every=log_every, value_range=(-1, 1), **options)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert sum(strict) == last - first
    assert [row["iteration"] for row in result.history] == list(range(1, last + 2) if log_every == 1 else [last + 1])


@pytest.mark.parametrize(("first", "second"), [("cpu", "cuda"), ("cuda", "cpu")])
def test_a_run_goes_on_on_another_device(tmp_path, first, second):
    options = {"batch_size": 8, "features": 4, "sampler": {"n_steps": 3}, "progress": False}
    fl.train("digits", out=tmp_path, n_iterations=3, device=first, **options)
    fl.train("digits", out=tmp_path, n_iterations=6, device=second, resume=True, progress=False)
    tensors, meta = checkpoint.load(checkpoint.newest(tmp_path / "checkpoints"))
    assert meta["optimizer_groups"][0]["capturable"] is (second == "cuda")
    assert tensors["optimizer.0.step"] == 6


def test_adam_is_capturable():
    options = {"batch_size": 8, "features": 4, "sampler": {"n_steps": 3}, "progress": False}
    optimizers = []
    init = torch.optim.Adam.__init__

    def spy(self, *args, **kwargs):
        init(self, *args, **kwargs)
        optimizers.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.Adam, "__init__", spy)
        fl.train("digits", n_iterations=1, device="cuda", **options)
    (adam,) = optimizers
    assert all(state["step"].is_cuda for state in adam.state.values())
