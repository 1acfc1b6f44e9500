"""Recipe: a grouping of Euclidean offset votes, lifted to the sphere.

Many networks predict for each pixel the offset to the centre of its instance, and group the votes (pixel + offset) with
a Gaussian kernel in the plane. A torus lifts such votes onto the unit sphere without distortion, where rpe_ops groups
them in O(N) memory: (u, v) -> (cos u/R, sin u/R, cos v/R, sin v/R) / sqrt(2), kappa = 2 R^2 / sigma^2. The derivation
stands in docs/recipes/offset-votes.md.

    python examples/offset_votes.py [--size 64] [--instances 12] [--sigma 2.5] [--device cuda]
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from sklearn.metrics import adjusted_rand_score
from torch import Tensor

import rpe_ops
from comparison import measure, recipe_parser, report


def lift(votes: Tensor, radius: float) -> Tensor:
    """Votes `[N, d]` in pixels to unit vectors `[N, 2 d]` on a torus of circles of `radius` pixels."""
    angle = votes / radius
    return torch.cat([angle.cos(), angle.sin()], dim=1) / math.sqrt(votes.shape[1])


def unlift(rows: Tensor, radius: float) -> Tensor:
    """Unit vectors `[N, 2 d]` back to pixels `[N, d]`, within (-pi R, pi R]."""
    cosine, sine = rows.chunk(2, dim=1)
    return radius * torch.atan2(sine, cosine)


def kappa_of(sigma: float, radius: float, axes: int = 2) -> float:
    """The concentration whose kernel on the torus is a Gaussian of standard deviation `sigma` pixels."""
    return axes * (radius / sigma) ** 2


def threshold_of(distance: float, radius: float, axes: int = 2) -> float:
    """The similarity s = (1 + cos) / 2 of two points `distance` pixels apart along one axis."""
    return 1.0 - (1.0 - math.cos(distance / radius)) / (2.0 * axes)


def before(votes: Tensor, sigma: float, steps: int, merge: float) -> tuple[Tensor, Tensor]:
    """Gaussian blurring mean shift in the plane with all distances in memory, and components found by spreading."""
    moved = votes
    for _ in range(steps):
        weight = torch.exp(-torch.cdist(moved, moved).square() / (2.0 * sigma**2))
        moved = weight @ moved / weight.sum(1, keepdim=True)
    near = torch.cdist(moved, moved) <= merge
    labels = torch.arange(len(moved), device=moved.device)
    while True:
        spread = torch.where(near, labels, len(moved)).amin(1)
        if torch.equal(spread, labels):
            return moved, torch.unique(labels, return_inverse=True)[1]
        labels = spread


def after(votes: Tensor, sigma: float, steps: int, merge: float, radius: float) -> tuple[Tensor, Tensor]:
    """The same on the sphere: lift, three lines of rpe_ops, read the positions back."""
    rows = lift(votes, radius)
    moved = rpe_ops.mean_shift(rows, kappa=kappa_of(sigma, radius), num_steps=steps)
    labels = rpe_ops.connected_components(moved, threshold=threshold_of(merge, radius))
    return unlift(moved, radius), labels


def scene(size: int, instances: int, noise: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Votes `[N, 2]` around the image's centre, and true labels `[N]`: a Voronoi diagram of random centres."""
    centres: list[Tensor] = []
    while len(centres) < instances:
        centre = torch.rand(2, generator=generator) * size
        if all(
            torch.linalg.vector_norm(centre - other) > 0.8 * size / math.sqrt(instances) for other in centres
        ):
            centres.append(centre)
    axis = torch.arange(size, dtype=torch.float32)
    pixels = torch.cartesian_prod(axis, axis)
    label = torch.cdist(pixels, torch.stack(centres)).argmin(1)
    offset = torch.stack(centres)[label] - pixels + noise * torch.randn(len(pixels), 2, generator=generator)
    return pixels + offset - size / 2, label


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    parser = recipe_parser("Offset votes, grouped in the plane and on the sphere.")
    parser.add_argument("--size", type=int, default=64, help="side of the image in pixels")
    parser.add_argument("--instances", type=int, default=12)
    parser.add_argument("--noise", type=float, default=1.5, help="of a predicted offset, pixels")
    parser.add_argument("--sigma", type=float, default=2.5, help="bandwidth, pixels")
    parser.add_argument("--steps", type=int, default=5)
    chosen = parser.parse_args(arguments)
    votes, truth = scene(
        chosen.size, chosen.instances, chosen.noise, torch.Generator().manual_seed(chosen.seed)
    )
    votes = votes.to(chosen.device)
    radius = float(chosen.size)  # half a turn, pi R, is more than the image and its noise
    rpe_ops.warmup(4, device=votes.device)
    old = measure(lambda: before(votes, chosen.sigma, chosen.steps, chosen.sigma), votes.device)
    new = measure(lambda: after(votes, chosen.sigma, chosen.steps, chosen.sigma, radius), votes.device)
    old_place, old_labels, new_place, new_labels = (tensor.cpu() for tensor in (*old.result, *new.result))
    agreement = {
        "agreement of the labels, adjusted Rand index": adjusted_rand_score(old_labels, new_labels),
        "largest difference of a position, pixels": float((old_place - new_place).abs().max()),
        "before against the truth, adjusted Rand index": adjusted_rand_score(truth, old_labels),
        "after against the truth, adjusted Rand index": adjusted_rand_score(truth, new_labels),
    }
    title = (
        f"offset votes: N = {len(votes):,}, sigma = {chosen.sigma} pixels, R = {radius:.0f} pixels, "
        f"kappa = {kappa_of(chosen.sigma, radius):,.0f}, {chosen.steps} steps"
    )
    return report(title, old, new, agreement)


if __name__ == "__main__":
    main()
