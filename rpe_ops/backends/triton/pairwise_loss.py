"""Pairwise loss and its gradient in Triton: operands, tiles and splits are chosen here, the sums done by the kernels.

Formula numbers are those of `backends/reference/pairwise_loss.py`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rpe_ops.backends.triton import launching
from rpe_ops.backends.triton.kernels.pairwise_loss import (
    hinge_kernel,
    image_loss_kernel,
    instance_sum_kernel,
    loss_finish_kernel,
)
from rpe_ops.backends.triton.operands import largest_values, operands, scaled_operands
from rpe_ops.backends.triton.shapes import (
    TileShape,
    block_dim,
    num_splits,
    pair_constants,
    row_grid,
    row_shape,
    tile_shape,
)

_IMAGES = TileShape(rows=256, columns=0, warps=4, stages=1)
# w_j x_j as float16 have weights below 2^14: components keep their 11 bits down to 2^-28 of the largest.
_WEIGHT_EXPONENT = 14


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
    num_points, dim = points.shape
    num_images = offsets.shape[0] - 1
    grad = torch.empty_like(points if with_gradient else points[:0])
    if num_points == 0:
        return points.new_zeros(num_images), grad
    instance = instance.to(torch.int32)
    begin, end = _runs(instance)
    largest = largest_values(offsets)
    x = operands(points, offsets, half, weight=weight, largest=largest)
    weighted = scaled_operands(points, weight, largest, _WEIGHT_EXPONENT, offsets, half)

    shape = tile_shape("pairwise_loss", dim, half, points.device)
    (tiles,) = row_grid(points, offsets, shape)
    splits = num_splits(tiles, points, offsets, shape)
    partial_hinge = points.new_empty(splits, num_points)
    partial_grad = points.new_empty(splits, num_points if with_gradient else 0, block_dim(dim))
    launching.launch(
        hinge_kernel,
        (tiles, splits),
        shape,
        *(*x, *weighted, weight, instance, begin, end, offsets),
        *(partial_hinge, partial_grad, 2.0 * margin - 1.0, num_points, num_images, splits),
        **pair_constants(dim, shape, half),
        WITH_GRADIENT=with_gradient,
    )
    sums = row_shape(dim)
    (tiles,) = row_grid(points, offsets, sums)
    edge_sum, edge_mass = points.new_empty(tiles, 2, dim), points.new_empty(tiles, 2)
    rows = (points, weight, instance)
    launching.launch_rows(
        *(instance_sum_kernel, points, offsets),
        *(*rows, offsets, edge_sum, edge_mass, num_images),
    )
    tile_loss = points.new_empty(tiles)
    launching.launch_rows(
        *(loss_finish_kernel, points, offsets),
        *(*rows, begin, end, offsets, edge_sum, edge_mass),
        *(partial_hinge, partial_grad, largest, tile_loss, grad, num_points, num_images, splits),
        EXPONENT=_WEIGHT_EXPONENT,
        WITH_GRADIENT=with_gradient,
    )
    loss = points.new_empty(num_images)
    launching.launch(
        image_loss_kernel,
        (num_images,),
        _IMAGES,
        *(tile_loss, offsets, loss),
        BLOCK_M=sums.rows,
        BLOCK=_IMAGES.rows,
    )
    return loss, grad


def _runs(instance: Tensor) -> tuple[Tensor, Tensor]:
    """First row, and the row after the last, of each row's instance, from sorted ids `[T]`."""
    begin = torch.searchsorted(instance, instance, out_int32=True)
    return begin, torch.searchsorted(instance, instance, right=True, out_int32=True)
