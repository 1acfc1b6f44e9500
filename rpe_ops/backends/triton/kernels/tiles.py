"""What the kernels share: loads and stores of rows, products of split operands, exponents, the columns of a program.

Arithmetic of one operator lives in its own file.
"""

from __future__ import annotations

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
LARGEST_FLOAT = tl.constexpr(3.0e38)
# Kernel values are at most 1 but for rounding, which may double them. As operands they are multiplied by 2^14, so that
# the 11 bits of float16 reach down to 2^-28.
SCALE_EXPONENT = tl.constexpr(14.0)
LARGEST_EXPONENT = tl.constexpr(1.0)


@triton.jit
def load_rows(pointer, rows, row_end, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """Rows `[len(rows), BLOCK_D]` of a packed `[T, D]` tensor, 0 outside; 0 alone for no tensor."""
    if pointer is None:
        values = 0
    else:
        columns = tl.arange(0, BLOCK_D)
        inside = (rows < row_end)[:, None]
        if BLOCK_D != D:
            inside = inside & (columns < D)[None, :]
        values = tl.load(pointer + rows.to(tl.int64)[:, None] * D + columns[None, :], mask=inside, other=0.0)
    return values


@triton.jit
def rows_times_rows(a, a_low, b, b_low, total, SPLIT: tl.constexpr, SWAPPED: tl.constexpr = False):
    """`total [M, N]` + a b^T of row operands `[M, K]` and `[N, K]`, the smallest terms first.

    SWAPPED adds them in the order of b a^T, for the same bits from either side.
    """
    if SPLIT:
        if SWAPPED:
            total = tl.dot(a, tl.trans(b_low), total)
        total = tl.dot(a_low, tl.trans(b), total)
        if not SWAPPED:
            total = tl.dot(a, tl.trans(b_low), total)
    return tl.dot(a, tl.trans(b), total)


@triton.jit
def weights_times_rows(weights, b, b_low, total, SPLIT: tl.constexpr):
    """`total [M, K]` + weights b for float32 `weights [M, N]` and row operands `[N, K]`."""
    high = weights.to(b.dtype)
    if SPLIT:
        total = tl.dot((weights - high.to(tl.float32)).to(b.dtype), b, total)
        total = tl.dot(high, b_low, total)
    return tl.dot(high, b, total)


@triton.jit
def store_rows(pointer, values, rows, row_end, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """The inverse of `load_rows`."""
    columns = tl.arange(0, BLOCK_D)
    inside = (rows < row_end)[:, None]
    if BLOCK_D != D:
        inside = inside & (columns < D)[None, :]
    tl.store(pointer + rows.to(tl.int64)[:, None] * D + columns[None, :], values, mask=inside)


@triton.jit
def raise_reference(cosine, bias, allowed, kappa, nearest, level):
    """Exponents `[M, N]` of a tile relative to the largest so far, the factor of older sums, and that largest, a
    reference `(nearest, level)` `[M]`.

    An exponent is (c - nearest) kappa + bias - level: cosines are subtracted before kappa multiplies them, since the
    difference of near cosines is exact. Rows that met no mass yet have nearest and level -inf.
    """
    reach = tl.maximum(nearest, tl.max(tl.where(allowed, cosine, float("-inf")), 1))
    known = tl.where(reach == float("-inf"), 0.0, reach)
    exponent = tl.where(allowed, (cosine - known[:, None]) * kappa + bias, float("-inf"))
    former = tl.where(nearest == float("-inf"), float("-inf"), (nearest - known) * kappa + level)
    top = tl.maximum(former, tl.max(exponent, 1))
    finite = tl.where(top == float("-inf"), 0.0, top)
    return exponent - finite[:, None], tl.exp2(former - finite), reach, top


@triton.jit
def column_range(begin, end, split, num_splits, BLOCK_N: tl.constexpr):
    """First and last column of one split: whole tiles, the same for equal shapes."""
    each = tl.cdiv(tl.cdiv(end - begin, BLOCK_N), num_splits) * BLOCK_N
    first = begin + split * each
    return first, tl.minimum(first + each, end)


@triton.jit
def log2_concentration(kappa_pointer):
    """kappa log2(e), so that exponents are powers of two; finite for every float32 kappa."""
    return tl.minimum(tl.load(kappa_pointer) * LOG2_E, LARGEST_FLOAT)
