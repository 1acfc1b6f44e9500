"""Class maps against class maps: intersection over union per class (mIoU), and panoptic quality with instances.

Pixels of classes are counted by torchmetrics, which is imported at the first use, because it takes seconds. IGNORE (-1)
in the target takes no part.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..data.sample import IGNORE
from .overlap import IntArray, LabelMap, as_label_array, count_overlap


class ClassConfusion:
    """Pixels by true and predicted class, over a data set.

    Args:
        classes: names; index 0 is the background, a class like the others (as VOC counts it).
    """

    def __init__(self, classes: Sequence[str]) -> None:
        if len(classes) < 2:
            raise ValueError(f"ClassConfusion: expected two or more classes, got {list(classes)}")
        self.classes = tuple(classes)
        self.counts: IntArray = np.zeros((len(classes), len(classes)), dtype=np.int64)

    def add(self, prediction: LabelMap, target: LabelMap) -> IntArray:
        """Count one image; returns its own table `[true, predicted]`.

        Raises:
            ValueError: sizes differ, or a class is unknown.
        """
        from torchmetrics.functional.classification import multiclass_confusion_matrix

        predicted, wanted = as_label_array(prediction, "prediction"), as_label_array(target, "target")
        if predicted.shape != wanted.shape:
            raise ValueError(
                f"prediction and target must have one size, got {list(predicted.shape)} and {list(wanted.shape)}"
            )
        for name, array, low in (("prediction", predicted, 0), ("target", wanted, IGNORE)):
            if array.size and not low <= array.min() <= array.max() < len(self.classes):
                raise ValueError(
                    f"{name}: classes must lie in {low}..{len(self.classes) - 1}, "
                    f"got {array.min()}..{array.max()}; the model and the data set must have the same classes"
                )
        if not (wanted >= 0).any():
            return np.zeros_like(self.counts)
        table = multiclass_confusion_matrix(
            torch.from_numpy(predicted),
            torch.from_numpy(wanted),
            num_classes=len(self.classes),
            ignore_index=IGNORE,
            validate_args=False,
        ).numpy()
        self.counts += table
        return np.asarray(table)

    def iou(self) -> dict[str, float]:
        """Intersection over union of each class that occurs in truth or prediction."""
        values = class_iou(self.counts)
        return {
            name: float(value) for name, value in zip(self.classes, values, strict=True) if np.isfinite(value)
        }


def class_iou(counts: IntArray) -> NDArray[np.float64]:
    """`[K]` from a table `[K true, K predicted]`; NaN for a class that occurs on neither side."""
    right = np.diag(counts)
    union = counts.sum(axis=0) + counts.sum(axis=1) - right
    return np.divide(right, union, out=np.full(len(counts), np.nan), where=union > 0)


def pixel_accuracy(counts: IntArray) -> float | None:
    """Share of the counted pixels with the right class."""
    total = int(counts.sum())
    return float(np.diag(counts).sum() / total) if total else None


class PanopticQuality:
    """PQ = sum of IoU over matched segments / (TP + FP / 2 + FN / 2), by class, over a data set (Kirillov et al.,
    CVPR 2019). Instances of classes 1..K-1 are things; the background is not a class here, it is void in the
    prediction and counts against no one. A segment mostly in ignored pixels is no false one.

    Args:
        classes: names; index 0 is the background.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = tuple(classes)
        # By class: sum of the IoU of matched segments, and numbers of true positives, false positives, false negatives.
        self._sums: NDArray[np.float64] = np.zeros((4, len(classes)))

    def add(
        self,
        prediction: LabelMap,
        classes: Sequence[int],
        target: LabelMap,
        target_classes: Sequence[int],
    ) -> None:
        """Count one image.

        Args:
            prediction: `[H, W]`, 0 = background, instances 1..P.
            classes: class of each predicted instance, `[P]`.
            target: `[H, W]`, 0 = background, -1 = ignored, instances 1..T.
            target_classes: class of each true instance, `[T]`.
        """
        overlap = count_overlap(prediction, target)
        found = np.array([0, *classes], dtype=np.int64)[overlap.predicted_labels]
        wanted = np.array([0, *target_classes], dtype=np.int64)[overlap.target_labels]
        # Above one half a segment has one partner at most.
        matched = (overlap.iou > 0.5) & (found[:, None] == wanted[None, :])
        pixels = np.bincount(as_label_array(prediction, "prediction").reshape(-1))[overlap.predicted_labels]
        is_false = ~matched.any(axis=1) & (2 * overlap.predicted_sizes >= pixels)
        partner, hit = np.nonzero(matched)
        for row, kinds, weights in (
            (0, wanted[hit], overlap.iou[partner, hit]),
            (1, wanted[hit], None),
            (2, found[is_false], None),
            (3, wanted[~matched.any(axis=0)], None),
        ):
            self._sums[row] += np.bincount(kinds, weights, len(self.classes))

    def result(self) -> dict[str, Any]:
        """{"pq", "sq", "rq": means over the classes that occur, "by_class": {name: pq}}; None without any class."""
        iou, hits, false, missed = self._sums
        number = hits + (false + missed) / 2
        seen = np.flatnonzero(number)
        if not len(seen):
            return {"pq": None, "sq": None, "rq": None, "by_class": {}}
        pq, rq = iou[seen] / number[seen], hits[seen] / number[seen]
        sq = iou[seen] / np.maximum(hits[seen], 1)
        by_class = {self.classes[kind]: float(value) for kind, value in zip(seen, pq, strict=True)}
        return {"pq": float(pq.mean()), "sq": float(sq.mean()), "rq": float(rq.mean()), "by_class": by_class}
