"""The gradient of the masses from that of their logarithms, which says nothing of masses that are zero.

For backends whose kernels work with log masses; formula numbers are those of `backends/reference/mean_shift.py`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rpe_ops.backends.images import row_and_column_bands
from rpe_ops.backends.rows import row_gradients


def weight_gradient(
    grad_log_weight: Tensor,
    grad_moved: Tensor,
    points: Tensor,
    sources: Tensor | None,
    log_weight: Tensor,
    kappa: Tensor,
    eta: Tensor,
    point_offsets: Tensor,
    source_offsets: Tensor,
    mean: Tensor,
    log_density: Tensor,
) -> Tensor:
    """dl/dm_j `[T]`: (8) divided by m_j; for m_j = 0, where that is 0/0, a pass over all pairs."""
    massless = log_weight == -torch.inf
    grad_weight = grad_log_weight * torch.where(massless, 0.0, torch.exp(-log_weight))
    if not bool(massless.any()):
        return grad_weight
    _, h = row_gradients(grad_moved, points, mean, eta)
    at_zero = _zero_mass_gradient(
        points,
        points if sources is None else sources,
        kappa,
        h,
        mean,
        log_density,
        point_offsets,
        source_offsets,
    )
    return torch.where(massless, at_zero, grad_weight)


def _zero_mass_gradient(
    points: Tensor,
    sources: Tensor,
    kappa: Tensor,
    h: Tensor,
    mean: Tensor,
    log_density: Tensor,
    point_offsets: Tensor,
    source_offsets: Tensor,
) -> Tensor:
    """dl/dm_j `[T]` = sum_i exp(kappa (c_ij - 1) - L_i) h_i . (y_j - M_i): where m_j = 0, (8) divided by m_j is 0/0.

    Without its mass a source may outweigh all that have one; the ratio is capped where its square would overflow.
    """
    ceiling = math.log(torch.finfo(points.dtype).max) / 2.0
    grad_weight = sources.new_zeros(sources.shape[0])
    e = (h * mean).sum(1)
    for rows, columns in row_and_column_bands(points, point_offsets, source_offsets):
        x, y = points[rows], sources[columns]
        density = log_density[rows, None]
        exponent = kappa * (x @ y.T - 1.0) - torch.where(density == -torch.inf, 0.0, density)
        density_ratio = torch.where(density == -torch.inf, 0.0, exponent.clamp(max=ceiling).exp())
        grad_weight[columns] += (density_ratio * (h[rows] @ y.T - e[rows, None])).sum(0)
    return grad_weight
