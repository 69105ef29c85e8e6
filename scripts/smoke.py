"""What an installed wheel must do, with no compiler and no source tree: run by `make test-wheel`."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import torch

import fastlangevin as fl
from fastlangevin.kernels import native


def main() -> None:
    package = Path(fl.__file__).parent
    if package.parent != Path(sysconfig.get_path("purelib")):
        raise SystemExit(f"the wheel was not imported, but {package}")
    if (why := native.load_cpu()) is not None:
        raise SystemExit(f"the CPU library of the wheel does not load: {why}")
    bits = [fl.noise.normal((1001,), seed=2**63 + 5, step=7, backend=name) for name in ("cpu", "reference")]
    assert torch.equal(*bits), "noise"

    network = fl.models.ConvNet(image_size=8, channels=1, features=8)
    for sampler in (
        fl.Langevin(log_density=network, n_steps=5, seed=1),
        fl.Langevin(fl.energies.DoubleWell(2), n_steps=5, step_size=0.1, noise_std=None, seed=1),
        fl.Langevin(torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.SiLU(), torch.nn.Linear(8, 1)), seed=1),
    ):
        shape = (3, 1, 8, 8) if sampler.plan.engine == "convnet" else (3, 2)
        assert sampler.sample(shape).isfinite().all() and sampler.plan.backend == "cpu", sampler.plan
        print(sampler, sampler.plan.engine)

    command = Path(sysconfig.get_path("scripts")) / "fastlangevin"
    with tempfile.TemporaryDirectory() as folder:
        for arguments in (["info"], ["train", "digits", "--out", f"{folder}/run", "--iterations", "3"]):
            subprocess.run([command, *arguments], check=True, stdout=subprocess.DEVNULL)
        model, _ = fl.load(f"{folder}/run")
        assert isinstance(model, torch.nn.Module)
    print(f"fastlangevin {fl.__version__}, Python {sys.version.split()[0]}, torch {torch.__version__}: works")


if __name__ == "__main__":
    main()
