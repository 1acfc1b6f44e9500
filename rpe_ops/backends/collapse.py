r"""Runs of rows so close together that their centroid can stand for them in a kernel sum.

A run with masses m_j, W = sum m_j, centroid c = sum m_j y_j / W and radius r = max |y_j - c| contributes to the density
of a unit row x

    sum_j m_j exp(kappa x.y_j) = exp(kappa x.c) sum_j m_j exp(t_j),    t_j = kappa x.(y_j - c),  |t_j| <= kappa r = s.

sum_j m_j t_j = 0, so the last sum lies between W (Jensen) and W (1 + s^2 / 2 exp(s)): putting W exp(kappa x.c) in its
place changes a density by at most that share. A run is taken where s^2 / 2 exp(s) <= share.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from rpe_ops.backends.images import accumulation_dtype

# Rows of the smallest run; larger ones are unions of two, so that every run is found in O(N D).
LEAF = 16
# A centroid brings the rectangle of points and centroids in place of the symmetric half of all pairs.
FEWEST_ROWS_PER_SOURCE = 4


@dataclass(frozen=True)
class Collapsed:
    """Runs of rows (of one row where nothing collapsed) with their centroids, as sources of a step.

    rows `[M, D]`, mass `[M]`, offsets `[B+1]`, run `[T]`: the run of each original row.
    """

    rows: Tensor
    mass: Tensor
    offsets: Tensor
    run: Tensor

    def gradients(
        self, points: Tensor, weight: Tensor | None, grad_rows: Tensor, grad_mass: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Gradients of the original rows `[T, D]` and, where weight and grad_mass are given, their masses `[T]`.

        c = sum m_j y_j / W:  dl/dy_j = m_j / W dl/dc,  dl/dm_j = dl/dW + (y_j - c).dl/dc / W.
        """
        pulled = (grad_rows / self.mass.clamp_min(torch.finfo(self.mass.dtype).tiny)[:, None])[self.run]
        grad_points = pulled if weight is None else pulled * weight[:, None]
        if grad_mass.shape[0] == 0:
            return grad_points, grad_mass
        return grad_points, grad_mass[self.run] + ((points - self.rows[self.run]) * pulled).sum(1)


def collapse(
    points: Tensor, weight: Tensor | None, offsets: Tensor, kappa: Tensor, share: float
) -> Collapsed | None:
    """The rows `points [T, D]` with runs in place of rows where a centroid changes no density by more than `share`.

    None where too little would be gained. Runs never cross images; deterministic.
    """
    num_points = points.shape[0]
    num_leaves = num_points // LEAF
    if num_leaves < 2:
        return None
    radius = _run_exponent(share) / float(kappa)
    mass = points.new_ones(num_points) if weight is None else weight
    level = _leaf_levels(points, mass, offsets, num_leaves, radius)
    # Rows of a leaf at level l > 0 belong to the run of 2^(l-1) leaves around it; at level 0 each is its own.
    leaf = torch.arange(num_leaves, device=points.device)
    width = torch.where(level > 0, 1 << (level - 1).clamp_min(0), 1)
    starts = torch.ones(num_points, dtype=torch.bool, device=points.device)
    starts[: num_leaves * LEAF] = (level == 0).repeat_interleave(LEAF)
    starts[leaf * LEAF] |= leaf % width == 0
    run = starts.cumsum(0) - 1
    num_runs = int(run[-1]) + 1
    if num_runs * FEWEST_ROWS_PER_SOURCE > num_points:
        return None
    # Long sums: kappa magnifies the rounding of a centroid.
    wide = accumulation_dtype(points.device)
    total = mass.to(wide, copy=True)
    sums = points.to(wide, copy=True)
    if weight is not None:
        sums *= total[:, None]
    _sum_runs((sums, total), level)
    sums, total = sums[starts], total[starts]
    rows = torch.where(total[:, None] > 0, (sums / total[:, None]).to(points.dtype), points[starts])
    run_offsets = torch.cat([run[offsets[:-1].clamp_max(num_points - 1)], run.new_tensor([num_runs])])
    run_offsets[:-1] = torch.where(offsets[:-1] == num_points, num_runs, run_offsets[:-1])
    return Collapsed(rows, total.to(points.dtype), run_offsets, run)


def _sum_runs(values: tuple[Tensor, ...], level: Tensor) -> None:
    """Puts the sum of each run of leaves of `level [num_leaves]` in the place of its first row, in each `[T, *]`."""
    leaf = torch.arange(level.shape[0], device=level.device)
    sums = [rows[: level.shape[0] * LEAF].unflatten(0, (-1, LEAF)).sum(1) for rows in values]
    for height in range(int(level.max())):
        first = leaf[(level == height + 1) & (leaf % (1 << height) == 0)]
        for rows, parts in zip(values, sums, strict=True):
            rows[first * LEAF] = parts[first >> height]
        sums = [parts[: len(parts) // 2 * 2].unflatten(0, (-1, 2)).sum(1) for parts in sums]


def _run_exponent(share: float) -> float:
    """The s with s^2 / 2 exp(s) = share, from below."""
    s = math.sqrt(2.0 * share)
    for _ in range(20):
        s = math.sqrt(2.0 * share * math.exp(-s))
    return s * (1.0 - 1e-3)


def _leaf_levels(points: Tensor, mass: Tensor, offsets: Tensor, num_leaves: int, radius: float) -> Tensor:
    """Per leaf `[num_leaves]`: 0 where it is not tight, else 1 + log2 of the leaves in its largest tight run."""
    size = num_leaves * LEAF
    rows = points[:size].reshape(num_leaves, LEAF, -1)
    masses = mass[:size].reshape(num_leaves, LEAF)
    total = masses.sum(1)
    center = (rows * masses[:, :, None]).sum(1) / total[:, None]
    reach = (rows - center[:, None]).norm(dim=2).amax(1)
    # A leaf with an image's first row inside it belongs to two images.
    inner = torch.remainder(offsets, LEAF) != 0
    crossing = torch.zeros(num_leaves + 1, dtype=torch.bool, device=points.device)
    crossing[(offsets[inner] // LEAF).clamp_max(num_leaves)] = True
    tight = (reach <= radius) & ~crossing[:-1]
    first_of_image = torch.zeros_like(crossing)
    first_of_image[(offsets // LEAF).clamp_max(num_leaves)] = True
    level = tight.to(torch.int64)
    boundary = first_of_image[:-1]
    step = 1
    while tight.numel() >= 2 and bool(tight.any()):
        pairs = tight.numel() // 2 * 2
        left, right = slice(0, pairs, 2), slice(1, pairs, 2)
        both = total[left] + total[right]
        merged = (center[left] * total[left, None] + center[right] * total[right, None]) / both[:, None]
        reach = torch.maximum(
            reach[left] + (center[left] - merged).norm(dim=1),
            reach[right] + (center[right] - merged).norm(dim=1),
        )
        tight = tight[left] & tight[right] & ~boundary[right] & (reach <= radius)
        boundary = boundary[left] | boundary[right]
        center, total = merged, both
        step *= 2
        level[: tight.numel() * step] += tight.repeat_interleave(step)
    return level
