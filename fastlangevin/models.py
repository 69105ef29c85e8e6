"""Networks to train."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

from torch import Tensor, nn

from .validation import check_int, unknown

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "leaky_relu": lambda: nn.LeakyReLU(0.2),
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "tanh": nn.Tanh,
    "softplus": nn.Softplus,
    "elu": nn.ELU,
}


class ConvNet(nn.Module):
    """The log-density f of Nijkamp et al. (arXiv:1904.09770, Appendix: network structures), a convolutional network.

    A 3×3 convolution to n_f channels is followed by 4×4 convolutions of stride 2, each halving the image (rounded down)
    and doubling the channels, until it is 4×4 to 7×7, with LeakyReLU(0.2) after each, and a convolution of that size to
    one number. For 32×32 images and n_f = 64 there are 64, 128, 256 and 512 channels and 2.76 M parameters.

    Args:
        image_size: 8 to 256.
        channels: number of channels of the images.
        features: n_f, number of channels after the first convolution.
        n_classes: C, for a network of C numbers f_y(x), the log-density of class y: f(x, y) = f_y(x), and
            f(x) = log Σ_y exp f_y(x) (Grathwohl et al., ICLR 2020, arXiv:1912.03263). None: without classes.

    Shape: (B, channels, image_size, image_size), and int64 (B,) classes, to (B,).

    Raises:
        ValueError: an argument that is not as above, or an input of another shape; the message names it.

    Examples:
        >>> network = fl.models.ConvNet(image_size=32, channels=3)
        >>> sum(p.numel() for p in network.parameters())
        2763393
        >>> network(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2])
        >>> by_class = fl.models.ConvNet(image_size=8, channels=1, features=8, n_classes=10)
        >>> by_class(torch.zeros(2, 1, 8, 8), torch.tensor([3, 7])).shape
        torch.Size([2])
    """

    def __init__(self, image_size: int, channels: int, features: int = 64, n_classes: int | None = None) -> None:
        super().__init__()
        self.check(image_size, channels, features, n_classes)
        self.image_size, self.channels, self.features = image_size, channels, features
        self.n_classes = None if n_classes is None else int(n_classes)
        layers: list[nn.Module] = [nn.Conv2d(channels, features, 3, 1, 1), nn.LeakyReLU(0.2)]
        width, size = features, image_size
        while size > 7:
            layers += [nn.Conv2d(width, 2 * width, 4, 2, 1), nn.LeakyReLU(0.2)]
            width, size = 2 * width, size // 2
        layers += [nn.Conv2d(width, n_classes or 1, size, 1, 0), nn.Flatten(0 if n_classes is None else 1)]
        self.net = nn.Sequential(*layers)

    @staticmethod
    def check(image_size: int, channels: int, features: int, n_classes: int | None = None) -> None:
        """Raises ValueError for arguments that the constructor does not accept."""
        if check_int("image_size", image_size, 8) > 256:
            raise ValueError(f"image_size must be at most 256, got {image_size!r}")
        check_int("channels", channels)
        check_int("features", features)
        if n_classes is not None:
            check_int("n_classes", n_classes)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        expected = (self.channels, self.image_size, self.image_size)
        if tuple(x.shape[1:]) != expected:
            shape = ", ".join(map(str, expected))
            made = f"this ConvNet was made with channels={self.channels} and image_size={self.image_size}"
            raise ValueError(f"x must be (B, {shape}), got {tuple(x.shape)}: {made}")
        if self.n_classes is None:
            if y is not None:
                raise ValueError("y must be None, because the network was made without n_classes")
            return self.net(x)
        f = self.net(x)
        return f.logsumexp(1) if y is None else f.gather(1, y[:, None])[:, 0]


class MLP(nn.Module):
    """A log-density of vectors, f(x) = net(x) - ½ prior ‖x‖² with a fully connected net.

    With prior=1 it tilts a standard normal by exp(net(x)), the latent-space EBM prior of Pang et al. (NeurIPS 2020,
    arXiv:2006.08205).

    Args:
        in_features: d.
        hidden: widths of the hidden layers, at least one.
        activation: after each hidden layer: "leaky_relu" (slope 0.2), "relu", "silu", "gelu", "tanh", "softplus" or
            "elu".
        prior: precision of the normal factor, not negative.

    Shape: (B, in_features) to (B,).

    Raises:
        ValueError: an argument that is not as above, or an input of another shape; the message names it.

    Examples:
        >>> prior = fl.models.MLP(128, hidden=(200, 200), activation="gelu", prior=1.0)
        >>> prior(torch.zeros(5, 128)).shape
        torch.Size([5])
    """

    def __init__(
        self, in_features: int, hidden: Sequence[int] = (128, 128), activation: str = "silu", prior: float = 0.0
    ) -> None:
        super().__init__()
        if not isinstance(hidden, Sequence) or not hidden:
            raise ValueError(f"hidden must be a sequence of at least one width, got {hidden!r}")
        widths = [check_int("in_features", in_features), *(check_int("each of hidden", n) for n in hidden)]
        if activation not in _ACTIVATIONS:
            raise unknown("activation", activation, _ACTIVATIONS)
        if not 0 <= prior < math.inf:
            raise ValueError(f"prior must be finite and not negative, got {prior!r}")
        self.in_features, self.prior = in_features, float(prior)
        layers: list[nn.Module] = []
        for n_in, n_out in itertools.pairwise(widths):
            layers += [nn.Linear(n_in, n_out), _ACTIVATIONS[activation]()]
        self.net = nn.Sequential(*layers, nn.Linear(widths[-1], 1), nn.Flatten(0))

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 2 or x.shape[1] != self.in_features:
            raise ValueError(f"x must be (B, {self.in_features}), got {tuple(x.shape)}")
        f = self.net(x)
        return f - 0.5 * self.prior * x.square().sum(dim=1) if self.prior else f
