"""How far a network sees: the pixels around a place on which its output there depends, measured on its own layers.

A NaN goes where the value of its pixel goes, whatever the weights: one pass over a strip with a NaN in its middle shows
it. What follows for tiles is the business of `predict.py`.
"""

from __future__ import annotations

import torch

from .model import RPE


def measured_reach(model: RPE, quantum: int, most: int) -> int:
    """Distance in pixels from which the output at a place may still change.

    Args:
        model: in evaluation mode; its heads count as well as its backbone.
        quantum: pixels by which the network may be shifted without a change (its total stride).
        most: returned too where the network sees further, as with normalisation over the whole image.
    """
    middle = -(-most // quantum) * quantum
    device = next(model.parameters()).device
    reach = 0
    # Without cuDNN, whose fast convolutions spread a NaN over whole blocks; a strip is a small image.
    with torch.no_grad(), torch.backends.cudnn.flags(enabled=False):
        for axis in (2, 3):
            size = [1, 3, quantum, quantum]
            size[axis] = 2 * middle + quantum
            strip = torch.zeros(size, device=device)
            strip.narrow(axis, middle, quantum).fill_(torch.nan)
            for maps in model(strip):
                if maps is not None:
                    touched = (
                        maps.isnan().movedim(axis, 0).flatten(1).any(dim=1).nonzero() * model.output_stride
                    )
                    last = int(touched.max()) + model.output_stride
                    reach = max(reach, middle - int(touched.min()), last - middle - quantum)
    return min(reach, most)
