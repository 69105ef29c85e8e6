"""The moves of `reference_moves` in Triton, bit for bit.

A velocity move is element-wise, like the update. A program of a Metropolis test has whole chains: it adds up their
terms, decides, and reads proposals again to copy those that are accepted.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ..reference_moves import MOST_LANES
from .device import on
from .noise import normals, normals_at, uniforms_at
from .update import BLOCK, WARPS, bits_of, is_wide, key, narrow, scalar, widen

# Neither values nor the alignment of numbers in memory specialise a kernel, see `update`; nor that of masses, which a
# captured chain has beside its numbers.
MOVE_NUMBERS = ("kick", "drift", "decay", "noise_std", "seed", "step")
MOVE_VALUES = (*MOVE_NUMBERS, "stream", "first_group", "n_factors")
MOVE_POINTERS = tuple(f"{name}_pointer" for name in (*MOVE_NUMBERS, "weights", "roots"))
TEST_NUMBERS = ("size", "noise_std", "temperature", "seed", "step")
TEST_VALUES = (*TEST_NUMBERS, "lo", "hi", "stream", "offset", "test_stream", "first_chain", "n_chains", "n_factors")
TEST_POINTERS = tuple(f"{name}_pointer" for name in (*TEST_NUMBERS, "masses", "weights", "roots"))
WARP_LANES = 128  # of a test's sums that a warp has: four a thread, 16 bytes of float32


@triton.jit
def _scaled(number, factors_pointer, n_factors, index, inside):
    """The number times the factors of elements, which repeat."""
    if factors_pointer is None:
        return number
    else:
        return number * tl.load(factors_pointer + index % n_factors.to(index.dtype), mask=inside, other=0.0)


@triton.jit(do_not_specialize=MOVE_VALUES, do_not_specialize_on_alignment=MOVE_POINTERS)
def velocity_move_kernel(
    x_pointer,
    v_pointer,
    score_pointer,
    weights_pointer,
    roots_pointer,
    kick: tl.int64,
    drift: tl.int64,
    decay: tl.int64,
    noise_std: tl.int64,
    seed: tl.int64,
    step: tl.int64,
    kick_pointer,
    drift_pointer,
    decay_pointer,
    noise_std_pointer,
    seed_pointer,
    step_pointer,
    stream: tl.int64,
    first_group: tl.int64,
    n: tl.int64,
    n_factors: tl.int64,  # in the memory of the weights, and of the roots
    DRAWS: tl.constexpr,
    N_KICKS: tl.constexpr,
    HAS_DECAY: tl.constexpr,
    ON_DEVICE: tl.constexpr,
    SKIP: tl.constexpr,  # lanes of the first group that precede x
    WIDE: tl.constexpr,  # more elements than 32-bit indices can address
    BLOCK: tl.constexpr,
):
    dtype: tl.constexpr = v_pointer.dtype.element_ty
    program = tl.program_id(0).to(tl.int64) if WIDE else tl.program_id(0)
    index = program * (4 * BLOCK) + tl.arange(0, 4 * BLOCK) - SKIP
    inside = index < n if SKIP == 0 else (index >= 0) & (index < n)
    x = widen(tl.load(x_pointer + index, mask=inside, other=0.0), dtype)
    if DRAWS or HAS_DECAY:
        group = first_group + program.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        z = normals(group, key(seed, seed_pointer, ON_DEVICE), key(step, step_pointer, ON_DEVICE), stream)
        std = scalar(noise_std, noise_std_pointer, ON_DEVICE, dtype)
        noise = _scaled(std, roots_pointer, n_factors, index, inside) * z.to(dtype)
    v = noise if DRAWS else tl.load(v_pointer + index, mask=inside, other=0.0)
    if N_KICKS > 0:
        score = widen(tl.load(score_pointer + index, mask=inside, other=0.0), dtype)
        size = scalar(kick, kick_pointer, ON_DEVICE, dtype)
        weighted = _scaled(size, weights_pointer, n_factors, index, inside)
        for _ in tl.static_range(N_KICKS):
            v = tl.fma(weighted, score, v)
    time = scalar(drift, drift_pointer, ON_DEVICE, dtype)
    x = tl.fma(time, v, x)
    if HAS_DECAY:
        v = tl.fma(scalar(decay, decay_pointer, ON_DEVICE, dtype), v, noise)
        x = tl.fma(time, v, x)
    tl.store(x_pointer + index, narrow(x, x_pointer.dtype.element_ty), mask=inside)
    tl.store(v_pointer + index, v, mask=inside)


@triton.jit
def _mala_terms(size, x, y, score, new_score):
    return (score + new_score) * tl.fma(size * 0.5, new_score - score, y - x)


@triton.jit
def _hmc_terms(kick, noise_std, half_mass, v, new_score, z):
    end, drawn = tl.fma(kick, new_score, v), noise_std * z
    return half_mass * (end - drawn) * (end + drawn)


@triton.jit
def _add_halves(sums, CHAINS: tl.constexpr, DOUBLINGS: tl.constexpr):
    """(CHAINS, 2^DOUBLINGS) to (CHAINS,): lanes i and i + half of them, then again, until one is left."""
    for _ in tl.static_range(DOUBLINGS):  # a sum of two has one order
        sums = tl.sum(tl.reshape(sums, [CHAINS, 2, sums.shape[1] // 2]), 1)
    return tl.reshape(sums, [CHAINS])


@triton.jit(do_not_specialize=TEST_VALUES, do_not_specialize_on_alignment=TEST_POINTERS)
def metropolis_kernel(
    x_pointer,  # (n_chains, n), as all down to v
    score_pointer,
    y_pointer,
    new_score_pointer,
    v_pointer,  # None for a Langevin proposal
    energy_pointer,  # (n_chains,), as all down to n_rejected
    log_ratio_pointer,
    n_accepted_pointer,
    n_rejected_pointer,
    new_energy_pointer,
    masses_pointer,
    weights_pointer,
    roots_pointer,
    size: tl.int64,  # a Langevin proposal's step size, a trajectory's kick
    noise_std: tl.int64,
    temperature: tl.int64,
    seed: tl.int64,
    step: tl.int64,
    size_pointer,
    noise_std_pointer,
    temperature_pointer,
    seed_pointer,
    step_pointer,
    lo: tl.int64,
    hi: tl.int64,
    stream: tl.int64,
    offset: tl.int64,
    test_stream: tl.int64,
    first_chain: tl.int64,
    n_chains: tl.int64,
    n: tl.int64,  # elements of a chain
    n_factors: tl.int64,  # in the memory of the masses, and so on
    ON_DEVICE: tl.constexpr,
    CHAINS: tl.constexpr,
    DOUBLINGS: tl.constexpr,  # 2^DOUBLINGS lanes
):
    LANES: tl.constexpr = 2**DOUBLINGS
    narrow_type: tl.constexpr = x_pointer.dtype.element_ty
    dtype: tl.constexpr = tl.float64 if narrow_type == tl.float64 else tl.float32
    chain = tl.program_id(0).to(tl.int64) * CHAINS + tl.arange(0, CHAINS)
    is_chain = chain < n_chains
    chains, lane = chain[:, None], tl.arange(0, LANES)[None, :]
    seed, step = key(seed, seed_pointer, ON_DEVICE), key(step, step_pointer, ON_DEVICE)
    amount = scalar(size, size_pointer, ON_DEVICE, dtype)
    least = widen(narrow(scalar(lo, None, False, dtype), narrow_type), dtype)
    most = widen(narrow(scalar(hi, None, False, dtype), narrow_type), dtype)

    sums = tl.zeros([CHAINS, LANES], tl.float64)
    outside = tl.zeros([CHAINS, LANES], tl.int32)
    for start in range(0, n, LANES):
        inside = is_chain[:, None] & (start + lane < n)
        index = chains * n + start + lane
        y = widen(tl.load(y_pointer + index, mask=inside, other=0.0), dtype)
        new_score = widen(tl.load(new_score_pointer + index, mask=inside, other=0.0), dtype)
        if v_pointer is None:
            x = widen(tl.load(x_pointer + index, mask=inside, other=0.0), dtype)
            score = widen(tl.load(score_pointer + index, mask=inside, other=0.0), dtype)
            terms = _mala_terms(amount, x, y, score, new_score)
        else:
            v = tl.load(v_pointer + index, mask=inside, other=0.0)
            kick = _scaled(amount, weights_pointer, n_factors, index, inside)
            half_mass = _scaled(tl.full([], 0.5, dtype), masses_pointer, n_factors, index, inside)
            std = scalar(noise_std, noise_std_pointer, ON_DEVICE, dtype)
            drawn = _scaled(std, roots_pointer, n_factors, index, inside)
            z = normals_at(offset + index, seed, step, stream).to(dtype)
            terms = _hmc_terms(kick, drawn, half_mass, v, new_score, z)
        sums += tl.where(inside, terms, 0.0).to(tl.float64)
        within = (y >= least) & (y <= most)  # not NaN
        outside = tl.where(inside & (within == 0), 1, outside)

    work = _add_halves(sums, CHAINS, DOUBLINGS)
    if v_pointer is None:
        work *= 0.5
    energy = tl.load(energy_pointer + chain, mask=is_chain, other=0.0)
    new_energy = tl.load(new_energy_pointer + chain, mask=is_chain, other=0.0)
    log_ratio = (energy - new_energy - work) / scalar(temperature, temperature_pointer, ON_DEVICE, tl.float64)
    log_ratio = tl.where(tl.max(outside, 1) == 0, log_ratio, float("-inf"))
    u = uniforms_at(first_chain + chain, seed, step, test_stream)
    accepted = tl.log(u.to(tl.float64)) < log_ratio
    tl.debug_barrier()  # threads that share a chain have all read its energy
    tl.store(log_ratio_pointer + chain, log_ratio, mask=is_chain)
    tl.store(energy_pointer + chain, new_energy, mask=is_chain & accepted)
    n_accepted = tl.load(n_accepted_pointer + chain, mask=is_chain, other=0)
    n_rejected = tl.load(n_rejected_pointer + chain, mask=is_chain, other=0)
    tl.store(n_accepted_pointer + chain, n_accepted + accepted.to(tl.int64), mask=is_chain)
    tl.store(n_rejected_pointer + chain, tl.where(accepted, 0, n_rejected + 1), mask=is_chain)

    moves = (is_chain & accepted)[:, None]
    for start in range(0, n, LANES):
        inside = moves & (start + lane < n)
        index = chains * n + start + lane
        tl.store(x_pointer + index, tl.load(y_pointer + index, mask=inside), mask=inside)
        tl.store(score_pointer + index, tl.load(new_score_pointer + index, mask=inside), mask=inside)


def velocity_move(
    x: Tensor,
    v: Tensor,
    score: Tensor | None,
    weights: Tensor | None,
    roots: Tensor | None,
    draws: bool,
    kick: float | Tensor | None,
    n_kicks: int,
    drift: float | Tensor,
    decay: float | Tensor | None,
    noise_std: float | Tensor,
    seed: int | Tensor,
    step: int | Tensor,
    stream: int,
    offset: int,
) -> None:
    """Launches `velocity_move_triton_`. Numbers are Python's, or all tensors."""
    assert x.is_contiguous() and v.is_contiguous() and (score is None or score.is_contiguous())
    skip, n = offset % 4, x.numel()
    numbers = _numbers(kick, drift, decay, noise_std, seed, step)
    n_factors = 0 if weights is None else weights.numel()
    with on(x.device):
        velocity_move_kernel[(triton.cdiv(n + skip, 4 * BLOCK),)](
            *(x, v, score, weights, roots, *numbers, stream, offset // 4, n, n_factors),
            DRAWS=draws,
            N_KICKS=0 if kick is None else n_kicks,
            HAS_DECAY=decay is not None,
            ON_DEVICE=isinstance(seed, Tensor),
            SKIP=skip,
            WIDE=is_wide(n),
            BLOCK=BLOCK,
            num_warps=WARPS,
            enable_fp_fusion=False,
        )


def mala_test(
    x: Tensor,
    energy: Tensor,
    score: Tensor,
    log_ratio: Tensor,
    n_accepted: Tensor,
    n_rejected: Tensor,
    y: Tensor,
    new_score: Tensor,
    new_energy: Tensor,
    step_size: float | Tensor,
    temperature: float | Tensor,
    lo: float,
    hi: float,
    seed: int | Tensor,
    step: int | Tensor,
    test_stream: int,
    first_chain: int,
) -> None:
    """Launches `mala_test_triton_`, likewise."""
    states, chains = (x, score, y, new_score), (energy, log_ratio, n_accepted, n_rejected, new_energy)
    numbers = _numbers(step_size, None, temperature, seed, step)
    _test(states, None, chains, (None, None, None), numbers, lo, hi, 0, 0, test_stream, first_chain)


def hmc_test(
    x: Tensor,
    energy: Tensor,
    score: Tensor,
    log_ratio: Tensor,
    n_accepted: Tensor,
    n_rejected: Tensor,
    y: Tensor,
    new_score: Tensor,
    new_energy: Tensor,
    v: Tensor,
    masses: Tensor | None,
    weights: Tensor | None,
    roots: Tensor | None,
    kick: float | Tensor,
    noise_std: float | Tensor,
    temperature: float | Tensor,
    lo: float,
    hi: float,
    seed: int | Tensor,
    step: int | Tensor,
    stream: int,
    offset: int,
    test_stream: int,
    first_chain: int,
) -> None:
    """Launches `hmc_test_triton_`, likewise."""
    states, chains = (x, score, y, new_score), (energy, log_ratio, n_accepted, n_rejected, new_energy)
    numbers = _numbers(kick, noise_std, temperature, seed, step)
    _test(states, v, chains, (masses, weights, roots), numbers, lo, hi, stream, offset, test_stream, first_chain)


def _test(
    states: tuple[Tensor, ...],
    v: Tensor | None,
    chains: tuple[Tensor, ...],
    momentum: tuple[Tensor | None, ...],
    numbers: tuple[float | Tensor | None, ...],
    lo: float,
    hi: float,
    stream: int,
    offset: int,
    test_stream: int,
    first_chain: int,
) -> None:
    x, weights = states[0], momentum[1]
    assert all(state.is_contiguous() for state in states) and (v is None or v.is_contiguous())
    n_chains, n = len(x), x[:1].numel()
    constants, options = layout(n)
    n_factors = 0 if weights is None else weights.numel()
    with on(x.device):
        metropolis_kernel[(triton.cdiv(n_chains, constants["CHAINS"]),)](
            *(*states, v, *chains, *momentum, *numbers, bits_of(lo), bits_of(hi)),
            *(stream, offset, test_stream, first_chain, n_chains, n, n_factors),
            ON_DEVICE=isinstance(numbers[-1], Tensor),
            **constants,
            **options,
        )


def layout(n: int) -> tuple[dict[str, int], dict[str, object]]:
    """Constants of a program of tests, for chains of n elements, and the options of its launch."""
    doublings = max(0, min(n, MOST_LANES) - 1).bit_length()
    constants = {"CHAINS": max(1, WARP_LANES >> doublings), "DOUBLINGS": doublings}
    return constants, {"num_warps": max(1, (1 << doublings) // WARP_LANES), "enable_fp_fusion": False}


def _numbers(*numbers: float | Tensor | None) -> tuple[float | Tensor | None, ...]:
    """Numbers, of which the last two are whole: all by value, then all as pointers."""
    *floats, seed, step = numbers
    if isinstance(seed, Tensor):
        return (*(0 for _ in numbers), *numbers)
    return (*(bits_of(number or 0.0) for number in floats), seed, step, *(None for _ in numbers))
