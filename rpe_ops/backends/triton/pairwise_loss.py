"""Pairwise loss and its gradient in Triton: operands, tiles and splits are chosen here, the sums done by the kernels.

Formula numbers are those of `backends/reference/pairwise_loss.py`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rpe_ops.backends.images import image_maximum
from rpe_ops.backends.triton.kernels.pairwise_loss import (
    hinge_kernel,
    image_loss_kernel,
    instance_sum_kernel,
    loss_finish_kernel,
)
from rpe_ops.backends.triton.launching import launch, operands
from rpe_ops.backends.triton.shapes import (
    TileShape,
    block_dim,
    num_splits,
    pair_constants,
    row_shape,
    row_tiles,
    tile_shape,
)

_IMAGES = TileShape(rows=256, columns=0, warps=4, stages=1)
# The largest weight of w_j x_j as float16: components keep their 11 bits down to 2^-29 of it.
_LARGEST_WEIGHT = 2.0**14


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
    x = operands(points, half)
    largest, image = image_maximum(weight, offsets)
    exponent = torch.floor(torch.log2(_LARGEST_WEIGHT / largest)).clamp(-120.0, 120.0)
    scale = torch.where(largest > 0, torch.exp2(exponent), 1.0)
    weighted = operands(points * (weight * scale[image])[:, None], half)

    shape = tile_shape("pairwise_loss", dim, half, points.device)
    tiles = row_tiles(offsets, num_points, shape.rows)
    splits = num_splits(tiles.count, points, offsets, shape)
    partial_hinge = points.new_empty(splits, num_points)
    partial_grad = points.new_empty(splits, num_points if with_gradient else 0, block_dim(dim))
    launch(
        hinge_kernel,
        (tiles.count, splits),
        shape,
        *(*x, *weighted, weight, instance, begin, end, tiles.image, tiles.row, offsets),
        *(partial_hinge, partial_grad, 2.0 * margin - 1.0, num_points, splits),
        **pair_constants(dim, shape, half),
        WITH_GRADIENT=with_gradient,
    )
    sums = row_shape(dim)
    tiles = row_tiles(offsets, num_points, sums.rows)
    edge_sum, edge_mass = points.new_empty(tiles.count, 2, dim), points.new_empty(tiles.count, 2)
    widths = {"D": dim, "BLOCK_M": sums.rows, "BLOCK_D": block_dim(dim)}
    rows = (points, weight, instance)
    launch(
        instance_sum_kernel,
        (tiles.count,),
        sums,
        *(*rows, tiles.image, tiles.row, offsets, edge_sum, edge_mass),
        **widths,
    )
    tile_loss = points.new_empty(tiles.count)
    launch(
        loss_finish_kernel,
        (tiles.count,),
        sums,
        *(*rows, begin, end, tiles.image, tiles.row, tiles.before, offsets, edge_sum, edge_mass),
        *(partial_hinge, partial_grad, scale.reciprocal(), tile_loss, grad, num_points, splits),
        **widths,
        WITH_GRADIENT=with_gradient,
    )
    loss = points.new_empty(num_images)
    launch(image_loss_kernel, (num_images,), _IMAGES, tile_loss, tiles.before, loss, BLOCK=_IMAGES.rows)
    return loss, grad


def _runs(instance: Tensor) -> tuple[Tensor, Tensor]:
    """First row, and the row after the last, of each row's instance, from sorted ids `[T]`."""
    begin = torch.searchsorted(instance, instance, out_int32=True)
    return begin, torch.searchsorted(instance, instance, right=True, out_int32=True)
