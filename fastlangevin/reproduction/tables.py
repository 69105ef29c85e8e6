"""The tables of Nijkamp, Hill, Zhu and Wu (NeurIPS 2019, arXiv:1904.09770): settings and reported values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..validation import check_int, unknown


@dataclass(frozen=True)
class Experiment:
    """One training of a table.

    Attributes:
        name: of its folder.
        n_steps: K, Langevin steps.
        data_noise: σ, standard deviation of the noise added to the data.
        features: n_f, width of the network.
    """

    name: str
    n_steps: int = 100
    data_noise: float = 0.03
    features: int = 64


@dataclass(frozen=True)
class Table:
    """A table of the paper.

    Attributes:
        title: what it shows.
        experiments: its rows.
        axes: attributes of `Experiment` against which its metrics are plotted.
        has_reconstructions: whether it has the error of reconstructions.
    """

    title: str
    experiments: tuple[Experiment, ...]
    axes: tuple[str, ...]
    has_reconstructions: bool = False


# σ falls as K grows: shorter chains need smoother data.
_STEPS = {5: 0.15, 10: 0.1, 25: 0.05, 50: 0.04, 75: 0.03, 100: 0.03}
_NOISES = (0.10, 0.08, 0.06, 0.05, 0.04, 0.03)
_FEATURES = (32, 64, 128)

# What the paper reports, by data set (at its resolution) and (K, σ, n_f). Only values that could be checked against a
# second source are included.
REPORTED: dict[str, dict[tuple[int, float, int], dict[str, float]]] = {
    "cifar10": {(100, 0.03, 128): {"fid": 44.50}},
    "celeba": {(100, 0.03, 64): {"fid": 23.02}},
}


def paper_table(name: str, data: str, features: int | None = None) -> Table:
    """Table "1", "2" or "3" of the paper, for data of the given name.

    Args:
        features: n_f of experiments that do not vary it. Default: the paper's, 128 for CIFAR-10, 64 for other data.

    Raises:
        ValueError: no such table.
    """
    n_f = (128 if data == "cifar10" else 64) if features is None else check_int("features", features)
    if name == "1":
        return Table("quality of samples and reconstructions", (Experiment("short-run", features=n_f),), (), True)
    if name == "2":
        experiments = tuple(Experiment(f"K{k}", k, sigma, n_f) for k, sigma in _STEPS.items())
        return Table("influence of the number of Langevin steps K", experiments, ("n_steps",))
    if name == "3":
        noises = (Experiment(f"sigma{sigma:.2f}", data_noise=sigma, features=n_f) for sigma in _NOISES)
        widths = (Experiment(f"nf{n}", features=n) for n in _FEATURES if n != n_f)  # n_f is among the noises
        return Table("influence of the noise σ on the data, and of n_f", (*noises, *widths), ("data_noise", "features"))
    raise unknown("table", name, ("1", "2", "3"))


def annealed_settings(lr: float, data_noise: float, n_iterations: int) -> dict[str, Any]:
    """Settings lr and data_noise of `train`: constant for four fifths of the iterations, then falling in five steps.

    lr falls to a tenth and data_noise to a half. The paper (Section 5.1) decreases both gradually after 200,000
    iterations; it does not specify how far.
    """
    starts = [0, *(n_iterations * (20 + k) // 25 for k in range(5))]
    if len(set(starts)) < len(starts):
        return {"lr": lr, "data_noise": data_noise}
    return {
        "lr": [(start, lr * 0.1 ** (i / 5)) for i, start in enumerate(starts)],
        "data_noise": [(start, data_noise * 0.5 ** (i / 5)) for i, start in enumerate(starts)],
    }
