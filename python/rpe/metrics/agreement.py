"""How well two label maps agree as partitions: Rand index, best Dice, and the difference in count.

Conventions differ between papers and are stated at each function. Matching at an IoU is in matching.py.
"""

from __future__ import annotations

import numpy as np
from sklearn.metrics import adjusted_rand_score

from .overlap import LabelMap, Overlap, as_label_array, comparable


def foreground_ari(prediction: LabelMap, target: LabelMap, *, has_background: bool = True) -> float | None:
    """Adjusted Rand index over the pixels of target instances (the FG-ARI of the multi-object literature).

    Background and ignored pixels of the target do not count, so false instances on the ground cost nothing; predicted
    background over an instance is one more cluster. 1 = equal, about 0 = chance; None without target instances.
    One target instance, left whole, gives 1; cut in two, it gives 0 (scikit-learn's convention).

    Raises:
        ValueError: sizes differ or labels are illegal.
    """
    predicted, wanted = comparable(prediction, target, has_background=has_background)
    foreground = wanted > 0
    if not foreground.any():
        return None
    return float(adjusted_rand_score(wanted[foreground], predicted[foreground]))


def partition_ari(prediction: LabelMap, target: LabelMap) -> float | None:
    """Adjusted Rand index over all pixels that are not ignored, background as one segment among others.

    This is how the authors of recurrent pixel embedding treat background: as an instance. None without pixels.

    Raises:
        ValueError: sizes differ or labels are illegal.
    """
    comparable(prediction, target)
    counted = as_label_array(target, "target") >= 0
    if not counted.any():
        return None
    wanted, predicted = as_label_array(target, "target"), as_label_array(prediction, "prediction")
    return float(adjusted_rand_score(wanted[counted], predicted[counted]))


def symmetric_best_dice(overlap: Overlap) -> float:
    """Mean best Dice from target to prediction or back, whichever is smaller (leaf segmentation challenge).

    Both empty: 1. One empty: 0.
    """
    num_predicted, num_target = overlap.dice.shape
    if num_predicted == 0 or num_target == 0:
        return 1.0 if num_predicted == num_target else 0.0
    return float(min(np.mean(overlap.dice.max(axis=1)), np.mean(overlap.dice.max(axis=0))))


def count_difference(overlap: Overlap) -> int:
    """DiC: predicted instances minus target instances (|DiC| is its absolute value)."""
    return len(overlap.predicted_labels) - len(overlap.target_labels)
