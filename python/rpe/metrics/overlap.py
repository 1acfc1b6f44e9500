"""Two label maps of one image to the table of their overlaps, which every matching metric starts from.

Here, once for all metrics, pixels without part (label IGNORE in the target) are taken out and labels made dense. No
metric is computed here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from skimage.metrics import contingency_table
from torch import Tensor

from ..data.sample import IGNORE

LabelMap: TypeAlias = Tensor | NDArray[np.integer]
"""Integer label map `[H, W]`: 0 is background, a positive number an instance, IGNORE (-1, target only) no part."""

IntArray: TypeAlias = NDArray[np.int64]


def as_label_array(label: LabelMap, argument: str) -> IntArray:
    """Label map as an int64 array `[H, W]`; booleans are one instance.

    Raises:
        ValueError: not two-dimensional, or not whole numbers.
    """
    array = label.detach().cpu().numpy() if isinstance(label, Tensor) else np.asarray(label)
    if array.ndim != 2 or not (np.issubdtype(array.dtype, np.integer) or array.dtype == np.bool_):
        raise ValueError(
            f"{argument} must be an integer label map [H, W], got {array.dtype} {list(array.shape)}"
        )
    return array.astype(np.int64)


def comparable(
    prediction: LabelMap, target: LabelMap, *, has_background: bool = True
) -> tuple[IntArray, IntArray]:
    """Both label maps as int64 `[H, W]`, ignored pixels 0 in both, instances positive.

    Without a background every label counts as an instance: labels are raised by one.

    Raises:
        ValueError: sizes differ, or a label is negative (IGNORE in the target apart).
    """
    predicted, wanted = as_label_array(prediction, "prediction"), as_label_array(target, "target")
    if predicted.shape != wanted.shape:
        raise ValueError(
            f"prediction and target must have one size, got {list(predicted.shape)} and {list(wanted.shape)}"
        )
    if predicted.size and (predicted.min() < 0 or wanted.min() < IGNORE):
        raise ValueError(
            f"labels must be 0 or more ({IGNORE} = ignored, in the target only), "
            f"got minima {predicted.min()} in the prediction and {wanted.min()} in the target"
        )
    counted = wanted != IGNORE
    shift = 0 if has_background else 1
    return np.where(counted, predicted + shift, 0), np.where(counted, wanted + shift, 0)


@dataclass(frozen=True)
class Overlap:
    """Shared pixels of P predicted and T target instances.

    Attributes:
        predicted_labels: int64 `[P]`, ascending.
        target_labels: int64 `[T]`, ascending.
        intersection: pixels in both, int64 `[P, T]`.
        predicted_sizes: pixels of each predicted instance, int64 `[P]`, those over background included.
        target_sizes: pixels of each target instance, int64 `[T]`.
    """

    predicted_labels: IntArray
    target_labels: IntArray
    intersection: IntArray
    predicted_sizes: IntArray
    target_sizes: IntArray

    @cached_property
    def iou(self) -> NDArray[np.float64]:
        """Intersection over union `[P, T]`."""
        union = self.predicted_sizes[:, None] + self.target_sizes[None, :] - self.intersection
        return self.intersection / union

    @cached_property
    def dice(self) -> NDArray[np.float64]:
        """Dice coefficient `[P, T]`."""
        return 2 * self.intersection / (self.predicted_sizes[:, None] + self.target_sizes[None, :])


def count_overlap(prediction: LabelMap, target: LabelMap, *, has_background: bool = True) -> Overlap:
    """The overlap table of one image; empty sides are legal. Raises ValueError as `comparable`."""
    predicted, wanted = comparable(prediction, target, has_background=has_background)
    predicted_labels, predicted_dense = _dense(predicted)
    target_labels, target_dense = _dense(wanted)
    table = np.zeros((len(predicted_labels) + 1, len(target_labels) + 1), dtype=np.int64)
    if predicted.size:
        counts = np.rint(contingency_table(predicted_dense, target_dense).toarray()).astype(np.int64)
        table[: counts.shape[0], : counts.shape[1]] = counts
    return Overlap(
        predicted_labels,
        target_labels,
        intersection=table[1:, 1:],
        predicted_sizes=table[1:].sum(axis=1),
        target_sizes=table[:, 1:].sum(axis=0),
    )


def _dense(label: IntArray) -> tuple[IntArray, IntArray]:
    """Positive labels, ascending, and the map renumbered to 0 (background), 1..K in that order."""
    values = np.unique(label)
    values = values[values > 0]
    return values, np.where(label > 0, np.searchsorted(values, label) + 1, 0)
