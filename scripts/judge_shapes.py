"""The quality of a run's samples, judged by a small convolutional classifier of real images.

    python examples/shapes.py judged 4000 1
    python scripts/judge_shapes.py judged runs/shapes [another run, or a checkpoint …]

The classifier is fitted to nine tenths of the images of a folder with a folder for each class, with noise of standard
deviation 0 to 0.1 of the range added, so that it looks at shapes and not at single pixels. Of each run's samples it
prints the share of which it is sure (p > 0.9), and how many of these are of each class. The same is printed for the
other tenth of the images, and for images that are of no class: the mean of two real ones, and real ones whose 4×4
blocks are shuffled. A classifier is sure of some of these too, which is how much a share says.
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
    classifier = fit(images[:n_fit], labels[:n_fit], n_classes)
    held_out = images[n_fit:]
    right = (classifier(held_out).argmax(1) == labels[n_fit:]).double().mean()
    print(f"classifier: accuracy {right:.1%} on {len(held_out)} images that it was not fitted to")
    report("real images", classifier(held_out))
    report("means of two real images", classifier((held_out + held_out.roll(1, 0)) / 2))
    report("real images, 4×4 blocks shuffled", classifier(shuffled(held_out)))
    for run in runs:
        _, sampler = fl.load(run)
        x = sampler.sample((N_SAMPLES, *data.event_shape))
        report(f"{run}, {sampler.n_steps} steps", classifier(x.clamp(-1, 1)))


def fit(images: Tensor, labels: Tensor, n_classes: int) -> nn.Module:
    """Returns a classifier of (n, C, H, W) images in [-1, 1] that gives probabilities (n, n_classes)."""
    network = nn.Sequential(
        *(nn.Conv2d(images.shape[1], 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.AdaptiveMaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(4 * 64, 64), nn.ReLU(), nn.Linear(64, n_classes)),
    )
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    n_steps = EPOCHS * (len(images) // BATCH)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=n_steps)
    for _ in range(n_steps):
        chosen = torch.randint(len(images), (BATCH,))
        x = images[chosen]
        x = x + 0.2 * torch.rand(BATCH, 1, 1, 1) * torch.randn_like(x)
        loss = nn.functional.cross_entropy(network(x.clamp(-1, 1)), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
    return nn.Sequential(network, nn.Softmax(1)).eval().requires_grad_(False)


def shuffled(images: Tensor) -> Tensor:
    """The images with their 4×4 blocks in random places."""
    n, c, h, w = images.shape
    blocks = nn.functional.unfold(images, 4, stride=4)
    places = torch.rand(n, 1, blocks.shape[2]).argsort(2).expand_as(blocks)
    return nn.functional.fold(blocks.gather(2, places), (h, w), 4, stride=4).reshape(n, c, h, w)


def report(name: str, p: Tensor) -> None:
    """Prints the share of rows (n, C) whose largest probability is above `SURE`, and the classes of these rows."""
    sure = p.max(1).values > SURE
    counts = torch.bincount(p.argmax(1)[sure], minlength=p.shape[1])
    print(f"{name}: sure of {sure.double().mean():.0%}, by class {counts.tolist()} of {len(p)}", flush=True)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python scripts/judge_shapes.py FOLDER RUN …")
    main(*sys.argv[1:])
