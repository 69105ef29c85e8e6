"""Whole chains of an MLP energy on a GPU: each program runs all steps of BLOCK chains.

The state and the activations' derivatives stay in registers and the weights in shared memory. The noise passes through
a scratch buffer of each program, because a group of four elements may belong to two chains. Widths are padded with
zeros to a power of two. All numbers are read from device memory, so that a captured graph uses their current values.

A program has fewer chains than any product has columns. Triton then gives each warp its own columns, and a thread holds
a quarter of a layer's; with chains divided among the warps it would hold whole rows, and spill them at 128 columns.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...network.layers import Layer, Linear
from ..arguments import ActivationKind, ChainArgs
from ..cpu import mlp_chain as cpu
from ..operators import written
from . import whole_chain
from .device import on, shared_memory
from .functions import clamped_exp, sigmoid
from .noise import normals
from .whole_chain import before_the_score, limits, move, sizes

# Hidden layers by padded width up to which nothing is spilled to local memory, whatever the activation and the GPU: so
# says the compiled code (tests/kernels/triton/test_mlp_chain.py). Float32 products without tensor cores spill first.
MOST_LAYERS = {
    "fp32": {16: 4, 32: 4, 64: 2},
    "tf32": {16: 4, 32: 4, 64: 4, 128: 1},
    "fp16": {16: 4, 32: 4, 64: 4, 128: 2},
    "bf16": {16: 4, 32: 4, 64: 4, 128: 2},
}
ACTIVATIONS = tuple(ActivationKind(kind) for kind in range(7))  # those of `_activate`
BLOCK = 16
# All registers that a thread can have: otherwise the assembler spills a few to fit another program.
OPTIONS = {"num_warps": 4, "maxnreg": 255, "enable_fp_fusion": False}
_PRECISIONS = {
    "fp32": (torch.float32, "ieee"),
    "tf32": (torch.float32, "tf32"),
    "fp16": (torch.float16, "ieee"),
    "bf16": (torch.bfloat16, "ieee"),
}


@triton.jit
def _activate(z, KIND: tl.constexpr, parameters):
    """f(z) and f'(z); KIND as in csrc/cpu/chain.h, parameters at a pointer."""
    if KIND == 0:  # leaky_relu
        d = tl.where(z > 0, 1.0, tl.load(parameters))
        return z * d, d
    elif KIND == 1:  # silu
        s = sigmoid(z)
        h = z * s
        return h, s + h * (1.0 - s)
    elif KIND == 2:  # gelu
        cdf = 0.5 * (1.0 + tl.erf(z * 0.7071067811865476))
        return z * cdf, cdf + z * 0.3989422804014327 * clamped_exp(-0.5 * z * z)
    elif KIND == 3:  # gelu, tanh
        s = sigmoid(z * (1.5957691216057308 + 0.0713548162726009 * z * z))
        h = z * s
        return h, s + h * (1.0 - s) * (1.5957691216057308 + 0.2140644488178027 * z * z)
    elif KIND == 4:  # tanh
        h = 2.0 * sigmoid(2.0 * z) - 1.0
        return h, 1.0 - h * h
    elif KIND == 5:  # softplus
        a = tl.load(parameters) * z
        t = clamped_exp(-tl.abs(a))
        linear = a > tl.load(parameters + 1)
        h = (tl.where(a > 0, a, 0.0) + tl.log(1.0 + t)) / tl.load(parameters)
        return tl.where(linear, z, h), tl.where(linear, 1.0, sigmoid(a))
    else:
        tl.static_assert(KIND == 6)  # elu
        alpha = tl.load(parameters)
        e = alpha * clamped_exp(tl.where(z > 0, 0.0, z))
        return tl.where(z > 0, z, e - alpha), tl.where(z > 0, 1.0, e)


@triton.jit
def _hidden(h, weights, biases, parameters, LAYER: tl.constexpr, KINDS: tl.constexpr, HOW: tl.constexpr):
    WIDTH: tl.constexpr = weights.shape[0]
    # A vector over a product's columns fills registers, so it is read from the cache at each step.
    bias = tl.load(biases + LAYER * WIDTH + tl.arange(0, WIDTH))
    z = tl.dot(h.to(weights.dtype), tl.trans(weights), input_precision=HOW) + bias[None, :]
    h, d = _activate(z, KINDS[LAYER], parameters + 2 * LAYER)
    return h.to(weights.dtype), d.to(weights.dtype)  # as the products read them; half the registers in 16 bits


@triton.jit
def _score(x, w0, w1, w2, w3, biases, last, parameters, LAYERS: tl.constexpr, KINDS: tl.constexpr, HOW: tl.constexpr):
    DTYPE: tl.constexpr = w0.dtype
    WIDTH: tl.constexpr = w0.shape[0]
    h, d0 = _hidden(x, w0, biases, parameters, 0, KINDS, HOW)
    if LAYERS > 1:
        h, d1 = _hidden(h, w1, biases, parameters, 1, KINDS, HOW)
    if LAYERS > 2:
        h, d2 = _hidden(h, w2, biases, parameters, 2, KINDS, HOW)
    if LAYERS > 3:
        h, d3 = _hidden(h, w3, biases, parameters, 3, KINDS, HOW)
    g = tl.zeros(d0.shape, tl.float32) + tl.load(last + tl.arange(0, WIDTH))[None, :]
    if LAYERS > 3:
        g = tl.dot((g * d3).to(DTYPE), w3, input_precision=HOW)
    if LAYERS > 2:
        g = tl.dot((g * d2).to(DTYPE), w2, input_precision=HOW)
    if LAYERS > 1:
        g = tl.dot((g * d1).to(DTYPE), w1, input_precision=HOW)
    return tl.dot((g * d0).to(DTYPE), w0, input_precision=HOW)


@triton.jit
def _weights(pointer, LAYER: tl.constexpr, LAYERS: tl.constexpr, WIDTH: tl.constexpr):
    """The weights of a later hidden layer; if there is no such layer, those of an existing one."""
    INDEX: tl.constexpr = LAYER - 1 if LAYER < LAYERS else 0
    rows = tl.arange(0, WIDTH)
    return tl.load(pointer + INDEX * WIDTH * WIDTH + rows[:, None] * WIDTH + rows[None, :])


@triton.jit(do_not_specialize=["offset", "n", "n_steps"])
def mlp_chain_kernel(
    x_pointer,  # (B, d)
    first_pointer,  # (WIDTH, INPUTS)
    weights_pointer,  # (LAYERS - 1, WIDTH, WIDTH)
    biases_pointer,  # (LAYERS, WIDTH) float32
    last_pointer,  # (WIDTH) float32
    parameters_pointer,  # (LAYERS, 2) float32
    prior_pointer,  # float32
    scale_pointer,  # float32
    step_sizes_pointer,  # (n_steps) float64
    noise_stds_pointer,  # (n_steps) float64
    seed_pointer,  # int64
    step_pointer,  # int64: of the first step
    limits_pointer,  # grad_clip, lo, hi, float32
    scratch_pointer,  # (programs, GROUPS * 4 * passes) float32
    offset: tl.int64,  # a whole number of groups
    n: tl.int64,
    d: tl.int64,
    n_steps: tl.int64,
    HAS_NOISE: tl.constexpr,
    HAS_CLIP: tl.constexpr,
    HAS_BOUNDS: tl.constexpr,
    NOISE_FIRST: tl.constexpr,
    SKIP: tl.constexpr,  # lanes of the first group that precede x
    LAYERS: tl.constexpr,
    INPUTS: tl.constexpr,
    WIDTH: tl.constexpr,
    KINDS: tl.constexpr,
    HOW: tl.constexpr,
    GROUPS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    program = tl.program_id(0).to(tl.int64)
    chain, feature = tl.arange(0, BLOCK)[:, None], tl.arange(0, INPUTS)[None, :]
    inside = (program * BLOCK + chain < n) & (feature < d)
    place = chain * d.to(tl.int32) + feature
    x_pointer += program * BLOCK * d
    x = tl.load(x_pointer + place, mask=inside, other=0.0)
    passes = (BLOCK * d + SKIP + 4 * GROUPS - 1) // (4 * GROUPS)
    scratch = scratch_pointer + program * passes * 4 * GROUPS
    group = offset // 4 + program * BLOCK * d // 4 + tl.arange(0, GROUPS)
    seed = tl.load(seed_pointer)
    clip, lo, hi = limits(limits_pointer)
    # Loaded before the steps, they stay in shared memory for all steps.
    rows = tl.arange(0, WIDTH)
    w0 = tl.load(first_pointer + rows[:, None] * INPUTS + feature)
    w1 = _weights(weights_pointer, 1, LAYERS, WIDTH) if LAYERS > 1 else w0
    w2 = _weights(weights_pointer, 2, LAYERS, WIDTH) if LAYERS > 2 else w0
    w3 = _weights(weights_pointer, 3, LAYERS, WIDTH) if LAYERS > 3 else w0
    prior, scale = tl.load(prior_pointer), tl.load(scale_pointer)
    for k in range(n_steps):
        eta, sigma = sizes(step_sizes_pointer, noise_stds_pointer, k)
        z = x
        if HAS_NOISE:
            tl.debug_barrier()  # until all of the last step's noise is read
            for i in range(passes):
                some = normals(group + i * GROUPS, seed, tl.load(step_pointer) + k, tl.zeros_like(seed))
                tl.store(scratch + i * 4 * GROUPS + tl.arange(0, 4 * GROUPS), some)
            tl.debug_barrier()
            z = tl.load(scratch + SKIP + place, mask=inside, other=0.0)
        x = before_the_score(x, z, sigma, lo, hi, NOISE_FIRST)
        s = _score(x, w0, w1, w2, w3, biases_pointer, last_pointer, parameters_pointer, LAYERS, KINDS, HOW)
        s = s * scale - prior * x
        x = move(x, s, z, eta, sigma, clip, lo, hi, HAS_NOISE, HAS_CLIP, HAS_BOUNDS, NOISE_FIRST)
    tl.store(x_pointer + place, x, mask=inside)


def unsupported(
    layers: Sequence[Layer], n_inputs: int, precision: str = "fp32", device: torch.device | None = None
) -> str | None:
    """Like `kernels.cpu.mlp_chain.unsupported`, for these kernels on a device: a thread's values must fit the
    registers, and the weights the shared memory.
    """
    why = cpu.unsupported(layers, n_inputs)
    if why is not None:
        return why
    linears, activations = cpu.split(layers)
    for activation in activations:
        if cpu.activation_args(activation).kind not in ACTIVATIONS:
            return f"the activation {activation.name} is not supported"
    inputs, width = padded(n_inputs, _widest(linears), precision)
    widest, most = max(inputs, width), MOST_LAYERS[precision]
    if widest > max(most):
        return f"a layer is {max(n_inputs, _widest(linears))} wide, more than {max(most)} in {precision}"
    if len(linears) > most[widest]:
        return (
            f"the network has {len(linears)} hidden layers, more than the {most[widest]} that fit the registers at a "
            f"width of {max(n_inputs, _widest(linears))} in {precision}"
        )
    n_bytes, most_bytes = shared_bytes(inputs, width, len(linears), precision), shared_memory(device)
    if n_bytes > most_bytes:
        return f"the weights take {n_bytes} bytes of shared memory, more than the {most_bytes} of this GPU"
    return None


def shared_bytes(inputs: int, width: int, n_layers: int, precision: str) -> int:
    """The shared memory of a program: the weights, for tensor cores in the layouts of both passes, and a layer that the
    warps exchange.
    """
    layouts = 1 if precision == "fp32" else 2
    weights = layouts * _PRECISIONS[precision][0].itemsize * width * (inputs + (n_layers - 1) * width)
    return weights + 4 * BLOCK * max(inputs, width)


def run_(
    layers: Sequence[Layer],
    last: Tensor,
    prior: float,
    x: Tensor,
    args: ChainArgs,
    precision: str = "fp32",
) -> None:
    """Like `kernels.cpu.mlp_chain.run_`, with numbers from Python or tensors.

    The weights are packed by torch operators, so that a captured graph reads them at each replay.
    """
    dtype, how = _PRECISIONS[precision]
    linears, activations = cpu.split(layers)
    arguments = [cpu.activation_args(activation) for activation in activations]
    inputs, width = padded(x.shape[1], _widest(linears), precision)
    first = _pad(linears[0].weight, width, inputs).to(dtype)
    weights = [_pad(layer.weight, width, width).to(dtype) for layer in linears[1:]]
    biases = [_pad(x.new_zeros(1, 1) if la.bias is None else la.bias[None], 1, width) for la in linears]
    # The initial gradient is scaled so that its largest element is in [1, 2): 16 bits would lose a small one.
    scale = torch.exp2(torch.floor(torch.log2(last.detach().abs().max().clamp_min(1e-30)))).float()
    flags = whole_chain.parts(args)
    skip = flags["SKIP"]
    groups = groups_per_pass(x.shape[1])
    programs, passes = triton.cdiv(len(x), BLOCK), triton.cdiv(BLOCK * x.shape[1] + skip, 4 * groups)
    with on(x.device):
        mlp_chain_kernel[(programs,)](
            x,
            first,
            torch.stack(weights) if weights else first,
            torch.cat(biases).float(),
            _pad((last.detach() / scale)[None], 1, width)[0].float(),
            whole_chain.filled(x, *(value for each in arguments for value in each.parameters)),
            whole_chain.filled(x, prior),
            scale,
            *whole_chain.numbers(x, args),
            x.new_empty(programs * passes * 4 * groups if flags["HAS_NOISE"] else 1),
            args.offset - skip,
            *(len(x), x.shape[1], len(args.step_sizes)),
            **flags,
            LAYERS=len(linears),
            INPUTS=inputs,
            WIDTH=width,
            KINDS=tuple(int(each.kind) for each in arguments),
            HOW=how,
            GROUPS=groups,
            BLOCK=BLOCK,
            **OPTIONS,
        )
    written(x)


def padded(n_inputs: int, widest: int, precision: str) -> tuple[int, int]:
    """The padded widths of the input and of all hidden layers: powers of two of at least 16, as tl.dot requires, and of
    more than BLOCK on tensor cores.
    """
    least = 16 if precision == "fp32" else 2 * BLOCK
    return max(least, triton.next_power_of_2(n_inputs)), max(least, triton.next_power_of_2(widest))


def groups_per_pass(n_inputs: int) -> int:
    """The number of groups of four deviates that a program draws at once: up to one per thread."""
    return min(128, max(32, triton.next_power_of_2(BLOCK * n_inputs // 4)))


def _widest(linears: Sequence[Linear]) -> int:
    return max(len(linear.weight) for linear in linears)


def _pad(matrix: Tensor, rows: int, columns: int) -> Tensor:
    return torch.nn.functional.pad(matrix.detach(), (0, columns - matrix.shape[1], 0, rows - matrix.shape[0]))
