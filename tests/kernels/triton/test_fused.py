"""Fused calls in Triton's interpreter, against the same in float64."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from support import fused_reference, triton_roundings
from support.error_bounds import UNIT, Roundings, U, gamma
from torch import Tensor
from torch.nn import functional

if importlib.util.find_spec("triton") is None or torch.cuda.is_available():
    pytest.skip("needs Triton's interpreter", allow_module_level=True)

from fastlangevin.kernels.triton.fused import Launch, launches, machine
from fastlangevin.network.pointwise import Extent, Instruction, Op, Pointwise, Section
from fastlangevin.network.products import Product

pytestmark = pytest.mark.usefixtures("poisoned")

ALL, QUARTER = int(Extent.ALL), int(Extent.QUARTER)


def whole(shape, dtype, most=4, seed=0) -> Tensor:
    """Whole numbers, channels last, with NaNs before and after them in memory."""
    n, generator = torch.Size(shape).numel(), torch.Generator().manual_seed(seed)
    memory = torch.full((n + 64,), float("nan"), dtype=dtype)
    memory[32 : n + 32] = torch.randint(-most, most + 1, (n,), generator=generator).to(dtype)
    b, c, h, w = (*(1,) * (4 - len(shape)), *shape)
    image = memory[32 : n + 32].view(b, h, w, c).permute(0, 3, 1, 2)
    return image if len(shape) == 4 else image[0]


def pointwise(main: Section, dtypes, before=None, pooled=0, product=None, dtype=torch.float32) -> Pointwise:
    return Pointwise(main, before, pooled, product, tuple(dtypes), dtype, n_calls=2)


def assert_exact(operator: Pointwise, *args: Tensor) -> None:
    """Of whole numbers so short that nothing is rounded but the results, to the outputs' types."""
    got, expected = Launch(operator)(*args), fused_reference.evaluated(operator, *(a.double() for a in args))
    if isinstance(got, Tensor):
        got, expected = (got,), (expected,)
    for a, b, dtype in zip(got, expected, operator.dtypes, strict=True):
        assert a.dtype == dtype and a.is_contiguous(memory_format=torch.channels_last)
        assert torch.isfinite(b).all() and torch.equal(a, b.to(dtype))


NUMBERS = {Op.ADD: (1.0, -0.3), Op.ADD_NUMBER: (0.7,), Op.MUL_NUMBER: (-1.0, 0.3), Op.DIV_NUMBER: (1.1,)}
NUMBERS |= {Op.LEAKY_RELU: (0.2,), Op.LEAKY_RELU_BACKWARD: (0.2,), Op.THRESHOLD_BACKWARD: (0.0, 0.5)}


@pytest.mark.parametrize("op", fused_reference.FUNCTIONS)
def test_instructions(op):
    """To within what float32's roundings do to the formula."""
    generator = torch.Generator().manual_seed(1)
    a, b = (3 * torch.randn(1, 1, 1, 300, generator=generator) for _ in range(2))
    a[..., :3], b[..., :3] = torch.tensor([0.0, 30.0, -30.0]), torch.tensor([0.5, -30.0, 30.0])
    for number in NUMBERS.get(op, (0.0,)):
        loads = (Instruction(Op.LOAD, 0, ALL), Instruction(Op.LOAD, 1, ALL))
        section = Section((1, 1, 1, 300), (*loads, Instruction(op, 1, 2, number)), ((3, 0),))
        expected = fused_reference.FUNCTIONS[op](a.double(), b.double(), number)
        roundings = Roundings()
        values = [triton_roundings.Number(roundings, v.double().view(-1, 1)) for v in (a, a, b)]
        formula = triton_roundings.in_python(machine._apply)(values, int(op), 1, 2, number)
        bound = roundings.bound(formula.value).view_as(a)
        assert bound.max() < 100 * U * expected.abs().max()
        got = Launch(pointwise(section, [torch.float32]))(a, b)
        assert ((got.double() - expected).abs() <= bound * (1 + 2**-7)).all()
        assert not torch.equal(expected, a.double())
        wide = Launch(pointwise(section, [torch.float64], dtype=torch.float64))(a.double(), b.double())
        assert ((wide - expected).abs() <= bound * (2 * UNIT[torch.float64] / U)).all()


@pytest.mark.parametrize("op", [Op.RELU, Op.LEAKY_RELU, Op.THRESHOLD_BACKWARD, Op.LEAKY_RELU_BACKWARD])
def test_nan_is_kept(op):
    nan, one = torch.full((1, 1, 1, 4), float("nan")), torch.ones(1, 1, 1, 4)
    loads = (Instruction(Op.LOAD, 0, ALL), Instruction(Op.LOAD, 1, ALL))
    section = Section((1, 1, 1, 4), (*loads, Instruction(op, 1, 2, 0.2)), ((3, 0),))
    assert Launch(pointwise(section, [torch.float32]))(nan, one).isnan().all()


SHAPES = [(3, 5, 7, 2), (2, 16, 8, 6), (1, 1, 3, 1), (5, 40, 2, 10), (2, 3, 1, 1)]
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_operands_of_every_extent(shape, wide, monkeypatch):
    """Broadcast operands of any rank and type, with two outputs."""
    monkeypatch.setattr(launches, "_NARROW", 0 if wide else launches._NARROW)
    b, c, h, w = shape
    operands, instructions, place = [], [], 0
    for k, extent in enumerate(range(8)):
        full = (b if extent & 1 else 1, c if extent & 4 else 1, *((h, w) if extent & 2 else (1, 1)))
        full = full[1:] if extent in (2, 4, 6) and k % 4 else full
        operands.append(whole(full, DTYPES[k % 4], seed=k))
        instructions += [Instruction(Op.LOAD, k, extent), Instruction(Op.ADD, place, len(instructions) + 1, 2.0)]
        if not k:
            instructions.pop()
        place = len(instructions)
    section = Section(shape, tuple(instructions), ((place, 0), (place - 2, 1)))
    dtype = torch.float64 if wide else torch.float32
    assert_exact(pointwise(section, [torch.float16, torch.float32], dtype=dtype), *operands)


@pytest.mark.parametrize("shape", [(3, 5, 4, 6), (2, 16, 2, 2), (1, 1, 6, 2), (2, 48, 8, 10)])
def test_means_over_pixels_and_their_gradients(shape):
    """Of values at both sizes, those before the mean stored too."""
    b, c, h, w = shape
    small = (b, c, h // 2, w // 2)
    before = (
        *(Instruction(Op.LOAD, 0, ALL), Instruction(Op.LOAD, 1, int(Extent.CHAIN | Extent.CHANNEL))),
        *(Instruction(Op.MUL, 1, 2), Instruction(Op.LOAD, 2, QUARTER), Instruction(Op.ADD, 3, 4, -4.0)),
    )
    main = (Instruction(Op.LOAD, 2, ALL), Instruction(Op.ADD, 0, 1, 0.25), Instruction(Op.LEAKY_RELU, 2, 0, 0.5))
    operator = pointwise(
        Section(small, main, ((3, 0), (0, 2))),
        [torch.float16, torch.float32, torch.float32],
        Section(shape, before, ((5, 1),)),
        pooled=5,
    )
    operands = whole(shape, torch.float16), whole((b, c, 1, 1), torch.float32, seed=1), whole(small, torch.float16)
    assert_exact(operator, *operands)


# is_gradient, kernel, stride, padding, channels of the input and of the result of the convolution, size of its input
PRODUCTS = {
    "3x3": (False, 3, 1, 1, 16, 32, (3, 5)),
    "3x3, two tiles and a part, 48 channels": (False, 3, 1, 1, 48, 16, (5, 7)),
    "4x4 of stride 2": (False, 4, 2, 1, 16, 16, (6, 4)),
    "3x3 of stride 2, odd": (False, 3, 2, 1, 32, 16, (5, 7)),
    "1x1 of stride 2": (False, 1, 2, 0, 16, 48, (4, 6)),
    "5x5 without padding": (False, 5, 1, 0, 16, 16, (6, 7)),
    "gradient of 3x3": (True, 3, 1, 1, 32, 16, (3, 5)),
    "gradient of 4x4 of stride 2": (True, 4, 2, 1, 16, 48, (6, 4)),
    "gradient of 3x3 of stride 2": (True, 3, 2, 1, 16, 32, (6, 8)),
    "gradient of 1x1 of stride 2": (True, 1, 2, 0, 48, 16, (4, 6)),
    "gradient of 5x5 of stride 2": (True, 5, 2, 2, 16, 16, (4, 8)),
    "gradient of 5x5 without padding": (True, 5, 1, 0, 16, 16, (6, 7)),
    "gradient of 1x1": (True, 1, 1, 0, 64, 80, (3, 3)),
}


def product(is_gradient, kernel, stride, padding, planes, channels, size, batch=2) -> Product:
    after = tuple((n + 2 * padding - kernel) // stride + 1 for n in size)
    before, after = (batch, planes, *size), (batch, channels, *after)
    image, result = (after, before) if is_gradient else (before, after)
    return Product(is_gradient, image, result, (channels, planes, kernel, kernel), stride, padding)


@pytest.mark.parametrize("name", PRODUCTS)
def test_products(name):
    """With an addition, an activation and two outputs; all sums are exact."""
    p = product(*PRODUCTS[name])
    instructions = (
        *(Instruction(Op.LOAD, 0, int(Extent.CHANNEL)), Instruction(Op.ADD, 0, 1, 1.0)),
        *(Instruction(Op.LOAD, 1, ALL), Instruction(Op.ADD, 2, 3, 2.0), Instruction(Op.LEAKY_RELU, 4, 0, 0.25)),
    )
    operator = pointwise(Section(p.result, instructions, ((5, 0), (0, 1))), [torch.float16, torch.float32], product=p)
    factors = whole(p.image, torch.float16, 2), whole(p.weight, torch.float16, 1, seed=1)
    operands = whole((1, p.result[1], 1, 1), torch.float16, seed=2), whole(p.result, torch.float16, seed=3)
    assert_exact(operator, *factors, *operands)


@pytest.mark.parametrize("size", [(4, 6), (2, 2), (10, 4)])
def test_a_mean_over_pixels_after_a_product(size):
    p = product(False, 3, 1, 1, 16, 16, size, batch=3)
    b, c, h, w = p.result
    before = (Instruction(Op.LOAD, 0, int(Extent.CHAIN | Extent.CHANNEL)), Instruction(Op.ADD, 0, 1, 4.0))
    main = (Instruction(Op.LOAD, 1, ALL), Instruction(Op.ADD, 0, 1, 1.0))
    small = Section((b, c, h // 2, w // 2), main, ((2, 0),))
    operator = pointwise(small, [torch.float32, torch.float16], Section(p.result, before, ((2, 1),)), 2, p)
    factors = whole(p.image, torch.float16, 2), whole(p.weight, torch.float16, 1, seed=1)
    assert_exact(operator, *factors, whole((b, c, 1, 1), torch.float32), whole(small.shape, torch.float16))


@pytest.mark.parametrize("name", ["3x3", "gradient of 3x3 of stride 2"])
def test_products_of_any_numbers(name):
    """Sums in float32 of n products of half-precision numbers, in any order, and one rounding to half precision."""
    p = product(*PRODUCTS[name])
    torch.manual_seed(2)
    image, weight = (torch.randn(shape).half().to(memory_format=torch.channels_last) for shape in (p.image, p.weight))
    operator = pointwise(
        Section(p.result, (Instruction(Op.LEAKY_RELU, 0, 0, 0.2),), ((1, 0),)), [torch.float16], product=p
    )
    sums, terms = (
        fused_reference.multiplied(p, f(image.double()), f(weight.double())) for f in (torch.clone, torch.abs)
    )
    expected, half = functional.leaky_relu(sums, 0.2), UNIT[torch.float16]
    bound = (gamma(p.weight[0] * p.weight[2] ** 2) + 2 * U) * terms + half * expected.abs() + 2.0**-25
    got = Launch(operator)(image, weight)
    assert ((got.double() - expected).abs() <= bound * (1 + 2**-7)).all() and bound.max() < 0.01 * expected.abs().max()


def test_operands_of_other_layouts_are_copied():
    section = Section((2, 16, 4, 6), (Instruction(Op.LOAD, 0, ALL), Instruction(Op.MUL_NUMBER, 1, 0, 2.0)), ((2, 0),))
    x = whole((2, 16, 4, 6), torch.float32).contiguous()
    assert_exact(pointwise(section, [torch.float32]), x)
    assert_exact(pointwise(section, [torch.float32]), x[:1].expand(2, -1, -1, -1))
