"""Pairwise margin-hinge loss in bands of rows; formulas (1) to (6) of `backends/reference/pairwise_loss.py`.

The same-instance part comes from the closed form (4); only the hinge visits pairs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rpe_ops.backends.images import accumulation_dtype, image_slices, row_bands, run_offsets, segment_sums


def forward(
    points: Tensor,
    instance: Tensor,
    weight: Tensor,
    offsets: Tensor,
    margin: float,
    with_gradient: bool,
    half: bool,
) -> tuple[Tensor, Tensor]:
    """Loss `[B]` and gradient `[T, D]` (empty unless `with_gradient`); arguments as in the reference."""
    threshold = 2.0 * margin - 1.0
    wide = accumulation_dtype(points.device)
    loss = torch.zeros(offsets.shape[0] - 1, dtype=wide, device=points.device)
    grad = torch.empty_like(points if with_gradient else points[:0])
    for image, rows in enumerate(image_slices(offsets)):
        x, y, w = points[rows], instance[rows], weight[rows]
        if x.shape[0] == 0:
            continue
        runs = run_offsets(y)
        weighted = w[:, None] * x
        centre = segment_sums(w.to(wide)[:, None] * x.to(wide), runs)  # v_q [Q, D]
        mass = segment_sums(w.to(wide), runs)
        loss[image] = (mass.square() - centre.square().sum(1)).sum() / 2.0
        attraction = centre.to(x.dtype).repeat_interleave(runs.diff(), dim=0) if with_gradient else x
        for band in row_bands(x, x.shape[0]):
            excess = x[band] @ x.T - threshold
            active = (excess > 0) & (y[band, None] != y[None, :])
            hinge = torch.where(active, excess, 0.0) @ w[:, None]
            loss[image] += (w[band] * hinge[:, 0]).sum(dtype=wide) / 2.0
            if with_gradient:
                repulsion = active.to(x.dtype) @ weighted
                grad[rows][band] = w[band, None] * (repulsion - attraction[band])
    return loss.to(points.dtype), grad


def slope_product(
    points: Tensor, instance: Tensor, weight: Tensor, offsets: Tensor, margin: float, direction: Tensor
) -> Tensor:
    """(6): the second derivative of each image's loss applied to `direction [T, D]`; rows sorted as in `forward`."""
    threshold = 2.0 * margin - 1.0
    product = torch.zeros_like(points)
    for rows in image_slices(offsets):
        x, y, w, v = points[rows], instance[rows], weight[rows], direction[rows]
        for band in row_bands(x, x.shape[0]):
            slope = torch.where(y[band, None] == y[None, :], -1.0, (x[band] @ x.T > threshold).to(x.dtype))
            product[rows][band] = w[band, None] * (slope @ (w[:, None] * v))
    return product
