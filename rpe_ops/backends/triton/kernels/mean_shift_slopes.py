"""Triton kernels of the work per row around `mean_shift_backward.py`: slopes before it, gradients after it.

Formula numbers are those of `backends/reference/mean_shift.py`. All own row tiles, hold [BLOCK_M, BLOCK_D] in registers
and compute in float32; splits and tiles are added in order, so that bits do not change from run to run.
"""

from __future__ import annotations

import triton
import triton.language as tl

from rpe_ops.backends.triton.kernels.mean_shift import common_reference, split_level
from rpe_ops.backends.triton.kernels.operands import SUM_ROUNDING, image_scale, largest_of, raise_largest
from rpe_ops.backends.triton.kernels.tiles import (
    LOG2_E,
    SCALE_EXPONENT,
    load_padded,
    load_rows,
    log2_concentration,
    row_tile,
    store_rows,
    tiles_of_image,
    unit_rows,
)

# Of shorter Y_i the inverse is no float32: no gradient.
SHORTEST = tl.constexpr(2.0**-126)


@triton.jit(
    do_not_specialize=["num_images"],
    do_not_specialize_on_alignment=[
        "grad_moved",
        "points",
        "mean",
        "log_density",
        "kappa_pointer",
        "eta_pointer",
        "offsets",
    ],
)
def slopes_kernel(
    grad_moved,
    points,
    mean,
    log_density,
    kappa_pointer,
    eta_pointer,
    offsets,
    length,
    largest_length,
    slope,
    factor,
    largest_slope,
    tile_eta,
    tile_zero,
    num_images,
    D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """g of (3), and what turns it into the rows that kernels over pairs multiply.

    Computes  `slope`, g [T, D];  `factor` [T], eta f_i;  `largest_slope` [B], of f_i |h_i|;  `tile_eta` [R], the tile's
              part of dl/deta in (7). For a fused backward, with `length` and `largest_length`, f_i is the inverse of
              row i's density relative to the bound in `blurring_backward_kernel`, 0 for rows of length 0, whose
              P_ij = 1/N has too small a K to divide by, and for rows without mass; `tile_zero` [R, D] sums the h of
              rows of length 0. Else f_i = 1.
    """
    tile = tl.program_id(0)
    image, row, _, end = row_tile(offsets, num_images, BLOCK_M)
    if row >= end:
        tl.store(tile_eta + tile, 0.0)
        return
    rows = row + tl.arange(0, BLOCK_M)
    inside = rows < end
    grad = load_rows(grad_moved, rows, end, D, BLOCK_D)
    x = load_rows(points, rows, end, D, BLOCK_D)
    m = load_rows(mean, rows, end, D, BLOCK_D)
    eta = tl.load(eta_pointer)
    z, size = unit_rows(eta * m + (1.0 - eta) * x)
    known = size >= SHORTEST
    inverse = tl.where(known, 1.0 / tl.where(known, size, 1.0), 0.0)
    g = (grad - tl.sum(grad * z, 1)[:, None] * z) * inverse[:, None]
    store_rows(slope, g, rows, end, D, BLOCK_D)
    tl.store(tile_eta + tile, tl.sum(tl.sum(g * (m - x), 1), 0))
    scale = tl.zeros([BLOCK_M], tl.float32) + eta
    if length is not None:
        zero_row = tl.load(length + rows, mask=inside, other=0.0) == 0.0
        density = tl.load(log_density + rows, mask=inside, other=0.0)
        outside = zero_row | (density == float("-inf"))
        above = largest_of(largest_length, image) * SUM_ROUNDING - 1.0
        level = density * LOG2_E - above * log2_concentration(kappa_pointer)
        scale = tl.where(outside, 0.0, eta * tl.exp2(-level))
        columns = tl.arange(0, BLOCK_D)
        total = tl.sum(tl.where(zero_row[:, None], eta * g, 0.0), 0)
        tl.store(tile_zero + tile.to(tl.int64) * D + columns, total, mask=columns < D)
    tl.store(factor + rows, scale, mask=inside)
    _, steepness = unit_rows(g)  # squares of small gradients would vanish
    raise_largest(largest_slope, image, tl.where(scale == 0.0, 0.0, scale * steepness))


@triton.jit(
    do_not_specialize=["num_rows", "num_images", "num_splits"],
    do_not_specialize_on_alignment=[
        "points",
        "log_density",
        "kappa_pointer",
        "eta_pointer",
        "offsets",
    ],
)
def blurring_finish_kernel(
    points,
    slope,
    log_density,
    partial_points,
    partial_slopes,
    zero_sum,
    largest_slope,
    kappa_pointer,
    eta_pointer,
    offsets,
    grad_points,
    tile_kappa,
    num_rows,
    num_images,
    num_splits,
    EXPONENT: tl.constexpr,
    D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """(5) and (6) from the partial sums of `blurring_backward_kernel`, and (7).

    Computes  (1 - eta) g_i + kappa R_i + C_i, to which each row of length 0 adds h / N (their sum: `zero_sum` [B, D]);
              `tile_kappa` [R], of dl/dkappa = sum_i x_i.R_i, since each sum_j S_ij is 0: half of that of S_ij + S_ji.
    """
    tile = tl.program_id(0)
    image, row, begin, end = row_tile(offsets, num_images, BLOCK_M)
    if row >= end:
        tl.store(tile_kappa + tile, 0.0)
        return
    rows = row + tl.arange(0, BLOCK_M)
    columns = tl.arange(0, BLOCK_D)
    pair_sum = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    slope_sum = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    for split in range(num_splits):
        slot = tl.cast(split, tl.int64) * num_rows * BLOCK_D
        pair_sum += load_padded(partial_points + slot, rows, end, BLOCK_D)
        slope_sum += load_padded(partial_slopes + slot, rows, end, BLOCK_D)
    _, inverse_scale = image_scale(largest_slope, image, EXPONENT)
    pair_sum = pair_sum * 2.0**-SCALE_EXPONENT * inverse_scale
    slope_sum = slope_sum * 2.0**-SCALE_EXPONENT * inverse_scale
    of_zero_rows = tl.load(zero_sum + image * D + columns, mask=columns < D, other=0.0) / (end - begin)
    pull = tl.load(kappa_pointer) * pair_sum + slope_sum + of_zero_rows[None, :]
    g = load_rows(slope, rows, end, D, BLOCK_D)
    staying = tl.load(log_density + rows, mask=rows < end, other=0.0) == float("-inf")
    grad = tl.where(staying[:, None], g, (1.0 - tl.load(eta_pointer)) * g + pull)
    store_rows(grad_points, grad, rows, end, D, BLOCK_D)
    x = load_rows(points, rows, end, D, BLOCK_D)
    tl.store(tile_kappa + tile, tl.sum(tl.sum(x * pair_sum, 1), 0) / 2.0)


@triton.jit(do_not_specialize_on_alignment=["offsets"])
def image_sum_kernel(sums, offsets, total, D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr):
    """`total` [B, D]: the sum of `sums` [R, D] over the row tiles, of BLOCK_M rows each, of the program's image."""
    image = tl.program_id(0)
    columns = tl.arange(0, BLOCK_D)
    first, last = tiles_of_image(offsets, image, BLOCK_M)
    value = tl.zeros([BLOCK_D], tl.float32)
    for tile in range(first, last, BLOCK_M):
        value += tl.sum(load_rows(sums, tile + tl.arange(0, BLOCK_M), last, D, BLOCK_D), 0)
    tl.store(total + image * D + columns, value, mask=columns < D)


@triton.jit(
    do_not_specialize=["num_rows", "num_images", "num_splits"],
    do_not_specialize_on_alignment=[
        "points",
        "mean",
        "log_density",
        "kappa_pointer",
        "eta_pointer",
        "offsets",
    ],
)
def row_finish_kernel(
    points,
    mean,
    slope,
    log_density,
    partial_row_sum,
    partial_slope,
    partial_nearest,
    partial_level,
    partial_density,
    slope_shift,
    largest_slope,
    kappa_pointer,
    eta_pointer,
    offsets,
    nearest,
    level,
    shift,
    grad_points,
    tile_kappa,
    num_rows,
    num_images,
    num_splits,
    EXPONENT: tl.constexpr,
    D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """(5) and (7) from the partial sums of `row_backward_kernel`, and what `column_backward_kernel` has to know.

    Computes  (1 - eta) g_i + kappa R_i;  `tile_kappa` [R], of dl/dkappa = sum_i x_i.R_i;  `nearest` [T], `level` [T],
              infinite without mass: P_ij = 2^(log2(e) (kappa (x_i.y_j - nearest_i) + b_j) - level_i);  `shift` [T],
              e_i and what its rounding left of sum_j S_ij, which is taken out of R_i too.
    """
    tile = tl.program_id(0)
    image, row, _, end = row_tile(offsets, num_images, BLOCK_M)
    if row >= end:
        tl.store(tile_kappa + tile, 0.0)
        return
    rows = row + tl.arange(0, BLOCK_M)
    inside = rows < end
    concentration = log2_concentration(kappa_pointer)
    near, high = common_reference(
        partial_nearest, partial_level, rows, inside, num_rows, num_splits, concentration
    )
    density = tl.zeros([BLOCK_M], tl.float32)
    rest = tl.zeros([BLOCK_M], tl.float32)
    row_sum = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    for split in range(num_splits):
        slot = tl.cast(split, tl.int64) * num_rows
        share = tl.exp2(
            split_level(partial_nearest, partial_level, slot + rows, inside, near, concentration) - high
        )
        density += share * tl.load(partial_density + slot + rows, mask=inside, other=0.0)
        rest += share * tl.load(partial_slope + slot + rows, mask=inside, other=0.0)
        row_sum += share[:, None] * load_padded(partial_row_sum + slot * BLOCK_D, rows, end, BLOCK_D)
    empty = density == 0.0
    known = tl.where(empty, 1.0, density)
    rest = rest / known
    m = load_rows(mean, rows, end, D, BLOCK_D)
    _, inverse_scale = image_scale(largest_slope, image, EXPONENT)
    row_sum = (row_sum / known[:, None] - rest[:, None] * m) * inverse_scale
    tl.store(nearest + rows, near, mask=inside)
    tl.store(level + rows, tl.where(empty, float("inf"), high + tl.log2(known)), mask=inside)
    tl.store(shift + rows, tl.load(slope_shift + rows, mask=inside, other=0.0) + rest, mask=inside)
    g = load_rows(slope, rows, end, D, BLOCK_D)
    staying = tl.load(log_density + rows, mask=inside, other=0.0) == float("-inf")
    moved = (1.0 - tl.load(eta_pointer)) * g + tl.load(kappa_pointer) * row_sum
    store_rows(grad_points, tl.where(staying[:, None], g, moved), rows, end, D, BLOCK_D)
    x = load_rows(points, rows, end, D, BLOCK_D)
    tl.store(tile_kappa + tile, tl.sum(tl.sum(x * row_sum, 1), 0))


@triton.jit(
    do_not_specialize=["num_rows", "num_images", "num_splits"],
    do_not_specialize_on_alignment=["log_weight", "kappa_pointer", "offsets"],
)
def column_finish_kernel(
    partial_slopes,
    partial_points,
    partial_mass,
    log_weight,
    largest_slope,
    kappa_pointer,
    offsets,
    own_gradient,
    grad_sources,
    grad_weight,
    num_rows,
    num_images,
    num_splits,
    EXPONENT: tl.constexpr,
    D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """(6), and (8) as the derivative in the masses, from the partial sums of `column_backward_kernel`.

    Computes  C_j [T, D], 0 for sources without mass, plus `own_gradient` unless that is None;  `grad_weight` [T] unless
              that is None.
    """
    image, row, _, end = row_tile(offsets, num_images, BLOCK_M)
    if row >= end:
        return
    rows = row + tl.arange(0, BLOCK_M)
    inside = rows < end
    slope_sum = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    point_sum = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    mass_sum = tl.zeros([BLOCK_M], tl.float32)
    for split in range(num_splits):
        slot = tl.cast(split, tl.int64) * num_rows
        slope_sum += load_padded(partial_slopes + slot * BLOCK_D, rows, end, BLOCK_D)
        point_sum += load_padded(partial_points + slot * BLOCK_D, rows, end, BLOCK_D)
        mass_sum += tl.load(partial_mass + slot + rows, mask=inside, other=0.0)
    _, inverse_scale = image_scale(largest_slope, image, EXPONENT)
    grad = (slope_sum + tl.load(kappa_pointer) * point_sum) * inverse_scale
    mass_sum = mass_sum * inverse_scale
    if log_weight is not None:
        log_mass = tl.load(log_weight + rows, mask=inside, other=0.0)
        has_mass = log_mass != float("-inf")
        grad = tl.where(has_mass[:, None], grad, 0.0)
        mass_sum = mass_sum * tl.where(has_mass, tl.exp2(-log_mass * LOG2_E), 1.0)
    if own_gradient is not None:
        grad += load_rows(own_gradient, rows, end, D, BLOCK_D)
    store_rows(grad_sources, grad, rows, end, D, BLOCK_D)
    if grad_weight is not None:
        tl.store(grad_weight + rows, mass_sum, mask=inside)


@triton.jit(do_not_specialize=["count"])
def total_kernel(first, second, first_total, second_total, count, BLOCK: tl.constexpr):
    """The sums of two arrays [count], in float64 and in order; one program."""
    a = tl.zeros([BLOCK], tl.float64)
    b = tl.zeros([BLOCK], tl.float64)
    for start in range(0, count, BLOCK):
        places = start + tl.arange(0, BLOCK)
        a += tl.load(first + places, mask=places < count, other=0.0).to(tl.float64)
        b += tl.load(second + places, mask=places < count, other=0.0).to(tl.float64)
    tl.store(first_total, tl.sum(a, 0).to(tl.float32))
    tl.store(second_total, tl.sum(b, 0).to(tl.float32))
