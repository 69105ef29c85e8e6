"""Packs a convnet's weights, and launches its kernels."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from ....network.layers import ConvTower
from ...arguments import NoiseFirst, UpdateArgs
from .. import DEVICE
from .. import unsupported as triton_unsupported
from . import cudnn

if TYPE_CHECKING:
    from .plan import Geometry, Gpu, Launch

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "tf32": torch.float32}
_NO_UPDATE = UpdateArgs(None, None, 0, 0, 0, 0, None, None, None)
_SHAPES = {((3, 3), (1, 1), (1, 1)), ((4, 4), (2, 2), (1, 1))}  # kernel, stride, padding


def unsupported(layers: ConvTower, x_shape: tuple[int, ...], precision: str, device: torch.device) -> str | None:
    """Why these kernels do not support a network, or None if they do.

    Args:
        layers: convolutions, each with the slope of the LeakyReLU after it.
        x_shape: (C, H, W), of one state.
    """
    if precision not in DTYPES:
        return f"they compute in {', '.join(DTYPES)}, not in {precision}"
    if device.type != DEVICE:
        return f"they run on {DEVICE} tensors, not on {device.type}"
    if why := triton_unsupported():
        return why
    if device.type == "cpu" and precision == "bf16":
        return "Triton's interpreter does not support bfloat16 products"
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 0):
        return "they need a GPU of compute capability 8.0 or later"
    if not layers or len(x_shape) != 3:
        return "the network has no convolution of images"
    planes, height, width = x_shape
    if planes > 4 or height % 2 or width % 2:
        return f"the state must have at most 4 planes of even height and width, got shape {tuple(x_shape)}"
    for conv, slope in layers:
        kernel = tuple(conv.weight.shape[2:])
        if (kernel, conv.stride, conv.padding) not in _SHAPES or conv.dilation != (1, 1) or conv.groups != 1:
            return "a convolution is neither 3×3 of stride 1 nor 4×4 of stride 2, with padding 1"
        if len(conv.weight) % 32:
            return f"a convolution has {len(conv.weight)} channels, expected a multiple of 32"
        if not 0 <= slope < math.inf:
            return f"an activation has slope {slope}"
        if conv.stride == (2, 2):
            if height % 2 or width % 2:
                return f"a convolution of stride 2 has an input of odd size, {height}×{width}"
            height, width = height // 2, width // 2
    return None


@dataclass(frozen=True)
class _Layer:
    """A layer's weights in the layouts of its two kernels.

    Attributes:
        forward: (O, taps, I); for the first layer (O, products per output), padded with zeros to a power of two.
        backward: (I, taps, O); for the first layer padded with zeros to 16 planes.
        bias: (O,) float32.
    """

    geometry: Geometry
    forward: Tensor
    backward: Tensor
    bias: Tensor
    slope: float


@dataclass
class Packed:
    """A network's weights for the kernels, and the buffers of the last requested batch size.

    Attributes:
        last: (H, W, C) float32, the gradient at the last activation's output, scaled to a magnitude of 1/2 to 1.
        unscale: one float32, the power of two that reverses the scaling.
    """

    x_shape: tuple[int, ...]
    dtype: torch.dtype
    layers: tuple[_Layer, ...]
    last: Tensor
    unscale: Tensor
    _workspace: Workspace | None = field(default=None, repr=False)

    def workspace(self, batch: int) -> Workspace:
        if self._workspace is None or self._workspace.batch != batch:
            self._workspace = Workspace(self, batch)
        return self._workspace

    def forget_workspace(self) -> None:
        """Drops the workspace; the next one is planned again."""
        self._workspace = None


def pack(layers: ConvTower, last: Tensor, x_shape: tuple[int, ...], precision: str) -> Packed:
    """Packs the network for the kernels, by a few small operations on its device without synchronization.

    Args:
        layers, x_shape, precision: supported, see `unsupported`.
        last: (C, H, W), the gradient of the log-density with respect to the last activation's output.
    """
    from .plan import Geometry, first_depth

    dtype = DTYPES[precision]
    planes, height, width = x_shape
    packed: list[_Layer] = []
    for conv, slope in layers:
        weight = _to_compute(conv.weight.detach().float(), dtype)
        channels = len(weight)
        geometry = Geometry(planes, height, width, channels, conv.stride[0])
        if packed:
            forward = weight.permute(0, 2, 3, 1).contiguous()
            backward = weight.permute(1, 2, 3, 0).contiguous()
        else:
            forward = functional.pad(weight.flatten(1), (0, first_depth(geometry) - weight[0].numel()))
            backward = functional.pad(weight.permute(1, 2, 3, 0), (0, 0) * 3 + (0, 16 - planes))
        bias = weight.new_zeros(channels, dtype=torch.float32) if conv.bias is None else conv.bias.detach().float()
        packed.append(_Layer(geometry, forward, backward, bias.contiguous(), slope))
        planes, (height, width) = channels, geometry.out
    last = last.detach().float()
    # Small gradients would underflow in fp16. A power of two scales exactly; its exponent is limited to float32's.
    exponent = torch.frexp(last.abs().amax()).exponent.clamp(-125, 126)
    scaled = last * _power_of_two(-exponent)
    return Packed(tuple(x_shape), dtype, tuple(packed), scaled.permute(1, 2, 0).contiguous(), _power_of_two(exponent))


class Workspace:
    """The buffers of a batch, and the launches that fill them.

    Attributes:
        activations: of each layer (B, H, W, C); of the last layer, and of all in the backward pass, the gradient.
        masks: of each layer but the last (B, H, W, C / 32) int32.
        launches: the score's kernels in order.
        between: the kernel in place of the last of a step and the first of the next one; None: these are apart.
    """

    def __init__(self, packed: Packed, batch: int) -> None:
        from .plan import plan, plan_between

        self.batch, self._packed = batch, packed
        device = packed.last.device
        geometries = [layer.geometry for layer in packed.layers]
        planned = (geometries, batch, packed.dtype.itemsize, gpu_of(device))
        self.launches, self.between = plan(*planned), plan_between(*planned)
        self.activations = [
            torch.empty(batch, *g.out, g.channels, dtype=packed.dtype, device=device) for g in geometries
        ]
        self.masks = [
            torch.empty(batch, *g.out, g.channels // 32, dtype=torch.int32, device=device) for g in geometries[:-1]
        ]
        self.locks = torch.zeros(max(la.locks for la in self.launches), dtype=torch.int32, device=device)
        self.partial = torch.empty(max(la.partial for la in self.launches), device=device)
        if self.between is not None:
            self.other_state = torch.empty(batch, *packed.x_shape, device=device)
            self._other_activations = torch.empty_like(self.activations[0])
            self._bands = torch.empty(self.between.band, dtype=packed.dtype, device=device)

    @property
    def last_forward(self) -> int:
        """The number of the launch that ends the layers' way forward."""
        return len(self._packed.layers) - 1

    def new_parts(self) -> Tensor:
        """(B, parts) float32, for the parts of the log-densities."""
        launch = self.launches[self.last_forward]
        channels, columns = self._packed.layers[-1].geometry.channels, launch.constants["N"]
        assert isinstance(columns, int)
        return self._packed.last.new_empty(self.batch, self._packed.last[..., 0].numel() * channels // columns)

    def arguments(self, i: int, x: Tensor, parts: Tensor | None = None) -> tuple[object, ...]:
        """The arguments of launch i after cuDNN's sums, if it needs them; of the last launch, those before the update's
        numbers.
        """
        layers, n = self._packed.layers, len(self._packed.layers)
        launch = self.launches[i]
        shared, rows = (self.partial, self.locks), launch.rows
        if i < n:
            layer = layers[i]
            mask, last = (self.masks[i], None) if i < n - 1 else (None, self._packed.last)
            out = (layer.bias, self.activations[i], mask, last, parts)
            if launch.name == "activate":
                return (*out, rows, layer.slope)
            a, splits = (x, ()) if i == 0 else (self.activations[i - 1], shared)
            return (a, self._weights(launch, layer.forward), *out, *splits, rows, layer.slope)
        j = 2 * n - 1 - i
        layer, gradient = layers[j], self.activations[j]
        if j == 0:
            return (gradient, layer.backward, self._packed.unscale, x)
        before = (self.masks[j - 1], self.activations[j - 1])
        if launch.name == "deactivate":
            return (*before, rows, layers[j - 1].slope)
        weights = self._weights(launch, layer.backward)
        return (gradient, weights, *before, *shared, rows, layers[j - 1].slope)

    def run(self, i: int, x: Tensor, parts: Tensor | None = None) -> None:
        """Launch i of all but the last. parts: where the one that ends the way forward leaves the log-densities'."""
        launch, arguments = self.launches[i], self.arguments(i, x, parts)
        if launch.name in ("activate", "deactivate"):
            arguments = (self._cudnn_sums(i), *arguments)
        launch(*arguments, **({} if parts is None else {"ENERGY": True}))

    def backpropagate(self, x: Tensor, start: int = 0, parts: Tensor | None = None) -> None:
        """Runs all kernels but the last: computes the gradient at the first layer from the state.

        Args:
            start: 1 if the first kernel has run.
            parts: `new_parts`, if energies are wanted too.
        """
        for i in range(start, len(self.launches) - 1):
            self.run(i, x, parts if i == self.last_forward else None)

    def score(self, x: Tensor, out: Tensor) -> None:
        """The score from the gradient at the first layer."""
        from ..update import kernel_arguments

        none, parts = kernel_arguments(_NO_UPDATE)
        self._input(x, out, (*none, 0, 0), parts | {"UPDATE": False})

    def update(self, x: Tensor, out: Tensor, args: UpdateArgs) -> None:
        """The next state from the gradient at the first layer; `out` may be x."""
        from ..update import kernel_arguments

        numbers, parts = kernel_arguments(args)
        self._input(x, out, (*numbers, args.stream, args.offset), parts | {"UPDATE": True}, args.offset % 4 == 0)

    def update_and_run_first(self, x: Tensor, out: Tensor, args: UpdateArgs, order: NoiseFirst) -> None:
        """The next state from the gradient at the first layer, to another tensor than x, and the first layer there.

        Args:
            order: of the update; unless `NoiseFirst.no`, noise level and noise step are those of the next step.
        """
        from ..update import kernel_arguments

        assert self.between is not None
        layer, (numbers, parts) = self._packed.layers[0], kernel_arguments(args)
        gradient, self.activations[0] = self.activations[0], self._other_activations
        self._other_activations = gradient
        self.between(
            *(gradient, layer.backward, self._packed.unscale, x, out),
            *(layer.forward, layer.bias, self.activations[0], self.masks[0], self._bands, layer.slope),
            *(*numbers, args.stream, args.offset),
            **parts,
            WHOLE_GROUPS=args.offset % 4 == 0 and x.shape[-1] % 4 == 0,
            NOISE_FIRST=int(order),
        )

    def _weights(self, launch: Launch, weights: Tensor) -> object:
        """As the kernel reads them: by pointer, or through a tensor descriptor of a tile's part."""
        if not launch.constants.get("DESCRIPTOR"):
            return weights
        from triton.tools.tensor_descriptor import TensorDescriptor

        return TensorDescriptor.from_tensor(weights.flatten(1), [launch.constants["N"], launch.constants["K"]])

    def _input(
        self, x: Tensor, out: Tensor, numbers: tuple[object, ...], parts: dict[str, bool], whole_groups: bool = True
    ) -> None:
        launch, arguments = self.launches[-1], self.arguments(len(self.launches) - 1, x)
        launch(*arguments, out, launch.rows, *numbers, **parts, WHOLE_GROUPS=whole_groups)

    def _cudnn_sums(self, i: int) -> Tensor:
        n = len(self._packed.layers)
        if i < n:
            layer = self._packed.layers[i]
            return cudnn.convolution(self.activations[i - 1], layer.forward, layer.geometry.stride)
        j = 2 * n - 1 - i
        layer, gradient, like = self._packed.layers[j], self.activations[j], self.activations[j - 1]
        return cudnn.input_gradient(gradient, like, layer.forward, layer.geometry.stride)


def _to_compute(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Like the device function `parts.to_compute`."""
    if dtype != torch.float32:
        return weight.to(dtype)
    rounded = ((weight.contiguous().view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)
    return torch.where(weight.isnan(), weight, rounded)


def _power_of_two(exponent: Tensor) -> Tensor:
    """2 to the power of an int32, exactly. torch.ldexp, which multiplies by a power, does not guarantee this."""
    return ((exponent + 127) << 23).view(torch.float32)


def gpu_of(device: torch.device) -> Gpu:
    """The properties of a GPU; for the interpreter, those of an H100."""
    from .plan import Gpu

    if device.type == "cpu":
        return Gpu(9, 132)
    properties = torch.cuda.get_device_properties(device)
    return Gpu(properties.major, properties.multi_processor_count, properties.name)
