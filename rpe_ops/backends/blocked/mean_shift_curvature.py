"""Second derivatives of one mean-shift step, recomputed by PyTorch's autograd one band of rows at a time.

Not a backend's own operator: the autograd layer uses it for every backend. Memory O(N D) beyond one band.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rpe_ops.backends.images import row_and_column_bands
from rpe_ops.backends.rows import unit_rows


def curvature(inputs: Sequence[Tensor | None], directions: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
    """Vector-Jacobian product of the step's backward.

    With phi = sum(grad_moved * Z), the backward returns the gradient of phi; contracted with `directions` (one for
    each of points, sources, weight, kappa, eta) it is a scalar, whose gradient this returns for grad_moved, points,
    sources, weight, kappa, eta. phi is a sum over rows, so bands of rows are done one after the other.

    Args:
        inputs: grad_moved, points, sources, weight, kappa, eta, point_offsets, source_offsets of the backward.
        directions: tangents of its five results; one that is empty stands for zero.
    """
    grad_moved, points, sources, weight, kappa, eta, point_offsets, source_offsets = inputs
    assert grad_moved is not None and points is not None and point_offsets is not None
    blurring = sources is None
    named = {"points": points, "sources": sources, "weight": weight, "kappa": kappa, "eta": eta}
    direction_of = dict(zip(named, directions, strict=True))
    leaves = {name: value.detach().requires_grad_() for name, value in named.items() if value is not None}
    upstream = grad_moved.detach().requires_grad_()
    variables = [upstream, *leaves.values()]
    total = [torch.zeros_like(value) for value in variables]
    with torch.enable_grad():
        for rows, columns in row_and_column_bands(
            points, point_offsets, point_offsets if source_offsets is None else source_offsets
        ):
            if rows.stop == rows.start or columns.stop == columns.start:
                continue
            moved = _step(leaves, rows, columns, blurring)
            inner = torch.autograd.grad(
                (upstream[rows] * moved).sum(), list(leaves.values()), create_graph=True, allow_unused=True
            )
            scalar = upstream.sum() * 0.0
            for name, gradient in zip(leaves, inner, strict=True):
                direction = direction_of[name]
                if gradient is not None and direction.shape == gradient.shape:
                    scalar = scalar + (gradient * direction).sum()
            outer = torch.autograd.grad(scalar, variables, allow_unused=True)
            for accumulated, gradient in zip(total, outer, strict=True):
                if gradient is not None:
                    accumulated += gradient
    result = dict(zip(("grad_moved", *leaves), total, strict=True))
    return tuple(result.get(name) for name in ("grad_moved", *named))


def _step(leaves: dict[str, Tensor], rows: slice, columns: slice, blurring: bool) -> Tensor:
    """Z of a band of rows as a differentiable expression."""
    x = leaves["points"][rows]
    y = leaves["points"][columns] if blurring else leaves["sources"][columns]
    logit = leaves["kappa"] * (x @ y.T - 1.0)
    if "weight" in leaves:
        mass = leaves["weight"][columns]
        shift = torch.where(mass > 0, logit, -torch.inf).amax(1, keepdim=True).detach()
        shift = torch.where(shift == -torch.inf, torch.zeros_like(shift), shift)
        unnormalised = mass * torch.exp(logit - shift)
        density = unnormalised.sum(1, keepdim=True)
        empty = density == 0
        probability = unnormalised / torch.where(empty, torch.ones_like(density), density)
        mean = torch.where(empty, x, probability @ y)
    else:
        mean = logit.softmax(1) @ y
    eta = leaves["eta"]
    return unit_rows(eta * mean + (1.0 - eta) * x)
