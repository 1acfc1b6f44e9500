"""Narrow bands of ignored pixels in a label map, given to the labels on their two sides.

Label maps drawn by hand, those of VOC above all, leave a band without a label along every contour: where the boundary
lies is then nowhere to be read. Who compares pixels of objects leaves such bands out; who needs the boundary closes
them.
"""

from __future__ import annotations

import torch
from skimage.segmentation import expand_labels
from torch import Tensor

from .sample import IGNORE

REACH = 5
"""Pixels that labels grow: VOC's bands are some five pixels wide, and where objects touch two of them meet."""


def close_bands(label: Tensor) -> Tensor:
    """The label map int64 `[H, W]` with every IGNORE pixel at most `REACH` pixels from a label given to the nearest,
    background included; wider regions stay ignored inside."""
    if not bool((label == IGNORE).any()):
        return label
    return torch.from_numpy(expand_labels(label.numpy() - IGNORE, REACH) + IGNORE)
