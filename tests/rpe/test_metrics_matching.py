"""Matching image by image is pycocotools' evaluation of the whole data set, and keeps no mask."""

from __future__ import annotations

import contextlib
import io
import pickle
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as run_length
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from rpe.metrics import ScoredMasks, average_recall, coco_ap, encode_labels, match_image, region_ap
from rpe.metrics.coco_matching import accumulate, matched

CLASSES = ("background", "cat", "dog", "fish")


def random_images(number: int, side: int = 40) -> list[ScoredMasks]:
    """Squares, and detections that are shifted squares; some images without either, some masks crowds."""
    random = np.random.default_rng(0)
    images = []
    for index in range(number):
        label = np.kron(np.arange(1, 26).reshape(5, 5), np.ones((8, 8), dtype=np.int64))
        label[np.isin(label, random.permutation(25)[:12] + 1)] = 0
        found = np.roll(label, random.integers(0, 4, 2), axis=(0, 1))
        truth, seen = (np.unique(one[one > 0]) for one in (label, found))
        truth, seen = truth if index % 5 else truth[:0], seen if index % 7 else seen[:0]
        images.append(
            ScoredMasks(
                (side, side),
                encode_labels(label, truth),
                encode_labels(found, seen),
                np.round(random.random(len(seen)), 1).tolist(),
                random.integers(1, 4, len(truth)).tolist(),
                random.integers(1, 4, len(seen)).tolist(),
                (random.random(len(truth)) < 0.2).tolist(),
            )
        )
    return images


def evaluated_at_once(images: list[ScoredMasks], use_classes: bool, numbers: list[int]) -> dict[str, Any]:
    """pycocotools' tables of the data set as a whole, the usual way."""

    def data(annotations: list[dict[str, Any]]) -> COCO:
        coco = COCO()
        coco.dataset = {
            "images": [{"id": index, "height": 40, "width": 40} for index in range(len(images))],
            "categories": [{"id": kind, "name": name} for kind, name in enumerate(CLASSES) if kind],
            "annotations": [
                {**entry, "id": number, "area": float(run_length.area(entry["segmentation"]))}
                for number, entry in enumerate(annotations, start=1)
            ],
        }
        coco.createIndex()
        return coco

    true, found = [], []
    for index, image in enumerate(images):
        for code, kind, crowd in zip(image.targets, image.target_classes, image.is_crowd, strict=True):
            true.append({"image_id": index, "category_id": kind, "segmentation": code, "iscrowd": int(crowd)})
        for code, kind, score in zip(image.detections, image.classes, image.scores, strict=True):
            found.append(
                {"image_id": index, "category_id": kind, "segmentation": code, "score": score, "iscrowd": 0}
            )
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(data(true), data(found), "segm")
        evaluation.params.useCats, evaluation.params.maxDets = int(use_classes), numbers
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval


@pytest.mark.parametrize("use_classes", [False, True])
def test_image_by_image_is_the_data_set_at_once(use_classes: bool) -> None:
    images, numbers = random_images(30), [1, 4, 100]
    wanted = evaluated_at_once(images, use_classes, numbers)
    for most in (100, None):
        found = accumulate(matched(images, use_classes=use_classes, most=most), numbers)
        for table in ("precision", "recall"):
            np.testing.assert_array_equal(found[table], wanted[table])
    assert 0.05 < wanted["recall"][0, 0, 0, -1] < 0.95, "neither everything nor nothing is found"


def test_masks_and_matches_give_the_same_numbers() -> None:
    images = random_images(20)
    with_classes = [match_image(image, use_classes=True) for image in images]
    alike = [match_image(image, use_classes=False, most=100) for image in images]
    assert region_ap(with_classes, CLASSES) == region_ap(images, CLASSES)
    assert coco_ap(with_classes) == coco_ap(images)
    assert average_recall(alike) == average_recall(images)
    assert average_recall(alike[:3]) == average_recall(images[:3]) != average_recall(images)


@pytest.mark.parametrize("side", [40, 160])
def test_no_mask_is_kept(side: int) -> None:
    """Of 100 ragged masks, whose codes are long: scores, and two bytes for each of ten IoUs."""
    random = np.random.default_rng(1)
    codes = encode_labels(random.permutation(side * side).reshape(side, side) % 100 + 1, range(1, 101))
    image = ScoredMasks((side, side), codes, codes, random.random(100).tolist())
    assert len(pickle.dumps(match_image(image, use_classes=False))) < 100 * (8 + 2 * 10) + 1500
    assert len(pickle.dumps(image)) > 180 * side


def test_what_was_matched_otherwise_is_refused() -> None:
    image = random_images(3)[1]
    with pytest.raises(ValueError, match="use_classes=True, most=100, got one with use_classes=False"):
        coco_ap([match_image(image, use_classes=False)])
    with pytest.raises(ValueError, match="most=None, got one with use_classes=True, most=5"):
        region_ap([match_image(image, use_classes=True, most=5)], CLASSES)
