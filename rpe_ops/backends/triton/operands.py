"""Rows as the tensor cores read them, made by the kernels of `kernels/operands.py`."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rpe_ops.backends.triton import launching
from rpe_ops.backends.triton.kernels.operands import operands_kernel, scaled_operands_kernel
from rpe_ops.backends.triton.shapes import block_dim


class Operands(NamedTuple):
    """Rows `[T, BLOCK_D]`, zeros from D on: their float16 copy, and, for float32-grade products, what that leaves.

    The two parts of a unit row hold it to 2^-26, a float32 component near 1 to 2^-24. Padded to BLOCK_D, rows of every
    width are aligned to 16 bytes, and one kernel serves all widths of a BLOCK_D.
    """

    high: Tensor
    low: Tensor | None


def operands(
    rows: Tensor,
    offsets: Tensor,
    half: bool,
    *,
    length: Tensor | None = None,
    excess: Tensor | None = None,
    largest: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    log_weight: Tensor | None = None,
    kappa: Tensor | None = None,
) -> Operands:
    """Split float32 rows `[T, D]`; fills those of `length`, `excess`, `bias` and `largest` that are given."""
    parts = _empty(rows, half)
    given = (rows, log_weight, weight, kappa, offsets)
    filled = (*parts, length, excess, bias, largest)
    launching.launch_rows(operands_kernel, rows, offsets, *given, *filled, offsets.shape[0] - 1)
    return parts


def scaled_operands(
    rows: Tensor,
    factor: Tensor,
    largest: Tensor,
    exponent: int,
    offsets: Tensor,
    half: bool,
    *,
    partner: Tensor | None = None,
    product: Tensor | None = None,
) -> Operands:
    """Split `factor [T]` times float32 rows `[T, D]`, scaled to less than 2^exponent by the `largest` of each image;
    fills `product`, with the rows of `partner`, if given."""
    parts = _empty(rows, half)
    given = (rows, factor, partner, largest, offsets)
    launching.launch_rows(
        *(scaled_operands_kernel, rows, offsets),
        *(*given, *parts, product, offsets.shape[0] - 1),
        EXPONENT=exponent,
    )
    return parts


def largest_values(offsets: Tensor) -> Tensor:
    """An array `[B]` that kernels raise to the largest values of images, from 0."""
    return torch.zeros(offsets.shape[0] - 1, dtype=torch.int32, device=offsets.device)


def _empty(rows: Tensor, half: bool) -> Operands:
    size = (rows.shape[0], block_dim(rows.shape[1]))
    high = torch.empty(size, dtype=torch.float16, device=rows.device)
    return Operands(high, None if half else torch.empty_like(high))
