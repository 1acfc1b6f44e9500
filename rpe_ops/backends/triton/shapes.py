"""How the Triton kernels cut their work: tile sizes from a static table per architecture, columns split over programs.

Everything here follows from shapes, dtypes and the device alone, never from values: nothing waits for the device, and
equal shapes give equal sums. There is no autotuning: it would cost minutes at first use and change results between
runs.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rpe_ops import settings
from rpe_ops.backends.tile_bounds import CHUNK


@dataclass(frozen=True)
class TileShape:
    """Rows and columns of a tile, warps and pipeline stages of a program."""

    rows: int
    columns: int
    warps: int
    stages: int


# A kernel and whether its operands are one float16 part -> tiles for BLOCK_D up to 32, 64, 128, 256. Read off
# `benchmarks/results/triton_resources.json`: no spills, within 99 KB of shared memory, and as many warps on a
# multiprocessor as the registers allow.
_Widths = tuple[TileShape, TileShape, TileShape, TileShape]
_PORTABLE: dict[tuple[str, bool], _Widths] = {
    ("mean_shift_forward", True): (
        TileShape(64, 64, 4, 2),
        TileShape(64, 64, 4, 2),
        TileShape(64, 32, 4, 2),
        TileShape(64, 32, 8, 2),
    ),
    ("mean_shift_forward", False): (
        TileShape(64, 64, 4, 2),
        TileShape(64, 32, 4, 2),
        TileShape(32, 32, 4, 2),
        TileShape(16, 32, 4, 1),
    ),
    ("mean_shift_backward", True): (
        TileShape(64, 32, 4, 2),
        TileShape(64, 32, 4, 2),
        TileShape(32, 32, 4, 2),
        TileShape(32, 32, 8, 1),
    ),
    ("mean_shift_backward", False): (
        TileShape(64, 32, 4, 2),
        TileShape(32, 16, 8, 1),
        TileShape(16, 16, 4, 1),
        TileShape(16, 16, 8, 1),
    ),
}
# Compute capability 9.0: matrix products straight from shared memory (wgmma) leave room for larger tiles.
_HOPPER: dict[tuple[str, bool], _Widths] = {
    ("mean_shift_forward", True): (
        TileShape(64, 128, 4, 3),
        TileShape(64, 128, 4, 3),
        TileShape(64, 64, 4, 2),
        TileShape(64, 32, 4, 2),
    ),
    ("mean_shift_forward", False): (
        TileShape(64, 64, 4, 2),
        TileShape(64, 64, 4, 2),
        TileShape(64, 32, 4, 2),
        TileShape(16, 32, 4, 1),
    ),
    ("mean_shift_backward", True): (
        TileShape(64, 128, 4, 2),
        TileShape(64, 128, 4, 2),
        TileShape(64, 32, 4, 1),
        TileShape(16, 32, 8, 1),
    ),
    ("mean_shift_backward", False): (
        TileShape(64, 32, 4, 2),
        TileShape(64, 32, 4, 2),
        TileShape(16, 16, 4, 1),
        TileShape(16, 16, 8, 1),
    ),
    ("mean_shift_sides", True): (
        TileShape(64, 32, 4, 2),
        TileShape(64, 64, 4, 2),
        TileShape(64, 32, 4, 1),
        TileShape(32, 32, 8, 1),
    ),
}
# Walks over pairs without a row of their own need what another needs: the loss and the components the forward, the two
# sides of a backward (moving points, sources) the fused one.
_LIKE = {
    "pairwise_loss": "mean_shift_forward",
    "connected_components": "mean_shift_forward",
    "mean_shift_sides": "mean_shift_backward",
}
# Widest BLOCK_D for which the fused backward of blurring fits the registers, with half and with float32-grade operands.
_WIDEST_FUSED = {True: 256, False: 128}
# Small and of unlike sides, so that small problems meet many tiles.
_INTERPRETED = TileShape(32, 16, 1, 1)
_INTERPRETED_PROCESSORS = 2
# Programs that a multiprocessor should be offered, and the fewest column tiles worth a program of their own.
_PROGRAMS_PER_PROCESSOR = 4
_TILES_PER_SPLIT = 8


def tile_shape(kernel: str, dim: int, half: bool, device: torch.device, *, listed: bool = False) -> TileShape:
    """The tile of `kernel` for rows of width `dim`, with float16 operands or float32 ones.

    `listed`: one that divides the chunks of a `TileList`.
    """
    if settings.triton_interprets():
        return _INTERPRETED
    table = _HOPPER if architecture(device) == 90 else _PORTABLE
    widths = table.get((kernel, half)) or table[_LIKE[kernel], half]
    shape = widths[max(0, block_dim(dim).bit_length() - 6)]
    return replace(shape, columns=min(shape.columns, CHUNK)) if listed else shape


def fused_backward(dim: int, half: bool) -> bool:
    """Whether one kernel does the backward of blurring for rows of width `dim`, or one per side."""
    return block_dim(dim) <= _WIDEST_FUSED[half]


def row_shape(dim: int) -> TileShape:
    """The rows of one program that does work per row in float32."""
    return TileShape(min(64, 2048 // block_dim(dim)), 0, 4, 1)


def block_dim(dim: int) -> int:
    """BLOCK_D: the power of two at or above `dim` that a matrix product can have."""
    return max(16, 1 << (dim - 1).bit_length())


def pair_constants(dim: int, shape: TileShape, half: bool) -> dict[str, int | bool]:
    """What every kernel over pairs of rows is compiled for: rows come padded to BLOCK_D (`launching.operands`)."""
    return {
        "BLOCK_M": shape.rows,
        "BLOCK_N": shape.columns,
        "BLOCK_D": block_dim(dim),
        "SPLIT": not half,
    }


def num_splits(num_tiles: int, partners: Tensor, offsets: Tensor, shape: TileShape) -> int:
    """Into how many programs the columns of each row tile, `partners [T, D]` with `offsets [B+1]`, are divided: enough
    to fill the GPU, no more."""
    columns_per_image = -(-partners.shape[0] // max(offsets.shape[0] - 1, 1))
    tiles = -(-columns_per_image // shape.columns)
    wanted = -(-_PROGRAMS_PER_PROCESSOR * _processors(partners.device) // max(num_tiles, 1))
    return max(1, min(wanted, tiles // _TILES_PER_SPLIT if not settings.triton_interprets() else tiles))


@functools.cache
def architecture(device: torch.device) -> int:
    """Compute capability as one number, 90 for 9.0."""
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


@functools.cache
def _processors(device: torch.device) -> int:
    if device.type != "cuda":
        return _INTERPRETED_PROCESSORS
    count: int = torch.cuda.get_device_properties(device).multi_processor_count
    return count


def num_row_tiles(num_rows: int, num_images: int, height: int) -> int:
    """Row tiles of images of `num_rows` rows in all: what their numbers begin at, `kernels.tiles.first_tile`, where the
    last image ends. It follows from shapes alone; up to one tile of each image has no rows."""
    return num_rows // height + num_images


def row_grid(rows: Tensor, offsets: Tensor, shape: TileShape) -> tuple[int]:
    """One program for each tile of packed rows `[T, *]` with `offsets [B+1]`."""
    return (num_row_tiles(rows.shape[0], offsets.shape[0] - 1, shape.rows),)
