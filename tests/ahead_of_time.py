"""Compiles every Triton kernel for GPUs that need not be here: `python tests/ahead_of_time.py` prints, as JSON, one
record a kernel and architecture: registers, bytes of local memory and shared memory, and the machine's instructions.

A script of its own because the tests run Triton's interpreter, and a process has either that or the compiler.
"""

from __future__ import annotations

import collections
import json
import re
import subprocess
import tempfile
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from fastlangevin.kernels.triton import mlp_chain, update

ARCHITECTURES = (80, 90, 100)
TOOL = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"


def source(kernel, pointers: dict[str, str], constants: dict[str, object]) -> ASTSource:
    """A kernel with these pointer types, 16-byte aligned, for a number n of elements that 16 divides (Triton
    specializes on both at the launch). Other arguments are int64; pointers that are not named are absent.
    """
    signature, values, attributes = {}, {}, {}
    for i, name in enumerate(kernel.arg_names):
        if name in pointers:
            signature[name] = pointers[name]
            if not kernel.params[i].do_not_specialize_on_alignment:
                attributes[(i,)] = [["tt.divisibility", 16]]
        elif name in constants or name.endswith("_pointer"):
            signature[name], values[(i,)] = "constexpr", constants.get(name)
        else:
            signature[name] = "i64"
            if name == "n":
                attributes[(i,)] = [["tt.divisibility", 16]]
    return ASTSource(kernel, signature, constexprs=values, attrs=attributes)


def sources():
    """(name, source, options) of every kernel in its variants."""
    common = {"SKIP": 0, "WIDE": False, "BLOCK": update.BLOCK}
    options = {"num_warps": update.WARPS, "enable_fp_fusion": False}
    all_parts = {"HAS_SCORE": True, "HAS_NOISE": True, "HAS_CLIP": True, "HAS_BOUNDS": True}
    numbers = {"step_size_pointer": "*fp64", "noise_std_pointer": "*fp64", "seed_pointer": "*i64"}
    numbers["step_pointer"] = "*i64"
    for dtype in ("fp32", "fp64", "bf16", "fp16"):
        pointers = {"x_pointer": f"*{dtype}", "score_pointer": f"*{dtype}"}
        dense = {**common, **all_parts, "ON_DEVICE": False, "STRIDED": False}
        yield f"update-{dtype}", source(update.update_kernel, pointers, dense), options
    pointers = {"x_pointer": "*fp32", "score_pointer": "*fp32"}
    captured = {**dense, "ON_DEVICE": True, "HAS_CLIP": False, "HAS_BOUNDS": False}
    yield "update-fp32-captured", source(update.update_kernel, {**pointers, **numbers}, captured), options
    strided = {**dense, "STRIDED": True}
    yield "update-fp32-strided", source(update.update_kernel, pointers, strided), options
    for uniform in (False, True):
        constants = {**common, "UNIFORM": uniform, "ON_DEVICE": False}
        name = "uniform" if uniform else "normal"
        yield f"fill-{name}", source(update.fill_kernel, {"out_pointer": "*fp32"}, constants), options


def chain_sources():
    """Whole chains of 2 → width → width → 1 nets with SiLU."""
    floats = ("x", "biases", "last", "parameters", "prior", "scale", "limits", "scratch")
    pointers = {f"{name}_pointer": "*fp32" for name in floats}
    pointers |= {"step_sizes_pointer": "*fp64", "noise_stds_pointer": "*fp64"}
    pointers |= {"seed_pointer": "*i64", "step_pointer": "*i64"}
    constants = dict(HAS_NOISE=True, HAS_CLIP=False, HAS_BOUNDS=False, NOISE_FIRST=0, SKIP=0, LAYERS=2, INPUTS=16)
    constants |= dict(KINDS=(1, 1), GROUPS=mlp_chain.GROUPS, BLOCK=mlp_chain.BLOCK)
    options = {"num_warps": mlp_chain.WARPS, "enable_fp_fusion": False}
    for precision, dtype, how, width in (
        ("fp16", "fp16", "ieee", 128),
        ("bf16", "bf16", "ieee", 64),
        ("tf32", "fp32", "tf32", 64),
        ("fp32", "fp32", "ieee", 32),
    ):
        weights = {"first_pointer": f"*{dtype}", "weights_pointer": f"*{dtype}"}
        net = {**constants, "WIDTH": width, "HOW": how}
        yield f"mlp_chain-{precision}-{width}", source(mlp_chain.mlp_chain_kernel, pointers | weights, net), options


def inspect(cubin: bytes) -> dict[str, object]:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage, code = (
            subprocess.run([TOOL, kind, file.name], capture_output=True, text=True, check=True).stdout
            for kind in ("-res-usage", "-sass")
        )
    numbers = re.search(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", usage)
    assert numbers is not None, usage
    registers, stack, shared, local = map(int, numbers.groups())
    instructions = collections.Counter(re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\d+ )?([A-Z][\w.]+)", code, re.M))
    return {"registers": registers, "local": stack + local, "shared": shared, "instructions": instructions}


def main() -> None:
    records = []
    for name, kernel, options in (*sources(), *chain_sources()):
        for architecture in ARCHITECTURES:
            compiled = triton.compile(kernel, target=GPUTarget("cuda", architecture, 32), options=options)
            record = inspect(compiled.asm["cubin"])
            record["dynamic_shared"] = compiled.metadata.shared  # what the launch asks for besides
            records.append({"kernel": name, "architecture": architecture, **record})
    print(json.dumps(records))


if __name__ == "__main__":
    main()
