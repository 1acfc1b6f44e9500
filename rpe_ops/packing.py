"""The canonical form of a batch: packed rows `[T, D]` with `offsets [B+1]`, in the dtype that is computed in.

`functional.py` packs every layout of the contract into this one, so that each backend knows a single layout. Nothing
here checks arguments or computes anything pairwise.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """How the rows of a call were given: `offsets [B+1]` of its images, the points of each where all have as many
    (None for a ragged batch), and whether it was one unbatched image."""

    offsets: Tensor
    points_per_image: int | None
    unbatched: bool

    @property
    def num_images(self) -> int:
        """B."""
        return self.offsets.shape[0] - 1


def layout_of(rows: Tensor, offsets: Tensor | None) -> Layout:
    """The layout of validated `rows`: `[N, D]`, `[B, N, D]`, or `[T, D]` with `offsets`."""
    if offsets is not None:
        return Layout(offsets.to(device=rows.device, dtype=torch.int64), None, unbatched=False)
    num_images = 1 if rows.ndim == 2 else rows.shape[0]
    steps = torch.arange(num_images + 1, device=rows.device, dtype=torch.int64)
    return Layout(steps * rows.shape[-2], rows.shape[-2], unbatched=rows.ndim == 2)


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 stays, everything narrower is computed in float32."""
    return torch.float64 if dtype is torch.float64 else torch.float32


def packed(rows: Tensor) -> Tensor:
    """Contiguous `[T, D]` rows in the compute dtype; differentiable."""
    return rows.reshape(-1, rows.shape[-1]).to(compute_dtype(rows.dtype)).contiguous()
