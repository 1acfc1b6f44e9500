"""Triton kernels of the pairwise loss; formula numbers are those of `backends/reference/pairwise_loss.py`.

Rows come sorted by (image, instance). The hinge visits pairs of different instances; the same-instance part is the
closed form (4), from sums over the rows of an instance: first what each row tile holds of its first and its last
instance, then, where an instance reaches beyond a tile, the sums of the other tiles.
"""

from __future__ import annotations

import triton
import triton.language as tl

from rpe_ops.backends.triton.kernels.operands import image_scale
from rpe_ops.backends.triton.kernels.tiles import (
    first_tile,
    load_padded,
    load_rows,
    row_tile,
    rows_times_rows,
    share_of_split,
    store_padded,
    store_rows,
    tiles_of_image,
)


@triton.jit
def hinge_tile(
    x_i,
    x_i_low,
    instance_i,
    points,
    points_low,
    weighted,
    weighted_low,
    weight,
    instance,
    threshold,
    start,
    end,
    hinge,
    grad,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    WITH_GRADIENT: tl.constexpr,
    SPLIT: tl.constexpr,
    MIXED: tl.constexpr,
):
    """One column tile of `hinge_kernel`: its sums, carried on. Not MIXED: no pair is of one instance."""
    columns = start + tl.arange(0, BLOCK_N)
    x_j = load_padded(points, columns, end, BLOCK_D)  # [BLOCK_N, BLOCK_D]
    x_j_low = load_padded(points_low, columns, end, BLOCK_D)
    weight_j = tl.load(weight + columns, mask=columns < end, other=0.0)  # no weight outside
    excess = tl.zeros([BLOCK_M, BLOCK_N], tl.float32) - threshold
    excess = rows_times_rows(x_i, x_i_low, x_j, x_j_low, excess, SPLIT)  # [BLOCK_M, BLOCK_N]
    if MIXED:
        instance_j = tl.load(instance + columns, mask=columns < end, other=-1)
        excess = tl.where(instance_i[:, None] == instance_j[None, :], 0.0, excess)
    active = excess > 0.0
    hinge += tl.sum(tl.maximum(excess, 0.0) * weight_j[None, :], 1)
    if WITH_GRADIENT:
        weighted_j = load_padded(weighted, columns, end, BLOCK_D)
        mask = active.to(weighted_j.dtype)
        if SPLIT:  # see weights_times_rows
            part = tl.dot(mask, load_padded(weighted_low, columns, end, BLOCK_D))
            grad += tl.dot(mask, weighted_j, part)
        else:
            grad = tl.dot(mask, weighted_j, grad)
    return hinge, grad


@triton.jit(
    do_not_specialize=["num_rows", "num_images", "num_splits"],
    do_not_specialize_on_alignment=["weight", "offsets"],
)
def hinge_kernel(
    points,
    points_low,
    weighted,
    weighted_low,
    weight,
    instance,
    instance_begin,
    instance_end,
    offsets,
    partial_hinge,
    partial_grad,
    threshold,
    num_rows,
    num_images,
    num_splits,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    WITH_GRADIENT: tl.constexpr,
    SPLIT: tl.constexpr,
):
    """The hinge of (2) and its part of (3) over one split of the columns, both without the row's own weight.

    Computes  sum_j w_j 1{y_i != y_j} [c_ij - threshold]_+  and  sum_j 1{y_i != y_j} 1{c_ij > threshold} (w_j x_j).
    Owns      BLOCK_M rows of one image; program (row tile, split). Instances are compared only in tiles that hold some
              of the rows' own; column tiles inside the only instance of a row tile are passed over.
    Tiles     x_i [BLOCK_M, BLOCK_D] in registers, x_j and w_j x_j [BLOCK_N, BLOCK_D] through shared memory.
    Types     loads float16 (SPLIT: in two parts), accumulates and stores float32; the mask is exact.
    Bits      one writer per row and split, columns in order: deterministic.
    """
    split = tl.program_id(1)
    _, row_begin, begin, end = row_tile(offsets, num_images, BLOCK_M)
    if row_begin >= end:
        return
    rows = row_begin + tl.arange(0, BLOCK_M)
    x_i = load_padded(points, rows, end, BLOCK_D)  # [BLOCK_M, BLOCK_D]
    x_i_low = load_padded(points_low, rows, end, BLOCK_D)
    instance_i = tl.load(instance + rows, mask=rows < end, other=-1)
    # Column tiles, counted from the image's first: those from `near` to before `near_end` hold rows of this tile's
    # instances; of these, from `hole` to before `hole_end`, no pair is of two instances.
    row_last = tl.minimum(row_begin + BLOCK_M, end) - 1
    reach_begin = tl.load(instance_begin + row_begin) - begin
    reach_end = tl.load(instance_end + row_last) - begin
    tiles = tl.cdiv(end - begin, BLOCK_N)
    near = reach_begin // BLOCK_N
    near_end = tl.cdiv(reach_end, BLOCK_N)
    alone = tl.load(instance + row_begin) == tl.load(instance + row_last)
    hole = tl.cdiv(reach_begin, BLOCK_N)
    hole_end = tl.where(reach_end == end - begin, tiles, reach_end // BLOCK_N)
    skipped = tl.where(alone, tl.maximum(hole_end - hole, 0), 0)
    hinge = tl.zeros([BLOCK_M], tl.float32)
    grad = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    first, last = share_of_split(tiles - (near_end - near), split, num_splits)
    for number in range(first, last):
        passed = tl.where(number < near, 0, near_end - near)
        hinge, grad = hinge_tile(
            x_i,
            x_i_low,
            instance_i,
            points,
            points_low,
            weighted,
            weighted_low,
            weight,
            instance,
            threshold,
            begin + (number + passed) * BLOCK_N,
            end,
            hinge,
            grad,
            BLOCK_M,
            BLOCK_N,
            BLOCK_D,
            WITH_GRADIENT,
            SPLIT,
            False,
        )
    first, last = share_of_split(near_end - near - skipped, split, num_splits)
    for number in range(near + first, near + last):
        passed = tl.where(number < hole, 0, skipped)
        hinge, grad = hinge_tile(
            x_i,
            x_i_low,
            instance_i,
            points,
            points_low,
            weighted,
            weighted_low,
            weight,
            instance,
            threshold,
            begin + (number + passed) * BLOCK_N,
            end,
            hinge,
            grad,
            BLOCK_M,
            BLOCK_N,
            BLOCK_D,
            WITH_GRADIENT,
            SPLIT,
            True,
        )
    slot = split.to(tl.int64) * num_rows
    tl.store(partial_hinge + slot + rows, hinge, mask=rows < end)
    if WITH_GRADIENT:
        store_padded(partial_grad + slot * BLOCK_D, grad, rows, end, BLOCK_D)


@triton.jit(do_not_specialize=["num_images"], do_not_specialize_on_alignment=["points", "weight", "offsets"])
def instance_sum_kernel(
    points,
    weight,
    instance,
    offsets,
    edge_sum,
    edge_mass,
    num_images,
    D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """v_q and W_q of (4) over the rows that one tile holds of its first and of its last instance.

    Computes  `edge_sum [R, 2, D]` and `edge_mass [R, 2]`.
    Owns      one row tile of BLOCK_M rows.
    Tiles     [BLOCK_M, BLOCK_D] in registers.
    Types     float32 throughout.
    Bits      one writer per tile: deterministic.
    """
    tile = tl.program_id(0)
    _, row_begin, _, end = row_tile(offsets, num_images, BLOCK_M)
    if row_begin >= end:
        return
    rows = row_begin + tl.arange(0, BLOCK_M)
    own = tl.load(instance + rows, mask=rows < end, other=-1)
    mass = tl.load(weight + rows, mask=rows < end, other=0.0)
    weighted = load_rows(points, rows, end, D, BLOCK_D) * mass[:, None]
    columns = tl.arange(0, BLOCK_D)
    for edge in tl.static_range(2):
        row = row_begin if edge == 0 else tl.minimum(row_begin + BLOCK_M, end) - 1
        same = own == tl.load(instance + row)
        slot = tile.to(tl.int64) * 2 + edge
        total = tl.sum(tl.where(same[:, None], weighted, 0.0), 0)
        tl.store(edge_sum + slot * D + columns, total, mask=columns < D)
        tl.store(edge_mass + slot, tl.sum(tl.where(same, mass, 0.0), 0))


@triton.jit
def add_tiles(total, mass, edge_sum, edge_mass, first, last, edge, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """`total [BLOCK_D]` and `mass` plus the edge sums of the tiles from `first` to before `last`."""
    columns = tl.arange(0, BLOCK_D)
    for begin in range(first, last, 16):
        tiles = begin + tl.arange(0, 16)
        slots = tiles.to(tl.int64) * 2 + edge
        inside = (tiles < last)[:, None] & (columns < D)[None, :]
        total += tl.sum(tl.load(edge_sum + slots[:, None] * D + columns[None, :], mask=inside, other=0.0), 0)
        mass += tl.sum(tl.load(edge_mass + slots, mask=tiles < last, other=0.0), 0)
    return total, mass


@triton.jit(
    do_not_specialize=["num_rows", "num_images", "num_splits"],
    do_not_specialize_on_alignment=["points", "weight", "offsets"],
)
def loss_finish_kernel(
    points,
    weight,
    instance,
    instance_begin,
    instance_end,
    offsets,
    edge_sum,
    edge_mass,
    partial_hinge,
    partial_grad,
    largest_weight,
    tile_loss,
    grad,
    num_rows,
    num_images,
    num_splits,
    EXPONENT: tl.constexpr,
    D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
    WITH_GRADIENT: tl.constexpr,
):
    """(2) summed over the rows of a tile, and (3).

    Computes  sum_i w_i (hinge_i + W_q - x_i.v_q) / 2  and  w_i (repulsion_i - v_q), q the instance of row i.
    Owns      one row tile of BLOCK_M rows.
    Tiles     [BLOCK_M, BLOCK_D] in registers.
    Types     float32 throughout.
    Bits      splits, tiles and instances are added in order: deterministic.
    """
    tile = tl.program_id(0)
    image, row_begin, begin, end = row_tile(offsets, num_images, BLOCK_M)
    if row_begin >= end:
        return
    rows = row_begin + tl.arange(0, BLOCK_M)
    inside = rows < end
    own = tl.load(instance + rows, mask=inside, other=-1)
    own_weight = tl.load(weight + rows, mask=inside, other=0.0)
    x = load_rows(points, rows, end, D, BLOCK_D)
    weighted = x * own_weight[:, None]
    value = tl.zeros([BLOCK_M], tl.float32)
    slope = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    for split in range(num_splits):
        slot = tl.cast(split, tl.int64) * num_rows
        value += tl.load(partial_hinge + slot + rows, mask=inside, other=0.0)
        if WITH_GRADIENT:
            slope += load_padded(partial_grad + slot * BLOCK_D, rows, end, BLOCK_D)
    if WITH_GRADIENT:
        _, inverse_scale = image_scale(largest_weight, image, EXPONENT)
        slope = slope * inverse_scale
    row_last = tl.minimum(row_begin + BLOCK_M, end) - 1
    first_instance = tl.load(instance + row_begin)
    last_instance = tl.load(instance + row_last)
    own_first = first_tile(offsets, image, BLOCK_M)
    reach_begin = own_first + (tl.load(instance_begin + row_begin) - begin) // BLOCK_M
    reach_end = own_first + (tl.load(instance_end + row_last) - 1 - begin) // BLOCK_M + 1
    for q in range(first_instance, last_instance + 1):
        same = own == q
        centre = tl.sum(tl.where(same[:, None], weighted, 0.0), 0)  # [BLOCK_D]
        mass = tl.sum(tl.where(same, own_weight, 0.0), 0)
        if q == first_instance:
            centre, mass = add_tiles(centre, mass, edge_sum, edge_mass, reach_begin, tile, 1, D, BLOCK_D)
        if q == last_instance:
            centre, mass = add_tiles(centre, mass, edge_sum, edge_mass, tile + 1, reach_end, 0, D, BLOCK_D)
        value += tl.where(same, mass - tl.sum(x * centre[None, :], 1), 0.0)
        if WITH_GRADIENT:
            slope -= tl.where(same[:, None], centre[None, :], 0.0)
    tl.store(tile_loss + tile, tl.sum(value * own_weight, 0) / 2.0)
    if WITH_GRADIENT:
        store_rows(grad, slope * own_weight[:, None], rows, end, D, BLOCK_D)


@triton.jit(do_not_specialize_on_alignment=["offsets"])
def image_loss_kernel(tile_loss, offsets, loss, BLOCK_M: tl.constexpr, BLOCK: tl.constexpr):
    """The loss of each image: the sum over its row tiles, of BLOCK_M rows each.

    Computes  one number.    Owns  one image.    Tiles  [BLOCK] in registers.
    Types     float32.       Bits  tiles are added in order: deterministic.
    """
    image = tl.program_id(0)
    total = tl.zeros([BLOCK], tl.float32)
    first, last = tiles_of_image(offsets, image, BLOCK_M)
    for begin in range(first, last, BLOCK):
        tiles = begin + tl.arange(0, BLOCK)
        total += tl.load(tile_loss + tiles, mask=tiles < last, other=0.0)
    tl.store(loss + image, tl.sum(total, 0))
