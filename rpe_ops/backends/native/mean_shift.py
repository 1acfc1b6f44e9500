"""One mean-shift step in C++ (csrc/cpu/mean_shift_*.cpp); formulas in the reference backend."""

from __future__ import annotations

import torch
from torch import Tensor

from rpe_ops.backends.masses import weight_gradient
from rpe_ops.backends.native import loader


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
    """Moved points, means and log densities relative to kappa."""
    loader.load()
    moved, mean, log_density = torch.ops.rpe_ops_native.mean_shift_forward(
        points, sources, log_weight, kappa, eta, point_offsets, source_offsets, half, tol
    )
    return moved, mean, log_density


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
    """Gradients of points, sources, weight, kappa and eta."""
    loader.load()
    rows = (grad_moved, points, sources)
    rest = (kappa, eta, point_offsets, source_offsets, mean, log_density)
    gradients = torch.ops.rpe_ops_native.mean_shift_backward(
        *rows, log_weight, *rest, with_grad_weight, half, tol
    )
    grad_points, grad_sources, grad_weight, grad_kappa, grad_eta = gradients
    if with_grad_weight and log_weight is not None:
        grad_weight = weight_gradient(grad_weight, *rows, log_weight, *rest)
    return grad_points, grad_sources, grad_weight, grad_kappa, grad_eta
