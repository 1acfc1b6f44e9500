"""Connected components of the similarity graph, the specification.

Points i and j of one image are joined when s_ij = (1 + x_i . x_j) / 2 >= threshold, that is
x_i . x_j >= 2 threshold - 1. A component is numbered by the order in which its first point appears in its image.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rpe_ops.backends.images import first_appearance_labels, image_slices


def forward(points: Tensor, offsets: Tensor, threshold: float) -> Tensor:
    """Labels `[T]` int64, 0..C-1 per image, of unit rows `points [T, D]` with `offsets [B+1]`."""
    label = torch.empty(points.shape[0], dtype=torch.int64, device=points.device)
    for rows in image_slices(offsets):
        x = points[rows]
        joined = x @ x.T >= 2.0 * threshold - 1.0
        joined |= joined.T.clone()
        joined.fill_diagonal_(True)
        root = torch.arange(x.shape[0], device=x.device)
        while True:
            smallest = torch.where(joined, root[None, :], x.shape[0]).amin(1) if x.shape[0] else root
            if torch.equal(smallest, root):
                break
            root = smallest
        label[rows] = first_appearance_labels(root)
    return label
