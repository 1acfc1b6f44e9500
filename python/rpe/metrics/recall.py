"""Average recall of scored masks by number of proposals, class-agnostic (useCats = 0), over all sizes.

The numbers are pycocotools' (`coco_matching.py`); this file reads its recall table.
"""

from __future__ import annotations

from collections.abc import Sequence

from .coco import ScoredMasks
from .coco_matching import Matches, accumulate, matched

PROPOSALS = (1, 2, 5, 10, 20, 30, 60, 100)
"""Numbers of proposals: those of the literature (10, 20, 30, 60, 100), and smaller ones for the curve."""


def average_recall(
    images: Sequence[ScoredMasks | Matches], proposals: Sequence[int] = PROPOSALS
) -> dict[str, dict[str, float | None]]:
    """Share of target instances that the first n proposals of their image find, pooled over images.

    Args:
        images: masks, or what `match_image` with `use_classes=False` made of them.
        proposals: numbers n.

    Returns:
        `{"0.50": {"10": recall, ...}, "0.50:0.95": {...}}`: at IoU 0.5, and the mean over 0.50, 0.55, ..., 0.95; None
        without target instances.
    """
    columns = [str(number) for number in sorted(proposals)]
    found = matched(images, use_classes=False, most=max(proposals))
    if not any(image.num_targets for image in found):
        nothing: dict[str, float | None] = dict.fromkeys(columns)
        return {"0.50": dict(nothing), "0.50:0.95": dict(nothing)}
    recall = accumulate(found, proposals)["recall"][:, 0, 0, :]  # [IoU thresholds, numbers of proposals]
    return {
        "0.50": dict(zip(columns, map(float, recall[0]), strict=True)),
        "0.50:0.95": dict(zip(columns, map(float, recall.mean(axis=0)), strict=True)),
    }
