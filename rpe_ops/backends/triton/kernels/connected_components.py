"""Triton kernel of connected components: each point's smallest foreign root among its neighbours.

The rounds around it are in `connected_components.py`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from rpe_ops.backends.triton.kernels.tiles import column_range, load_padded, row_tile, rows_times_rows


@triton.jit(
    do_not_specialize=["num_rows", "num_images", "num_splits"], do_not_specialize_on_alignment=["offsets"]
)
def foreign_root_kernel(
    points,
    points_low,
    root,
    unfinished,
    offsets,
    partial_root,
    threshold,
    num_rows,
    num_images,
    num_splits,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """The smallest root, other than its own, among the points joined to each point, over one split of the columns.

    Computes  min { root_j : c_ij >= threshold, root_j != root_i }, `num_rows` where there is none.
    Owns      BLOCK_M rows of one image; program (row tile, split).
    Tiles     x_i [BLOCK_M, BLOCK_D] in registers, x_j [BLOCK_N, BLOCK_D] through shared memory.
    Types     float32-grade cosines, int32 roots.
    Bits      integers: deterministic.

    Does nothing once `unfinished` is 0, so that a fixed number of rounds can be queued without asking the device.
    """
    split = tl.program_id(1)
    _, row, begin, end = row_tile(offsets, num_images, BLOCK_M)
    if row >= end:
        return
    rows = row + tl.arange(0, BLOCK_M)
    smallest = tl.zeros([BLOCK_M], tl.int32) + num_rows
    if tl.load(unfinished) != 0:
        first, last = column_range(begin, end, split, num_splits, BLOCK_N)
        x_i = load_padded(points, rows, end, BLOCK_D)
        x_i_low = load_padded(points_low, rows, end, BLOCK_D)
        root_i = tl.load(root + rows, mask=rows < end, other=0)
        for start in range(first, last, BLOCK_N):
            columns = start + tl.arange(0, BLOCK_N)
            x_j = load_padded(points, columns, last, BLOCK_D)
            x_j_low = load_padded(points_low, columns, last, BLOCK_D)
            root_j = tl.load(root + columns, mask=columns < last, other=num_rows)
            zero = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
            cosine = rows_times_rows(x_i, x_i_low, x_j, x_j_low, zero, True)
            joined = (cosine >= threshold) & (root_i[:, None] != root_j[None, :])
            smallest = tl.minimum(smallest, tl.min(tl.where(joined, root_j[None, :], num_rows), 1))
    tl.store(partial_root + split.to(tl.int64) * num_rows + rows, smallest, mask=rows < end)
