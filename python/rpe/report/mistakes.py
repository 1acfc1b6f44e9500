"""Where a predicted label map is wrong, and how: the map of mistakes in the report.

Instances are matched as in the metrics (rpe.metrics.match_instances); what remains is named by how it overlaps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..data.sample import IGNORE
from ..metrics.matching import match_instances
from ..metrics.overlap import IntArray, LabelMap, Overlap, as_label_array, comparable, count_overlap
from .colours import Picture

MistakeMap: TypeAlias = NDArray[np.uint8]

GROUND, CORRECT, SPLIT, MERGED, MISSED, FALSE, IGNORED = range(7)

LEGEND: dict[str, tuple[int, int, int]] = {
    "correct": (76, 175, 110),
    "split": (66, 133, 244),
    "merged": (168, 85, 214),
    "missed": (229, 72, 62),
    "false": (245, 176, 40),
}
"""Colour of each kind of pixel; background that was left alone is near black, ignored pixels are grey."""
_COLOURS = np.array([(22, 22, 26), *LEGEND.values(), (110, 110, 110)], dtype=np.uint8)


@dataclass(frozen=True)
class Mistakes:
    """Kinds of pixels, and instances by their fate.

    Attributes:
        kinds: uint8 `[H, W]` of GROUND, CORRECT, SPLIT, MERGED, MISSED, FALSE, IGNORED.
        counts: target instances that are "correct", "split", "merged" or "missed", and predicted ones that are "false".
    """

    kinds: MistakeMap
    counts: dict[str, int]

    def picture(self) -> Picture:
        """The map in the colours of LEGEND."""
        return _COLOURS[self.kinds]

    def caption(self) -> str:
        """The counts in words, those that are zero left out."""
        return (
            ", ".join(f"{number} {name}" for name, number in self.counts.items() if number) or "nothing here"
        )


def find_mistakes(
    prediction: LabelMap, target: LabelMap, *, threshold: float = 0.5, has_background: bool = True
) -> Mistakes:
    """Compare label maps `[H, W]` pixel by pixel.

    A target instance is correct where a prediction matches it at IoU >= threshold. Otherwise it is merged where the
    prediction that covers most of it also covers half or more of another one, or matches another one; split where
    two or more predictions lie mostly inside it; and missed in every other case.

    Pixels of a target are missed without a prediction, correct under their match, and under another prediction have
    the fate of the target; there, in a correct target, they are merged where a neighbour's match reaches in, else
    split. Pixels of a prediction over background are false.

    Raises:
        ValueError: sizes differ or labels are illegal.
    """
    overlap = count_overlap(prediction, target, has_background=has_background)
    predicted, wanted = comparable(prediction, target, has_background=has_background)
    rows, columns = match_instances(overlap, threshold)
    fate = _fates(overlap, rows, columns)

    partner = np.full(len(overlap.target_labels), -1, dtype=np.int64)
    partner[columns] = rows
    kinds = np.full(wanted.shape, GROUND, dtype=np.uint8)
    kinds[(predicted > 0) & (wanted == 0)] = FALSE
    kinds[(predicted == 0) & (wanted > 0)] = MISSED
    both = (predicted > 0) & (wanted > 0)
    row = np.searchsorted(overlap.predicted_labels, predicted[both])
    column = np.searchsorted(overlap.target_labels, wanted[both])
    intruder = np.where(np.isin(row, rows), MERGED, SPLIT)
    wrong = np.where(fate[column] == CORRECT, intruder, fate[column])
    kinds[both] = np.where(partner[column] == row, CORRECT, wrong)
    kinds[as_label_array(target, "target") == IGNORE] = IGNORED

    covered = overlap.intersection.sum(axis=1)
    matched = np.isin(np.arange(len(covered)), rows)
    counts = {
        name: int((fate == code).sum())
        for name, code in (("correct", CORRECT), ("split", SPLIT), ("merged", MERGED), ("missed", MISSED))
    }
    counts["false"] = int((~matched & (2 * covered < overlap.predicted_sizes)).sum())
    return Mistakes(kinds, counts)


def align_labels(prediction: LabelMap, target: LabelMap, *, has_background: bool = True) -> IntArray:
    """The prediction `[H, W]` renumbered so that matched instances have their target's label, the others unused ones.

    Only for colours: two pictures side by side then show the same instance in the same colour.
    """
    overlap = count_overlap(prediction, target, has_background=has_background)
    predicted, _ = comparable(prediction, target, has_background=has_background)
    rows, columns = match_instances(overlap, 0.1)
    first_free = int(overlap.target_labels.max(initial=0)) + 1
    renamed = np.arange(first_free, first_free + len(overlap.predicted_labels))
    renamed[rows] = overlap.target_labels[columns]
    table = np.concatenate([[0], renamed])
    dense = np.where(predicted > 0, np.searchsorted(overlap.predicted_labels, predicted) + 1, 0)
    return table[dense]


def _fates(overlap: Overlap, rows: IntArray, columns: IntArray) -> IntArray:
    """CORRECT, SPLIT, MERGED or MISSED per target instance `[T]`."""
    num_predicted, num_target = overlap.intersection.shape
    fate = np.full(num_target, MISSED, dtype=np.int64)
    if num_predicted and num_target:
        inside = overlap.intersection / overlap.predicted_sizes[:, None]  # share of a prediction in a target
        cover = overlap.intersection / overlap.target_sizes[None, :]  # share of a target under a prediction
        best = cover.argmax(axis=0)
        swallowed = (cover >= 0.5).sum(axis=1)  # targets mostly under each prediction
        taken = np.isin(np.arange(num_predicted), rows)
        touched = overlap.intersection[best, np.arange(num_target)] > 0
        fate[(inside > 0.5).sum(axis=0) >= 2] = SPLIT
        most = cover[best, np.arange(num_target)] >= 0.5
        fate[touched & most & ((swallowed[best] >= 2) | taken[best])] = MERGED
    fate[columns] = CORRECT
    return fate
