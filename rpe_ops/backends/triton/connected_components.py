"""Connected components in Triton: rounds in which every component joins a neighbour, at most log2(N) of them.

A round visits all pairs once and at least halves the number of components that have a neighbour: each takes the
smallest root among its neighbours' (Boruvka's scheme). The graph is never stored.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rpe_ops.backends.images import first_appearance_labels, image_of_rows
from rpe_ops.backends.triton.kernels.connected_components import foreign_root_kernel
from rpe_ops.backends.triton.launching import launch, operands
from rpe_ops.backends.triton.shapes import block_dim, num_splits, row_tiles, tile_shape


def forward(points: Tensor, offsets: Tensor, threshold: float) -> Tensor:
    """Labels `[T]` int64, 0..C-1 per image; arguments as in the reference."""
    num_points, dim = points.shape
    if num_points == 0:
        return torch.empty(0, dtype=torch.int64, device=points.device)
    shape = tile_shape("connected_components", dim, False, points.device)
    tiles = row_tiles(offsets, num_points, shape.rows)
    rows = operands(points, half=False)
    splits = num_splits(tiles.count, points, offsets, shape)
    partial = torch.empty(splits, num_points, dtype=torch.int32, device=points.device)
    root = torch.arange(num_points, dtype=torch.int32, device=points.device)
    unfinished = torch.ones((), dtype=torch.int32, device=points.device)
    capturing = points.is_cuda and torch.cuda.is_current_stream_capturing()
    for _ in range(num_points.bit_length()):
        launch(
            foreign_root_kernel,
            (tiles.count, splits),
            shape,
            *(*rows, root, unfinished, tiles.image, tiles.row, offsets, partial),
            *(2.0 * threshold - 1.0, num_points, splits),
            D=dim,
            BLOCK_M=shape.rows,
            BLOCK_N=shape.columns,
            BLOCK_D=block_dim(dim),
        )
        root, unfinished = _join(root, partial.amin(0))
        if not capturing and not bool(unfinished):
            break
    label = first_appearance_labels(root.long())
    first = label[offsets[:-1].clamp(max=num_points - 1)]
    return label - first[image_of_rows(offsets, num_points)]


def _join(root: Tensor, neighbour: Tensor) -> tuple[Tensor, Tensor]:
    """Roots `[T]` after each component joined its smallest neighbouring root, and whether any did.

    `neighbour [T]` holds each point's smallest foreign root, T where it has none. Two components that chose each other
    keep the smaller root; longer circles cannot be, since each takes the smallest.
    """
    num_points = root.shape[0]
    own = torch.arange(num_points, dtype=root.dtype, device=root.device)
    chosen = torch.full_like(root, num_points).scatter_reduce(0, root.long(), neighbour, "amin")
    # rounding may show an edge from one of its ends alone: both know it from here on
    reached = torch.where(chosen < num_points, chosen, own)
    chosen = chosen.scatter_reduce(
        0, reached.long(), torch.where(chosen < num_points, own, num_points), "amin"
    )
    parent = torch.where(chosen < num_points, chosen, own)
    mutual = parent[parent.long()] == own
    parent = torch.where(mutual & (own < parent), own, parent)
    for _ in range(num_points.bit_length()):
        parent = parent[parent.long()]
    joined = parent[root.long()]
    # a component's root is its smallest point, whichever way its parts joined
    smallest = torch.full_like(root, num_points).scatter_reduce(0, joined.long(), own, "amin")
    return smallest[joined.long()], (chosen < num_points).any().to(torch.int32)
