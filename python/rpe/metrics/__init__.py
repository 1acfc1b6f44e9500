"""Metrics over label maps, each with its convention in its docstring; `Evaluator` collects them over a data set.

Matching and ranking go through scipy, scikit-image, scikit-learn and pycocotools. Nothing here knows a model.
"""

from __future__ import annotations

from .agreement import count_difference, foreground_ari, partition_ari, symmetric_best_dice
from .evaluator import SMALL_IMAGE_PIXELS, Evaluator
from .matching import IOU_THRESHOLDS, average_precision, label_map_ap, match_instances
from .overlap import Overlap, count_overlap
from .proposals import PROPOSALS, average_recall, proposal_image

__all__ = [
    "IOU_THRESHOLDS",
    "PROPOSALS",
    "SMALL_IMAGE_PIXELS",
    "Evaluator",
    "Overlap",
    "average_precision",
    "average_recall",
    "count_difference",
    "count_overlap",
    "foreground_ari",
    "label_map_ap",
    "match_instances",
    "partition_ari",
    "proposal_image",
    "symmetric_best_dice",
]
