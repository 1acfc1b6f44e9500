"""The ops of seeding and of the nearest rows: they return indices, so there is no gradient."""

# No `from __future__ import annotations`: torch.library reads the schemas from the signatures.
from typing import Any

import torch
from torch import Tensor

from rpe_ops import backends
from rpe_ops.autocast import without_autocast
from rpe_ops.autograd.common import Folded


@torch.library.custom_op("rpe_ops::farthest_points", mutates_args=())
def farthest_points(
    points: Tensor, offsets: Tensor, num_seeds: int, first: Tensor, points_per_image: int, backend: str
) -> Tensor:
    """Row numbers `[B, num_seeds]` within each image of unit rows `[T, D]`; see `backends/reference/seeding.py`."""
    with without_autocast(points):
        index: Tensor = backends.operator_module(backend, "seeding").farthest_points(
            points, offsets, num_seeds, first, points_per_image
        )
        return index


@farthest_points.register_fake
def _(
    points: Tensor, offsets: Tensor, num_seeds: int, first: Tensor, points_per_image: int, backend: str
) -> Tensor:
    return first.new_empty(first.shape[0], num_seeds)


@torch.library.register_vmap("rpe_ops::farthest_points")
def _(
    info: Any,
    in_dims: Any,
    points: Tensor,
    offsets: Tensor,
    num_seeds: int,
    first: Tensor,
    points_per_image: int,
    backend: str,
) -> Any:
    fold = Folded(info.batch_size)
    rows = fold.rows(points, in_dims[0])
    folded = fold.offsets(offsets, in_dims[1], rows.shape[0] // info.batch_size)
    index = farthest_points(rows, folded, num_seeds, fold.rows(first, in_dims[3]), points_per_image, backend)
    return fold.unfold(index), 0


@torch.library.custom_op("rpe_ops::nearest_rows", mutates_args=())
def nearest_rows(
    points: Tensor,
    rows: Tensor,
    point_offsets: Tensor,
    row_offsets: Tensor,
    backend: str,
    points_per_image: int = 0,
    rows_per_image: int = 0,
) -> Tensor:
    """Numbers `[T]` within each image of the row nearest to each point; see `backends/reference/seeding.py`."""
    with without_autocast(points):
        nearest: Tensor = backends.operator_module(backend, "seeding").nearest_rows(
            points, rows, point_offsets, row_offsets, points_per_image, rows_per_image
        )
        return nearest


@nearest_rows.register_fake
def _(
    points: Tensor,
    rows: Tensor,
    point_offsets: Tensor,
    row_offsets: Tensor,
    backend: str,
    points_per_image: int = 0,
    rows_per_image: int = 0,
) -> Tensor:
    return points.new_empty(points.shape[0], dtype=torch.int64)


@torch.library.register_vmap("rpe_ops::nearest_rows")
def _(
    info: Any,
    in_dims: Any,
    points: Tensor,
    rows: Tensor,
    point_offsets: Tensor,
    row_offsets: Tensor,
    backend: str,
    points_per_image: int = 0,
    rows_per_image: int = 0,
) -> Any:
    fold = Folded(info.batch_size)
    all_points, all_rows = fold.rows(points, in_dims[0]), fold.rows(rows, in_dims[1])
    offsets = fold.offsets(point_offsets, in_dims[2], all_points.shape[0] // info.batch_size)
    others = fold.offsets(row_offsets, in_dims[3], all_rows.shape[0] // info.batch_size)
    nearest = nearest_rows(all_points, all_rows, offsets, others, backend, points_per_image, rows_per_image)
    return fold.unfold(nearest), 0
