"""From PyTorch to a kernel: the launch itself."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rpe_ops.backends.tile_list import NearTiles, TileList
from rpe_ops.backends.triton.shapes import TileShape, block_dim, row_grid, row_shape


def compile_options(shape: TileShape) -> dict[str, Any]:
    """What Triton is told beside the kernel's constants.

    Left to itself ptxas spills a few bytes now and then to fit one more program; all registers are allowed instead.
    """
    return {"num_warps": shape.warps, "num_stages": shape.stages, "enable_fp_fusion": True, "maxnreg": 255}


def launch(kernel: Any, grid: tuple[int, ...], shape: TileShape, *arguments: Any, **constants: Any) -> None:
    """Run `kernel` on the device of its first argument."""
    device = arguments[0].device
    guard = torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()
    with guard:
        kernel[grid](*arguments, **constants, **compile_options(shape))


def launch_rows(kernel: Any, rows: Tensor, offsets: Tensor, *arguments: Any, **constants: Any) -> None:
    """Run a kernel of work per row, one program for each tile of packed rows `[T, D]` with `offsets [B+1]`."""
    dim = rows.shape[1]
    shape = row_shape(dim)
    constants |= {"D": dim, "BLOCK_M": shape.rows, "BLOCK_D": block_dim(dim)}
    launch(kernel, row_grid(rows, offsets, shape), shape, *arguments, **constants)


def list_arguments(
    near: NearTiles | None, side: Callable[[NearTiles], TileList]
) -> list[Tensor] | list[None]:
    """What a kernel is told of the columns that rows, one side of a step, have to see; nothing where that is all."""
    return [None] * 3 if near is None else side(near).tensors()
