"""Connected components in bands of rows: minimum-label propagation with hooking and pointer jumping.

Each pass visits every pair once and at least halves the number of unfinished components of a connected graph in
practice; the graph is never stored. The result does not depend on the bands.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rpe_ops.backends.images import first_appearance_labels, image_slices, row_bands


def forward(points: Tensor, offsets: Tensor, threshold: float) -> Tensor:
    """Labels `[T]` int64, 0..C-1 per image; arguments as in the reference."""
    label = torch.empty(points.shape[0], dtype=torch.int64, device=points.device)
    for rows in image_slices(offsets):
        if rows.stop > rows.start:
            label[rows] = first_appearance_labels(_roots(points[rows], 2.0 * threshold - 1.0))
    return label


def _roots(x: Tensor, cosine_threshold: float) -> Tensor:
    """The smallest index `[N]` that each point is connected to."""
    num_points = x.shape[0]
    root = torch.arange(num_points, device=x.device, dtype=torch.int32)
    while True:
        smallest = root.clone()
        for band in row_bands(x, num_points):
            joined = x[band] @ x.T >= cosine_threshold
            reach = torch.where(joined, root[None, :], num_points)
            smallest[band] = torch.minimum(smallest[band], reach.amin(1))
            # the same edges seen from their other end, should rounding differ between (i, j) and (j, i)
            back = torch.where(joined, root[band, None], num_points)
            smallest = torch.minimum(smallest, back.amin(0))
        hooked = root.scatter_reduce(0, root.long(), smallest, "amin")
        hooked = torch.minimum(hooked, smallest)
        while not torch.equal(hooked[hooked.long()], hooked):
            hooked = hooked[hooked.long()]
        if torch.equal(hooked, root):
            return root.long()
        root = hooked
