"""Triton kernels of one mean-shift step; formula numbers are those of `backends/reference/mean_shift.py`.

Each program walks a tile of rows over the columns of its image (one split of them) and writes partial sums, which the
second kernel adds up in a fixed order.
"""

from __future__ import annotations

import triton
import triton.language as tl

from rpe_ops.backends.triton.kernels.operands import SUM_ROUNDING, largest_of
from rpe_ops.backends.triton.kernels.tiles import (
    LEAST_DENSITY,
    LOG2_E,
    SCALE_EXPONENT,
    WIDEST_PEELED,
    kernel_values,
    load_padded,
    load_rows,
    load_values,
    log2_concentration,
    raise_reference,
    row_tile,
    rows_times_rows,
    store_padded,
    store_rows,
    tile_start,
    tile_walk,
    unit_rows,
    weights_times_rows,
)


@triton.jit
def forward_tile(
    x,
    x_low,
    sources,
    sources_low,
    excess,
    log_weight,
    kappa,
    start,
    last,
    total,
    density,
    nearest,
    level,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    FIXED_SHIFT: tl.constexpr,
    SPLIT: tl.constexpr,
    MASKED: tl.constexpr,
):
    """One column tile of `mean_shift_forward_kernel`: its sums and their reference, carried on."""
    columns = start + tl.arange(0, BLOCK_N)
    y = load_padded(sources, columns, last, BLOCK_D, MASKED)  # [BLOCK_N, BLOCK_D]
    y_low = load_padded(sources_low, columns, last, BLOCK_D, MASKED)
    zero = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    cosine = rows_times_rows(x, x_low, y, y_low, zero, SPLIT)  # [BLOCK_M, BLOCK_N]
    if FIXED_SHIFT:
        if excess is not None:  # a zero row, nearest 0, is at right angles to rows of every length
            own = tl.where(nearest == 0.0, 0.0, 1.0)
            cosine -= own[:, None] * load_values(excess, columns, last, 0.0, MASKED)[None, :]
        weight = kernel_values(cosine, nearest[:, None], kappa, SPLIT)
        if MASKED:
            weight = tl.where((columns < last)[None, :], weight, 0.0)
    else:
        allowed = columns < last
        bias = tl.zeros([BLOCK_N], tl.float32)
        if log_weight is not None:
            bias = load_values(log_weight, columns, last, float("-inf"), MASKED) * LOG2_E
            allowed = allowed & (bias != float("-inf"))
            bias = tl.where(allowed, bias, 0.0)
        exponent, rescale, nearest, level = raise_reference(
            cosine, bias[None, :], allowed[None, :], kappa, nearest, level
        )
        weight = tl.exp2(exponent) * 2.0**SCALE_EXPONENT
        total = total * rescale[:, None]
        density = density * rescale
    density += tl.sum(weight, 1)
    return weights_times_rows(weight, y, y_low, total, SPLIT), density, nearest, level


@triton.jit(
    do_not_specialize=["num_rows", "num_images", "num_splits"],
    do_not_specialize_on_alignment=["log_weight", "kappa_pointer", "point_offsets", "source_offsets"],
)
def mean_shift_forward_kernel(
    points,
    points_low,
    sources,
    sources_low,
    length,
    largest_length,
    excess,
    log_weight,
    kappa_pointer,
    point_offsets,
    source_offsets,
    list_before,
    list_begin,
    list_columns,
    partial_sum,
    partial_nearest,
    partial_level,
    partial_density,
    num_rows,
    num_images,
    num_splits,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    FIXED_SHIFT: tl.constexpr,
    SPLIT: tl.constexpr,
):
    """(1) and the sums of (2) over one split of the columns.

    Computes  sum_j 2^a_ij y_j  and  sum_j 2^a_ij  with  a_ij = log2(e) (kappa (x_i.y_j - nearest_i) + b_j) - level_i.
    Owns      BLOCK_M rows of one image; program (row tile, split).
    Tiles     x [BLOCK_M, BLOCK_D] in registers for the whole walk, y [BLOCK_N, BLOCK_D] through shared memory.
    Types     loads float16 (SPLIT: in two parts), accumulates and stores float32.
    Bits      one writer per row and split, columns in order: deterministic.

    FIXED_SHIFT (blurring without masses): nearest_i, a bound of x_i.y_j - excess_j that its own cosine nearly reaches,
    comes from the squared lengths of the row and of the image's longest, and level_i = 0: no running maximum is needed.
    Otherwise the largest exponent so far is kept; sums are rescaled when it grows. float32-grade operands have no
    `excess`.
    """
    split = tl.program_id(1)
    image, row, row_begin, row_end = row_tile(point_offsets, num_images, BLOCK_M)
    if row >= row_end:
        return
    rows = row + tl.arange(0, BLOCK_M)
    first, whole, stop, last = tile_walk(
        list_before,
        list_begin,
        list_columns,
        image,
        row - row_begin,
        tl.load(source_offsets + image).to(tl.int32),
        tl.load(source_offsets + image + 1).to(tl.int32),
        split,
        num_splits,
        BLOCK_N,
    )
    x = load_padded(points, rows, row_end, BLOCK_D)  # [BLOCK_M, BLOCK_D]
    x_low = load_padded(points_low, rows, row_end, BLOCK_D)
    kappa = log2_concentration(kappa_pointer)
    total = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    density = tl.zeros([BLOCK_M], tl.float32)
    if FIXED_SHIFT:
        own_length = tl.load(length + rows, mask=rows < row_end, other=0.0)
        bound = (own_length + largest_of(largest_length, image) * SUM_ROUNDING) / 2.0
        nearest = tl.where(own_length == 0.0, 0.0, bound)
        if excess is not None:
            nearest += tl.load(excess + rows, mask=rows < row_end, other=0.0)
        level = tl.zeros([BLOCK_M], tl.float32)
    else:
        nearest = tl.full([BLOCK_M], float("-inf"), tl.float32)
        level = tl.full([BLOCK_M], float("-inf"), tl.float32)
    STEP: tl.constexpr = BLOCK_N if list_begin is None else 1
    if BLOCK_D > WIDEST_PEELED:
        whole = first
    else:
        for place in range(first, whole, STEP):
            total, density, nearest, level = forward_tile(
                x,
                x_low,
                sources,
                sources_low,
                excess,
                log_weight,
                kappa,
                tile_start(list_columns, place, BLOCK_N),
                last,
                total,
                density,
                nearest,
                level,
                BLOCK_M,
                BLOCK_N,
                BLOCK_D,
                FIXED_SHIFT,
                SPLIT,
                False,
            )
    for place in range(whole, stop, STEP):
        total, density, nearest, level = forward_tile(
            x,
            x_low,
            sources,
            sources_low,
            excess,
            log_weight,
            kappa,
            tile_start(list_columns, place, BLOCK_N),
            last,
            total,
            density,
            nearest,
            level,
            BLOCK_M,
            BLOCK_N,
            BLOCK_D,
            FIXED_SHIFT,
            SPLIT,
            True,
        )
    slot = split.to(tl.int64) * num_rows
    store_padded(partial_sum + slot * BLOCK_D, total, rows, row_end, BLOCK_D)
    tl.store(partial_nearest + slot + rows, nearest, mask=rows < row_end)
    tl.store(partial_level + slot + rows, level, mask=rows < row_end)
    tl.store(partial_density + slot + rows, density, mask=rows < row_end)


@triton.jit
def common_reference(partial_nearest, partial_level, rows, inside, num_rows, num_splits, kappa):
    """The reference `(nearest, level)` of all splits of `rows`; (0, 0) for rows without mass."""
    nearest = tl.full(rows.shape, float("-inf"), tl.float32)
    for split in range(num_splits):
        slot = tl.cast(split, tl.int64) * num_rows
        nearest = tl.maximum(
            nearest, tl.load(partial_nearest + slot + rows, mask=inside, other=float("-inf"))
        )
    nearest = tl.where(nearest == float("-inf"), 0.0, nearest)
    level = tl.full(rows.shape, float("-inf"), tl.float32)
    for split in range(num_splits):
        slot = tl.cast(split, tl.int64) * num_rows
        level = tl.maximum(
            level, split_level(partial_nearest, partial_level, slot + rows, inside, nearest, kappa)
        )
    return nearest, tl.where(level == float("-inf"), 0.0, level)


@triton.jit
def split_level(partial_nearest, partial_level, places, inside, nearest, kappa):
    """The level of one split relative to the common `nearest`, -inf where it met no mass."""
    own = tl.load(partial_nearest + places, mask=inside, other=float("-inf"))
    level = tl.load(partial_level + places, mask=inside, other=float("-inf"))
    return tl.where(own == float("-inf"), float("-inf"), (own - nearest) * kappa + level)


@triton.jit(
    do_not_specialize=["num_rows", "num_splits"],
    do_not_specialize_on_alignment=["points", "kappa_pointer", "eta_pointer"],
)
def mean_shift_finish_kernel(
    points,
    partial_sum,
    partial_nearest,
    partial_level,
    partial_density,
    excess,
    kappa_pointer,
    eta_pointer,
    moved,
    mean,
    log_density,
    num_rows,
    num_splits,
    D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """L of (1), M and Z of (2) from the partial sums of all splits.

    Computes  L_i = kappa (nearest_i - 1 - excess_i) + ln 2 (level_i + log2 sum), M_i, Z_i, for the largest of all
              references.
    Owns      BLOCK_M rows.
    Tiles     [BLOCK_M, BLOCK_D] in registers.
    Types     float32 throughout.
    Bits      splits are added in order: deterministic.
    """
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    inside = rows < num_rows
    kappa = log2_concentration(kappa_pointer)
    nearest, level = common_reference(
        partial_nearest, partial_level, rows, inside, num_rows, num_splits, kappa
    )
    density = tl.zeros([BLOCK_M], tl.float32)
    total = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    for split in range(num_splits):
        slot = tl.cast(split, tl.int64) * num_rows
        scale = tl.exp2(
            split_level(partial_nearest, partial_level, slot + rows, inside, nearest, kappa) - level
        )
        density += scale * tl.load(partial_density + slot + rows, mask=inside, other=0.0)
        total += scale[:, None] * load_padded(partial_sum + slot * BLOCK_D, rows, num_rows, BLOCK_D)
    x = load_rows(points, rows, num_rows, D, BLOCK_D)
    empty = density < LEAST_DENSITY  # an image without mass: its rows stay
    known = tl.where(empty, 1.0, density)
    m = tl.where(empty[:, None], x, total / known[:, None])
    eta = tl.load(eta_pointer)
    z, _ = unit_rows(eta * m + (1.0 - eta) * x)
    store_rows(moved, z, rows, num_rows, D, BLOCK_D)
    store_rows(mean, m, rows, num_rows, D, BLOCK_D)
    if excess is not None:
        nearest -= tl.load(excess + rows, mask=inside, other=0.0)
    value = ((nearest - 1.0) * kappa + (level + tl.log2(known) - SCALE_EXPONENT)) / LOG2_E
    tl.store(log_density + rows, tl.where(empty, float("-inf"), value), mask=inside)
