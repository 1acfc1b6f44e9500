"""One mean-shift step in CUDA C++ (csrc/cuda/mean_shift_*.cu); formulas in the reference backend."""

from __future__ import annotations

import torch
from torch import Tensor

from rpe_ops.backends import cuda
from rpe_ops.backends.tile_list import near_tiles


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
    cuda.prepare()
    near = near_tiles(points, sources, log_weight, kappa, point_offsets, source_offsets, tol)
    seen = [] if near is None else near.of_points().tensors()
    moved, mean, log_density = torch.ops.rpe_ops_cuda.mean_shift_forward(
        points, sources, log_weight, kappa, eta, point_offsets, source_offsets, seen, half
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
    cuda.prepare()
    near = near_tiles(points, sources, log_weight, kappa, point_offsets, source_offsets, tol)
    seen = [] if near is None else near.of_points().tensors()
    seeing = seen if near is None or sources is None else near.of_sources().tensors()
    gradients = torch.ops.rpe_ops_cuda.mean_shift_backward(
        *(grad_moved, points, sources, log_weight, kappa, eta, point_offsets, source_offsets, seen, seeing),
        *(mean, log_density, with_grad_weight, half),
    )
    grad_points, grad_sources, grad_weight, grad_kappa, grad_eta = gradients
    return grad_points, grad_sources, grad_weight, grad_kappa, grad_eta
