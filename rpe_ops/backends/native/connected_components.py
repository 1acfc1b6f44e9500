"""Connected components in C++ (csrc/cpu/connected_components.cpp): exact, blocked cosines, union-find.

The kernel passes over tiles that are too far apart for an edge, and over those that already are one component; points
in an order that makes tiles tight leave it little else. Cosines do not depend on the order, so neither does the graph.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rpe_ops.backends.images import first_appearance_labels, image_of_rows
from rpe_ops.backends.native import loader
from rpe_ops.backends.spatial_order import spatial_order


def forward(points: Tensor, offsets: Tensor, threshold: float) -> Tensor:
    """Labels 0..C-1 per image, in order of first appearance."""
    loader.load()
    order = spatial_order(points, offsets, points.new_tensor(2.0 * threshold - 1.0))
    labels = torch.empty_like(order)
    labels[order] = torch.ops.rpe_ops_native.connected_components(points[order], offsets, threshold)
    if labels.numel() == 0:
        return labels
    # A component's number in the kernel is its place in `order`; the caller's is that of its first row.
    first_row = offsets[:-1][image_of_rows(offsets, labels.shape[0])]
    component, rows = first_row + labels, torch.arange(labels.shape[0])
    smallest = rows.clone().scatter_reduce_(0, component, rows, "amin", include_self=False)
    numbered = first_appearance_labels(smallest[component])
    return numbered - numbered[first_row]
