"""How far a network sees: the pixels around a place on which its output there depends, measured on its own layers.

A NaN goes where the value of its pixel goes, whatever the weights: one pass over a strip with a NaN in its middle shows
it. What follows for tiles is the business of `predict.py`.
"""

from __future__ import annotations

import torch

from .model import RPE

_BREADTH = 64
"""Least breadth of a strip in pixels: layers that mirror the border need some."""


def measured_reach(model: RPE, quantum: int, most: int) -> int:
    """Distance in pixels from which the output at a place may still change.

    Args:
        model: in evaluation mode; its heads count as well as its backbone.
        quantum: pixels by which the network may be shifted without a change (its total stride).
        most: returned too where the network sees further, as with normalisation over the whole image.
    """
    middle, breadth = (-(-length // quantum) * quantum for length in (most, _BREADTH))
    device, stride = next(model.parameters()).device, model.output_stride
    reach = 0
    # Without cuDNN, whose fast convolutions spread a NaN over whole blocks; a strip is a small image.
    with torch.no_grad(), torch.backends.cudnn.flags(enabled=False):
        for axis in (2, 3):
            size = [1, 3, breadth, breadth]
            size[axis] = 2 * middle + quantum
            strip = torch.zeros(size, device=device)
            strip.narrow(axis, middle, quantum).fill_(torch.nan)
            for maps in model(strip):
                if maps is None or not maps.isnan().any():
                    continue
                touched = maps.isnan().movedim(axis, 0).flatten(1).any(dim=1).nonzero() * stride
                first, last = int(touched.min()), int(touched.max()) + stride
                reach = max(reach, middle - first, last - middle - quantum)
    return min(reach, most)
