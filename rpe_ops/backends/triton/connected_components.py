"""Connected components in Triton, by the rounds of `backends/boruvka.py`."""

from __future__ import annotations

import torch
from torch import Tensor

from rpe_ops.backends import boruvka
from rpe_ops.backends.triton import launching
from rpe_ops.backends.triton.kernels.connected_components import foreign_root_kernel
from rpe_ops.backends.triton.operands import operands
from rpe_ops.backends.triton.shapes import block_dim, num_splits, row_grid, tile_shape


def forward(points: Tensor, offsets: Tensor, threshold: float) -> Tensor:
    """Labels `[T]` int64, 0..C-1 per image; arguments as in the reference."""
    num_points, dim = points.shape
    shape = tile_shape("connected_components", dim, False, points.device)
    rows = operands(points, offsets, half=False)
    (tiles,) = row_grid(points, offsets, shape)
    splits = num_splits(tiles, points, offsets, shape)
    partial = torch.empty(splits, num_points, dtype=torch.int32, device=points.device)

    def foreign_root(root: Tensor, unfinished: Tensor) -> Tensor:
        launching.launch(
            foreign_root_kernel,
            (tiles, splits),
            shape,
            *(*rows, root, unfinished, offsets, partial),
            *(2.0 * threshold - 1.0, num_points, offsets.shape[0] - 1, splits),
            BLOCK_M=shape.rows,
            BLOCK_N=shape.columns,
            BLOCK_D=block_dim(dim),
        )
        return partial.amin(0)

    return boruvka.components(points, offsets, foreign_root)
