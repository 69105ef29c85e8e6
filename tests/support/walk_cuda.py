"""Walks the Python of the CUDA paths without a GPU: `python tests/support/walk_cuda.py`, under a CUDA build of torch,
prints one JSON record a work: its plan, the kernels and operators that a captured chain launches, and whether a second
call replays the same graph.

Tensors are torch's fakes on "cuda": operators check types, shapes and devices and compute nothing, and whatever would
make the host wait for a value raises. Of a Triton kernel the arguments of each launch are compiled for 9.0. The
driver's answers are stand-ins; autograd, which needs a device of its own, is not walked.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import json
import sys
import types
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import triton
from torch._subclasses import fake_tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

import fastlangevin as fl
from fastlangevin import kernels
from fastlangevin.chains import cuda_graph, divergence
from fastlangevin.chains.cuda_graph import GraphCache
from fastlangevin.network import tracing
from fastlangevin.score import auto, sequential
from support.fake_capture import FakeCapture

OPTIONS = {"num_warps", "num_stages", "maxnreg", "enable_fp_fusion", "grid", "warmup"}
TYPES = {
    torch.float32: "*fp32",
    torch.float64: "*fp64",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.int32: "*i32",
    torch.int64: "*i64",
}


class Launches:
    """Takes the place of Triton's launcher."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self._compiled: set[object] = set()

    def __call__(self, kernel: JITFunction, *args: object, **kwargs: object) -> None:
        options = {k: kwargs.pop(k) for k in OPTIONS & set(kwargs)}
        bound = inspect.signature(kernel.fn).bind(*args, **kwargs).arguments
        grid = options.pop("grid")
        assert all(type(n) is int and n > 0 for n in grid), (kernel.fn.__name__, grid)
        signature, constants = {}, {}
        for i, parameter in enumerate(kernel.params):
            value = bound[parameter.name]
            if isinstance(value, torch.Tensor):
                assert value.is_cuda and not parameter.is_constexpr, parameter.name
                signature[parameter.name] = TYPES[value.dtype]
            elif parameter.is_constexpr or value is None:
                signature[parameter.name], constants[(i,)] = "constexpr", value
            else:
                signature[parameter.name] = parameter.annotation_type or ("fp32" if type(value) is float else "i64")
        self.names.append(kernel.fn.__name__)
        options.pop("warmup", None)
        key = (kernel.fn.__name__, *signature.values(), *map(str, constants.items()))
        if key not in self._compiled:
            self._compiled.add(key)
            source = ASTSource(kernel, signature, constexprs=constants)
            triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)


class Operators(TorchDispatchMode):
    """Collects the names of this package's operators."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        if operator.namespace == "fastlangevin":
            self.names.append(str(operator).removeprefix("fastlangevin."))
        return operator(*args, **(kwargs or {}))


class Arrived:
    """In place of `ToHost`: a number that has not been looked at."""

    def __init__(self, x: torch.Tensor) -> None:
        assert x.is_cuda and x.numel() == 1

    def arrived(self) -> bool:
        return False


def getitem(x: torch.Tensor, index: object) -> torch.Tensor:
    """By torch's operators: `Tensor.__getitem__` first makes the device current, by the driver."""
    parts, dim = index if isinstance(index, tuple) else (index,), 0
    for part in parts:
        if part is None:
            x, dim = torch.unsqueeze(x, dim), dim + 1
        elif part is Ellipsis:
            dim = x.dim() - sum(p is not None for p in parts[parts.index(part) + 1 :])
        elif isinstance(part, slice):
            x, dim = torch.ops.aten.slice.Tensor(x, dim, part.start, part.stop, part.step or 1), dim + 1
        else:
            assert isinstance(part, int), part
            x = torch.select(x, dim, part)
    return x


def to(x: torch.Tensor, *what: object, dtype=None, device=None, memory_format=None, **_: object) -> torch.Tensor:
    """By torch's operators, likewise."""
    for each in what:
        if isinstance(each, torch.dtype):
            dtype = each
        elif isinstance(each, torch.Tensor):
            dtype, device = each.dtype, each.device
        else:
            device = each
    device = None if device is None or torch.device(device).type == x.device.type else torch.device(device)
    if device is None and dtype in (None, x.dtype):
        return x if memory_format is None else contiguous(x, memory_format)
    return torch.ops.aten._to_copy.default(x, dtype=dtype, device=device, memory_format=memory_format)


def contiguous(x: torch.Tensor, memory_format: torch.memory_format = torch.contiguous_format) -> torch.Tensor:
    is_so = x.is_contiguous(memory_format=memory_format)
    return x if is_so else torch.ops.aten.clone.default(x, memory_format=memory_format)


def install(launches: Launches) -> None:
    properties = {"max_shared_mem": 227 << 10, "multiprocessor_count": 132}
    utils = types.SimpleNamespace(get_device_properties=lambda index: properties)
    triton.runtime.driver = types.SimpleNamespace(active=types.SimpleNamespace(utils=utils))
    JITFunction.run = lambda kernel, *args, **kwargs: launches(kernel, *args, **kwargs)
    fake_tensor.init_gpu_context = lambda device: None
    FakeTensor.__getitem__ = getitem
    FakeTensor.copy_ = lambda self, other, non_blocking=False: torch.ops.aten.copy_.default(self, other, non_blocking)
    FakeTensor.to, FakeTensor.contiguous = to, contiguous
    for name, dtype in (("float", torch.float32), ("double", torch.float64), ("half", torch.float16)):
        setattr(FakeTensor, name, functools.partialmethod(to, dtype))
    FakeTensor.data_ptr = lambda self: id(self.untyped_storage())
    torch.cuda.is_available = lambda: True
    torch.cuda.current_device = lambda: 0
    torch.cuda.is_current_stream_capturing = lambda: False
    torch.cuda.get_device_capability = lambda device=None: (9, 0)
    torch.cuda.get_device_properties = lambda device=None: types.SimpleNamespace(
        major=9, multi_processor_count=132, name="a GPU"
    )
    torch.cuda.device = lambda device: contextlib.nullcontext()
    cuda_graph.one_at_a_time = lambda device: contextlib.nullcontext()
    divergence.n_not_finite = lambda x: torch.empty((), dtype=torch.int64, device="cuda")
    divergence.ToHost = Arrived
    auto.trace = sequential.trace = functools.partial(outside, tracing.trace)


IMAGES, POINTS = (8, 3, 32, 32), (100, 2)
SAMPLERS = {
    "langevin": (fl.Langevin, {"noise_std": 0.1, "bounds": (-1, 1)}),
    "mala": (fl.MALA, {"bounds": (-1, 1)}),
    "hmc": (fl.HMC, {"n_leapfrog": 2}),
    "underdamped": (fl.Underdamped, {}),
}
WORKS = {  # the kind and the energy, the shape of its states, and the precision
    "convnet fp16": ("log_density", fl.models.ConvNet(32, 3, 32), IMAGES, "fp16"),
    "convnet tf32": ("log_density", fl.models.ConvNet(32, 3, 32), IMAGES, "tf32"),
    "convnet fp32": ("log_density", fl.models.ConvNet(32, 3, 32), IMAGES, "fp32"),
    "mlp fp16": ("log_density", fl.models.MLP(2, (64, 64)), POINTS, "fp16"),
    "mixture": ("energy", fl.energies.GaussianMixture([[1.0, 0.0], [0.0, 1.0]]), POINTS, "fp32"),
    "double well": ("energy", fl.energies.DoubleWell(2), POINTS, "fp32"),
    "mala of a convnet": ("log_density", fl.models.ConvNet(32, 3, 32), IMAGES, "fp16"),
    "hmc of an mlp": ("log_density", fl.models.MLP(2, (64, 64)), POINTS, "fp16"),
    "underdamped of an mlp": ("log_density", fl.models.MLP(2, (64, 64)), POINTS, "fp16"),
}


def outside(function, *args):
    """Calls it without fakes: the recorder of layers has tensors of its own, on "meta"."""
    with fake_tensor.unset_fake_temporarily():
        return function(*args)


def on_cuda(value: torch.Tensor) -> torch.Tensor:
    """`Tensor.to` would ask the driver for the device, whose values are not needed."""
    fake = torch.empty(value.shape, dtype=value.dtype, device="cuda")
    return torch.nn.Parameter(fake) if isinstance(value, torch.nn.Parameter) else fake


def walk(name: str, launches: Launches) -> dict[str, object]:
    kind, energy, shape, precision = WORKS[name]
    make, own = SAMPLERS[name.partition(" of ")[0] if " of " in name else "langevin"]
    options = {"step_size": 0.1, "n_steps": 3, "precision": precision, **own}
    for module in energy.modules():
        for values in (module._parameters, module._buffers):
            values.update({name: on_cuda(value) for name, value in values.items() if value is not None})
    sampler = make(**{kind: energy}, **options, seed=1)
    sampler._graphs = GraphCache(True, 3, FakeCapture)
    x0 = torch.empty(shape, device="cuda")
    FakeCapture.made = []
    launches.names.clear()
    with Operators() as operators:
        for x in (x0, x0.clone()):
            assert sampler(x).shape == x.shape
        plan = sampler.plan_for("cuda")
    (device,) = FakeCapture.made
    return {
        "work": name,
        "engine": plan.engine,
        "backend": plan.backend,
        "graph": plan.graph,
        "reasons": plan.reasons,
        "launches": launches.names[:],
        "operators": operators.names,
        "captured": [device.bodies, device.replays],
    }


def main() -> None:
    why = kernels.native.load_cpu()
    assert why is None, why
    launches = Launches()
    install(launches)
    assert kernels.BACKENDS["cuda"].unsupported() is None, kernels.BACKENDS["cuda"].unsupported()
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        print(json.dumps([walk(name, launches) for name in sys.argv[1:] or WORKS]))


if __name__ == "__main__":
    main()
