"""Closed-form densities for testing samplers: energies U(x), (B, d) to (B,), with p(x) ∝ exp(-U(x)).

Each has the exact `mean` (d,) and `covariance` (d, d) of its density, and most can draw exact samples. Parameters are
buffers: `.to(device)` moves them, and there is nothing to learn. A value that is not as documented raises a
ValueError that names the argument.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from .validation import check_int


class Gaussian(nn.Module):
    """U(x) = ½ (x - μ)ᵀ Σ⁻¹ (x - μ).

    Args:
        mean: μ, (d,).
        covariance: Σ, (d, d), symmetric and positive definite.

    Examples:
        >>> energy = fl.energies.Gaussian([0.0, 1.0], [[1.0, 0.5], [0.5, 2.0]])
        >>> energy(torch.tensor([[0.0, 1.0]]))  # 0 at the mean
        tensor([0.])
        >>> energy.sample(10).shape
        torch.Size([10, 2])
    """

    mean: Tensor
    covariance: Tensor
    precision: Tensor

    def __init__(self, mean: Tensor | Sequence[float], covariance: Tensor | Sequence[Sequence[float]]) -> None:
        super().__init__()
        mu, sigma = _tensor(mean), _tensor(covariance)
        if mu.dim() != 1 or sigma.shape != (len(mu), len(mu)):
            raise ValueError(f"mean must be (d,) and covariance (d, d), got {tuple(mu.shape)} and {tuple(sigma.shape)}")
        sigma = sigma.to(mu)
        if not torch.equal(sigma, sigma.T) or torch.linalg.cholesky_ex(sigma).info != 0:
            raise ValueError(f"covariance must be symmetric and positive definite, got {sigma.tolist()}")
        self.register_buffer("mean", mu)
        self.register_buffer("covariance", sigma)
        self.register_buffer("precision", torch.cholesky_inverse(torch.linalg.cholesky(sigma)))

    def forward(self, x: Tensor) -> Tensor:
        away = _check(x, len(self.mean)) - self.mean
        return 0.5 * (away @ self.precision * away).sum(dim=1)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draws n exact samples, (n, d)."""
        return self.mean + _normal(self.mean, n, len(self.mean), generator) @ torch.linalg.cholesky(self.covariance).T


class GaussianMixture(nn.Module):
    """U(x) = -log Σ_k w_k N(x; μ_k, diag(v_k)).

    Args:
        means: μ, (K, d).
        variances: v: a number, (K,) for isotropic components, or (K, d).
        weights: w, (K,), positive; normalised to a sum of 1. Default: equal.

    Examples:
        >>> mixture = fl.energies.GaussianMixture([[-2.0, 0.0], [2.0, 0.0]], variances=0.25)
        >>> mixture.mean, mixture.sample(10).shape
        (tensor([0., 0.]), torch.Size([10, 2]))
    """

    means: Tensor
    precisions: Tensor  # (K, d), 1 / v
    constants: Tensor  # (K,): U(x) = -logsumexp_k(constants_k - ½ Σ_i precisions_ki (x_i - μ_ki)²)

    def __init__(
        self,
        means: Tensor | Sequence[Sequence[float]],
        variances: float | Tensor | Sequence[float] = 1.0,
        weights: Tensor | Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        mu = _tensor(means)
        if mu.dim() != 2 or mu.numel() == 0:
            raise ValueError(f"means must be (K, d), got {tuple(mu.shape)}")
        v = _tensor(variances).to(mu)
        if v.shape not in ((), (len(mu),), mu.shape):
            raise ValueError(f"variances must be a number, (K,) or (K, d), got {tuple(v.shape)}")
        w = torch.ones(len(mu)).to(mu) if weights is None else _tensor(weights).to(mu)
        if w.shape != (len(mu),):
            raise ValueError(f"weights must be (K,), got {tuple(w.shape)}")
        if not (v > 0).all() or not (w > 0).all():
            raise ValueError("variances and weights must be positive")
        v = (v[:, None] if v.dim() == 1 else v).expand(mu.shape)
        self.register_buffer("means", mu)
        self.register_buffer("precisions", 1 / v)
        self.register_buffer("constants", (w / w.sum()).log() - 0.5 * (2 * math.pi * v).log().sum(dim=1))

    def forward(self, x: Tensor) -> Tensor:
        squares = (_check(x, self.means.shape[1])[:, None] - self.means).square()
        return -torch.logsumexp(self.constants - 0.5 * (self.precisions * squares).sum(dim=2), dim=1)

    @property
    def weights(self) -> Tensor:
        return torch.softmax(self.constants - 0.5 * self.precisions.log().sum(dim=1), dim=0)

    @property
    def mean(self) -> Tensor:
        return self.weights @ self.means

    @property
    def covariance(self) -> Tensor:
        away = self.means - self.mean
        return torch.diag(self.weights @ (1 / self.precisions)) + away.T @ (self.weights[:, None] * away)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draws n exact samples, (n, d)."""
        k = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        return self.means[k] + _normal(self.means, n, self.means.shape[1], generator) / self.precisions[k].sqrt()


class DoubleWell(nn.Module):
    """U(x) = barrier · Σ_i ((x_i / width)² - 1)²: in each dimension two wells at ±width, `barrier` deep.

    Args:
        dimension: d, at least 1.
        barrier: height of the barrier at 0, positive.
        width: distance of the wells from 0, positive.

    Examples:
        >>> wells = fl.energies.DoubleWell(dimension=1, barrier=4.0)
        >>> wells(torch.tensor([[-1.0], [0.0], [1.0]]))
        tensor([0., 4., 0.])
    """

    mean: Tensor

    def __init__(self, dimension: int = 2, barrier: float = 2.0, width: float = 1.0) -> None:
        super().__init__()
        self.barrier, self.width = _positive("barrier", barrier), _positive("width", width)
        self.register_buffer("mean", torch.zeros(check_int("dimension", dimension)))

    def forward(self, x: Tensor) -> Tensor:
        return self.barrier * ((_check(x, len(self.mean)) / self.width).square() - 1).square().sum(dim=1)

    @property
    def covariance(self) -> Tensor:
        """By quadrature, accurate to the precision of float64."""
        end = math.sqrt(1 + math.sqrt(745 / self.barrier))  # exp(-745) is 0
        square = _mean_square(lambda u: -self.barrier * (u.square() - 1).square(), -end, end)
        return torch.diag(torch.full_like(self.mean, self.width**2 * square))


class Rosenbrock(nn.Module):
    """U(x) = ((x_1 - a)² + b (x_2 - x_1²)²) / scale, a narrow curved valley.

    The defaults are those of Goodman and Weare, Comm. App. Math. Comp. Sci. 5 (2010), Section 4. Exactly,
    x_1 ~ N(a, scale / 2), and x_2 given x_1 ~ N(x_1², scale / (2 b)). b and scale are positive.

    Examples:
        >>> valley = fl.energies.Rosenbrock()
        >>> valley(torch.tensor([[1.0, 1.0], [0.0, 0.0]]))  # lowest at (a, a²)
        tensor([0.0000, 0.0500])
    """

    _like: Tensor  # has the dtype and device of the results

    def __init__(self, a: float = 1.0, b: float = 100.0, scale: float = 20.0) -> None:
        super().__init__()
        self.a, self.b, self.scale = float(a), _positive("b", b), _positive("scale", scale)
        self.register_buffer("_like", torch.zeros(2))

    def forward(self, x: Tensor) -> Tensor:
        first, second = _check(x, 2).unbind(dim=1)
        return ((first - self.a).square() + self.b * (second - first.square()).square()) / self.scale

    @property
    def mean(self) -> Tensor:
        return self._like.new_tensor([self.a, self.a**2 + self.scale / 2])

    @property
    def covariance(self) -> Tensor:
        v = self.scale / 2
        second = v / self.b + 4 * self.a**2 * v + 2 * v**2
        return self._like.new_tensor([[v, 2 * self.a * v], [2 * self.a * v, second]])

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draws n exact samples, (n, 2)."""
        z = _normal(self._like, n, 2, generator) * math.sqrt(self.scale / 2)
        first = self.a + z[:, 0]
        return torch.stack([first, first.square() + z[:, 1] / math.sqrt(self.b)], dim=1)


class Funnel(nn.Module):
    """v = x_1 ~ N(0, scale²), and x_2 … x_d given v ~ N(0, e^v): U(x) = ½ (v / scale)² + Σ_i (½ x_i² e^-v + ½ v).

    The defaults, d = 10 and scale = 3, are those of Neal, "Slice sampling", Ann. Statist. 31 (2003), Section 8.

    Args:
        dimension: d, at least 2.
        scale: standard deviation of v, positive.

    Examples:
        >>> funnel = fl.energies.Funnel(dimension=2)
        >>> x = funnel.sample(10_000, generator=torch.Generator().manual_seed(0))
        >>> bool((x[:, 0].std() - 3).abs() < 0.1)
        True
    """

    mean: Tensor

    def __init__(self, dimension: int = 10, scale: float = 3.0) -> None:
        super().__init__()
        self.scale = _positive("scale", scale)
        self.register_buffer("mean", torch.zeros(check_int("dimension", dimension, 2)))

    def forward(self, x: Tensor) -> Tensor:
        v, rest = _check(x, len(self.mean))[:, :1], x[:, 1:]
        return 0.5 * (v[:, 0] / self.scale).square() + 0.5 * (rest.square() * torch.exp(-v) + v).sum(dim=1)

    @property
    def covariance(self) -> Tensor:
        variances = torch.full_like(self.mean, math.exp(self.scale**2 / 2))
        variances[0] = self.scale**2
        return torch.diag(variances)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draws n exact samples, (n, d)."""
        z = _normal(self.mean, n, len(self.mean), generator)
        v = self.scale * z[:, :1]
        return torch.cat([v, z[:, 1:] * torch.exp(v / 2)], dim=1)


class Rings(nn.Module):
    """Rings around the origin of the plane: U(x) = -log Σ_k exp(-½ ((|x| - r_k) / width)²).

    Args:
        radii: r, positive.
        width: standard deviation across a ring, positive.

    Examples:
        >>> rings = fl.energies.Rings(radii=(1.0, 2.0), width=0.1)
        >>> bool((rings(torch.tensor([[1.0, 0.0], [0.0, -2.0]])) < rings(torch.tensor([[1.5, 0.0]]))).all())
        True
    """

    mean: Tensor
    radii: Tensor

    def __init__(self, radii: Tensor | Sequence[float] = (1.0, 2.0, 3.0), width: float = 0.1) -> None:
        super().__init__()
        r = _tensor(radii)
        if r.dim() != 1 or r.numel() == 0 or not (r > 0).all():
            raise ValueError(f"radii must be positive numbers, got {radii!r}")
        self.width = _positive("width", width)
        self.register_buffer("radii", r)
        self.register_buffer("mean", torch.zeros(2).to(r))

    def forward(self, x: Tensor) -> Tensor:
        return _rings(torch.linalg.vector_norm(_check(x, 2), dim=1), self.radii, self.width)

    @property
    def covariance(self) -> Tensor:
        """By quadrature over the radius, which has density ∝ |x| exp(-U)."""
        radii = self.radii.double().cpu()
        end = float(radii.max()) + 12 * self.width
        square = _mean_square(lambda r: r.log() - _rings(r, radii, self.width), 1e-9 * end, end)
        return torch.diag(torch.full_like(self.mean, square / 2))


def _rings(radius: Tensor, radii: Tensor, width: float) -> Tensor:
    return -torch.logsumexp(-0.5 * ((radius[:, None] - radii) / width).square(), dim=1)


def _tensor(value: object) -> Tensor:
    tensor = torch.as_tensor(value)
    return tensor.detach().clone() if tensor.is_floating_point() else tensor.to(torch.get_default_dtype())


def _positive(name: str, value: float) -> float:
    if not value > 0:
        raise ValueError(f"{name} must be positive, got {value!r}")
    return float(value)


def _check(x: Tensor, dimension: int) -> Tensor:
    if x.dim() != 2 or x.shape[1] != dimension:
        raise ValueError(f"x must be (B, {dimension}), got {tuple(x.shape)}")
    return x


def _normal(like: Tensor, n: int, dimension: int, generator: torch.Generator | None) -> Tensor:
    return torch.randn(n, dimension, generator=generator, dtype=like.dtype, device=like.device)


def _mean_square(log_density: Callable[[Tensor], Tensor], lo: float, hi: float) -> float:
    """E u² of a smooth one-dimensional density that is negligible at lo and hi, by the trapezoidal rule."""
    u = torch.linspace(lo, hi, 200_001, dtype=torch.float64)
    log_p = log_density(u)
    p = torch.exp(log_p - log_p.max())
    return float((u.square() * p).sum() / p.sum())
