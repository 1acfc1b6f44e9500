"""The true masks of an image for ranked metrics: the data set's own, overlapping ones where it has them, else its label
map's.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..data import Dataset, Sample
from ..metrics import ScoredMasks, masks_of_label_map


def scored_masks(
    dataset: Dataset,
    index: int,
    sample: Sample,
    detections: Sequence[dict],
    scores: Sequence[float],
    classes: Sequence[int] = (),
) -> ScoredMasks:
    """Detections (run-length codes) of image `index` against its truth.

    `coco` data is scored against its annotations, crowds included, as COCO's protocol asks; other data against the
    label map, with its ignored pixels taken out of the detections.
    """
    ground_truth = getattr(dataset, "ground_truth", None)
    if ground_truth is None:
        return masks_of_label_map(
            detections,
            scores,
            sample.label.numpy(),
            classes=classes,
            instance_class=sample.instance_class,
        )
    annotations = ground_truth(index)
    number = {category: place for place, category in enumerate(dataset.category_ids, start=1)}
    return ScoredMasks(
        sample.size,
        [annotation["segmentation"] for annotation in annotations],
        list(detections),
        [float(score) for score in scores],
        [number[annotation["category_id"]] for annotation in annotations],
        [int(kind) for kind in classes],
        [bool(annotation["iscrowd"]) for annotation in annotations],
    )
