"""Farthest points and nearest rows of unit vectors, the specification.

The next seed is argmin_i max_s x_i . x_s over the seeds s so far, of equal ones the first row; the first seed is given,
or argmin_i x_i . sum_j x_j. Where that maximum is 1 within rounding for every point, the first seed is repeated. Rows
that are not finite are never chosen and near nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rpe_ops.backends.images import image_slices
from rpe_ops.backends.rows import cosine_rounding
from rpe_ops.backends.seeding import FARTHEST


def farthest_points(
    points: Tensor, offsets: Tensor, num_seeds: int, first: Tensor, points_per_image: int
) -> Tensor:
    """Row numbers `[B, num_seeds]` within each image, of packed `points [T, D]` with `offsets [B+1]`.

    Args:
        first: `[B]` the first seed of each image, `FARTHEST` for the point farthest from the image's mean direction.
        points_per_image: N where every image has as many, else 0. Images without points get zeros.
    """
    index = first.new_zeros(first.shape[0], num_seeds)
    for image, rows in enumerate(image_slices(offsets)):
        if rows.start == rows.stop:
            continue
        x = points[rows]
        finite = x.isfinite().all(1)
        cosine = (x @ x.T).masked_fill(~finite[:, None], torch.inf)
        start = first[image]
        if start == FARTHEST:
            start = (x @ x[finite].sum(0)).masked_fill(~finite, torch.inf).argmin()
        chosen = [int(start)]
        while len(chosen) < num_seeds:
            nearest = cosine[:, chosen].nan_to_num(nan=-torch.inf, posinf=torch.inf).amax(1)
            nearest[chosen] = torch.inf
            covered = nearest.min() >= 1.0 - cosine_rounding(x)
            chosen.append(chosen[0] if covered else int(nearest.argmin()))
        index[image] = torch.tensor(chosen)
    return index


def nearest_rows(
    points: Tensor,
    rows: Tensor,
    point_offsets: Tensor,
    row_offsets: Tensor,
    points_per_image: int,
    rows_per_image: int,
) -> Tensor:
    """For each of the packed `points [T, D]` the number `[T]`, within its image, of the nearest of the packed
    `rows [M, D]` of that image; -1 where there is none. Of equally near ones the first; NaN is near nothing.

    Args:
        points_per_image, rows_per_image: how many every image has, 0 where they differ.
    """
    nearest = torch.full((points.shape[0],), -1, dtype=torch.int64, device=points.device)
    for image, columns in zip(image_slices(point_offsets), image_slices(row_offsets), strict=True):
        if columns.stop > columns.start:
            cosine = (points[image] @ rows[columns].T).nan_to_num(nan=-torch.inf, posinf=torch.inf)
            largest, index = cosine.max(1)
            nearest[image] = torch.where(torch.isfinite(largest), index, -1)
    return nearest
