"""One mean-shift step in Triton: operands, tiles and splits are chosen here, all else is done by the kernels.

Formula numbers are those of `backends/reference/mean_shift.py`. A step launches next to no PyTorch kernel: at the
sizes of training, launches would take longer than the pairs.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rpe_ops.backends.rows import row_gradients
from rpe_ops.backends.tile_list import NearTiles, near_tiles
from rpe_ops.backends.triton import launching
from rpe_ops.backends.triton.kernels.mean_shift import mean_shift_finish_kernel, mean_shift_forward_kernel
from rpe_ops.backends.triton.kernels.mean_shift_backward import (
    blurring_backward_kernel,
    column_backward_kernel,
    row_backward_kernel,
)
from rpe_ops.backends.triton.kernels.mean_shift_slopes import (
    blurring_finish_kernel,
    column_finish_kernel,
    image_sum_kernel,
    row_finish_kernel,
    slopes_kernel,
    total_kernel,
)
from rpe_ops.backends.triton.kernels.tiles import SCALE_EXPONENT
from rpe_ops.backends.triton.operands import Operands, largest_values, operands, scaled_operands
from rpe_ops.backends.triton.shapes import (
    TileShape,
    block_dim,
    fused_backward,
    num_splits,
    pair_constants,
    row_grid,
    row_shape,
    tile_shape,
)

# Rows h are scaled to lengths below 2^12. A slope is at most four times as long, and float16 ends at 65,504.
_SLOPE_EXPONENT = 12
# u, which a kernel value times 2^SCALE_EXPONENT multiplies.
_FUSED_EXPONENT = _SLOPE_EXPONENT - int(SCALE_EXPONENT.value)
_TOTAL = TileShape(rows=1024, columns=0, warps=4, stages=1)


class _Step(NamedTuple):
    """What forward and backward are given alike; `near` is what a tolerance keeps of all pairs."""

    points: Tensor
    sources: Tensor | None
    log_weight: Tensor | None
    kappa: Tensor
    eta: Tensor
    point_offsets: Tensor
    source_offsets: Tensor
    half: bool
    near: NearTiles | None

    @property
    def partners(self) -> Tensor:
        """The rows that points are compared with."""
        return self.points if self.sources is None else self.sources

    @property
    def num_images(self) -> int:
        """B."""
        return self.point_offsets.shape[0] - 1

    @property
    def fixed_shift(self) -> bool:
        """Whether lengths alone bound a row's exponents."""
        return self.sources is None and self.log_weight is None


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
    inputs = (points, sources, log_weight, kappa)
    near = near_tiles(*inputs, point_offsets, source_offsets, tol)
    step = _Step(*inputs, eta, point_offsets, source_offsets, half, near)
    lengths, bias = _NO_LENGTHS, None
    if step.fixed_shift:
        lengths = _unwritten_lengths(step)
        x = y = operands(points, point_offsets, half, **lengths._asdict())
    else:
        x, y, bias = _both_sides(step)
    pairs = _pairs("mean_shift_forward", step)
    partial_sum = points.new_empty(pairs.splits, num_points, block_dim(dim))
    partial_rows = _buffers(3, points, pairs.splits, num_points)  # nearest, level, density
    launching.launch(
        mean_shift_forward_kernel,
        pairs.programs,
        pairs.shape,
        *(*x, *y, lengths.length, lengths.largest, lengths.excess, bias, kappa),
        *(point_offsets, source_offsets, *launching.list_arguments(near, NearTiles.of_points)),
        *(partial_sum, *partial_rows, num_points, step.num_images, pairs.splits),
        **pairs.constants,
        FIXED_SHIFT=step.fixed_shift,
    )
    finish = row_shape(dim)
    launching.launch(
        mean_shift_finish_kernel,
        (-(-num_points // finish.rows),),
        finish,
        *(points, partial_sum, *partial_rows, lengths.excess, kappa, eta, moved, mean, log_density),
        *(num_points, pairs.splits),
        D=dim,
        BLOCK_M=finish.rows,
        BLOCK_D=block_dim(dim),
    )
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
    partners = points if sources is None else sources
    grad_sources = points.new_empty(0 if sources is None else partners.shape[0], dim)
    grad_weight = points.new_empty(partners.shape[0] if with_grad_weight else 0)
    if points.shape[0] == 0 or partners.shape[0] == 0:  # all points stay where they are
        g, _ = row_gradients(grad_moved, points, mean, eta)
        return g, grad_sources.zero_(), grad_weight.zero_(), torch.zeros_like(kappa), torch.zeros_like(eta)
    inputs = (points, sources, log_weight, kappa)
    near = near_tiles(*inputs, point_offsets, source_offsets, tol)
    step = _Step(*inputs, eta, point_offsets, source_offsets, half, near)
    grad_points = torch.empty_like(points)
    outer = (grad_moved, mean, log_density, grad_points)
    if step.fixed_shift and fused_backward(dim, half):
        tile_kappa, tile_eta = _fill_blurring(step, *outer)
    else:
        tile_kappa, tile_eta = _fill_sides(
            step, *outer, grad_sources, grad_weight if with_grad_weight else None
        )
    grad_kappa, grad_eta = torch.empty_like(kappa), torch.empty_like(eta)
    launching.launch(
        total_kernel,
        (1,),
        _TOTAL,
        *(tile_kappa, tile_eta, grad_kappa, grad_eta, tile_eta.shape[0]),
        BLOCK=_TOTAL.rows,
    )
    return grad_points, grad_sources, grad_weight, grad_kappa, grad_eta


def _fill_blurring(
    step: _Step, grad_moved: Tensor, mean: Tensor, log_density: Tensor, grad_points: Tensor
) -> tuple[Tensor, Tensor]:
    """Fills the gradient of points that are their own sources and have no masses; the tiles' parts `[R]` of those of
    kappa and eta."""
    points, offsets = step.points, step.point_offsets
    num_points, dim = points.shape
    lengths = _unwritten_lengths(step)
    x = operands(points, offsets, step.half, **lengths._asdict())
    tile_zero = points.new_empty(_num_tiles(step), dim)
    slopes = _slopes(step, grad_moved, mean, log_density, lengths, tile_zero)
    shift = points.new_empty(num_points)
    scaled = (slopes.slope, slopes.factor, slopes.largest, _FUSED_EXPONENT)
    u = scaled_operands(*scaled, offsets, step.half, partner=mean, product=shift)
    pairs = _pairs("mean_shift_backward", step)
    partial = _buffers(2, points, pairs.splits, num_points, block_dim(dim))  # T x, K u
    launching.launch(
        blurring_backward_kernel,
        pairs.programs,
        pairs.shape,
        *(*x, *u, shift, lengths.largest, lengths.excess, step.kappa),
        *(offsets, *launching.list_arguments(step.near, NearTiles.of_points)),
        *(*partial, num_points, step.num_images, pairs.splits),
        **pairs.constants,
    )
    zero_sum = points.new_empty(step.num_images, dim)
    rows = row_shape(dim)
    launching.launch(
        image_sum_kernel,
        (step.num_images,),
        rows,
        *(tile_zero, offsets, zero_sum),
        D=dim,
        BLOCK_M=rows.rows,
        BLOCK_D=block_dim(dim),
    )
    tile_kappa = torch.empty_like(slopes.tile_eta)
    launching.launch_rows(
        *(blurring_finish_kernel, points, offsets),
        *(points, slopes.slope, log_density, *partial, zero_sum, slopes.largest, step.kappa, step.eta),
        *(offsets, grad_points, tile_kappa, num_points, step.num_images, pairs.splits),
        EXPONENT=_FUSED_EXPONENT,
    )
    return tile_kappa, slopes.tile_eta


def _fill_sides(
    step: _Step,
    grad_moved: Tensor,
    mean: Tensor,
    log_density: Tensor,
    grad_points: Tensor,
    grad_sources: Tensor,
    grad_weight: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Fills the gradients of points, of sources unless they are the points, and of masses if given; the tiles' parts
    `[R]` of those of kappa and eta."""
    points, partners, blurring = step.points, step.partners, step.sources is None
    (num_points, dim), num_sources = points.shape, partners.shape[0]
    x, y, bias = _both_sides(step)
    slopes = _slopes(step, grad_moved, mean, log_density)
    shift, nearest, level, full_shift = _buffers(4, points, num_points)
    scaled = (slopes.slope, slopes.factor, slopes.largest, _SLOPE_EXPONENT)
    h = scaled_operands(*scaled, step.point_offsets, step.half, partner=mean, product=shift)
    inputs = (*x, *y, bias, *h)
    pairs = _pairs("mean_shift_sides", step)
    partial_row_sum = points.new_empty(pairs.splits, num_points, block_dim(dim))
    partial_rows = _buffers(4, points, pairs.splits, num_points)  # slope, nearest, level, density
    launching.launch(
        row_backward_kernel,
        pairs.programs,
        pairs.shape,
        *(*inputs, shift, step.kappa, step.point_offsets, step.source_offsets),
        *launching.list_arguments(step.near, NearTiles.of_points),
        *(partial_row_sum, *partial_rows, num_points, step.num_images, pairs.splits),
        **pairs.constants,
    )
    own_gradient = torch.empty_like(points) if blurring else grad_points
    tile_kappa = torch.empty_like(slopes.tile_eta)
    launching.launch_rows(
        *(row_finish_kernel, points, step.point_offsets),
        *(points, mean, slopes.slope, log_density, partial_row_sum, *partial_rows, shift, slopes.largest),
        *(step.kappa, step.eta, step.point_offsets, nearest, level, full_shift, own_gradient, tile_kappa),
        *(num_points, step.num_images, pairs.splits),
        EXPONENT=_SLOPE_EXPONENT,
    )
    pairs = _pairs("mean_shift_sides", step, of_sources=True)
    partial = _buffers(2, points, pairs.splits, num_sources, block_dim(dim))  # P h, S x
    partial_mass = points.new_empty(pairs.splits, num_sources)
    launching.launch(
        column_backward_kernel,
        pairs.programs,
        pairs.shape,
        *(*inputs, full_shift, nearest, level, step.kappa, step.point_offsets, step.source_offsets),
        *launching.list_arguments(step.near, NearTiles.of_sources),
        *(*partial, partial_mass, num_sources, step.num_images, pairs.splits),
        **pairs.constants,
    )
    launching.launch_rows(
        *(column_finish_kernel, partners, step.source_offsets),
        *(*partial, partial_mass, step.log_weight, slopes.largest, step.kappa, step.source_offsets),
        *(own_gradient if blurring else None, grad_points if blurring else grad_sources, grad_weight),
        *(num_sources, step.num_images, pairs.splits),
        EXPONENT=_SLOPE_EXPONENT,
    )
    return tile_kappa, slopes.tile_eta


class _Lengths(NamedTuple):
    """What `operands_kernel` says of rows: squared lengths `[T]`, what rounding added to half of them `[T]` (None for
    float32-grade operands), and the longest of each image `[B]`."""

    length: Tensor | None
    excess: Tensor | None
    largest: Tensor | None


_NO_LENGTHS = _Lengths(None, None, None)


def _unwritten_lengths(step: _Step) -> _Lengths:
    length = step.points.new_empty(step.points.shape[0])
    excess = torch.empty_like(length) if step.half else None
    return _Lengths(length, excess, largest_values(step.point_offsets))


class _Slopes(NamedTuple):
    """What `slopes_kernel` computes: g `[T, D]`, factors `[T]`, the largest of both in each image `[B]`, and what each
    row tile adds to the gradient of eta `[R]`."""

    slope: Tensor
    factor: Tensor
    largest: Tensor
    tile_eta: Tensor


def _slopes(
    step: _Step,
    grad_moved: Tensor,
    mean: Tensor,
    log_density: Tensor,
    lengths: _Lengths = _NO_LENGTHS,
    tile_zero: Tensor | None = None,
) -> _Slopes:
    """For a fused backward `lengths` are given and `tile_zero` is filled."""
    points, offsets = step.points, step.point_offsets
    slopes = _Slopes(
        torch.empty_like(points),
        points.new_empty(points.shape[0]),
        largest_values(offsets),
        points.new_empty(_num_tiles(step)),
    )
    launching.launch_rows(
        *(slopes_kernel, points, offsets),
        *(grad_moved, points, mean, log_density, step.kappa, step.eta, offsets),
        *(lengths.length, lengths.largest, *slopes, tile_zero, step.num_images),
    )
    return slopes


def _num_tiles(step: _Step) -> int:
    """R: the tiles that kernels of work per row cut the points into."""
    (tiles,) = row_grid(step.points, step.point_offsets, row_shape(step.points.shape[1]))
    return tiles


def _both_sides(step: _Step) -> tuple[Operands, Operands, Tensor | None]:
    """Operands of points and of sources, and what sources add to their exponents `[T]`: log masses and, in halves, the
    excess of their lengths; None for nothing."""
    bias = log_weight = None
    if step.half:
        bias, log_weight = step.partners.new_empty(step.partners.shape[0]), step.log_weight
    y = operands(
        *(step.partners, step.source_offsets, step.half),
        bias=bias,
        log_weight=log_weight,
        kappa=step.kappa,
    )
    x = y if step.sources is None else operands(step.points, step.point_offsets, step.half)
    return x, y, bias if step.half else step.log_weight


class _Pairs(NamedTuple):
    """How a kernel over pairs is cut: programs (row tiles, splits of their columns), tiles, what it is compiled for."""

    programs: tuple[int, int]
    shape: TileShape
    constants: dict[str, int | bool]

    @property
    def splits(self) -> int:
        """Partial sums of each row."""
        return self.programs[1]


def _pairs(kernel: str, step: _Step, *, of_sources: bool = False) -> _Pairs:
    """`of_sources`: whether sources are the rows of its tiles."""
    sides = ((step.points, step.point_offsets), (step.partners, step.source_offsets))
    (rows, row_offsets), (columns, column_offsets) = sides[::-1] if of_sources else sides
    dim = rows.shape[1]
    shape = tile_shape(kernel, dim, step.half, rows.device, listed=step.near is not None)
    (tiles,) = row_grid(rows, row_offsets, shape)
    splits = num_splits(tiles, columns, column_offsets, shape)
    return _Pairs((tiles, splits), shape, pair_constants(dim, shape, step.half))


def _buffers(count: int, like: Tensor, *shape: int) -> list[Tensor]:
    """Unwritten tensors of their own: parts of one would be aligned differently for every N, and compiled for again."""
    return [like.new_empty(shape) for _ in range(count)]
