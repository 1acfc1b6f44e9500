"""Metrics by protocol, each with its convention in its docstring; the `...Evaluator`s collect them over a data set.

Matching, ranking and counting go through scipy, scikit-image, scikit-learn, pycocotools and torchmetrics. Nothing here
knows a model.
"""

from __future__ import annotations

from .agreement import count_difference, foreground_ari, partition_ari, symmetric_best_dice
from .boundary import boundary_scores, count_boundaries, match_boundaries
from .coco import ScoredMasks, decode_mask, encode_labels, encode_mask, masks_of_label_map
from .coco_matching import Matches, match_image
from .evaluator import SMALL_IMAGE_PIXELS, Evaluator
from .matching import IOU_THRESHOLDS, average_precision, label_map_ap, match_instances
from .overlap import Overlap, count_overlap
from .precision import coco_ap, region_ap
from .recall import PROPOSALS, average_recall
from .semantic import ClassConfusion, PanopticQuality, class_iou, pixel_accuracy

__all__ = [
    "IOU_THRESHOLDS",
    "PROPOSALS",
    "SMALL_IMAGE_PIXELS",
    "ClassConfusion",
    "Evaluator",
    "Matches",
    "Overlap",
    "PanopticQuality",
    "ScoredMasks",
    "average_precision",
    "average_recall",
    "boundary_scores",
    "class_iou",
    "coco_ap",
    "count_boundaries",
    "count_difference",
    "count_overlap",
    "decode_mask",
    "encode_labels",
    "encode_mask",
    "foreground_ari",
    "label_map_ap",
    "masks_of_label_map",
    "match_boundaries",
    "match_image",
    "match_instances",
    "partition_ari",
    "pixel_accuracy",
    "region_ap",
    "symmetric_best_dice",
]
