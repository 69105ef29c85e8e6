"""On a GPU: every backend draws the noise and makes the updates of a CPU, bit for bit."""

from __future__ import annotations

import pytest
import torch
from support.updates import DTYPES, layouts, same_bits, state

import fastlangevin as fl
from fastlangevin import kernels

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]


@pytest.fixture(params=["cuda", "triton", "reference"])
def backend(request):
    why = kernels.BACKENDS[request.param].unsupported(torch.device("cuda"))
    if why:
        pytest.skip(f"backend {request.param}: {why}")
    return request.param


def test_custom_kernels_are_used_on_a_gpu():
    for name in ("cuda", "triton"):
        assert kernels.BACKENDS[name].unsupported() is None, name


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
