"""What the kernels share: loads and stores of rows, products of split operands, exponents, the columns of a program.

Arithmetic of one operator lives in its own file.
"""

from __future__ import annotations

import triton
import triton.language as tl

from rpe_ops.backends import tile_bounds

LOG2_E = tl.constexpr(1.4426950408889634)
LARGEST_FLOAT = tl.constexpr(3.0e38)
# Kernel values are at most 1. As operands they are multiplied by 2^7, so that the 11 bits of float16 reach down to
# 2^-21, and the last of them to 2^-31.
SCALE_EXPONENT = tl.constexpr(7.0)
# Where a fixed shift leaves a row less than this of its scaled density, kappa is so large that rounding alone decides
# between neighbours, and weights have fallen out of float16: the row stays, as one without mass does.
LEAST_DENSITY = tl.constexpr(2.0**-14)
# Rows of a chunk of `TileList`.
LIST_CHUNK = tl.constexpr(tile_bounds.CHUNK)
# Up to this BLOCK_D the last, partial tile of columns has a loop of its own, and the others need no mask. Wider rows
# leave no registers for two loops.
WIDEST_PEELED = tl.constexpr(64)


@triton.jit
def first_tile(offsets, image, BLOCK_M: tl.constexpr):
    """The number of an image's first row tile. Up to the next image's there are as many as it has, or one more."""
    return tl.load(offsets + image).to(tl.int32) // BLOCK_M + image


@triton.jit
def tiles_of_image(offsets, image, BLOCK_M: tl.constexpr):
    """The first of an image's row tiles that have rows, and the one after the last."""
    first = first_tile(offsets, image, BLOCK_M)
    count = (tl.load(offsets + image + 1) - tl.load(offsets + image)).to(tl.int32)
    return first, first + tl.cdiv(count, BLOCK_M)


@triton.jit
def row_tile(offsets, num_images, BLOCK_M: tl.constexpr):
    """The row tile of program (tile, ...): its image, its first row, and where the image begins and ends.

    Tiles never cross an image. One without rows, of those that `shapes.num_row_tiles` counts too many, begins at or
    after the end.
    """
    tile = tl.program_id(0)
    image = tile * 0
    above = image + num_images
    while above - image > 1:
        middle = (image + above) // 2
        later = first_tile(offsets, middle, BLOCK_M) <= tile
        image = tl.where(later, middle, image)
        above = tl.where(later, above, middle)
    begin = tl.load(offsets + image).to(tl.int32)
    end = tl.load(offsets + image + 1).to(tl.int32)
    return image, begin + (tile - first_tile(offsets, image, BLOCK_M)) * BLOCK_M, begin, end


@triton.jit
def load_padded(pointer, rows, row_end, BLOCK_D: tl.constexpr, MASKED: tl.constexpr = True):
    """Rows `[len(rows), BLOCK_D]` of an operand or of sums `[T, BLOCK_D]`, 0 outside; 0 alone for no tensor.

    Not MASKED: all rows are inside.
    """
    if pointer is None:
        values = 0
    else:
        places = pointer + rows.to(tl.int64)[:, None] * BLOCK_D + tl.arange(0, BLOCK_D)[None, :]
        if MASKED:
            values = tl.load(places, mask=(rows < row_end)[:, None], other=0.0)
        else:
            values = tl.load(places)
    return values


@triton.jit
def store_padded(pointer, values, rows, row_end, BLOCK_D: tl.constexpr):
    """The inverse of `load_padded`."""
    places = pointer + rows.to(tl.int64)[:, None] * BLOCK_D + tl.arange(0, BLOCK_D)[None, :]
    tl.store(places, values, mask=(rows < row_end)[:, None])


@triton.jit
def load_rows(pointer, rows, row_end, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """Rows `[len(rows), BLOCK_D]` of a packed `[T, D]` tensor, 0 outside."""
    columns = tl.arange(0, BLOCK_D)
    places = pointer + rows.to(tl.int64)[:, None] * D + columns[None, :]
    return tl.load(places, mask=(rows < row_end)[:, None] & (columns < D)[None, :], other=0.0)


@triton.jit
def store_rows(pointer, values, rows, row_end, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """The inverse of `load_rows`."""
    columns = tl.arange(0, BLOCK_D)
    inside = (rows < row_end)[:, None] & (columns < D)[None, :]
    tl.store(pointer + rows.to(tl.int64)[:, None] * D + columns[None, :], values, mask=inside)


@triton.jit
def load_values(pointer, rows, row_end, other, MASKED: tl.constexpr):
    """One value per row, `other` outside. Not MASKED: all rows are inside."""
    if MASKED:
        values = tl.load(pointer + rows, mask=rows < row_end, other=other)
    else:
        values = tl.load(pointer + rows)
    return values


@triton.jit
def unit_rows(values):
    """Rows `[M, K]` divided by their lengths, and the lengths `[M]`; zero rows stay zero."""
    largest = tl.max(tl.abs(values), 1)
    near = values / tl.where(largest == 0.0, 1.0, largest)[:, None]  # no square of it overflows or vanishes
    length = tl.sqrt(tl.sum(near * near, 1))
    return near / tl.where(length == 0.0, 1.0, length)[:, None], largest * length


@triton.jit
def kernel_values(cosine, largest, kappa, SPLIT: tl.constexpr):
    """2^((c - largest) kappa), times 2^SCALE_EXPONENT; `largest` broadcasts against `cosine [M, N]`.

    float32-grade operands earn the exact difference of near cosines; with half ones a single instruction serves.
    """
    if SPLIT:
        values = tl.exp2((cosine - largest) * kappa) * 2.0**SCALE_EXPONENT
    else:
        values = tl.exp2(tl.fma(cosine, kappa, SCALE_EXPONENT - largest * kappa))
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
    """`total [M, K]` + weights b for float32 `weights [M, N]` and row operands `[N, K]`.

    Tensor cores cut off what does not fit a sum: float32-grade sums of a tile begin anew and are added outside of them.
    """
    high = weights.to(b.dtype)
    if SPLIT:
        part = tl.dot((weights - high.to(tl.float32)).to(b.dtype), b)
        part = tl.dot(high, b_low, part)
        total += tl.dot(high, b, part)
    else:
        total = tl.dot(high, b, total)
    return total


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
def share_of_split(count, split, num_splits):
    """First and last of `count` things that one split does."""
    each = tl.cdiv(count, num_splits)
    return tl.minimum(split * each, count), tl.minimum((split + 1) * each, count)


@triton.jit
def tile_walk(
    list_before,
    list_begin,
    list_columns,
    image,
    row,
    begin,
    end,
    split,
    num_splits,
    BLOCK_N: tl.constexpr,
):
    """The column tiles of one split: places first, whole and stop, and the last column for masks.

    From whole to stop a tile may be partial. Without a list places are columns, a tile at every BLOCK_N of them. With
    one (`TileList`; `row` counts from its image's first) places are tiles of the listed chunks, one after the other.
    """
    if list_begin is None:
        first, last = column_range(begin, end, split, num_splits, BLOCK_N)
        whole = first + (last - first) // BLOCK_N * BLOCK_N
        stop = last
    else:
        TILES: tl.constexpr = LIST_CHUNK // BLOCK_N
        chunk = list_begin + tl.load(list_before + image) + row // LIST_CHUNK
        own = tl.load(chunk)
        low, high = share_of_split(tl.load(chunk + 1) - own, split, num_splits)
        first = (own + low) * TILES
        rising = own + high - 1  # the last one, in which the image may end
        room = end - tl.load(list_columns + rising, mask=high > low, other=0)
        whole = tl.where(high > low, rising * TILES + tl.minimum(room // BLOCK_N, TILES), first)
        stop = tl.where(high > low, rising * TILES + tl.minimum(tl.cdiv(room, BLOCK_N), TILES), first)
        last = end
    return first, whole, stop, last


@triton.jit
def tile_start(list_columns, place, BLOCK_N: tl.constexpr):
    """The first column of the tile at a place of `tile_walk`."""
    if list_columns is None:
        start = place
    else:
        TILES: tl.constexpr = LIST_CHUNK // BLOCK_N
        chunk = place // TILES
        start = tl.load(list_columns + chunk) + (place - chunk * TILES) * BLOCK_N
    return start


@triton.jit
def log2_concentration(kappa_pointer):
    """kappa log2(e), so that exponents are powers of two; finite for every float32 kappa."""
    return tl.minimum(tl.load(kappa_pointer) * LOG2_E, LARGEST_FLOAT)
