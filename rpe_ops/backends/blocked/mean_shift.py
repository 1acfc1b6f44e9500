"""One mean-shift step in bands of rows; formulas (1) to (8) of `backends/reference/mean_shift.py`."""

from __future__ import annotations

import torch
from torch import Tensor

from rpe_ops.backends.images import accumulation_dtype, row_and_column_bands
from rpe_ops.backends.masses import weight_gradient
from rpe_ops.backends.rows import column_sums, kernel_rows, move_rows, row_gradients


def forward(
    points: Tensor,
    sources: Tensor | None,
    log_weight: Tensor | None,
    kappa: Tensor,
    eta: Tensor,
    point_offsets: Tensor,
    source_offsets: Tensor,
    half: bool,
    tol: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Z, M and L; arguments and results as in the reference."""
    partners = points if sources is None else sources
    mean = torch.empty_like(points)
    log_density = points.new_empty(points.shape[0])
    for rows, columns in row_and_column_bands(points, point_offsets, source_offsets):
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
    half: bool,
    tol: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of points, sources, weight, kappa and eta; arguments and results as in the reference."""
    partners = points if sources is None else sources
    g, h = row_gradients(grad_moved, points, mean, eta)
    row_sum = torch.zeros_like(points)
    column_sum = torch.zeros_like(partners)
    grad_weight = points.new_zeros(partners.shape[0] if with_grad_weight else 0)
    wide = accumulation_dtype(points.device)
    grad_kappa = torch.zeros((), dtype=wide, device=points.device)
    for rows, columns in row_and_column_bands(points, point_offsets, source_offsets):
        x, y = points[rows], partners[columns]
        probability, _ = kernel_rows(x @ y.T, kappa, _slice(log_weight, columns))
        slope = h[rows] @ y.T
        slope.sub_((probability * slope).sum(1, keepdim=True)).mul_(probability)
        grad_kappa += (slope * (x @ y.T - 1.0)).sum(dtype=wide)
        row_sum[rows] = slope @ y
        column_sum[columns] += probability.T @ h[rows] + kappa * (slope.T @ x)
        if with_grad_weight:
            grad_weight[columns] += slope.sum(0)
    if log_weight is not None and with_grad_weight:
        rest = (kappa, eta, point_offsets, source_offsets, mean, log_density)
        grad_weight = weight_gradient(grad_weight, grad_moved, points, sources, log_weight, *rest)
    staying = (log_density == -torch.inf)[:, None]
    grad_points = torch.where(staying, g, (1.0 - eta) * g + kappa * row_sum)
    if sources is None:
        grad_points, column_sum = grad_points + column_sum, column_sum[:0]
    return grad_points, column_sum, grad_weight, grad_kappa.to(kappa.dtype), (g * (mean - points)).sum()


def _slice(log_weight: Tensor | None, columns: slice) -> Tensor | None:
    """b of the columns, None for no masses."""
    return None if log_weight is None else log_weight[columns]
