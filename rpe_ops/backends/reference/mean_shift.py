"""One step of von Mises-Fisher mean shift on the sphere, the specification.

Kong and Fowlkes, CVPR 2018, section 4; kappa is the vMF concentration (1 / bandwidth^2). Moving points x_i, sources
y_j with masses m_j = exp(b_j). When blurring, the sources are the points themselves.

    (1)  A_ij = kappa (x_i . y_j - 1) + b_j          L_i = log sum_j exp(A_ij)          P_ij = exp(A_ij - L_i)
    (2)  M_i = sum_j P_ij y_j          Y_i = eta M_i + (1 - eta) x_i          Z_i = Y_i / |Y_i|

The -kappa in A cancels in P; it keeps L small, so that "log_density" L is stored relative to kappa. P is a softmax:
one step with eta = 1 is attention with Q = K = V = X and scale kappa, then a row normalisation. A row whose image
has no mass (L = -inf) stays where it is, M_i = x_i. A row with Y_i = 0 gives Z_i = 0 and gets no gradient.

Backward, for G = dl/dZ, row by row:

    (3)  g_i = dl/dY_i = ( G_i - (G_i . Z_i) Z_i ) / |Y_i|          h_i = dl/dM_i = eta g_i
    (4)  S_ij = dl/dA_ij = P_ij ( h_i . y_j - e_i ),  e_i = h_i . M_i    (the softmax's own derivative)
    (5)  R_i = sum_j S_ij y_j                dl/dx_i = (1 - eta) g_i + kappa R_i
    (6)  C_j = dl/dy_j = sum_i ( P_ij h_i + kappa S_ij x_i )
    (7)  dl/dkappa = sum_ij S_ij (x_i . y_j - 1)          dl/deta = sum_i g_i . (M_i - x_i)
    (8)  dl/db_j = sum_i S_ij

kappa multiplies what is left of the difference in (4), so e_i must round as the products h_i . y_j do: it is summed as
sum_j P_ij (h_i . y_j) here, and is exactly h_i . y_j where one source takes all. Then sum_j S_ij = 0 to rounding.

When blurring, x and y are the same rows and the gradient is the sum of (5) and (6): each row of it is a sum over its
partners j alone, because K is symmetric, so a kernel needs no atomics.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rpe_ops.backends.images import image_slices
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
    """Z `[M, D]`, M `[M, D]` and L `[M]` of (1) and (2).

    Args:
        points: `[M, D]` rows that move.
        sources: `[T, D]` rows whose density they climb; None: the points themselves (blurring).
        log_weight: `[T]` b_j, -inf for no mass; None: all 0.
        kappa, eta: 0-d, in the points' dtype.
        point_offsets, source_offsets: `[B+1]` rows of each image.
        half: whether products may be of copies in the backend's half type, summed in float32; a backend without
            use for that computes in the rows' dtype.
    """
    mean = torch.empty_like(points)
    log_density = points.new_empty(points.shape[0])
    for rows, columns in zip(image_slices(point_offsets), image_slices(source_offsets), strict=True):
        x = points[rows]
        y = x if sources is None else sources[columns]
        probability, log_density[rows] = kernel_rows(
            x @ y.T, kappa, None if log_weight is None else log_weight[columns]
        )
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
    """Gradients of (5) to (8): points `[M, D]`, sources `[T, D]` (empty when blurring), weight `[T]` (empty unless
    `with_grad_weight`), kappa and eta (0-d). When blurring, (5) and (6) are added up in the first."""
    g, h = row_gradients(grad_moved, points, mean, eta)
    grad_kappa = torch.zeros_like(kappa)
    row_sum = torch.zeros_like(points)  # R
    column_sum = torch.zeros_like(points if sources is None else sources)  # C
    grad_weight = points.new_zeros(column_sum.shape[0] if with_grad_weight else 0)
    for rows, columns in zip(image_slices(point_offsets), image_slices(source_offsets), strict=True):
        x = points[rows]
        y = x if sources is None else sources[columns]
        probability, _ = kernel_rows(x @ y.T, kappa, None if log_weight is None else log_weight[columns])
        projection = h[rows] @ y.T
        slope = probability * (projection - (probability * projection).sum(1, keepdim=True))  # S
        grad_kappa += (slope * (x @ y.T - 1.0)).sum()
        row_sum[rows] = slope @ y
        column_sum[columns] = probability.T @ h[rows] + kappa * (slope.T @ x)
        if with_grad_weight:
            grad_weight[columns] = slope.sum(0)
    if log_weight is not None and with_grad_weight:
        rest = (kappa, eta, point_offsets, source_offsets, mean, log_density)
        grad_weight = weight_gradient(grad_weight, grad_moved, points, sources, log_weight, *rest)
    staying = (log_density == -torch.inf)[:, None]  # Y_i = x_i whatever eta is
    grad_points = torch.where(staying, g, (1.0 - eta) * g + kappa * row_sum)
    if sources is None:
        grad_points, column_sum = grad_points + column_sum, column_sum[:0]
    return grad_points, column_sum, grad_weight, grad_kappa, (g * (mean - points)).sum()
