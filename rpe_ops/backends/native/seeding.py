"""Farthest points and nearest rows in C++ (csrc/cpu/seeding.cpp), which visits only what can hold the next seed."""

from __future__ import annotations

import torch
from torch import Tensor

from rpe_ops.backends.native import loader
from rpe_ops.backends.rows import cosine_rounding


def farthest_points(
    points: Tensor, offsets: Tensor, num_seeds: int, first: Tensor, points_per_image: int
) -> Tensor:
    """Row numbers `[B, num_seeds]` within each image; arguments as in the reference."""
    loader.load()
    covered = 1.0 - cosine_rounding(points)
    index: Tensor = torch.ops.rpe_ops_native.farthest_points(points, offsets, num_seeds, first, covered)
    return index


def nearest_rows(
    points: Tensor,
    rows: Tensor,
    point_offsets: Tensor,
    row_offsets: Tensor,
    points_per_image: int,
    rows_per_image: int,
) -> Tensor:
    """Row numbers `[T]` within each image; arguments as in the reference."""
    loader.load()
    nearest: Tensor = torch.ops.rpe_ops_native.nearest_rows(points, rows, point_offsets, row_offsets)
    return nearest
