"""The noise stream as Triton device functions, bit for bit: the formulas of `csrc/noise.h` and `docs/noise.md`.

Every operation rounds as written: kernels that call these must be launched with `enable_fp_fusion=False`.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def words(group, seed, step, stream):
    """The four Philox4x32-10 words of each group.

    group: (N,) int64; seed, step, stream: int64 scalars. Returns four (N,) uint32.
    """
    c0 = group.to(tl.uint32)
    c1 = (group >> 32).to(tl.uint32)
    c2 = tl.zeros_like(c0) + step.to(tl.uint32)
    c3 = tl.zeros_like(c0) + stream.to(tl.uint32)
    k0 = seed.to(tl.uint32)
    k1 = (seed >> 32).to(tl.uint32)
    for _ in tl.static_range(10):
        a, b = c0, c2
        c0 = tl.umulhi(b, 0xCD9E8D57) ^ c1 ^ k0
        c1 = b * 0xCD9E8D57
        c2 = tl.umulhi(a, 0xD2511F53) ^ c3 ^ k1
        c3 = a * 0xD2511F53
        k0 += 0x9E3779B9
        k1 += 0xBB67AE85
    return c0, c1, c2, c3


@triton.jit
def _log_unit(a):
    j = a.to(tl.int32, bitcast=True) - 0x3F3504F3
    e = (j >> 23).to(tl.float32)
    f = ((j & 0x7FFFFF) + 0x3F3504F3).to(tl.float32, bitcast=True) - 1.0
    y = tl.fma(f, 7.0376836292e-2, -1.1514610310e-1)
    y = tl.fma(y, f, 1.1676998740e-1)
    y = tl.fma(y, f, -1.2420140846e-1)
    y = tl.fma(y, f, 1.4249322787e-1)
    y = tl.fma(y, f, -1.6668057665e-1)
    y = tl.fma(y, f, 2.0000714765e-1)
    y = tl.fma(y, f, -2.4999993993e-1)
    y = tl.fma(y, f, 3.3333331174e-1)
    z = f * f
    y = y * (f * z)
    y = tl.fma(e, -2.12194440e-4, y)
    y = tl.fma(z, -0.5, y)
    return tl.fma(e, 0.693359375, f + y)


@triton.jit
def _flip_sign(a, bit):
    return (a.to(tl.uint32, bitcast=True) ^ (bit << 30)).to(tl.float32, bitcast=True)


@triton.jit
def _box_muller(u, v):
    a = tl.fma((u >> 8).to(tl.int32).to(tl.float32), 5.9604644775390625e-8, 2.98023223876953125e-8)
    r = tl.sqrt_rn(-2.0 * _log_unit(a))
    q = (v + 0x20000000) >> 30
    t = (v << 2).to(tl.int32, bitcast=True).to(tl.float32) * 3.6572951e-10
    z = t * t
    s = tl.fma(z, -1.9515295891e-4, 8.3321608736e-3)
    s = tl.fma(s, z, -1.6666654611e-1)
    s = tl.fma(s * z, t, t)
    c = tl.fma(z, 2.443315711809948e-5, -1.388731625493765e-3)
    c = tl.fma(c, z, 4.166664568298827e-2)
    c = tl.fma(c * z, z, tl.fma(z, -0.5, 1.0))
    odd = (q & 1) != 0
    sin = _flip_sign(tl.where(odd, c, s), q & 2)
    cos = _flip_sign(tl.where(odd, s, c), (q + 1) & 2)
    return r * cos, r * sin


@triton.jit
def _interleave(z0, z1, z2, z3):
    return tl.reshape(tl.join(tl.join(z0, z2), tl.join(z1, z3)), [4 * z0.shape[0]])


@triton.jit
def normals(group, seed, step, stream):
    """Standard normals of the groups (N,) int64, in element order: (4 N,) float32."""
    r0, r1, r2, r3 = words(group, seed, step, stream)
    z0, z1 = _box_muller(r0, r1)
    z2, z3 = _box_muller(r2, r3)
    return _interleave(z0, z1, z2, z3)


@triton.jit
def uniforms(group, seed, step, stream):
    """Uniforms in [0, 1) of the groups (N,) int64, in element order: (4 N,) float32."""
    r0, r1, r2, r3 = words(group, seed, step, stream)
    u = _interleave(r0, r1, r2, r3)
    return (u >> 8).to(tl.int32).to(tl.float32) * 5.9604644775390625e-8


@triton.jit
def normals_at(element, seed, step, stream):
    """Standard normals of any elements, int64, in their shape."""
    r0, r1, r2, r3 = words(element >> 2, seed, step, stream)
    later = (element & 2) != 0
    even, odd = _box_muller(tl.where(later, r2, r0), tl.where(later, r3, r1))
    return tl.where((element & 1) != 0, odd, even)


@triton.jit
def uniforms_at(element, seed, step, stream):
    """Uniforms in [0, 1) of any elements, int64, in their shape."""
    r0, r1, r2, r3 = words(element >> 2, seed, step, stream)
    odd = (element & 1) != 0
    u = tl.where((element & 2) != 0, tl.where(odd, r3, r2), tl.where(odd, r1, r0))
    return (u >> 8).to(tl.int32).to(tl.float32) * 5.9604644775390625e-8
