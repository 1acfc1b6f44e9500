"""Ops of the directional derivatives of a mean-shift step: what forward mode and second derivatives are made of.

They are opaque to autograd and to `torch.func`, the same PyTorch for every backend, and have no derivative themselves.
"""

# No `from __future__ import annotations`: torch.library reads the schemas from the signatures.
from typing import Any

import torch
from torch import Tensor

from rpe_ops.autocast import without_autocast
from rpe_ops.autograd.common import map_in_turn
from rpe_ops.backends.blocked.mean_shift_curvature import Inputs, curvature, tangent


@torch.library.custom_op("rpe_ops::mean_shift_tangent", mutates_args=())
def mean_shift_tangent(
    points: Tensor,
    sources: Tensor | None,
    weight: Tensor | None,
    kappa: Tensor,
    eta: Tensor,
    point_offsets: Tensor,
    source_offsets: Tensor | None,
    d_points: Tensor,
    d_sources: Tensor | None,
    d_weight: Tensor | None,
    d_kappa: Tensor,
    d_eta: Tensor,
) -> Tensor:
    """The derivative Z' `[M, D]` of the moved points along a direction of the inputs."""
    with without_autocast(points):
        columns = point_offsets if source_offsets is None else source_offsets
        direction = Inputs(d_points, d_sources, d_weight, d_kappa, d_eta)
        return tangent(Inputs(points, sources, weight, kappa, eta), direction, point_offsets, columns)


@torch.library.custom_op("rpe_ops::mean_shift_curvature", mutates_args=())
def mean_shift_curvature(
    grad_moved: Tensor,
    points: Tensor,
    sources: Tensor | None,
    weight: Tensor | None,
    kappa: Tensor,
    eta: Tensor,
    point_offsets: Tensor,
    source_offsets: Tensor | None,
    d_points: Tensor,
    d_sources: Tensor | None,
    d_weight: Tensor | None,
    d_kappa: Tensor,
    d_eta: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Z', and the derivatives along the direction of the gradients in points, sources (empty when blurring), weight
    (empty without masses), kappa and eta."""
    with without_autocast(points):
        columns = point_offsets if source_offsets is None else source_offsets
        inputs = Inputs(points, sources, weight, kappa, eta)
        direction = Inputs(d_points, d_sources, d_weight, d_kappa, d_eta)
        d_moved, result = curvature(grad_moved, inputs, direction, point_offsets, columns)
        none = points.new_empty(0)
        d_grad_sources = points[:0].clone() if result.sources is None else result.sources
        d_grad_weight = none if result.weight is None else result.weight
        return d_moved, result.points, d_grad_sources, d_grad_weight, result.kappa, result.eta


@mean_shift_tangent.register_fake
def _(points: Tensor, *rest: Any) -> Tensor:
    return torch.empty_like(points)


@mean_shift_curvature.register_fake
def _(
    grad_moved: Tensor,
    points: Tensor,
    sources: Tensor | None,
    weight: Tensor | None,
    kappa: Tensor,
    eta: Tensor,
    *rest: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    return (
        torch.empty_like(points),
        torch.empty_like(points),
        torch.empty_like(points[:0] if sources is None else sources),
        points.new_empty(0) if weight is None else torch.empty_like(weight),
        torch.empty_like(kappa),
        torch.empty_like(eta),
    )


# kappa and eta have one value, or one gradient, per element: the elements of a vmap cannot share one call


@torch.library.register_vmap("rpe_ops::mean_shift_tangent")
def _(info: Any, in_dims: Any, *args: Any) -> Any:
    return map_in_turn(mean_shift_tangent, info.batch_size, in_dims, args)


@torch.library.register_vmap("rpe_ops::mean_shift_curvature")
def _(info: Any, in_dims: Any, *args: Any) -> Any:
    return map_in_turn(mean_shift_curvature, info.batch_size, in_dims, args)
