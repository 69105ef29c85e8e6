"""The peak rates of this machine, measured in the same run: bytes copied and multiply-adds per second."""

from __future__ import annotations

import ctypes
import functools
import statistics
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from timing import in_turns
from works import UPDATE_LANES, Work

from fastlangevin.kernels import build, native
from fastlangevin.score import precision as precisions

_SIZE = {"cpu": 1024, "cuda": 8192}  # of a square matrix product
_ROUNDS = 5
COPY_BYTES, UPDATE_BYTES = 8, 12  # per element: read and write; read x and score, write x


def update_floor(n: int, copy_seconds: float, device: str) -> tuple[float, str]:
    """Seconds of an update of n elements, and its bound: the bytes, at the bandwidth of a copy, or the instructions."""
    by_bytes = copy_seconds * UPDATE_BYTES / COPY_BYTES
    by_instructions = n * UPDATE_LANES / multiply_adds(device, "fp32")[0]
    if by_bytes > by_instructions:
        return by_bytes, "12 bytes per element at the bandwidth of a copy of the same size"
    return by_instructions, "its vector instructions, two per multiply-add"


def chain_floor(work: Work, precision: str) -> tuple[float, str]:
    """Seconds that the work's multiply-adds take at the peak of this machine, and the description of the peak."""
    rate, what = multiply_adds(work.device, precision)
    return work.n_steps * work.lanes / rate, what


def multiply_adds(device: str, precision: str) -> tuple[float, str]:
    """Multiply-adds per second, and their description: the processor's own in float32 on a CPU, else torch.mm's."""
    if device == "cpu" and precision == "fp32" and (peak := _fma_peak()) is not None:
        return _highest(
            peak, torch.get_num_threads()
        ), f"{precision} multiply-adds of 16 lanes on {torch.get_num_threads()} cores"
    return matrix_product(device, precision), f"{precision} matrix product"


def matrix_product(device: str, precision: str) -> float:
    """Multiply-adds per second in torch.mm."""
    n = _SIZE[device]
    dtype = precisions.HALF.get(precision, torch.float32)
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    with precisions.Running(precision if dtype == torch.float32 else "fp32", torch.device(device)):
        a @ b
        seconds = in_turns({"product": lambda: a @ b}, _ROUNDS)["product"]
    return n**3 / min(seconds)


def copy_bandwidth(device: str, n: int = 2**26) -> float:
    """Bytes per second, read and written, of one copy of n float32 numbers."""
    x, y = torch.ones(n, device=device), torch.empty(n, device=device)
    y.copy_(x)
    return COPY_BYTES * n / statistics.median(in_turns({"copy": lambda: y.copy_(x)}, _ROUNDS)["copy"])


_reached: dict[int, float] = {}  # by the number of threads


def _highest(peak: Callable[[int], float], n_threads: int) -> float:
    """The highest rate that this run has reached: a processor's clock changes, and a floor is a lower bound."""
    rates = (peak(n_threads) for _ in range(_ROUNDS))
    _reached[n_threads] = max(_reached.get(n_threads, 0.0), *rates)
    return _reached[n_threads]


def _fma_peak() -> Callable[[int], float] | None:
    """Multiply-adds per second as a function of the number of threads; None if the processor has no AVX-512."""
    return None if (rates := processor_rates()) is None else rates.fma_peak


@functools.cache
def processor_rates() -> ctypes.CDLL | None:
    """`processor_rates.cpp`; None if the processor has no AVX-512."""
    if native.load_cpu() or native.cpu_capability() not in ("amx", "avx512"):
        return None
    with tempfile.TemporaryDirectory() as folder:
        library, source = Path(folder, "rates.so"), Path(__file__).with_name("processor_rates.cpp")
        command = [*build.compiler().split(), "-O2", "-mavx512f", "-shared", "-fPIC", "-o", library, source]
        subprocess.run(command, check=True)
        rates = ctypes.CDLL(str(library))
    rates.fma_peak.restype, rates.fma_peak.argtypes = ctypes.c_double, [ctypes.c_int]
    for name in ("multiply_adds", "instructions", "cycles"):
        getattr(rates, name).argtypes = [ctypes.c_long]
        getattr(rates, name).restype = None
    return rates
