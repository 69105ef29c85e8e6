"""Golden vectors of the noise stream, computed from its definition in docs/noise.md.

An independent oracle: Python integers, and float32 arithmetic by libm's fmaf and NumPy's correctly rounded float32
operations. No code of the package takes part. `python tests/support/noise_oracle.py` writes noise_vectors.json anew.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import json
import random
from pathlib import Path

import numpy as np

libm = ctypes.CDLL(ctypes.util.find_library("m"))
libm.fmaf.restype = ctypes.c_float
libm.fmaf.argtypes = [ctypes.c_float] * 3
f32 = np.float32
WRITTEN = Path(__file__).with_name("noise_vectors.json")


def fma(a, b, c):
    return f32(libm.fmaf(float(a), float(b), float(c)))


def bits(x):
    return int(np.array(x, dtype=np.float32).view(np.uint32))


def from_bits(u):
    return np.array(u & 0xFFFFFFFF, dtype=np.uint32).view(np.float32)[()]


def signed(u):
    return u - (1 << 32) if u & 0x80000000 else u


def philox(counter, key):
    c, k = list(counter), list(key)
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(p1 >> 32) ^ c[1] ^ k[0], p1 & 0xFFFFFFFF, (p0 >> 32) ^ c[3] ^ k[1], p0 & 0xFFFFFFFF]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return c


def log(x):
    j = signed((bits(x) - 0x3F3504F3) & 0xFFFFFFFF)
    e = f32(j >> 23)
    f = f32(from_bits((j & 0x7FFFFF) + 0x3F3504F3) - f32(1))
    y = f32(7.0376836292e-2)
    for a in (
        -1.1514610310e-1,
        1.1676998740e-1,
        -1.2420140846e-1,
        1.4249322787e-1,
        -1.6668057665e-1,
        2.0000714765e-1,
        -2.4999993993e-1,
        3.3333331174e-1,
    ):
        y = fma(y, f, f32(a))
    z = f32(f * f)
    y = f32(y * f32(f * z))
    y = fma(e, f32(-2.12194440e-4), y)
    y = fma(z, f32(-0.5), y)
    return fma(e, f32(0.693359375), f32(f + y))


def box_muller(u, v):
    a = fma(f32(u >> 8), f32(2.0**-24), f32(2.0**-25))
    r = f32(np.sqrt(f32(f32(-2) * log(a))))
    q = ((v + 0x20000000) & 0xFFFFFFFF) >> 30
    t = f32(f32(signed((v << 2) & 0xFFFFFFFF)) * f32(3.6572951e-10))
    z = f32(t * t)
    s = fma(z, f32(-1.9515295891e-4), f32(8.3321608736e-3))
    s = fma(s, z, f32(-1.6666654611e-1))
    s = fma(f32(s * z), t, t)
    c = fma(z, f32(2.443315711809948e-5), f32(-1.388731625493765e-3))
    c = fma(c, z, f32(4.166664568298827e-2))
    c = fma(f32(c * z), z, fma(z, f32(-0.5), f32(1)))
    sin, cos = (c, s) if q & 1 else (s, c)
    sin = from_bits(bits(sin) ^ ((q & 2) << 30))
    cos = from_bits(bits(cos) ^ (((q + 1) & 2) << 30))
    return f32(r * cos), f32(r * sin)


def draw(seed, step, stream, group):
    words = philox((group & 0xFFFFFFFF, group >> 32, step, stream), (seed & 0xFFFFFFFF, seed >> 32))
    return words, [*box_muller(words[0], words[1]), *box_muller(words[2], words[3])]


def unphilox(words, key):
    """The counter whose Philox words these are: Philox is a bijection, so edge words can be reached."""
    mask = 0xFFFFFFFF
    inverse = pow(0xD2511F53, -1, 1 << 32), pow(0xCD9E8D57, -1, 1 << 32)
    c = list(words)
    for r in reversed(range(10)):
        k = (key[0] + r * 0x9E3779B9) & mask, (key[1] + r * 0xBB67AE85) & mask
        c0, c2 = (c[3] * inverse[0]) & mask, (c[1] * inverse[1]) & mask
        p0, p1 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c = [c0, c[0] ^ (p1 >> 32) ^ k[0], c2, c[2] ^ (p0 >> 32) ^ k[1]]
    return c


def edge_cases():
    """Counters that make r0, r1 hit the ends of the logarithm's and the quadrants' ranges."""
    rng = random.Random(0)
    radius = [
        0,
        0xFF,
        0x100,
        0x7FFFFFFF,
        0x80000000,
        0xFFFFFEFF,
        0xFFFFFF00,
        0xFFFFFFFF,
        0xB504F300,
        0xB504F400,
        0x5A827900,
    ]
    angle = [
        0,
        1,
        0x1FFFFFFF,
        0x20000000,
        0x20000001,
        0x3FFFFFFF,
        0x40000000,
        0x5FFFFFFF,
        0x60000000,
        0x7FFFFFFF,
        0x80000000,
        0x9FFFFFFF,
        0xA0000000,
        0xBFFFFFFF,
        0xC0000000,
        0xDFFFFFFF,
        0xE0000000,
        0xFFFFFFFF,
    ]
    for u in radius:
        for v in angle:
            while True:
                seed = rng.getrandbits(64)
                c = unphilox((u, v, rng.getrandbits(32), rng.getrandbits(32)), (seed & 0xFFFFFFFF, seed >> 32))
                if c[1] < 2**29:  # the element index stays inside int64
                    break
            yield seed, c[2], c[3], c[0] | c[1] << 32


def vectors() -> dict:
    cases = [
        (0, 0, 0, 0),
        (0, 0, 0, 1),
        (1, 0, 0, 0),
        (1, 1, 0, 0),
        (1, 0, 1, 0),
        (123 | 456 << 32, 1, 0, 0),
        (123 | 456 << 32, 1, 0, 1023),
        (2**64 - 1, 2**32 - 1, 2**32 - 1, 2**61 - 1),
        (7, 99, 3, 2**32),
        (7, 99, 3, 2**32 - 1),
    ]
    cases += [(20191125, step, 0, group) for step in range(4) for group in range(64)]
    cases += edge_cases()
    rows = []
    for seed, step, stream, group in cases:
        words, normals = draw(seed, step, stream, group)
        rows.append(
            {
                "seed": str(seed),
                "step": step,
                "stream": stream,
                "group": str(group),
                "philox": [f"{w:08x}" for w in words],
                "normal_bits": [f"{bits(n):08x}" for n in normals],
                "uniform_bits": [f"{bits(f32(f32(w >> 8) * f32(2.0**-24))):08x}" for w in words],
            }
        )
    return {"philox_known_answer": "counter 0, key 0 -> 6627e8d5 e169c58d bc57ac4c 9b00dbd8", "vectors": rows}


if __name__ == "__main__":
    WRITTEN.write_text(json.dumps(vectors(), indent=0) + "\n")
