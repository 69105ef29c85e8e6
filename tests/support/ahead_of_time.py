"""Compiles Triton kernels for GPUs that need not be here: `python tests/support/ahead_of_time.py [--all]` prints, as
JSON, one record a kernel and architecture: registers, bytes of local memory and shared memory, the machine's
instructions, the order of barriers and of loads and stores of 16 bits, that of barriers and loads before the first
store, whether copies of 16 bytes go through L1 where they are asked to, the number of copies through tensor
descriptors, and the numbers among its arguments for whose values a launch compiles again (for 1, and for multiples of
16).

With `--all`, every kernel in its variants for every architecture, in minutes; without, each kernel for one of them at
least, and those that need most for several. A script of its own because the tests run Triton's interpreter, and a
process has either that or the compiler.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import fused_sources
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton_source import source

from fastlangevin.kernels.arguments import ActivationKind
from fastlangevin.kernels.triton import analytic_chain, mlp_chain, moves, update
from fastlangevin.kernels.triton.convnet import measured, tune
from fastlangevin.kernels.triton.convnet.plan import Geometry, Gpu, between_key, plan, plan_between

ARCHITECTURES = (80, 86, 89, 90, 100, 120)
TOOL = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"


MOVES = {  # that are compiled without `--all`
    80: ("mala_test-1024-fp64",),
    90: ("move-fp32-captured", "hmc_test-1024-fp32-captured", "mala_test-2-fp32"),
    100: ("mala_test-1024-fp32",),
}
PASSES = {80: ("activate-8x8",), 90: ("activate-4x4", "deactivate-8x8"), 100: ("activate-8x8",)}  # likewise
NUMBERS = {"step_size_pointer": "*fp64", "noise_std_pointer": "*fp64", "seed_pointer": "*i64", "step_pointer": "*i64"}


def sources(architecture: int, everything: bool):
    """(name, source, options) of kernels in their variants."""
    if everything:
        yield from update_sources()
        yield from move_sources()
        yield from chain_sources()
        yield from analytic_sources()
        for precision in ("fp16", "bf16", "tf32"):
            yield from convnet_sources(precision, architecture)
            yield from convnet_sources(precision, architecture, cudnn=True)
            yield from convnet_sources(precision, architecture, energy=True)
            yield from convnet_sources(precision, architecture, cudnn=True, energy=True)
            yield from between_sources(precision, architecture)
        for precision in ("fp16", "bf16", "fp32"):
            yield from fused_sources.sources(precision)
        if architecture >= 90:
            yield from between_sources("fp16", architecture, dependent=True)
            yield from convnet_sources("fp16", architecture, dependent=True)
            yield from convnet_sources("fp16", architecture, dependent=True, cudnn=True)
        if architecture in (90, 100):
            for precision in ("fp16", "bf16", "tf32"):
                yield from convnet_sources(precision, architecture, descriptor=True)
        return
    yield from fused_sources.sources("fp16", fused_sources.NARROWEST[architecture])
    yield from between_sources("fp16", architecture, tune.BETWEEN[-1:])
    if architecture in (80, 90, 100):
        yield from (s for s in update_sources() if architecture == 90 or s[0] == "update-fp32")
        yield from move_sources(MOVES[architecture])
        yield from convnet_sources("fp16", architecture, PASSES[architecture], cudnn=True)
    if architecture == 90:
        yield chain_source("fp32", 32, 4)
        yield chain_source("bf16", 128, 2)
        yield chain_source("tf32", 64, 4)
        yield from analytic_sources((2, analytic_chain.MOST_DIMENSIONS))
        ends = ("first-32x32", "forward-16x16", "forward-4x4", "backward-4x4", "backward-16x16", "input-32x32")
        yield from convnet_sources("fp16", architecture, ends)
        yield from convnet_sources("bf16", architecture, ("forward-4x4",))
        yield from convnet_sources("fp16", architecture, ("forward-4x4",), dependent=True)
        yield from convnet_sources("fp16", architecture, energy=True)
        yield from convnet_sources("fp16", architecture, ("forward-4x4",), descriptor=True)
        yield from convnet_sources("tf32", architecture, ("first-32x32", "backward-4x4", "input-32x32"))
    if architecture == 100:
        yield chain_source("fp16", 128, 2)
        yield from convnet_sources("fp16", architecture, ("forward-4x4", "input-32x32"))
    if architecture in (80, 120):
        yield from convnet_sources("fp16", architecture, ("backward-16x16",))
    if architecture == 100:
        yield from convnet_sources("fp16", architecture, ("backward-4x4",), descriptor=True)


def update_sources():
    common = {"SKIP": 0, "WIDE": False, "BLOCK": update.BLOCK}
    options = {"num_warps": update.WARPS, "enable_fp_fusion": False}
    all_parts = {"HAS_SCORE": True, "HAS_NOISE": True, "HAS_CLIP": True, "HAS_BOUNDS": True}
    all_parts |= {"STEP_SIZE_PER_CHAIN": False, "NOISE_STD_PER_CHAIN": False}
    for dtype in ("fp32", "fp64", "bf16", "fp16"):
        pointers = {"x_pointer": f"*{dtype}", "score_pointer": f"*{dtype}"}
        dense = {**common, **all_parts, "ON_DEVICE": False, "STRIDED": False}
        yield f"update-{dtype}", source(update.update_kernel, pointers, dense), options
    pointers = {"x_pointer": "*fp32", "score_pointer": "*fp32"}
    captured = {**dense, "ON_DEVICE": True, "HAS_CLIP": False, "HAS_BOUNDS": False}
    yield "update-fp32-captured", source(update.update_kernel, {**pointers, **NUMBERS}, captured), options
    own = {"STEP_SIZE_PER_CHAIN": True, "NOISE_STD_PER_CHAIN": True}
    yield "update-fp32-per-chain", source(update.update_kernel, {**pointers, **NUMBERS}, captured | own), options
    strided = {**dense, "STRIDED": True}
    yield "update-fp32-strided", source(update.update_kernel, pointers, strided), options
    for uniform in (False, True):
        constants = {**common, "UNIFORM": uniform, "ON_DEVICE": False}
        name = "uniform" if uniform else "normal"
        yield f"fill-{name}", source(update.fill_kernel, {"out_pointer": "*fp32"}, constants), options


def move_sources(only: tuple[str, ...] = ()):
    """Moves of BAOAB, and tests of chains of 1,024 elements or more and of two. Captured ones have masses."""
    parts = {"SKIP": 0, "WIDE": False, "BLOCK": update.BLOCK, "DRAWS": False, "N_KICKS": 2, "HAS_DECAY": True}
    options = {"num_warps": update.WARPS, "enable_fp_fusion": False}
    in_memory = {f"{name}_pointer": "*fp64" for name in (*moves.MOVE_NUMBERS, *moves.TEST_NUMBERS)} | NUMBERS
    chains = {f"{name}_pointer": "*fp64" for name in ("energy", "new_energy", "log_ratio")}
    chains |= {f"{name}_pointer": "*i64" for name in ("n_accepted", "n_rejected")}
    masses = dict.fromkeys(("masses_pointer", "weights_pointer", "roots_pointer"), "*fp32")
    for dtype in ("fp32", "fp64", "bf16", "fp16"):
        states = {f"{name}_pointer": f"*{dtype}" for name in ("x", "y", "score", "new_score")}
        velocities = {"v_pointer": "*fp64" if dtype == "fp64" else "*fp32"}
        kinds = {"move": (moves.velocity_move_kernel, states | velocities, parts, options)}
        for lanes in (1024, 2):
            constants, how = moves.layout(lanes)
            kinds[f"mala_test-{lanes}"] = (moves.metropolis_kernel, states | chains, constants, how)
            kinds[f"hmc_test-{lanes}"] = (moves.metropolis_kernel, states | chains | velocities, constants, how)
        for kind, (kernel, pointers, constants, how) in kinds.items():
            for captured in (False, True) if dtype == "fp32" else (False,):
                name = f"{kind}-{dtype}{'-captured' if captured else ''}"
                more = in_memory | (masses if "mala" not in kind else {}) if captured else {}
                if not only or name in only:
                    yield name, source(kernel, pointers | more, constants | {"ON_DEVICE": captured}), how


def convnet_sources(
    precision: str,
    architecture: int,
    only: tuple[str, ...] = (),
    dependent: bool = False,
    cudnn: bool = False,
    descriptor: bool = False,
    energy: bool = False,
):
    """The kernels of the paper's network, n_f = 64, for 64 images of 32×32, named by the smaller images; or only those
    that follow cuDNN where it computes all products; or products whose weights come through tensor descriptors; or
    what ends the way forward where energies are computed too.
    """
    sizes = ((3, 32, 64, 1), (64, 32, 128, 2), (128, 16, 256, 2), (256, 8, 512, 2))
    layers = [Geometry(planes, size, size, channels, stride) for planes, size, channels, stride in sizes]
    itemsize = 4 if precision == "tf32" else 2
    gpu = Gpu(architecture // 10, 132, "compiled")
    own = measured.BY_GPU["compiled"] = measured.Measured(dependent_launch=dependent)
    products = {la.key: la.choice for la in plan(layers, 64, itemsize, gpu) if la.name in ("forward", "backward")}
    if cudnn:
        own.choices = dict.fromkeys(products, measured.CUDNN)
    elif descriptor:
        own.choices = {key: dataclasses.replace(tile, descriptor=True) for key, tile in products.items()}
    compute = {"fp16": "*fp16", "bf16": "*bf16", "tf32": "*fp32"}[precision]
    parts = dict.fromkeys(("UPDATE", "HAS_NOISE", "HAS_CLIP", "HAS_BOUNDS", "ON_DEVICE", "WHOLE_GROUPS"), True)
    for launch, layer in zip(plan(layers, 64, itemsize, gpu), [*layers, *reversed(layers)], strict=True):
        pointers = dict.fromkeys(("x_pointer", "w_pointer", "y_pointer", "g_pointer", "sums_pointer"), compute)
        pointers |= {"bias_pointer": "*fp32", "partial_pointer": "*fp32", "lock_pointer": "*i32"}
        pointers |= {"unscale_pointer": "*fp32", "out_pointer": "*fp32", **NUMBERS}
        if launch.name in ("first", "input"):
            pointers["x_pointer"] = "*fp32"
        pointers |= {"last_pointer": "*fp32"} if launch.constants.get("LAST") else {"mask_pointer": "*i32"}
        constants = launch.constants | (parts if launch.name == "input" else {})
        if energy:
            if not constants.get("LAST"):
                continue
            constants["ENERGY"], pointers["parts_pointer"] = True, "*fp32"
        name = f"{launch.name}-{layer.out[0]}x{layer.out[1]}"
        if cudnn != (launch.choice == measured.CUDNN) or (only and name not in only):
            continue
        if descriptor:
            if launch.key not in products:
                continue
            sizes = f"{constants['N']}, {constants['K']}"
            pointers["w_pointer"] = f"tensordesc<{compute[1:]}[{sizes}]>"
        name = f"{'pass' if cudnn else 'convnet'}-{precision}-{name}{'-dependent' if dependent else ''}"
        name += "-descriptor" if descriptor else "-energy" if energy else ""
        yield name, source(launch.kernel, pointers, constants), launch.options


def between_sources(precision: str, architecture: int, shapes=tune.BETWEEN, dependent: bool = False):
    """The kernel between two steps of the paper's network, for its rows and warps that are tuned, in two bands."""
    layers, itemsize = [Geometry(3, 32, 32, 64, 1), Geometry(64, 32, 32, 128, 2)], 4 if precision == "tf32" else 2
    compute = {"fp16": "*fp16", "bf16": "*bf16", "tf32": "*fp32"}[precision]
    pointers = dict.fromkeys(("g_pointer", "backward_pointer", "forward_pointer", "y_pointer", "band_pointer"), compute)
    pointers |= dict.fromkeys(("x_pointer", "out_pointer", "bias_pointer", "unscale_pointer"), "*fp32")
    pointers |= {"mask_pointer": "*i32", **NUMBERS}
    parts = dict.fromkeys(("HAS_NOISE", "HAS_CLIP", "HAS_BOUNDS", "ON_DEVICE", "WHOLE_GROUPS"), True)
    for rows, warps in shapes:
        tile = measured.Tile(rows, 64, 64, warps, 3, split=2)
        choices = {between_key(layers[0], 64, itemsize): tile}
        measured.BY_GPU["between"] = measured.Measured(dependent, choices)
        launch = plan_between(layers, 64, itemsize, Gpu(architecture // 10, 132, "between"))
        name = f"between-{precision}-{rows}x{warps}{'-dependent' if dependent else ''}"
        kernel = source(launch.kernel, pointers, launch.constants | parts | {"NOISE_FIRST": 0})
        yield name, kernel, launch.options


def chain_sources():
    for precision, most in mlp_chain.MOST_LAYERS.items():
        for width, layers in most.items():
            yield chain_source(precision, width, layers)


def chain_source(precision: str, width: int, layers: int):
    """Whole chains of a net of as many inputs, with limits, and with gelu, which takes most registers."""
    floats = ("x", "biases", "last", "parameters", "prior", "scale", "limits", "scratch")
    pointers = {f"{name}_pointer": "*fp32" for name in floats}
    pointers |= {"step_sizes_pointer": "*fp64", "noise_stds_pointer": "*fp64"}
    pointers |= {"seed_pointer": "*i64", "step_pointer": "*i64"}
    dtype = precision if precision in ("fp16", "bf16") else "fp32"
    how = "tf32" if precision == "tf32" else "ieee"
    pointers |= {"first_pointer": f"*{dtype}", "weights_pointer": f"*{dtype}"}
    inputs, padded = mlp_chain.padded(width, width, precision)
    constants = dict(HAS_NOISE=True, HAS_CLIP=True, HAS_BOUNDS=True, NOISE_FIRST=0, SKIP=0, LAYERS=layers)
    constants |= dict(INPUTS=inputs, WIDTH=padded, KINDS=(int(ActivationKind.gelu),) * layers, HOW=how)
    constants |= dict(GROUPS=mlp_chain.groups_per_pass(width), BLOCK=mlp_chain.BLOCK)
    kernel = source(mlp_chain.mlp_chain_kernel, pointers, constants)
    return f"mlp_chain-{precision}-{width}x{layers}", kernel, mlp_chain.OPTIONS


def analytic_sources(dimensions: tuple[int, ...] = (1, 2, 3, 4, 8, 33, 64, analytic_chain.MOST_DIMENSIONS)):
    """With limits. Mixtures in as many dimensions, in the last and in three of them from the middle of a group on."""
    pointers = {f"{name}_pointer": "*fp32" for name in ("x", "limits", "constants", "means", "precisions", "well")}
    pointers |= {"step_sizes_pointer": "*fp64", "noise_stds_pointer": "*fp64"}
    pointers |= {"seed_pointer": "*i64", "step_pointer": "*i64"}
    parts = {"HAS_NOISE": True, "HAS_CLIP": True, "HAS_BOUNDS": True, "NOISE_FIRST": 0, "SKIP": 0}
    for d in dimensions:
        skip = 3 if d in (3, analytic_chain.MOST_DIMENSIONS) else 0
        constants = parts | analytic_chain.mixture_constants(d, skip) | {"SKIP": skip}
        kernel = source(analytic_chain.mixture_chain_kernel, pointers, constants)
        yield f"analytic-mixture-{d}", kernel, analytic_chain.OPTIONS
    constants = parts | {"GROUPS": analytic_chain.GROUPS}
    kernel = source(analytic_chain.double_well_chain_kernel, pointers, constants)
    yield "analytic-double-well", kernel, analytic_chain.OPTIONS


@triton.jit
def copying_kernel(x_pointer, y_pointer, STEPS: tl.constexpr):
    i = tl.arange(0, 64)[:, None] * 64 + tl.arange(0, 64)[None, :]
    acc = tl.zeros((64, 64), tl.float32)
    for step in range(STEPS):
        a = tl.load(x_pointer + step * 4096 + i, cache_modifier=".ca")
        acc = tl.dot(a, a, acc)
    tl.store(y_pointer + i, acc)


def copies(ptx: str) -> list[str]:
    return re.findall(r"cp\.async\.c[ag]", ptx)


def copies_through_l1(architecture: int) -> bool:
    """Whether this Triton heeds ".ca" in 16-byte asynchronous copies: seen in a kernel of nothing else."""
    pointers = {"x_pointer": "*fp16", "y_pointer": "*fp32"}
    kernel = source(copying_kernel, pointers, {"STEPS": 8})
    options = {"num_stages": 3, "enable_fp_fusion": False}
    compiled = triton.compile(kernel, target=GPUTarget("cuda", architecture, 32), options=options)
    assert copies(compiled.asm["ptx"]), architecture
    return "cp.async.cg" not in copies(compiled.asm["ptx"])


def inspect(cubin: bytes) -> dict[str, object]:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [TOOL, "-res-usage", "-sass", file.name]
        code = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    order = re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\d+ )?(ACQBULK|LDG|STG|ATOM(?!S)|RED(?!UX))", code, re.M)
    numbers = re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", code)
    assert numbers is not None, code[:1000]
    registers, stack, local = map(int, numbers.groups())
    instructions = collections.Counter(re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\d+ )?([A-Z][\w.]+)", code, re.M))
    waits_first = order[:1] == ["ACQBULK"]
    band = re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\d+ )?(BAR|STG(?=\S*\.U16)|LDG(?=\S*\.U16))", code, re.M)
    moves = re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\d+ )?(BAR|STG|LDG)", code, re.M)
    found = {"registers": registers, "local": stack + local, "instructions": instructions, "waits_first": waits_first}
    return found | {
        "halves": re.sub(r"(\w+)( \1)+", r"\1", " ".join(band)),
        "before_writes": moves[: moves.index("STG")],
    }


def main() -> None:
    records = []
    for architecture in ARCHITECTURES:
        through_l1 = copies_through_l1(architecture)
        for name, kernel, options in sources(architecture, "--all" in sys.argv[1:]):
            compiled = triton.compile(kernel, target=GPUTarget("cuda", architecture, 32), options=options)
            record = {"kernel": name, "architecture": architecture, "shared": compiled.metadata.shared}
            record |= {"through_l1": through_l1, "warps": options["num_warps"]}
            record["by_descriptor"] = compiled.asm["ptx"].count("cp.async.bulk.tensor")
            record["specialized"] = [
                p.name for p in kernel.fn.params if not (p.is_constexpr or p.do_not_specialize or "pointer" in p.name)
            ]
            records.append(record | inspect(compiled.asm["cubin"]))
    print(json.dumps(records))


if __name__ == "__main__":
    main()
