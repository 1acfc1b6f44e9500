"""Recipe: the seeded von Mises-Fisher clustering of a tabletop segmentation pipeline, replaced in three lines.

Pipelines for unseen objects embed each pixel of a 640 x 480 image on the unit sphere, pick about 100 seeds by farthest
points from a random first one, move them for 10 iterations with kappa 20, join near modes and give every pixel its
nearest one; image by image. Before: such a loop. After: one batched call of each of three operators, without chance.

    python examples/tabletop.py [--images 2] [--height 120] [--width 160] [--device cuda]
    python examples/tabletop.py --frame FOLDER/000001 [--stride 2]    a real RGB-D frame in the layout of YCB-Video
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.metrics import adjusted_rand_score
from torch import Tensor

import rpe_ops
from comparison import measure, recipe_parser, report

KAPPA, STEPS, NUM_SEEDS = 20.0, 10, 100
MERGE = 0.95  # modes at least this similar are one object
DIM = 64


def before(images: Tensor, generator: torch.Generator) -> Tensor:
    """Labels `[B, N]` of unit rows `[B, N, D]`, one image after the other; the first seed is random, and which modes
    join depends on their order."""
    labels = []
    for x in images:
        index = [int(torch.randint(len(x), (), generator=generator))]
        nearest = x @ x[index[0]]
        for _ in range(NUM_SEEDS - 1):
            index.append(int(nearest.argmin()))
            nearest = torch.maximum(nearest, x @ x[index[-1]])
        modes = x[index]
        for _ in range(STEPS):
            kernel = torch.exp(KAPPA * (modes @ x.T))
            modes = F.normalize(kernel @ x / kernel.sum(1, keepdim=True), dim=1)
        object_of = torch.full((NUM_SEEDS,), -1, device=x.device)
        for mode in range(NUM_SEEDS):
            near = (1 + modes @ modes[mode]) / 2 >= MERGE
            taken = object_of[near & (object_of >= 0)]
            object_of[near & (object_of < 0)] = taken.mode().values if len(taken) else object_of.max() + 1
        labels.append(object_of[(x @ modes.T).argmax(1)])
    return torch.stack(labels)


def after(images: Tensor) -> Tensor:
    """The same for the whole batch; nothing is random, nothing depends on an order."""
    seeds = images.take_along_dim(rpe_ops.select_seeds(images, NUM_SEEDS)[..., None], dim=-2)
    modes = rpe_ops.mean_shift(images, kappa=KAPPA, num_steps=STEPS, seeds=seeds)
    return rpe_ops.assign_to_modes(images, modes, threshold=MERGE)


def scenes(count: int, height: int, width: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Embeddings `[B, N, D]` as a trained network makes them, and true labels `[B, N]`: objects on a table before a
    wall, each with a direction of its own and noise at every pixel."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    labels = []
    for _ in range(count):
        label = (rows > height // 3).long()  # wall and table
        for instance in range(2, 8):
            y = (0.35 + 0.5 * torch.rand((), generator=generator)) * height
            x = (0.1 + 0.8 * torch.rand((), generator=generator)) * width
            half = (0.06 + 0.07 * torch.rand(2, generator=generator)) * width
            if torch.rand((), generator=generator) < 0.5:
                inside = (rows - y).abs().lt(half[0]) & (columns - x).abs().lt(half[1])
            else:
                inside = ((rows - y) / half[0]).square() + ((columns - x) / half[1]).square() < 1
            label[inside] = instance
        labels.append(label.flatten())
    truth = torch.stack(labels)
    centres = F.normalize(torch.randn(count, 8, DIM, generator=generator), dim=-1)
    noise = torch.randn(count, height * width, DIM, generator=generator) * 0.05
    return F.normalize(centres.take_along_dim(truth[..., None], dim=1) + noise, dim=-1), truth


def real_frame(stem: Path, stride: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A frame of YCB-Video, STEM-color.png, -depth.png and -label.png, with an embedding that needs no network.

    It is position in space and colour as random Fourier features: unit vectors whose cosine is nearly a Gaussian of the
    distance (Rahimi and Recht 2007).
    """
    colour, depth, label = (
        torch.from_numpy(np.asarray(Image.open(f"{stem}-{kind}.png")).astype(np.float32))
        for kind in ("color", "depth", "label")
    )
    height, width = depth.shape
    z = depth / 10_000.0  # metres
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    focal = 1.66 * width  # the data set's camera, near enough for a grouping
    place = torch.stack([(x - width / 2) * z / focal, (y - height / 2) * z / focal, z], dim=-1)
    feature = torch.cat([place / 0.25, colour[..., :3] / 255.0 / 0.8], dim=-1).reshape(-1, 6)
    angle = feature @ torch.randn(6, DIM // 2, generator=generator)
    rows = F.normalize(torch.cat([angle.cos(), angle.sin()], dim=1), dim=1)
    rows = rows.unflatten(0, (height, width))[::stride, ::stride]
    return rows.reshape(1, -1, DIM), label.long()[::stride, ::stride].reshape(1, -1)


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    parser = recipe_parser("Seeded vMF clustering of tabletop images, before and after.")
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--height", type=int, default=120)
    parser.add_argument("--width", type=int, default=160)
    parser.add_argument("--frame", type=Path, help="real frame: path without -color.png")
    parser.add_argument("--stride", type=int, default=1, help="of the real frame: every so many pixels")
    chosen = parser.parse_args(arguments)
    generator = torch.Generator().manual_seed(chosen.seed)
    if chosen.frame:
        images, truth = real_frame(chosen.frame, chosen.stride, generator)
    else:
        images, truth = scenes(chosen.images, chosen.height, chosen.width, generator)
    images = images.to(chosen.device)
    rpe_ops.warmup(DIM, device=images.device)
    old = measure(lambda: before(images, generator), images.device)
    new = measure(lambda: after(images), images.device)
    order = torch.randperm(images.shape[1], generator=generator)
    shuffled = torch.empty_like(new.result)
    shuffled[:, order] = after(images[:, order])
    agreement = {
        "agreement of the labels, adjusted Rand index": mean_rand(old.result, new.result),
        "before against itself with another random seed": mean_rand(old.result, before(images, generator)),
        "after against itself with the points shuffled": mean_rand(new.result, shuffled),
        "before against the truth, adjusted Rand index": mean_rand(truth, old.result, of_objects=True),
        "after against the truth, adjusted Rand index": mean_rand(truth, new.result, of_objects=True),
    }
    title = f"tabletop: {len(images)} images of {images.shape[1]:,} points, D = {DIM}, {NUM_SEEDS} seeds, {STEPS} steps"
    return report(title, old, new, agreement)


def mean_rand(one: Tensor, other: Tensor, of_objects: bool = False) -> float:
    """Adjusted Rand index, mean over images; of the pixels of objects alone, where `one` is the truth: what is on the
    table without a label counts for nothing."""
    scores = []
    for a, b in zip(one.cpu(), other.cpu(), strict=True):
        taken = a > 0 if of_objects else slice(None)
        scores.append(adjusted_rand_score(a[taken], b[taken]))
    return float(np.mean(scores))


if __name__ == "__main__":
    main()
