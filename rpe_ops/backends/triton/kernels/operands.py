"""Triton kernels that turn float32 rows into operands of the tensor cores, and largest values of images.

A largest value is kept as the bits of a float that is not negative, which order as integers do: maxima of integers are
the same in whatever order they are taken, so that one atomic for each row tile costs no determinism.
"""

from __future__ import annotations

import triton
import triton.language as tl

from rpe_ops.backends.triton.kernels.tiles import (
    LARGEST_FLOAT,
    load_rows,
    row_tile,
    store_padded,
)

# What rounding to float16 or bfloat16 may do to the squared length of a unit row.
HALF_ROUNDING = tl.constexpr(2.0**-6)
# float32 sums of up to 256 products err by less than this factor.
SUM_ROUNDING = tl.constexpr(1.0 + 2.0**-20)


@triton.jit
def raise_largest(largest, image, values):
    """The largest of the non-negative `values` becomes that of the image where it is larger."""
    bits = tl.max(values.to(tl.int32, bitcast=True), 0)
    tl.atomic_max(largest + image, bits, sem="relaxed")


@triton.jit
def largest_of(largest, image):
    """The largest value of an image."""
    return tl.load(largest + image).to(tl.float32, bitcast=True)


@triton.jit
def image_scale(largest, image, EXPONENT: tl.constexpr):
    """A power of two that takes the largest value of an image below 2^EXPONENT, to at least half of that, and its
    inverse; 1 for 0. Both are normal numbers, short of which the smallest and largest values stay; neither rounds.
    """
    bits = tl.load(largest + image)
    power = tl.minimum(tl.maximum(EXPONENT + 126 - (bits >> 23), -120), 120)
    power = tl.where(bits > 0, power, 0)
    scale = ((127 + power) << 23).to(tl.float32, bitcast=True)
    inverse = ((127 - power) << 23).to(tl.float32, bitcast=True)
    return scale, inverse


@triton.jit
def store_operand(values, high, low, rows, end, BLOCK_D: tl.constexpr):
    """Store float32 `values` as float16 and, if `low` is there, what that leaves; returns the rows they stand for."""
    first = values.to(tl.float16)
    store_padded(high, first, rows, end, BLOCK_D)
    rounded = first.to(tl.float32)
    if low is not None:
        rest = (values - rounded).to(tl.float16)
        store_padded(low, rest, rows, end, BLOCK_D)
        rounded += rest.to(tl.float32)
    return rounded


@triton.jit(
    do_not_specialize=["num_images"],
    do_not_specialize_on_alignment=["values", "log_weight", "weight", "kappa_pointer", "offsets"],
)
def operands_kernel(
    values,
    log_weight,
    weight,
    kappa_pointer,
    offsets,
    high,
    low,
    length,
    excess,
    bias,
    largest,
    num_images,
    D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Rows as operands, and what a step needs to know of their lengths; outputs that are None are not wanted.

    Computes  `high`, `low` [T, BLOCK_D];  `length` [T], the squared lengths of the rows, 0 where the operands are;
              `excess` [T], half of what rounding added to them;  `bias` [T], -kappa excess + `log_weight`;  `largest`
              [B], of the images' lengths or, where there is one, of `weight` [T].
    Owns      one row tile.
    Tiles     [BLOCK_M, BLOCK_D] in registers.
    Types     loads float32, stores float16 and float32.
    Bits      one writer per row, maxima of integers: deterministic.

    exp(kappa x_i.y_j) of rounded rows is off by the rounding of their lengths too, which kappa magnifies. Cosines are
    therefore x_i.y_j - excess_i - excess_j, in which lengths are the rows' own. A unit row that came rounded to a half
    type is a unit row. float32-grade operands have no excess: theirs is below the rounding of the correction.
    """
    image, row, _, end = row_tile(offsets, num_images, BLOCK_M)
    if row >= end:
        return
    rows = row + tl.arange(0, BLOCK_M)
    inside = rows < end
    x = load_rows(values, rows, end, D, BLOCK_D)
    rounded = store_operand(x, high, low, rows, end, BLOCK_D)
    squared = tl.sum(rounded * rounded, 1)
    exact = squared
    if low is None:
        exact = tl.sum(x * x, 1)
        exact = tl.where(tl.abs(exact - 1.0) < HALF_ROUNDING, 1.0, exact)
        exact = tl.where(squared == 0.0, 0.0, exact)
        surplus = (squared - exact) / 2.0
        if excess is not None:
            tl.store(excess + rows, surplus, mask=inside)
        if bias is not None:
            correction = -tl.load(kappa_pointer) * surplus
            correction = tl.minimum(tl.maximum(correction, -LARGEST_FLOAT), LARGEST_FLOAT)
            if log_weight is not None:
                correction += tl.load(log_weight + rows, mask=inside, other=0.0)
            tl.store(bias + rows, correction, mask=inside)
    if length is not None:
        tl.store(length + rows, exact, mask=inside)
    if largest is not None:
        measured = exact
        if weight is not None:
            measured = tl.load(weight + rows, mask=inside, other=0.0)
        raise_largest(largest, image, measured)


@triton.jit(
    do_not_specialize=["num_images"],
    do_not_specialize_on_alignment=["values", "factor", "partner", "offsets"],
)
def scaled_operands_kernel(
    values,
    factor,
    partner,
    largest,
    offsets,
    high,
    low,
    product,
    num_images,
    EXPONENT: tl.constexpr,
    D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Rows times factors as operands, in the scale of their image, and their products with other rows.

    Computes  `high`, `low` [T, BLOCK_D] of `image_scale` factor_i values_i, for the images' `largest` factor_i
              |values_i|;  unless `partner` is None, `product` [T], of what they stand for with the partners: rounded as
              they are, since kappa multiplies what the difference with other such products leaves.
    Owns      one row tile.
    Tiles     [BLOCK_M, BLOCK_D] in registers.
    Types     loads float32, stores float16 and float32.
    Bits      one writer per row: deterministic.
    """
    image, row, _, end = row_tile(offsets, num_images, BLOCK_M)
    if row >= end:
        return
    rows = row + tl.arange(0, BLOCK_M)
    inside = rows < end
    scale, _ = image_scale(largest, image, EXPONENT)
    scaled = load_rows(values, rows, end, D, BLOCK_D)
    scaled = scaled * (tl.load(factor + rows, mask=inside, other=0.0) * scale)[:, None]
    rounded = store_operand(scaled, high, low, rows, end, BLOCK_D)
    if partner is not None:
        other = load_rows(partner, rows, end, D, BLOCK_D)
        tl.store(product + rows, tl.sum(rounded * other, 1), mask=inside)
