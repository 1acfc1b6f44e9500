"""Connected parts of label maps in the image plane (not in embedding space: that is rpe_ops.connected_components)."""

from __future__ import annotations

import numpy as np
import torch
from skimage import measure
from torch import Tensor


def split_components(label: Tensor, *, background: int | None = 0) -> Tensor:
    """Give every part of an instance that hangs together (8-neighbourhood) a label of its own.

    The largest part keeps the label; the others get numbers above the largest label in use. Negative labels
    (IGNORE) and `background` stay as they are.

    Args:
        label: integer `[H, W]`.
        background: label that is no instance; None where the data has no background.

    Returns:
        int64 `[H, W]`.
    """
    values = label.cpu().numpy().astype(np.int64)
    if values.size == 0:
        return label.to(torch.int64)
    is_instance = values >= 0 if background is None else (values >= 0) & (values != background)
    parts = measure.label(np.where(is_instance, values + 1, 0), background=0, connectivity=2)
    result = values.copy()
    next_label = int(values.max()) + 1
    sizes = np.bincount(parts.ravel())
    owner = np.zeros(len(sizes), dtype=np.int64)
    owner[parts.ravel()] = values.ravel()
    kept: set[int] = set()
    for part in sorted(range(1, len(sizes)), key=lambda part: (-sizes[part], part)):
        if owner[part] in kept:
            owner[part] = next_label
            next_label += 1
        else:
            kept.add(int(owner[part]))
    result[is_instance] = owner[parts[is_instance]]
    return torch.from_numpy(result).to(label.device)
