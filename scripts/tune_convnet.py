"""Measures the tiles of `fl.models.ConvNet`, and what can take their place, on the current GPU, in minutes, and writes
what is fastest to the file that the package reads (`fastlangevin/kernels/triton/convnet/tiles.json`):

    python scripts/tune_convnet.py [--features 64] [--image-size 32] [--batch 64] [--precision fp16]
"""

from __future__ import annotations

import argparse
import sys

import torch

import fastlangevin as fl
from fastlangevin.network.inputs import Inputs
from fastlangevin.score.convnet import ConvNetEngine, TritonConvNetScore
from fastlangevin.score.precision import Running


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=int, default=64)
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--precision", default="fp16")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("nothing measured: no GPU is visible", file=sys.stderr)
        return 2
    from fastlangevin.kernels.triton.convnet import measured, tune

    net = fl.models.ConvNet(options.image_size, 3, options.features).cuda()
    x = torch.zeros(options.batch, 3, options.image_size, options.image_size, device="cuda")
    sampler = fl.Langevin(log_density=net, engine="convnet", precision=options.precision, seed=1)
    score = ConvNetEngine(sampler.target, options.precision).bind(x, Inputs())
    if not isinstance(score, TritonConvNetScore):
        print(f"nothing measured: this network computes with {score.kernels}", file=sys.stderr)
        return 2
    with torch.no_grad(), Running(options.precision, x.device):  # as chains: cuDNN may have to compute in TF32
        found = tune.tune(score._packed, x)
    measured.save(measured.BY_GPU, measured.PATH)
    for key, choice in found.choices.items():
        print(*key, choice)
    print(f"dependent launch: {found.dependent_launch}; written: {measured.PATH}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
