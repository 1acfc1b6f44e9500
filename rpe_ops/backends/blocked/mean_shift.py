"""One mean-shift step in bands of rows; formulas (1) to (8) of `backends/reference/mean_shift.py`."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from rpe_ops.backends.blocked import row_bands
from rpe_ops.backends.images import accumulation_dtype, image_slices
from rpe_ops.backends.rows import column_sums, kernel_rows, move_rows, row_gradients


def forward(
    points: Tensor,
    sources: Tensor | None,
    log_weight: Tensor | None,
    kappa: Tensor,
    eta: Tensor,
    point_offsets: Tensor,
    source_offsets: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Z, M and L; arguments and results as in the reference."""
    partners = points if sources is None else sources
    mean = torch.empty_like(points)
    log_density = points.new_empty(points.shape[0])
    for rows, columns in _bands(points, point_offsets, source_offsets):
        x, y = points[rows], partners[columns]
        probability, log_density[rows] = kernel_rows(x @ y.T, kappa, _slice(log_weight, columns))
        mean[rows] = torch.where(log_density[rows, None] == -torch.inf, x, column_sums(probability, y))
    return move_rows(points, mean, eta), mean, log_density


def backward(
    grad_moved: Tensor,
    points: Tensor,
    sources: Tensor | None,
    log_weight: Tensor | None,
    kappa: Tensor,
    eta: Tensor,
    point_offsets: Tensor,
    source_offsets: Tensor,
    mean: Tensor,
    log_density: Tensor,
    with_grad_weight: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of points, sources, log_weight, kappa and eta; arguments and results as in the reference."""
    partners = points if sources is None else sources
    g, h = row_gradients(grad_moved, points, mean, eta)
    row_sum = torch.zeros_like(points)
    column_sum = torch.zeros_like(partners)
    grad_log_weight = points.new_zeros(partners.shape[0] if with_grad_weight else 0)
    wide = accumulation_dtype(points.device)
    grad_kappa = torch.zeros((), dtype=wide, device=points.device)
    for rows, columns in _bands(points, point_offsets, source_offsets):
        x, y = points[rows], partners[columns]
        probability, _ = kernel_rows(x @ y.T, kappa, _slice(log_weight, columns))
        slope = h[rows] @ y.T
        slope.sub_((probability * slope).sum(1, keepdim=True)).mul_(probability)
        grad_kappa += (slope * (x @ y.T - 1.0)).sum(dtype=wide)
        row_sum[rows] = slope @ y
        column_sum[columns] += probability.T @ h[rows] + kappa * (slope.T @ x)
        if with_grad_weight:
            grad_log_weight[columns] += slope.sum(0)
    staying = (log_density == -torch.inf)[:, None]
    grad_points = torch.where(staying, g, (1.0 - eta) * g + kappa * row_sum)
    if sources is None:
        grad_points, column_sum = grad_points + column_sum, column_sum[:0]
    return grad_points, column_sum, grad_log_weight, grad_kappa.to(kappa.dtype), (g * (mean - points)).sum()


def zero_mass_gradient(
    points: Tensor,
    sources: Tensor,
    kappa: Tensor,
    h: Tensor,
    mean: Tensor,
    log_density: Tensor,
    point_offsets: Tensor,
    source_offsets: Tensor,
) -> Tensor:
    """dl/dm_j `[T]` = sum_i exp(kappa (c_ij - 1) - L_i) h_i . (y_j - M_i): where m_j = 0, (8) divided by m_j is 0/0."""
    grad_weight = sources.new_zeros(sources.shape[0])
    e = (h * mean).sum(1)
    for rows, columns in _bands(points, point_offsets, source_offsets):
        x, y = points[rows], sources[columns]
        density = log_density[rows, None]
        exponent = kappa * (x @ y.T - 1.0) - torch.where(density == -torch.inf, 0.0, density)
        density_ratio = torch.where(density == -torch.inf, 0.0, exponent.exp())
        grad_weight[columns] += (density_ratio * (h[rows] @ y.T - e[rows, None])).sum(0)
    return grad_weight


def _bands(points: Tensor, point_offsets: Tensor, source_offsets: Tensor) -> Iterator[tuple[slice, slice]]:
    """Pairs (band of rows, all columns of its image), as slices of the packed tensors."""
    for rows, columns in zip(image_slices(point_offsets), image_slices(source_offsets), strict=True):
        for band in row_bands(points[rows], columns.stop - columns.start):
            yield slice(rows.start + band.start, rows.start + band.stop), columns


def _slice(log_weight: Tensor | None, columns: slice) -> Tensor | None:
    """b of the columns, None for no masses."""
    return None if log_weight is None else log_weight[columns]
