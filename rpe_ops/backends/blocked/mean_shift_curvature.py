"""Directional derivatives of one mean-shift step and of its gradient, one band of rows against all columns at a time.

Not a backend's own operator: the autograd layer uses it for every backend. Memory O(N D) beyond one band. (1) to (8)
are the equations of `backends/reference/mean_shift.py`; a prime marks the derivative along a direction (x', y', m',
kappa', eta') of the inputs, written `d_<name>` in code, and rho_ij = P_ij / m_j has a value for m_j = 0 too:

    (9)   A'_ij = kappa' (c_ij - 1) + kappa c'_ij          c'_ij = x'_i . y_j + x_i . y'_j
    (10)  L'_i = sum_j P_ij A'_ij + rho_ij m'_j          P'_ij = P_ij (A'_ij - L'_i) + rho_ij m'_j
    (11)  Z'_i = ( Y'_i - (Z_i . Y'_i) Z_i ) / |Y_i|     the derivative of the forward
    (12)  g'_i = -( (G_i . Z'_i) Z_i + (G_i . Z_i) Z'_i + (Z_i . Y'_i) g_i ) / |Y_i|          h'_i = eta' g_i + eta g'_i
    (13)  S'_ij = P'_ij (T_ij - e_i) + P_ij (T'_ij - e'_i),  T_ij = h_i . y_j,  e'_i = sum_j P'_ij T_ij + P_ij T'_ij

and the derivatives of (5) to (8) follow by the product rule. They are the gradient's own gradient contracted with the
direction, because second derivatives are symmetric.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rpe_ops.backends.images import accumulation_dtype, row_and_column_bands
from rpe_ops.backends.rows import kernel_rows, unit_rows


class Inputs(NamedTuple):
    """What a step is differentiated in, or a direction in it. Blurring has no `sources`, unit masses no `weight`; a
    direction may leave out what does not change."""

    points: Tensor
    sources: Tensor | None
    weight: Tensor | None
    kappa: Tensor
    eta: Tensor


class _Band(NamedTuple):
    """One band of rows: the kernel and the moved rows, each with its derivative along the direction."""

    offset: Tensor  # c - 1
    d_offset: Tensor
    probability: Tensor
    d_probability: Tensor
    ratio: Tensor  # rho
    d_ratio: Tensor
    step: Tensor  # M - x
    d_step: Tensor
    moved: Tensor
    d_moved: Tensor
    d_length: Tensor  # Z . Y'
    inverse: Tensor  # 1 / |Y|, 0 where Y = 0
    empty: Tensor  # rows whose image has no mass


def tangent(inputs: Inputs, direction: Inputs, point_offsets: Tensor, source_offsets: Tensor) -> Tensor:
    """(11): Z' `[M, D]`."""
    result = torch.zeros_like(inputs.points)
    for rows, columns in row_and_column_bands(inputs.points, point_offsets, source_offsets):
        result[rows] = _band(inputs, direction, rows, columns).d_moved
    return result


def curvature(
    grad_moved: Tensor, inputs: Inputs, direction: Inputs, point_offsets: Tensor, source_offsets: Tensor
) -> tuple[Tensor, Inputs]:
    """(11), and the derivative along the direction of the gradients (5) to (8) for a constant `grad_moved [M, D]`.

    When blurring, what (5) and (6) give is added up in `points`.
    """
    kappa, eta = inputs.kappa, inputs.eta
    wide = accumulation_dtype(grad_moved.device)
    d_moved, d_grad_points = torch.zeros_like(inputs.points), torch.zeros_like(inputs.points)
    d_grad_sources = d_grad_points if inputs.sources is None else torch.zeros_like(inputs.sources)
    d_grad_weight = None if inputs.weight is None else torch.zeros_like(inputs.weight)
    d_grad_kappa, d_grad_eta = (torch.zeros((), dtype=wide, device=grad_moved.device) for _ in range(2))
    for rows, columns in row_and_column_bands(inputs.points, point_offsets, source_offsets):
        band = _band(inputs, direction, rows, columns)
        x, d_x, y, d_y = _operands(inputs, direction, rows, columns)
        grad, d_moved[rows] = grad_moved[rows], band.d_moved
        along = _dot(grad, band.moved)
        g = (grad - along * band.moved) * band.inverse
        d_g = -band.inverse * (
            _dot(grad, band.d_moved) * band.moved + along * band.d_moved + band.d_length * g
        )
        h, d_h = eta * g, direction.eta * g + eta * d_g
        projection, d_projection = h @ y.T, d_h @ y.T + h @ d_y.T
        e = _dot(band.probability, projection)
        d_e = _dot(band.d_probability, projection) + _dot(band.probability, d_projection)
        excess, d_excess = projection - e, d_projection - d_e
        slope = band.probability * excess
        d_slope = band.d_probability * excess + band.probability * d_excess
        d_blended = -direction.eta * g + (1.0 - eta) * d_g
        d_blended += direction.kappa * (slope @ y) + kappa * (d_slope @ y + slope @ d_y)
        d_grad_points[rows] += torch.where(band.empty, d_g, d_blended)
        d_grad_sources[columns] += (
            band.d_probability.T @ h
            + band.probability.T @ d_h
            + direction.kappa * (slope.T @ x)
            + kappa * (d_slope.T @ x + slope.T @ d_x)
        )
        d_grad_kappa += (d_slope * band.offset + slope * band.d_offset).sum(dtype=wide)
        d_grad_eta += (d_g * band.step + g * band.d_step).sum(dtype=wide)
        if d_grad_weight is not None:
            d_grad_weight[columns] += (band.d_ratio * excess + band.ratio * d_excess).sum(0)
    return d_moved, Inputs(
        d_grad_points,
        None if inputs.sources is None else d_grad_sources,
        d_grad_weight,
        d_grad_kappa.to(kappa.dtype),
        d_grad_eta.to(eta.dtype),
    )


def _band(inputs: Inputs, direction: Inputs, rows: slice, columns: slice) -> _Band:
    """(1), (2) and (9) to (11) of one band."""
    x, d_x, y, d_y = _operands(inputs, direction, rows, columns)
    kappa, eta = inputs.kappa, inputs.eta
    mass = None if inputs.weight is None else inputs.weight[columns]
    cosine = x @ y.T
    offset, d_offset = cosine - 1.0, d_x @ y.T + x @ d_y.T
    probability, log_density = kernel_rows(cosine, kappa, None if mass is None else mass.log())
    empty = (log_density == -torch.inf)[:, None]
    d_logit = direction.kappa * offset + kappa * d_offset
    ratio, d_kernel = probability, probability * d_logit
    if mass is not None:
        massless = torch.exp(kappa * offset - torch.where(empty, torch.inf, log_density[:, None]))
        ratio = torch.where(mass > 0, probability / mass, massless)
        if direction.weight is not None:
            d_kernel = d_kernel + ratio * direction.weight[columns]
    d_log_density = d_kernel.sum(1, keepdim=True)
    d_probability = d_kernel - probability * d_log_density
    step = torch.where(empty, torch.zeros_like(x), probability @ y - x)
    d_step = torch.where(empty, torch.zeros_like(x), d_probability @ y + probability @ d_y - d_x)
    blended, d_blended = x + eta * step, d_x + direction.eta * step + eta * d_step
    length = torch.linalg.vector_norm(blended, dim=1, keepdim=True)
    inverse = torch.where(length == 0, torch.zeros_like(length), 1.0 / length)
    moved = unit_rows(blended)
    d_length = _dot(moved, d_blended)
    return _Band(
        offset,
        d_offset,
        probability,
        d_probability,
        ratio,
        ratio * (d_logit - d_log_density),
        step,
        d_step,
        moved,
        (d_blended - d_length * moved) * inverse,
        d_length,
        inverse,
        empty,
    )


def _operands(
    inputs: Inputs, direction: Inputs, rows: slice, columns: slice
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x, x' of the rows and y, y' of the columns."""
    partners = inputs.points if inputs.sources is None else inputs.sources
    d_partners = direction.points if inputs.sources is None else direction.sources
    assert d_partners is not None
    return inputs.points[rows], direction.points[rows], partners[columns], d_partners[columns]


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Row by row, as a column."""
    return (a * b).sum(1, keepdim=True)
