"""Labels into what the pairwise loss needs: rows sorted by (image, instance), dense ids, weights, normalisers.

Plain PyTorch with shapes that depend on shapes alone, so that it traces and captures. Ignored points get weight 0 and
the last place in their image. Nothing pairwise here.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rpe_ops.backends.images import accumulation_dtype, image_of_rows, segment_sums
from rpe_ops.packing import Layout


@dataclass(frozen=True)
class SortedInstances:
    """The labels of a packed batch, sorted.

    `order [T]` lists the rows by (image, ignored last, label); `instance [T]` numbers the instances 0, 1, ... along
    that order, a new number at every change of image or label; `taking_part [T]` is False for ignored points (same
    order).
    """

    order: Tensor
    instance: Tensor
    taking_part: Tensor


def sort_instances(label: Tensor, offsets: Tensor, ignore_index: int | None) -> SortedInstances:
    """Sort packed `label [T]` (any integer dtype and values) within the images of `offsets [B+1]`."""
    ignored = _ignored(label, ignore_index)
    # uint64 wraps into int64: another value, but still one value per instance
    label = label.to(torch.int64)
    image = image_of_rows(offsets, label.shape[0])
    order = torch.argsort(label, stable=True)
    if ignore_index is not None:
        order = order[torch.argsort(ignored[order].to(torch.uint8), stable=True)]
    if offsets.shape[0] > 2:  # one image needs no third sorting
        order = order[torch.argsort(image[order], stable=True)]
    sorted_label, sorted_image = label[order], image[order]
    changes = torch.zeros_like(sorted_label)
    changes[1:] = (sorted_label[1:] != sorted_label[:-1]) | (sorted_image[1:] != sorted_image[:-1])
    return SortedInstances(order, changes.cumsum(0), ~ignored[order])


def instance_weights(instances: SortedInstances, dtype: torch.dtype) -> Tensor:
    """w_i = 1 / (points of its instance in its image), `[T]` in sorted order, 0 where ignored."""
    ones = torch.ones_like(instances.instance)
    count = torch.zeros_like(ones).scatter_add(0, instances.instance, ones)
    return instances.taking_part.to(dtype) / count[instances.instance].to(dtype)


def image_sums(values: Tensor, layout: Layout) -> Tensor:
    """Sum of `values [T]` (sorted order) over the points of each image, `[B]` float64 (float32 where there is none)."""
    wide = values.to(accumulation_dtype(values.device))
    if layout.points_per_image is not None:
        return wide.reshape(layout.num_images, layout.points_per_image).sum(1)
    return segment_sums(wide, layout.offsets)


def _ignored(label: Tensor, ignore_index: int | None) -> Tensor:
    """Where `label [T]` is `ignore_index`; a value that the label's dtype cannot hold is nowhere."""
    limits = torch.iinfo(torch.uint8 if label.dtype is torch.bool else label.dtype)
    if ignore_index is None or not limits.min <= ignore_index <= limits.max:
        return torch.zeros(label.shape, dtype=torch.bool, device=label.device)
    if (
        label.dtype is torch.uint64
    ):  # PyTorch compares few unsigned types; as int64 the large half is negative
        ignore_index -= 2**64 if ignore_index >= 2**63 else 0
    return label.to(torch.int64) == ignore_index
