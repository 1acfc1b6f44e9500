"""One mean-shift step in Triton: operands, tiles and splits are chosen here, the pairs done by the kernels.

Formula numbers are those of `backends/reference/mean_shift.py`. Work per row, O(N D), is plain PyTorch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rpe_ops.backends.images import image_maximum, image_of_rows
from rpe_ops.backends.rows import row_gradients
from rpe_ops.backends.tile_list import NearTiles, near_tiles
from rpe_ops.backends.triton.kernels.mean_shift import mean_shift_finish_kernel, mean_shift_forward_kernel
from rpe_ops.backends.triton.kernels.mean_shift_backward import (
    blurring_backward_kernel,
    column_backward_kernel,
    image_sum_kernel,
    row_backward_kernel,
    tile_sum_kernel,
)
from rpe_ops.backends.triton.kernels.tiles import LARGEST_FLOAT, LOG2_E, SCALE_EXPONENT
from rpe_ops.backends.triton.launching import Operands, launch, list_arguments, operands
from rpe_ops.backends.triton.shapes import (
    block_dim,
    fused_backward,
    num_splits,
    pair_constants,
    row_shape,
    row_tiles,
    tile_shape,
)

# float32 sums of up to 256 products err by less than this factor.
_ROUNDING = 1.0 + 2.0**-20
# What rounding to float16 or bfloat16 may do to the squared length of a unit row.
_HALF_ROUNDING = 2.0**-6
# Rows h are scaled to lengths up to this. A slope is at most four times as long, and float16 ends at 65,504.
_LONGEST_SLOPE = 2.0**12


def forward(
    points: Tensor,
    sources: Tensor | None,
    log_weight: Tensor | None,
    kappa: Tensor,
    eta: Tensor,
    point_offsets: Tensor,
    source_offsets: Tensor,
    half: bool,
    tol: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Z, M and L; arguments and results as in the reference."""
    num_points, dim = points.shape
    moved, mean = torch.empty_like(points), torch.empty_like(points)
    log_density = points.new_empty(num_points)
    if num_points == 0:
        return moved, mean, log_density
    x = operands(points, half)
    y = x if sources is None else operands(sources, half)
    partners = points if sources is None else sources
    near = near_tiles(points, sources, log_weight, kappa, point_offsets, source_offsets, tol)
    shape = tile_shape("mean_shift_forward", dim, half, points.device, listed=near is not None)
    tiles = row_tiles(point_offsets, num_points, shape.rows)
    splits = num_splits(tiles.count, partners, source_offsets, shape)
    fixed_shift = sources is None and log_weight is None
    squared, excess = _lengths(partners, y)
    largest_cosine = _largest_cosine(squared, excess, point_offsets)[0] if fixed_shift else None
    bias = None if fixed_shift else _bias(log_weight, excess, kappa)
    partial_sum = points.new_empty(splits, num_points, block_dim(dim))
    partial_rows = _buffers(3, points, splits, num_points)  # nearest, level, density
    launch(
        mean_shift_forward_kernel,
        (tiles.count, splits),
        shape,
        *(*x, *y, largest_cosine, excess if fixed_shift else None, bias, kappa, tiles.image, tiles.row),
        *(
            point_offsets,
            source_offsets,
            *list_arguments(near, NearTiles.of_points),
            partial_sum,
            *partial_rows,
            num_points,
            splits,
        ),
        **pair_constants(dim, shape, half),
        FIXED_SHIFT=fixed_shift,
    )
    finish = row_shape(dim)
    launch(
        mean_shift_finish_kernel,
        (-(-num_points // finish.rows),),
        finish,
        *(points, partial_sum, *partial_rows, kappa, eta, moved, mean, log_density),
        *(num_points, splits),
        D=dim,
        BLOCK_M=finish.rows,
        BLOCK_D=block_dim(dim),
    )
    if fixed_shift and excess is not None:
        log_density = log_density - kappa * excess
    return moved, mean, log_density


def backward(
    grad_moved: Tensor,
    points: Tensor,
    sources: Tensor | None,
    log_weight: Tensor | None,
    kappa: Tensor,
    eta: Tensor,
    point_offsets: Tensor,
    source_offsets: Tensor,
    mean: Tensor,
    log_density: Tensor,
    with_grad_weight: bool,
    half: bool,
    tol: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of points, sources, weight, kappa and eta; arguments and results as in the reference."""
    dim = points.shape[1]
    g, h = row_gradients(grad_moved, points, mean, eta)
    grad_eta = (g * (mean - points)).sum()
    partners = points if sources is None else sources
    if points.shape[0] == 0 or partners.shape[0] == 0:
        grad_sources = points.new_zeros(0 if sources is None else partners.shape[0], dim)
        grad_weight = points.new_zeros(partners.shape[0] if with_grad_weight else 0)
        return g, grad_sources, grad_weight, torch.zeros_like(kappa), grad_eta
    near = near_tiles(points, sources, log_weight, kappa, point_offsets, source_offsets, tol)
    shared = (kappa, point_offsets, source_offsets, mean)
    if sources is None and log_weight is None and fused_backward(dim, half):
        pull, grad_kappa = _blurring(points, h, kappa, point_offsets, mean, log_density, half, near)
        staying = (log_density == -torch.inf)[:, None]
        return (
            torch.where(staying, g, (1.0 - eta) * g + pull),
            points.new_empty(0, dim),
            points.new_empty(0),
            grad_kappa,
            grad_eta,
        )
    row_sum, column_sum, grad_weight = _rows_and_columns(points, sources, log_weight, h, *shared, half, near)
    grad_kappa = (points * row_sum).sum(dtype=torch.float64).to(kappa.dtype)
    staying = (log_density == -torch.inf)[:, None]  # Y_i = x_i whatever eta is
    grad_points = torch.where(staying, g, (1.0 - eta) * g + kappa * row_sum)
    if sources is None:
        grad_points, column_sum = grad_points + column_sum, column_sum[:0]
    return (
        grad_points,
        column_sum,
        grad_weight if with_grad_weight else points.new_empty(0),
        grad_kappa,
        grad_eta,
    )


def _blurring(
    points: Tensor,
    h: Tensor,
    kappa: Tensor,
    offsets: Tensor,
    mean: Tensor,
    log_density: Tensor,
    half: bool,
    near: NearTiles | None,
) -> tuple[Tensor, Tensor]:
    """kappa R + C of (5) and (6), `[N, D]`, and the gradient of kappa: sum_i x_i.R_i, since each sum_j S_ij is 0."""
    num_points, dim = points.shape
    x = operands(points, half)
    squared_length, excess = _lengths(points, x)
    largest, image = _largest_cosine(squared_length, excess, offsets, own=False)
    # P_ij = K_ij f_i, where K_ij is relative to `largest`. A zero row has P_ij = 1/N, but too small a K to divide by.
    zero_row = squared_length == 0
    outside = zero_row | (log_density == -torch.inf)
    above = largest - 1.0 if excess is None else largest - 1.0 - excess
    level = log_density * LOG2_E.value - above * _log2_concentration(kappa)
    share = torch.where(outside, 0.0, torch.exp2(-level))
    u, v, scale = _scaled_slopes(share[:, None] * h, mean, offsets, half, 2.0**SCALE_EXPONENT.value)
    shape = tile_shape("mean_shift_backward", dim, half, points.device, listed=near is not None)
    tiles = row_tiles(offsets, num_points, shape.rows)
    splits = num_splits(tiles.count, points, offsets, shape)
    partial_points, partial_slopes = _buffers(2, h, splits, num_points, block_dim(dim))
    launch(
        blurring_backward_kernel,
        (tiles.count, splits),
        shape,
        *(
            *x,
            *u,
            v,
            largest,
            excess,
            kappa,
            tiles.image,
            tiles.row,
            offsets,
            *list_arguments(near, NearTiles.of_points),
            partial_points,
            partial_slopes,
        ),
        *(num_points, splits),
        **pair_constants(dim, shape, half),
    )
    row_scale = (scale * 2.0**SCALE_EXPONENT.value)[image, None]
    pair_sum = partial_points.sum(0)[:, :dim] / row_scale
    mean_slope = _image_sums(h, zero_row, offsets) / offsets.diff()[:, None].clamp_min(1)
    pull = kappa * pair_sum + partial_slopes.sum(0)[:, :dim] / row_scale + mean_slope[image]
    return pull, (points * pair_sum).sum(dtype=torch.float64).to(kappa.dtype) / 2.0


def _image_sums(rows: Tensor, chosen: Tensor, offsets: Tensor) -> Tensor:
    """The sum of the chosen rows `[T, D]` of each image, `[B, D]`, added in a fixed order."""
    dim = rows.shape[1]
    shape = row_shape(dim)
    tiles = row_tiles(offsets, rows.shape[0], shape.rows)
    sums = rows.new_empty(tiles.count, dim)
    launch(
        tile_sum_kernel,
        (tiles.count,),
        shape,
        *(rows, chosen.to(torch.int32), tiles.image, tiles.row, offsets, sums),
        D=dim,
        BLOCK_M=shape.rows,
        BLOCK_D=block_dim(dim),
    )
    num_images = offsets.shape[0] - 1
    total = rows.new_empty(num_images, dim)
    widths = {"D": dim, "BLOCK_M": shape.rows, "BLOCK_D": block_dim(dim)}
    launch(image_sum_kernel, (num_images,), shape, sums, tiles.before, total, **widths)
    return total


def _rows_and_columns(
    points: Tensor,
    sources: Tensor | None,
    log_weight: Tensor | None,
    h: Tensor,
    kappa: Tensor,
    point_offsets: Tensor,
    source_offsets: Tensor,
    mean: Tensor,
    half: bool,
    near: NearTiles | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """R `[M, D]`, C `[T, D]` and the gradient of the masses `[T]` of (5), (6) and (8)."""
    partners = points if sources is None else sources
    (num_points, dim), num_sources = points.shape, partners.shape[0]
    x = operands(points, half)
    y = x if sources is None else operands(sources, half)
    slopes, shift, scale = _scaled_slopes(h, mean, point_offsets, half)
    shape = tile_shape("mean_shift_sides", dim, half, points.device, listed=near is not None)
    constants = pair_constants(dim, shape, half)
    tiles = row_tiles(point_offsets, num_points, shape.rows)
    splits = num_splits(tiles.count, partners, source_offsets, shape)
    inputs = (*x, *y, _bias(log_weight, _lengths(partners, y)[1], kappa), *slopes)
    row_sum = h.new_empty(splits, num_points, block_dim(dim))
    slope_sum, nearest, level, density = _buffers(4, h, splits, num_points)
    launch(
        row_backward_kernel,
        (tiles.count, splits),
        shape,
        *(
            *inputs,
            shift,
            kappa,
            tiles.image,
            tiles.row,
            point_offsets,
            source_offsets,
            *list_arguments(near, NearTiles.of_points),
        ),
        *(row_sum, slope_sum, nearest, level, density, num_points, splits),
        **constants,
    )
    nearest, level, share = _common_reference(nearest, level, density, kappa)
    row_scale = _per_row(scale, point_offsets, num_points)
    rest = (share * slope_sum).sum(0)  # 0 but for the rounding of e, which is taken out again
    rows = ((share[:, :, None] * row_sum).sum(0)[:, :dim] - rest[:, None] * mean) / row_scale
    tiles = row_tiles(source_offsets, num_sources, shape.rows)
    splits = num_splits(tiles.count, points, point_offsets, shape)
    sums = _buffers(2, h, splits, num_sources, block_dim(dim))  # P h and S x
    mass_sum = h.new_empty(splits, num_sources)
    launch(
        column_backward_kernel,
        (tiles.count, splits),
        shape,
        *(
            *inputs,
            shift + rest,
            nearest,
            level,
            kappa,
            tiles.image,
            tiles.row,
            point_offsets,
            source_offsets,
            *list_arguments(near, NearTiles.of_sources),
        ),
        *(*sums, mass_sum, num_sources, splits),
        **constants,
    )
    source_scale = _per_row(scale, source_offsets, num_sources)
    slope_sums, point_sums = (partial.sum(0)[:, :dim] for partial in sums)
    column_sum = (slope_sums + kappa * point_sums) / source_scale
    grad_weight = mass_sum.sum(0) / source_scale[:, 0]
    if log_weight is not None:
        has_mass = log_weight != -torch.inf
        column_sum = torch.where(has_mass[:, None], column_sum, 0.0)
        grad_weight = grad_weight * torch.where(has_mass, torch.exp(-log_weight), 1.0)
    return rows, column_sum, grad_weight


def _common_reference(
    nearest: Tensor, level: Tensor, density: Tensor, kappa: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """What the splits' references and densities `[S, N]` have in common: nearest `[N]`, log2 of the density relative to
    it `[N]` (infinite without mass), and the factor `[S, N]` that makes sums over the splits those of P."""
    top = nearest.amax(0)
    top = torch.where(top == -torch.inf, 0.0, top)
    relative = torch.where(
        nearest == -torch.inf, -torch.inf, (nearest - top) * _log2_concentration(kappa) + level
    )
    highest = relative.amax(0)
    highest = torch.where(highest == -torch.inf, 0.0, highest)
    share = torch.exp2(relative - highest)
    total = (share * density).sum(0)
    return (
        top,
        highest + torch.where(total == 0, torch.inf, total.log2()),
        share / torch.where(total == 0, 1.0, total),
    )


def _scaled_slopes(
    slopes: Tensor, mean: Tensor, offsets: Tensor, half: bool, headroom: float = 1.0
) -> tuple[Operands, Tensor, Tensor]:
    """Rows as operands, their products with M, and the scale of each image, a power of two.

    `headroom` is what multiplies slopes later. The products are of the rounded rows, since kappa multiplies what (4)
    leaves of the difference.
    """
    longest, image = image_maximum(slopes.norm(dim=1), offsets)
    exponent = torch.floor(torch.log2(_LONGEST_SLOPE / headroom / longest)).clamp(-120.0, 120.0)
    scale = torch.where(longest > 0, torch.exp2(exponent), 1.0)
    rows = operands(slopes * scale[image, None], half)
    return rows, (rows.rounded()[:, : mean.shape[1]] * mean).sum(1), scale


def _lengths(rows: Tensor, operand: Operands) -> tuple[Tensor, Tensor | None]:
    """Squared lengths `[N]` of the rows that the operands stand for, and half of what rounding added to them.

    exp(kappa x_i.y_j) of rounded rows is off by the rounding of their lengths too, which kappa magnifies. Cosines are
    therefore x_i.y_j - excess_i - excess_j, in which lengths are the rows' own. A unit row that came rounded to a half
    type is a unit row. float32-grade operands have no excess: theirs is below the rounding of the correction.
    """
    squared = operand.rounded().square().sum(1)
    if operand.low is not None:
        return squared, None
    exact = rows.square().sum(1)
    exact = torch.where((exact - 1.0).abs() < _HALF_ROUNDING, 1.0, exact)
    return squared, (squared - exact) / 2.0


def _bias(log_weight: Tensor | None, excess: Tensor | None, kappa: Tensor) -> Tensor | None:
    """What sources add to their exponents `[T]`: log masses, and the excess of their lengths; None for nothing."""
    if excess is None:
        return log_weight
    correction = -(kappa * excess).clamp(-LARGEST_FLOAT.value, LARGEST_FLOAT.value)
    return correction if log_weight is None else log_weight + correction


def _largest_cosine(
    squared: Tensor, excess: Tensor | None, offsets: Tensor, own: bool = True
) -> tuple[Tensor, Tensor]:
    """A bound of x_i.x_j - excess_j for each row i `[N]`, and the image of each row.

    `own`: from the row's own length and the longest, so that its own cosine nearly reaches it, and 0 for a zero row;
    else from the longest alone.
    """
    exact = squared if excess is None else squared - 2.0 * excess
    longest, image = image_maximum(exact, offsets)
    bound = longest[image] * _ROUNDING
    if own:
        bound = torch.where(squared == 0, 0.0, (exact + bound) / 2.0)
    return bound if excess is None else bound + excess, image


def _log2_concentration(kappa: Tensor) -> Tensor:
    """kappa log2(e), as the kernels have it."""
    return (kappa * LOG2_E.value).clamp_max(LARGEST_FLOAT.value)


def _per_row(scale: Tensor, offsets: Tensor, num_rows: int) -> Tensor:
    """The scale of each row's image, `[T, 1]`."""
    return scale[image_of_rows(offsets, num_rows)][:, None]


def _buffers(count: int, like: Tensor, *shape: int) -> list[Tensor]:
    """Unwritten tensors of their own: parts of one would be aligned differently for every N, and compiled for again."""
    return [like.new_empty(shape) for _ in range(count)]
