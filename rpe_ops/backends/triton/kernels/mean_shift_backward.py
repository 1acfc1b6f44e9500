"""Triton kernels of the backward of one mean-shift step; formula numbers as in `backends/reference/mean_shift.py`.

Gathers only: a program owns the rows it writes and walks over their partners in order. h and what derives from it come
scaled by a power of two per image that suits float16.
"""

from __future__ import annotations

import triton
import triton.language as tl

from rpe_ops.backends.triton.kernels.operands import SUM_ROUNDING, largest_of
from rpe_ops.backends.triton.kernels.tiles import (
    LOG2_E,
    SCALE_EXPONENT,
    WIDEST_PEELED,
    kernel_values,
    load_padded,
    load_values,
    log2_concentration,
    raise_reference,
    row_tile,
    rows_times_rows,
    store_padded,
    tile_start,
    tile_walk,
    weights_times_rows,
)


@triton.jit
def blurring_tile(
    x_i,
    x_i_low,
    u_i,
    u_i_low,
    v_i,
    largest,
    excess,
    points,
    points_low,
    slope_rows,
    slope_rows_low,
    slope_shift,
    kappa,
    start,
    last,
    sum_points,
    sum_slopes,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    SPLIT: tl.constexpr,
    MASKED: tl.constexpr,
):
    """One column tile of `blurring_backward_kernel`: its sums, carried on."""
    columns = start + tl.arange(0, BLOCK_N)
    x_j = load_padded(points, columns, last, BLOCK_D, MASKED)  # [BLOCK_N, BLOCK_D]
    x_j_low = load_padded(points_low, columns, last, BLOCK_D, MASKED)
    u_j = load_padded(slope_rows, columns, last, BLOCK_D, MASKED)
    u_j_low = load_padded(slope_rows_low, columns, last, BLOCK_D, MASKED)
    v_j = load_values(slope_shift, columns, last, 0.0, MASKED)
    zero = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    cosine = zero
    if excess is not None:  # a sum begun with it takes fewer registers than a difference
        cosine -= load_values(excess, columns, last, 0.0, MASKED)[None, :]
    cosine = rows_times_rows(x_i, x_i_low, x_j, x_j_low, cosine, SPLIT)  # [BLOCK_M, BLOCK_N]
    kernel = kernel_values(cosine, largest[:, None], kappa, SPLIT)
    if MASKED:
        kernel = tl.where((columns < last)[None, :], kernel, 0.0)
    shift = -v_i[:, None] - v_j[None, :]
    slope = zero if SPLIT else shift
    slope = rows_times_rows(u_i, u_i_low, x_j, x_j_low, slope, SPLIT)
    slope = rows_times_rows(x_i, x_i_low, u_j, u_j_low, slope, SPLIT)
    if SPLIT:  # near sums before their difference: its rounding is what kappa multiplies
        slope += shift
    slope = kernel * slope
    sum_points = weights_times_rows(slope, x_j, x_j_low, sum_points, SPLIT)
    return sum_points, weights_times_rows(kernel, u_j, u_j_low, sum_slopes, SPLIT)


@triton.jit(
    do_not_specialize=["num_rows", "num_images", "num_splits"],
    do_not_specialize_on_alignment=["kappa_pointer", "offsets"],
)
def blurring_backward_kernel(
    points,
    points_low,
    slope_rows,
    slope_rows_low,
    slope_shift,
    largest_length,
    excess,
    kappa_pointer,
    offsets,
    list_before,
    list_begin,
    list_columns,
    partial_points,
    partial_slopes,
    num_rows,
    num_images,
    num_splits,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    SPLIT: tl.constexpr,
):
    """(5) and (6) together, for points that are their own sources and have no masses.

    With K_ij = exp(kappa (x_i.x_j - excess_j - largest_i)), P_ij = K_ij f_i, u_i = f_i h_i (`slope_rows`),
    v_i = f_i e_i (`slope_shift`), and largest_i the image's `largest_length`, a squared one, plus excess_i, so that K
    is symmetric; float32-grade operands have no `excess`:
    Computes  sum_j T_ij x_j  and  sum_j K_ij u_j  with  T_ij = S_ij + S_ji = K_ij (u_i.x_j + x_i.u_j - v_i - v_j), both
              times 2^SCALE_EXPONENT.
    Owns      BLOCK_M rows of one image; program (row tile, split). One exponential per pair serves both directions.
    Tiles     x_i, u_i [BLOCK_M, BLOCK_D] in registers, x_j, u_j [BLOCK_N, BLOCK_D] through shared memory.
    Types     loads float16 (SPLIT: in two parts), accumulates and stores float32.
    Bits      one writer per row and split, columns in order: deterministic.
    """
    split = tl.program_id(1)
    image, row, row_begin, row_end = row_tile(offsets, num_images, BLOCK_M)
    if row >= row_end:
        return
    rows = row + tl.arange(0, BLOCK_M)
    first, whole, stop, last = tile_walk(
        list_before,
        list_begin,
        list_columns,
        image,
        row - row_begin,
        row_begin,
        row_end,
        split,
        num_splits,
        BLOCK_N,
    )
    x_i = load_padded(points, rows, row_end, BLOCK_D)  # [BLOCK_M, BLOCK_D]
    x_i_low = load_padded(points_low, rows, row_end, BLOCK_D)
    u_i = load_padded(slope_rows, rows, row_end, BLOCK_D)
    u_i_low = load_padded(slope_rows_low, rows, row_end, BLOCK_D)
    v_i = tl.load(slope_shift + rows, mask=rows < row_end, other=0.0)
    largest = tl.zeros([BLOCK_M], tl.float32) + largest_of(largest_length, image) * SUM_ROUNDING
    if excess is not None:
        largest += tl.load(excess + rows, mask=rows < row_end, other=0.0)
    kappa = log2_concentration(kappa_pointer)
    sum_points = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    sum_slopes = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    STEP: tl.constexpr = BLOCK_N if list_begin is None else 1
    if BLOCK_D > WIDEST_PEELED:
        whole = first
    else:
        for place in range(first, whole, STEP):
            sum_points, sum_slopes = blurring_tile(
                x_i,
                x_i_low,
                u_i,
                u_i_low,
                v_i,
                largest,
                excess,
                points,
                points_low,
                slope_rows,
                slope_rows_low,
                slope_shift,
                kappa,
                tile_start(list_columns, place, BLOCK_N),
                last,
                sum_points,
                sum_slopes,
                BLOCK_M,
                BLOCK_N,
                BLOCK_D,
                SPLIT,
                False,
            )
    for place in range(whole, stop, STEP):
        sum_points, sum_slopes = blurring_tile(
            x_i,
            x_i_low,
            u_i,
            u_i_low,
            v_i,
            largest,
            excess,
            points,
            points_low,
            slope_rows,
            slope_rows_low,
            slope_shift,
            kappa,
            tile_start(list_columns, place, BLOCK_N),
            last,
            sum_points,
            sum_slopes,
            BLOCK_M,
            BLOCK_N,
            BLOCK_D,
            SPLIT,
            True,
        )
    slot = split.to(tl.int64) * num_rows * BLOCK_D
    store_padded(partial_points + slot, sum_points, rows, row_end, BLOCK_D)
    store_padded(partial_slopes + slot, sum_slopes, rows, row_end, BLOCK_D)


@triton.jit(
    do_not_specialize=["num_rows", "num_images", "num_splits"],
    do_not_specialize_on_alignment=["log_weight", "kappa_pointer", "point_offsets", "source_offsets"],
)
def row_backward_kernel(
    points,
    points_low,
    sources,
    sources_low,
    log_weight,
    slope_rows,
    slope_rows_low,
    slope_shift,
    kappa_pointer,
    point_offsets,
    source_offsets,
    list_before,
    list_begin,
    list_columns,
    partial_row_sum,
    partial_slope,
    partial_nearest,
    partial_level,
    partial_density,
    num_rows,
    num_images,
    num_splits,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    SPLIT: tl.constexpr,
):
    """R of (5) over one split of the sources, before the division by the density.

    Computes  sum_j S_ij y_j, sum_j S_ij  and  sum_j P_ij  with  S_ij = P_ij (h_i.y_j - e_i); h is `slope_rows`, e is
              `slope_shift`. P is relative to the largest exponent so far, as in the forward: kappa magnifies
              rounding, and dividing by a sum of the same terms takes it out.
    Owns      BLOCK_M moving points of one image; program (row tile, split).
    Tiles     x, h [BLOCK_M, BLOCK_D] in registers, y [BLOCK_N, BLOCK_D] through shared memory.
    Types     loads float16 (SPLIT: in two parts), accumulates and stores float32.
    Bits      one writer per row and split, columns in order: deterministic.
    """
    split = tl.program_id(1)
    image, row, row_begin, row_end = row_tile(point_offsets, num_images, BLOCK_M)
    if row >= row_end:
        return
    rows = row + tl.arange(0, BLOCK_M)
    first, _, stop, last = tile_walk(
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
    x = load_padded(points, rows, row_end, BLOCK_D)
    x_low = load_padded(points_low, rows, row_end, BLOCK_D)
    h = load_padded(slope_rows, rows, row_end, BLOCK_D)
    h_low = load_padded(slope_rows_low, rows, row_end, BLOCK_D)
    e = tl.load(slope_shift + rows, mask=rows < row_end, other=0.0)
    kappa = log2_concentration(kappa_pointer)
    nearest = tl.full([BLOCK_M], float("-inf"), tl.float32)
    level = tl.full([BLOCK_M], float("-inf"), tl.float32)
    density = tl.zeros([BLOCK_M], tl.float32)
    slope_sum = tl.zeros([BLOCK_M], tl.float32)
    row_sum = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    STEP: tl.constexpr = BLOCK_N if list_begin is None else 1
    for place in range(first, stop, STEP):
        columns = tile_start(list_columns, place, BLOCK_N) + tl.arange(0, BLOCK_N)
        inside = columns < last
        y = load_padded(sources, columns, last, BLOCK_D)
        y_low = load_padded(sources_low, columns, last, BLOCK_D)
        zero = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
        cosine = rows_times_rows(x, x_low, y, y_low, zero, SPLIT)
        bias = tl.zeros([BLOCK_N], tl.float32)
        if log_weight is not None:
            bias = tl.load(log_weight + columns, mask=inside, other=float("-inf")) * LOG2_E
        allowed = (inside & (bias != float("-inf")))[None, :]
        bias = tl.where(inside & (bias != float("-inf")), bias, 0.0)[None, :]
        exponent, rescale, nearest, level = raise_reference(cosine, bias, allowed, kappa, nearest, level)
        probability = tl.exp2(exponent)
        slope = probability * (rows_times_rows(h, h_low, y, y_low, zero, SPLIT) - e[:, None])
        density = density * rescale + tl.sum(probability, 1)
        slope_sum = slope_sum * rescale + tl.sum(slope, 1)
        row_sum = weights_times_rows(slope, y, y_low, row_sum * rescale[:, None], SPLIT)
    slot = split.to(tl.int64) * num_rows
    store_padded(partial_row_sum + slot * BLOCK_D, row_sum, rows, row_end, BLOCK_D)
    inside = rows < row_end
    tl.store(partial_slope + slot + rows, slope_sum, mask=inside)
    tl.store(partial_nearest + slot + rows, nearest, mask=inside)
    tl.store(partial_level + slot + rows, level, mask=inside)
    tl.store(partial_density + slot + rows, density, mask=inside)


@triton.jit(
    do_not_specialize=["num_columns", "num_images", "num_splits"],
    do_not_specialize_on_alignment=["log_weight", "kappa_pointer", "point_offsets", "source_offsets"],
)
def column_backward_kernel(
    points,
    points_low,
    sources,
    sources_low,
    log_weight,
    slope_rows,
    slope_rows_low,
    slope_shift,
    nearest,
    level,
    kappa_pointer,
    point_offsets,
    source_offsets,
    list_before,
    list_begin,
    list_columns,
    partial_slopes,
    partial_points,
    partial_mass,
    num_columns,
    num_images,
    num_splits,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    SPLIT: tl.constexpr,
):
    """C of (6) and the sums of (8) over one split of the moving points.

    Computes  sum_i P_ij h_i,  sum_i S_ij x_i  and  sum_i S_ij; for sources of mass 0 the last is the derivative in the
              mass itself, and the first two mean nothing.
    Owns      BLOCK_M sources j of one image; program (source tile, split). The moving points i are its partners.
    Tiles     y [BLOCK_M, BLOCK_D] in registers, x, h [BLOCK_N, BLOCK_D] through shared memory.
    Types     loads float16 (SPLIT: in two parts), accumulates and stores float32.
    Bits      one writer per source and split, partners in order: deterministic.
    """
    split = tl.program_id(1)
    image, column, column_begin, column_end = row_tile(source_offsets, num_images, BLOCK_M)
    if column >= column_end:
        return
    columns = column + tl.arange(0, BLOCK_M)
    first, _, stop, last = tile_walk(
        list_before,
        list_begin,
        list_columns,
        image,
        column - column_begin,
        tl.load(point_offsets + image).to(tl.int32),
        tl.load(point_offsets + image + 1).to(tl.int32),
        split,
        num_splits,
        BLOCK_N,
    )
    y = load_padded(sources, columns, column_end, BLOCK_D)
    y_low = load_padded(sources_low, columns, column_end, BLOCK_D)
    bias = tl.zeros([BLOCK_M], tl.float32)
    ceiling = tl.zeros([BLOCK_M], tl.float32)
    if log_weight is not None:
        bias = tl.load(log_weight + columns, mask=columns < column_end, other=0.0) * LOG2_E
        massless = bias == float("-inf")
        bias = tl.where(massless, 0.0, bias)
        # without its mass a source may outweigh all that have one; beyond this its square would overflow
        ceiling = tl.where(massless, 60.0, 0.0)
    kappa = log2_concentration(kappa_pointer)
    sum_slopes = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    sum_points = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    sum_mass = tl.zeros([BLOCK_M], tl.float32)
    STEP: tl.constexpr = BLOCK_N if list_begin is None else 1
    for place in range(first, stop, STEP):
        rows = tile_start(list_columns, place, BLOCK_N) + tl.arange(0, BLOCK_N)
        inside = rows < last
        x = load_padded(points, rows, last, BLOCK_D)
        x_low = load_padded(points_low, rows, last, BLOCK_D)
        h = load_padded(slope_rows, rows, last, BLOCK_D)
        h_low = load_padded(slope_rows_low, rows, last, BLOCK_D)
        e = tl.load(slope_shift + rows, mask=inside, other=0.0)
        nearest_i = tl.load(nearest + rows, mask=inside, other=0.0)
        level_i = tl.load(level + rows, mask=inside, other=float("inf"))  # infinite where there is no mass
        zero = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
        cosine = rows_times_rows(y, y_low, x, x_low, zero, SPLIT, SWAPPED=True)
        exponent = (cosine - nearest_i[None, :]) * kappa + bias[:, None]
        probability = tl.exp2(tl.minimum(exponent - level_i[None, :], ceiling[:, None]))  # P_ij, transposed
        slope = probability * (rows_times_rows(y, y_low, h, h_low, zero, SPLIT, SWAPPED=True) - e[None, :])
        sum_mass += tl.sum(slope, 1)
        sum_points = weights_times_rows(slope, x, x_low, sum_points, SPLIT)
        sum_slopes = weights_times_rows(probability * 2.0**SCALE_EXPONENT, h, h_low, sum_slopes, SPLIT)
    sum_slopes = sum_slopes * 2.0**-SCALE_EXPONENT
    slot = split.to(tl.int64) * num_columns
    store_padded(partial_slopes + slot * BLOCK_D, sum_slopes, columns, column_end, BLOCK_D)
    store_padded(partial_points + slot * BLOCK_D, sum_points, columns, column_end, BLOCK_D)
    tl.store(partial_mass + slot + columns, sum_mass, mask=columns < column_end)
