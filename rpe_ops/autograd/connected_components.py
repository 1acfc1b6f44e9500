"""The op of `connected_components`: labels are integers, so there is no gradient."""

# No `from __future__ import annotations`: torch.library reads the schemas from the signatures.
from typing import Any

import torch
from torch import Tensor

from rpe_ops import backends
from rpe_ops.autocast import without_autocast
from rpe_ops.autograd.common import Folded


@torch.library.custom_op("rpe_ops::connected_components", mutates_args=())
def connected_components(points: Tensor, offsets: Tensor, threshold: float, backend: str) -> Tensor:
    """Labels `[T]` int64 of packed unit rows `[T, D]` with `offsets [B+1]`."""
    with without_autocast(points):
        labels: Tensor = backends.operator_module(backend, "connected_components").forward(
            points, offsets, threshold
        )
        return labels


@connected_components.register_fake
def _(points: Tensor, offsets: Tensor, threshold: float, backend: str) -> Tensor:
    return points.new_empty(points.shape[0], dtype=torch.int64)


@torch.library.register_vmap("rpe_ops::connected_components")
def _(info: Any, in_dims: Any, points: Tensor, offsets: Tensor, *rest: Any) -> Any:
    fold = Folded(info.batch_size)
    rows = fold.rows(points, in_dims[0])
    stride = rows.shape[0] // info.batch_size
    return fold.unfold(connected_components(rows, fold.offsets(offsets, in_dims[1], stride), *rest)), 0
