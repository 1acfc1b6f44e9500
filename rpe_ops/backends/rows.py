"""The row-wise part of a mean-shift step, O(N D), shared by the PyTorch backends.

Formula numbers are those of `backends/reference/mean_shift.py`. It holds nothing pairwise.
"""

from __future__ import annotations

import torch
from torch import Tensor


def unit_rows(rows: Tensor) -> Tensor:
    """Rows `[N, D]` divided by their lengths; a zero row stays zero and gets a zero gradient.

    Differentiable any number of times. Rows are first scaled by their largest component, so that neither tiny nor
    huge rows lose their direction; the scale is a constant to autograd because the result does not depend on it.
    """
    largest = rows.detach().abs().amax(-1, keepdim=True)
    scaled = rows / torch.where(largest == 0, torch.ones_like(largest), largest)
    length = torch.linalg.vector_norm(scaled, dim=-1, keepdim=True)
    unit = scaled / torch.where(length == 0, torch.ones_like(length), length)
    return torch.where(largest == 0, torch.zeros_like(unit), unit)


# A float32 sum over all columns loses digits as N grows; sums of this many are added up instead.
COLUMNS_PER_SUM = 256


def column_sums(weights: Tensor, rows: Tensor) -> Tensor:
    """`weights [M, N] @ rows [N, D]`, summed in two levels for accuracy."""
    whole = rows.shape[0] // COLUMNS_PER_SUM * COLUMNS_PER_SUM
    rest = weights[:, whole:] @ rows[whole:]
    if whole == 0:
        return rest
    parts = torch.bmm(
        weights[:, :whole].unflatten(1, (-1, COLUMNS_PER_SUM)).transpose(0, 1),
        rows[:whole].unflatten(0, (-1, COLUMNS_PER_SUM)),
    )
    return parts.sum(0) + rest


def move_rows(points: Tensor, mean: Tensor, eta: Tensor) -> Tensor:
    """Z of (2) from x, M and eta."""
    return unit_rows(eta * mean + (1.0 - eta) * points)


def row_gradients(grad_moved: Tensor, points: Tensor, mean: Tensor, eta: Tensor) -> tuple[Tensor, Tensor]:
    """g and h `[M, D]` of (3)."""
    blended = eta * mean + (1.0 - eta) * points
    length = torch.linalg.vector_norm(blended, dim=-1, keepdim=True)
    moved = unit_rows(blended)
    inverse = torch.where(length == 0, torch.zeros_like(length), 1.0 / length)
    g = (grad_moved - (grad_moved * moved).sum(-1, keepdim=True) * moved) * inverse
    return g, eta * g
