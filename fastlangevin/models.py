"""Networks to learn."""

from __future__ import annotations

from torch import Tensor, nn

from .errors import check_int


class ConvNet(nn.Module):
    """The network of Nijkamp et al. (arXiv:1904.09770, Appendix: network structures), a log-density f.

    A 3×3 convolution to n_f channels; 4×4 convolutions of stride 2, each halving the image and doubling the channels,
    down to 4×4; LeakyReLU(0.2) after each; and a 4×4 convolution to one number. For 32×32 images and n_f = 64:
    channels 64, 128, 256, 512, and 2.76 M parameters.

    Args:
        image_size: 8, 16, 32, 64, 128 or 256.
        channels: of the images.
        features: n_f.

    Shape: (B, channels, image_size, image_size) to (B,).
    """

    def __init__(self, image_size: int, channels: int, features: int = 64) -> None:
        super().__init__()
        self.check(image_size, channels, features)
        self.image_size, self.channels, self.features = image_size, channels, features
        layers: list[nn.Module] = [nn.Conv2d(channels, features, 3, 1, 1), nn.LeakyReLU(0.2)]
        width, size = features, image_size
        while size > 4:
            layers += [nn.Conv2d(width, 2 * width, 4, 2, 1), nn.LeakyReLU(0.2)]
            width, size = 2 * width, size // 2
        layers += [nn.Conv2d(width, 1, 4, 1, 0), nn.Flatten(0)]
        self.net = nn.Sequential(*layers)

    @staticmethod
    def check(image_size: int, channels: int, features: int) -> None:
        """Raises ValueError for arguments that are not as above."""
        if image_size not in (8, 16, 32, 64, 128, 256):
            raise ValueError(f"image_size must be a power of two from 8 to 256, got {image_size!r}")
        check_int("channels", channels)
        check_int("features", features)

    def forward(self, x: Tensor) -> Tensor:
        expected = (self.channels, self.image_size, self.image_size)
        if tuple(x.shape[1:]) != expected:
            raise ValueError(f"x must be (B, {', '.join(map(str, expected))}), got {tuple(x.shape)}")
        return self.net(x)
