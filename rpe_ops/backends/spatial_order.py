"""An order of packed rows in which neighbours in memory are neighbours on the sphere, without labels.

Every row goes to the nearest of some pivots, and the pivots are walked from nearest to nearest. An order is never
wrong: it decides how much can be left out. Deterministic; O(N P D) with P pivots, memory O(N D).
"""

# No `from __future__ import annotations`: torch.library reads the schema from the signature.
import math
from typing import Any

import torch
from torch import Tensor

from rpe_ops.backends.images import image_of_rows, row_bands
from rpe_ops.backends.tile_list import SMALLEST

# Two chunks of the kernels' 48 rows for each pivot; more than this many cost more than they bring.
ROWS_PER_PIVOT = 96
MOST_PIVOTS = 1024
SAMPLES_PER_PIVOT = 4
# Multiples of it, modulo 1, are as far from periodic as can be.
GOLDEN_RATIO = (math.sqrt(5.0) - 1.0) / 2.0
# An order is made where at least this share of a sample's pairs promise to lie in tiles that can be passed over.
LEAST_SHARE = 0.4
SAMPLES = 128


@torch.library.custom_op("rpe_ops::spatial_order", mutates_args=())
def spatial_order(points: Tensor, offsets: Tensor, far: Tensor) -> Tensor:
    """A permutation `[T]` of the rows `points [T, D]` that keeps each image of `offsets [B+1]` in its place.

    `far`, 0-d: the cosine up to which a pair does not matter. Where next to nothing would be gained, as for points all
    over a sphere of many dimensions, rows stay where they are.
    """
    num_points = points.shape[0]
    identity = torch.arange(num_points, device=points.device)
    if num_points < SMALLEST * max(offsets.shape[0] - 1, 1) or not _promises(points, far):
        return identity
    # On the host: every turn of both loops needs a number of the turn before, and a GPU would be asked for each.
    pivots = _walk(_choose_pivots(points, min(num_points // ROWS_PER_PIVOT, MOST_PIVOTS))).to(points.device)
    nearest = torch.empty_like(identity)
    for band in row_bands(points, pivots.shape[0]):
        nearest[band] = (points[band] @ pivots.T).argmax(1)
    return (image_of_rows(offsets, num_points) * pivots.shape[0] + nearest).argsort(stable=True)


@spatial_order.register_fake
def _(points: Tensor, offsets: Tensor, far: Tensor) -> Tensor:
    return points.new_empty(points.shape[0], dtype=torch.int64)


@torch.library.register_vmap("rpe_ops::spatial_order")
def _(info: Any, in_dims: Any, *args: Tensor) -> Any:
    each = [
        [arg if dim is None else arg.select(dim, index) for arg, dim in zip(args, in_dims, strict=True)]
        for index in range(info.batch_size)
    ]
    return torch.stack([spatial_order(*given) for given in each]), 0


def _promises(points: Tensor, far: Tensor) -> bool:
    """Whether enough pairs of a sample are far even from tile to tile: by more than the angles to their nearest."""
    sample = _spread_evenly(points, SAMPLES)
    cosine = (sample @ sample.T).clamp(-1.0, 1.0)
    nearest = (cosine - 2.0 * torch.eye(SAMPLES, dtype=cosine.dtype, device=cosine.device)).amax(1).acos()
    between = cosine.acos() - nearest[:, None] - nearest
    return bool((between >= far.clamp(-1.0, 1.0).acos()).to(cosine.dtype).mean() >= LEAST_SHARE)


def _spread_evenly(points: Tensor, count: int) -> Tensor:
    """`count` of the rows, spread evenly and without a period, which the width of an image might share."""
    # on the CPU: not every GPU has float64
    place = torch.arange(count, dtype=torch.float64, device="cpu") * GOLDEN_RATIO % 1.0
    return points[(place * points.shape[0]).long().to(points.device)]


def _choose_pivots(points: Tensor, count: int) -> Tensor:
    """`[count, D]` on the CPU: half of them far from one another, which finds the small and odd, half as dense as the
    points."""
    num_samples = count * SAMPLES_PER_PIVOT
    sample = _spread_evenly(points, num_samples).cpu()
    spread = count // 2
    chosen = torch.zeros(spread, dtype=torch.int64, device=sample.device)
    nearest = sample @ sample[0]
    for index in range(1, spread):
        chosen[index] = nearest.argmin()
        nearest = torch.maximum(nearest, sample @ sample[chosen[index]])
    dense = torch.arange(count - spread, device=sample.device) * num_samples // (count - spread)
    return sample[torch.cat([chosen, dense])]


def _walk(pivots: Tensor) -> Tensor:
    """The pivots `[P, D]` in the order of a walk that always goes to the nearest one not yet visited."""
    similarity = pivots @ pivots.T
    visited = torch.zeros(pivots.shape[0], dtype=torch.int64, device=pivots.device)
    for index in range(pivots.shape[0]):
        if index > 0:
            visited[index] = similarity[visited[index - 1]].argmax()
        similarity[:, visited[index]] = -torch.inf
    return pivots[visited]
