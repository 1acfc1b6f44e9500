"""Metrics of masks and maps with classes, against cases worked out by hand and against their libraries."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import jaccard_score
from torchmetrics.detection import PanopticQuality as Reference

from rpe.metrics import (
    ClassConfusion,
    PanopticQuality,
    ScoredMasks,
    class_iou,
    coco_ap,
    decode_mask,
    encode_labels,
    encode_mask,
    masks_of_label_map,
    pixel_accuracy,
    region_ap,
)

CLASSES = ("background", "cat", "dog", "fish")


def row(*labels: int) -> np.ndarray:
    """A label map of one row."""
    return np.array([labels], dtype=np.int64)


def masks(
    prediction: np.ndarray,
    scores: list[float],
    classes: list[int],
    target: np.ndarray,
    target_classes: dict[int, int],
) -> ScoredMasks:
    """Labels 1..K of a predicted map against a true one."""
    found = encode_labels(prediction, range(1, len(scores) + 1))
    return masks_of_label_map(found, scores, target, classes=classes, instance_class=target_classes)


class TestIgnoredPixels:
    def test_more_detections_than_a_byte_counts(self) -> None:
        """pycocotools' area of so many masks at once fails with numpy 2."""
        target = np.full((20, 20), -1)
        target[:, :15] = np.arange(20)[:, None] // 5
        prediction = np.arange(400).reshape(20, 20) + 1
        result = masks(prediction, [0.5] * 400, [1] * 400, target, {1: 1, 2: 1, 3: 1})
        assert len(result.detections) == 300 and len(result.targets) == 3

    def test_detections_lose_ignored_pixels_and_those_mostly_ignored_are_left_out(self) -> None:
        """1 loses a pixel and stays; 2 lies in ignored pixels alone; 3 mostly, finding nothing; 4 mostly, but what
        remains is an instance."""
        target = row(5, 5, -1, -1, -1, -1, 0, -1, -1, 6)
        prediction = row(1, 1, 1, 2, 3, 3, 3, 4, 4, 4)
        result = masks(prediction, [0.9, 0.8, 0.7, 0.6], [1, 1, 2, 3], target, {5: 1, 6: 3})
        assert result.scores == [0.9, 0.6] and result.classes == [1, 3] and result.target_classes == [1, 3]
        kept = [decode_mask(code).astype(int).tolist() for code in result.detections]
        assert kept == [[[1, 1, 0, 0, 0, 0, 0, 0, 0, 0]], [[0, 0, 0, 0, 0, 0, 0, 0, 0, 1]]]


class TestRunLengths:
    def test_a_part_of_an_image_is_encoded_in_its_place(self) -> None:
        label = np.random.default_rng(0).integers(0, 4, (9, 7))
        part = label[3:8, 2:6]
        inside = np.zeros_like(label)
        inside[3:8, 2:6] = part
        for value, code in zip((1, 2, 3, 9), encode_labels(part, (1, 2, 3, 9), (3, 2), (9, 7)), strict=True):
            assert code["size"] == [9, 7]
            np.testing.assert_array_equal(decode_mask(code), inside == value)

    @pytest.mark.parametrize("shape", [(9, 7), (1, 8), (8, 1), (1, 1), (0, 5)])
    def test_codes_are_those_of_pycocotools(self, shape: tuple[int, int]) -> None:
        """Labels that begin with the first pixel, end with the last, go on in the next column, and are absent."""
        label = np.random.default_rng(1).integers(-1, 3, shape, dtype=np.int16)
        codes = encode_labels(label, (2, -1, 0, 1, 5))
        assert codes == [encode_mask(label == value) for value in (2, -1, 0, 1, 5)]
        assert encode_labels(label, ()) == []


class TestRegionAP:
    def test_worked_case(self) -> None:
        """Cats by score: right, wrong (IoU 1/4), right, of 3. Precision 1, 1/2, 2/3 at recall 1/3, 1/3, 2/3: the
        area is 1/3 + 2/3 * 1/3 = 5/9. The dog is found as a cat: 0."""
        target = row(1, 1, 2, 2, 0, 3, 3, 0, 4, 4)
        prediction = row(1, 1, 3, 3, 0, 2, 0, 0, 0, 0)
        first = masks(prediction, [0.9, 0.8, 0.3], [1, 1, 1], target, {1: 1, 2: 1, 3: 1, 4: 2})
        wrong = row(0, 0, 0, 0, 0, 0, 1, 1, 1, 0)
        first = ScoredMasks(
            first.size,
            first.targets,
            [first.detections[0], *encode_labels(wrong, [1]), first.detections[2]],
            first.scores,
            first.target_classes,
            first.classes,
        )
        result = region_ap([first], CLASSES)
        assert result["by_class"] == pytest.approx({"cat": 5 / 9, "dog": 0.0})
        assert result["mean"] == pytest.approx(5 / 18)
        np.testing.assert_allclose(result["curves"]["cat"]["precision"], [1, 1 / 2, 2 / 3])
        np.testing.assert_allclose(result["curves"]["cat"]["recall"], [1 / 3, 1 / 3, 2 / 3])

    def test_detections_are_ranked_over_all_images(self) -> None:
        """A confident mistake in one image comes before the right one of another: precision 1/2 at recall 1."""
        right = masks(row(1, 1, 0), [0.2], [3], row(4, 4, 0), {4: 3})
        false = masks(row(0, 1, 1), [0.7], [3], row(0, 0, 0), {})
        assert region_ap([right, false], CLASSES)["by_class"] == {"fish": 0.5}
        assert region_ap([false], CLASSES) == {"mean": None, "by_class": {}, "curves": {}}
        assert region_ap([], CLASSES)["mean"] is None

    def test_crowds_are_neither_found_nor_missed(self) -> None:
        code = encode_labels(row(1, 1, 2, 2), [1, 2])
        image = ScoredMasks((1, 4), code, code, [0.5, 0.9], [1, 1], [1, 1], [False, True])
        assert region_ap([image], CLASSES)["by_class"] == {"cat": 1.0}
        assert coco_ap([image])["ap"] == pytest.approx(1.0)

    def test_close_to_the_sampled_curve_of_coco(self) -> None:
        random = np.random.default_rng(0)
        images = []
        for _ in range(12):
            target = np.kron(random.permutation(16).reshape(4, 4), np.ones((4, 4), dtype=np.int64))
            prediction = np.where(random.random(target.shape) < 0.25, 0, target)
            scores, kinds = random.random(15).tolist(), random.integers(1, 4, 15).tolist()
            true = {label: int(random.integers(1, 4)) for label in range(1, 16)}
            images.append(masks(prediction, scores, kinds, target, true))
        assert region_ap(images, CLASSES)["mean"] == pytest.approx(coco_ap(images)["ap50"], abs=0.02)


class TestCocoAP:
    def test_worked_case(self) -> None:
        """One instance of each class, IoU 0.6: found at 0.50, 0.55 and 0.60, three of ten thresholds."""
        target, prediction = row(1, 1, 1, 1, 1, 2, 2, 2, 2, 2), row(1, 1, 1, 0, 0, 2, 2, 2, 0, 0)
        result = coco_ap([masks(prediction, [0.5, 0.5], [1, 2], target, {1: 1, 2: 2})])
        assert result == pytest.approx({"ap": 0.3, "ap50": 1.0, "ap75": 0.0})
        swapped = coco_ap([masks(prediction, [0.5, 0.5], [2, 1], target, {1: 1, 2: 2})])
        assert swapped == pytest.approx({"ap": 0.0, "ap50": 0.0, "ap75": 0.0})
        assert coco_ap([]) == {"ap": None, "ap50": None, "ap75": None}


class TestClassConfusion:
    def test_worked_case(self) -> None:
        """Background: 1 of 2; cat: 2 of 4 in the union; dog: 0 of 2. Fish occurs nowhere and does not count."""
        confusion = ClassConfusion(CLASSES)
        table = confusion.add(row(0, 1, 1, 1, 2, 3), row(0, 0, 1, 1, 1, -1))
        assert confusion.iou() == pytest.approx({"background": 1 / 2, "cat": 2 / 4, "dog": 0.0})
        assert pixel_accuracy(table) == 3 / 5
        confusion.add(row(2, 2), row(2, 2))
        assert confusion.iou()["dog"] == pytest.approx(2 / 3)

    def test_against_scikit_learn(self) -> None:
        random = np.random.default_rng(1)
        prediction, target = random.integers(0, 4, (2, 20, 30))
        confusion = ClassConfusion(CLASSES)
        confusion.add(prediction, target)
        np.testing.assert_allclose(
            class_iou(confusion.counts), jaccard_score(target.ravel(), prediction.ravel(), average=None)
        )

    def test_nothing_counted_and_illegal_classes(self) -> None:
        confusion = ClassConfusion(CLASSES)
        assert pixel_accuracy(confusion.add(row(1, 2), row(-1, -1))) is None and confusion.iou() == {}
        with pytest.raises(ValueError, match=r"prediction: classes must lie in 0\.\.3, got 0\.\.4"):
            confusion.add(row(0, 4), row(0, 0))
        with pytest.raises(ValueError, match=r"target: classes must lie in -1\.\.3"):
            confusion.add(row(0, 0), row(0, 4))
        with pytest.raises(ValueError, match="one size"):
            confusion.add(row(0, 0), row(0))
        with pytest.raises(ValueError, match="two or more classes"):
            ClassConfusion(["background"])


class TestPanopticQuality:
    def test_worked_case(self) -> None:
        """Cat: IoU 3/4 matched, a second one missed: (3/4) / (1 + 1/2). Dog: false, 0. Fish occurs nowhere."""
        quality = PanopticQuality(CLASSES)
        quality.add(row(1, 1, 1, 0, 0, 2, 2, 0), [1, 2], row(1, 1, 1, 1, 0, 2, 2, -1), [1, 1])
        result = quality.result()
        assert result["by_class"] == pytest.approx({"cat": 0.5, "dog": 0.0})
        assert (result["pq"], result["sq"], result["rq"]) == pytest.approx((0.25, 0.375, 1 / 3))

    def test_against_torchmetrics(self) -> None:
        """The background is its one class of "stuff", and left out; ignored pixels are of a class it does not know."""
        random = np.random.default_rng(2)
        reference = Reference(things={1, 2, 3}, stuffs={0}, return_sq_and_rq=True, return_per_class=True)
        quality = PanopticQuality(CLASSES)
        for _ in range(20):
            target = np.kron(random.permutation(16).reshape(4, 4) - 1, np.ones((6, 6), dtype=np.int64))
            prediction = np.where(random.random(target.shape) < 0.3, random.integers(0, 15), target)
            prediction = np.where(target < 0, random.integers(0, 15, target.shape), prediction)
            kinds = random.integers(1, 4, 14)
            found = np.where(random.random(14) < 0.3, random.integers(1, 4, 14), kinds)
            quality.add(prediction, found.tolist(), target, kinds.tolist())
            maps = [
                np.stack([np.array([0, *of, 9])[values], np.maximum(values, 0)], axis=-1)
                for values, of in ((prediction, found), (target, kinds))
            ]
            reference.update(*(torch.from_numpy(values)[None] for values in maps))
        wanted = reference.compute().reshape(-1, 3)[:3].numpy()
        result = quality.result()
        assert (result["pq"], result["sq"], result["rq"]) == pytest.approx(tuple(wanted.mean(axis=0)))
        np.testing.assert_allclose(list(result["by_class"].values()), wanted[:, 0])
        assert wanted[:, 2].min() > 0.2 and wanted[:, 2].max() < 0.9

    def test_ignored_pixels_and_nothing(self) -> None:
        assert PanopticQuality(CLASSES).result() == {"pq": None, "sq": None, "rq": None, "by_class": {}}
        quality = PanopticQuality(CLASSES)
        quality.add(row(1, 1, 2, 2), [3, 3], row(1, 1, -1, -1), [3])
        assert quality.result()["pq"] == 1.0
