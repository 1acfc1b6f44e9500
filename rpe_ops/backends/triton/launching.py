"""From PyTorch to a kernel: rows as operands of the tensor cores, and the launch itself."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from rpe_ops.backends.tile_list import NearTiles, TileList
from rpe_ops.backends.triton.shapes import TileShape, block_dim


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


def list_arguments(
    near: NearTiles | None, side: Callable[[NearTiles], TileList]
) -> list[Tensor] | list[None]:
    """What a kernel is told of the columns that rows, one side of a step, have to see; nothing where that is all."""
    return [None] * 3 if near is None else side(near).tensors()


class Operands(NamedTuple):
    """Rows `[T, BLOCK_D]` as the tensor cores read them, zeros from D on: their float16 copy, and, for float32-grade
    products, what that leaves."""

    high: Tensor
    low: Tensor | None

    def rounded(self) -> Tensor:
        """The rows `[T, BLOCK_D]` that the operands stand for, in float32."""
        return self.high.float() if self.low is None else self.high.float() + self.low


def operands(rows: Tensor, half: bool) -> Operands:
    """Split float32 rows `[T, D]`. The two parts of a unit row hold it to 2^-26, a float32 component near 1 to 2^-24.

    Padded to BLOCK_D, rows of every width are aligned to 16 bytes, and one kernel serves all widths of a BLOCK_D.
    """
    high = rows.to(torch.float16)
    return Operands(_padded(high), None if half else _padded((rows - high.float()).to(torch.float16)))


def _padded(rows: Tensor) -> Tensor:
    missing = block_dim(rows.shape[1]) - rows.shape[1]
    return F.pad(rows, (0, missing)) if missing else rows
