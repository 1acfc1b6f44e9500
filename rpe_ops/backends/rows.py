"""What the PyTorch backends share of a mean-shift step: rows of cosines to probabilities, and the work per row.

Formula numbers are those of `backends/reference/mean_shift.py`. Which rows meet which columns is the backends' own.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def unit_rows(rows: Tensor) -> Tensor:
    """Rows `[N, D]` divided by their lengths; a zero row stays zero and gets a zero gradient.

    Differentiable any number of times. Rows are first scaled by a power of two near their largest component, which
    rounds nothing, so that neither tiny nor huge rows lose their direction; the scale is a constant to autograd because
    the result does not depend on it. Zero rows become ones on the way: a length of zero has no second derivative.
    """
    smallest, largest = rows.detach().aminmax(dim=-1, keepdim=True)
    largest = torch.maximum(largest, -smallest)
    # beyond it a power of two or its inverse is not a normal number
    limit = -math.log2(torch.finfo(rows.dtype).tiny)
    scale = torch.exp2(-largest.log2().floor().clamp(-limit, limit))
    scaled = torch.addcmul((largest == 0).to(rows.dtype), rows, scale)
    length = torch.linalg.vector_norm(scaled, dim=-1, keepdim=True)
    # in place where nothing remembers the operand: on a CPU a new tensor costs more than the division
    unit = scaled / length if torch.is_grad_enabled() else scaled.div_(length)
    return unit.masked_fill_(largest == 0, 0.0)


def without_infinities(rows: Tensor) -> Tensor:
    """Rows `[N, D]`, NaN throughout where a component is not finite: comparisons then find such a row near nothing."""
    return torch.where(torch.isfinite(rows).all(-1, keepdim=True), rows, torch.nan)


def cosine_rounding(rows: Tensor) -> float:
    """How far from 1 rounding may put the product of two equal rows `[..., D]` of `unit_rows`, in whatever order it is
    summed: D + 2 roundings for the length, D + 2 for the product, half an eps each."""
    return (rows.shape[-1] + 2) * torch.finfo(rows.dtype).eps


def kernel_rows(cosine: Tensor, kappa: Tensor, log_weight: Tensor | None) -> tuple[Tensor, Tensor]:
    """P `[M, N]` and L `[M]` of (1) from cosines `[M, N]`, which are overwritten. Rows without mass are all 0.

    Cosines are taken relative to the row's largest before kappa scales them: the difference of near cosines is exact,
    that of two scaled ones is not.
    """
    if cosine.shape[1] == 0:
        return cosine, cosine.new_full(cosine.shape[:1], -torch.inf)
    nearest = cosine.amax(1, keepdim=True)
    logit = cosine.sub_(nearest).mul_(kappa)
    if log_weight is not None:
        logit = logit.add_(log_weight)
    relative = logit.logsumexp(1, keepdim=True)
    probability = logit.sub_(torch.where(relative == -torch.inf, 0.0, relative)).exp_()
    return probability, (kappa * (nearest - 1.0) + relative)[:, 0]


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
