"""The quality of a run's samples, judged by small convolutional classifiers of real images.

    python examples/shapes.py judged 4000 1
    python scripts/judge_shapes.py judged runs/shapes [another run, or a checkpoint …]

Two classifiers are fitted to nine tenths of the images of a folder with a folder for each class, with noise of standard
deviation 0 to 0.1 of the range added, so that they look at shapes and not at single pixels. Of each run's samples the
share is printed of which the first is sure (p > 0.9), and how many of these are of each class.

A classifier is sure of much that is of no class: the mean of two real images, or one whose blocks are shuffled. The
second has learnt to reject such images, as one more class. The share of which it is sure says more. Both are also
printed for the other tenth of the images, intact and altered.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor, nn

import fastlangevin as fl

N_SAMPLES, SURE, EPOCHS, BATCH = 256, 0.9, 12, 64


def main(folder: str, *runs: str) -> None:
    data = fl.load_data(folder)
    if data.labels is None:
        sys.exit(f"judge_shapes.py: {folder} must hold a folder of images for each class")
    torch.manual_seed(0)
    order = torch.randperm(len(data))
    images, labels = data.batch(order), data.labels[order]
    n_fit, n_classes = 9 * len(data) // 10, int(labels.max()) + 1
    held_out = images[n_fit:]
    classifiers = [fit(images[:n_fit], labels[:n_fit], n_classes, rejects) for rejects in (False, True)]
    for classifier in classifiers:
        right = (classifier(held_out).argmax(1) == labels[n_fit:]).double().mean()
        print(f"a classifier with accuracy {right:.1%} on {len(held_out)} images that it was not fitted to")

    def report(name: str, x: Tensor) -> None:
        print(f"{name}:")
        for what, classifier in zip(("sure", "sure, if it may reject"), classifiers, strict=True):
            p = classifier(x)[:, :n_classes]
            sure = p.max(1).values > SURE
            counts = torch.bincount(p.argmax(1)[sure], minlength=n_classes).tolist()
            print(f"  {what}: {sure.double().mean():.0%} of {len(x)}; by class {counts}", flush=True)

    report("real images", held_out)
    report("altered images", altered(held_out))
    for run in runs:
        _, sampler = fl.load(run)
        x = sampler.sample((N_SAMPLES, *data.event_shape))
        report(f"{run}, {sampler.n_steps} steps", x.clamp(-1, 1))


def fit(images: Tensor, labels: Tensor, n_classes: int, rejects: bool) -> nn.Module:
    """Returns a classifier of (n, C, H, W) images in [-1, 1] that gives probabilities (n, n_classes).

    Args:
        rejects: whether there is one more class, that of altered images.
    """
    n_outputs = n_classes + rejects
    network = nn.Sequential(
        *(nn.Conv2d(images.shape[1], 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.AdaptiveMaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(4 * 64, 64), nn.ReLU(), nn.Linear(64, n_outputs)),
    )
    n_steps = EPOCHS * (len(images) // BATCH)
    optimizer = torch.optim.Adam(network.parameters())
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=n_steps)
    for _ in range(n_steps):
        chosen = torch.randint(len(images), (BATCH,))
        x, y = images[chosen], labels[chosen]
        if rejects:
            x, y = torch.cat([x, altered(x)]), torch.cat([y, torch.full_like(y, n_classes)])
        x = x + 0.2 * torch.rand(len(x), 1, 1, 1) * torch.randn_like(x)
        loss = nn.functional.cross_entropy(network(x.clamp(-1, 1)), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
    return nn.Sequential(network, nn.Softmax(1)).eval().requires_grad_(False)


def altered(images: Tensor) -> Tensor:
    """Images of no class: means of two, and images whose blocks of 4×4 or of 8×8 are in other places."""
    n, means = len(images), (images + images.roll(1, 0)) / 2
    return torch.cat([means[: n // 2], shuffled(images[n // 2 : 3 * n // 4], 4), shuffled(images[3 * n // 4 :], 8)])


def shuffled(images: Tensor, size: int) -> Tensor:
    """The images with their blocks of size×size in random places."""
    n, _, h, w = images.shape
    blocks = nn.functional.unfold(images, size, stride=size)
    places = torch.rand(n, 1, blocks.shape[2]).argsort(2).expand_as(blocks)
    return nn.functional.fold(blocks.gather(2, places), (h, w), size, stride=size)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python scripts/judge_shapes.py FOLDER RUN …")
    main(*sys.argv[1:])
