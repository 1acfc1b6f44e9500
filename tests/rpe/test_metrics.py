"""Metrics of label maps against cases worked out by hand, and the conventions for empty and ignored pixels."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
import torch

from rpe.metrics import (
    IOU_THRESHOLDS,
    Evaluator,
    average_recall,
    count_difference,
    count_overlap,
    encode_labels,
    foreground_ari,
    label_map_ap,
    masks_of_label_map,
    match_instances,
    partition_ari,
    symmetric_best_dice,
)

EMPTY = torch.zeros(4, 4, dtype=torch.int64)


def row(*labels: int) -> torch.Tensor:
    """A label map of one row."""
    return torch.tensor([labels])


def random_labels(seed: int, size: int = 12, instances: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, instances + 1, (size, size))


class TestOverlap:
    def test_counts(self) -> None:
        overlap = count_overlap(row(0, 4, 4, 9, 9, 9), row(7, 7, 7, 7, 0, -1))
        assert overlap.predicted_labels.tolist() == [4, 9] and overlap.target_labels.tolist() == [7]
        assert overlap.intersection.tolist() == [[2], [1]]
        assert overlap.predicted_sizes.tolist() == [2, 2] and overlap.target_sizes.tolist() == [4]
        np.testing.assert_allclose(overlap.iou, [[2 / 4], [1 / 5]])
        np.testing.assert_allclose(overlap.dice, [[4 / 6], [2 / 6]])

    @pytest.mark.parametrize("seed", range(3))
    def test_against_plain_counting(self, seed: int) -> None:
        prediction, target = random_labels(seed), random_labels(seed + 100) - 1
        overlap = count_overlap(prediction, target)
        for (p, one), (t, other) in itertools.product(
            enumerate(overlap.predicted_labels), enumerate(overlap.target_labels)
        ):
            inside = (prediction == one) & (target != -1)
            assert overlap.intersection[p, t] == np.sum(inside & (target == other))
            assert overlap.iou[p, t] == np.sum(inside & (target == other)) / np.sum(
                inside | (target == other)
            )

    def test_large_labels_and_every_integer_type(self) -> None:
        expected = count_overlap(row(0, 5, 6), row(0, 1, 1)).intersection
        for dtype in (np.uint8, np.uint16, np.int32):
            found = count_overlap(np.array([[0, 5, 6]], dtype=dtype), np.array([[0, 1, 1]], dtype=dtype))
            np.testing.assert_array_equal(found.intersection, expected)
        assert count_overlap(row(0, 2**40, 6), row(0, 1, 1)).intersection.tolist() == [[1], [1]]

    @pytest.mark.parametrize(
        ("prediction", "target", "message"),
        [
            (row(0, 1), row(0, 1, 2), "one size"),
            (row(0, -1), row(0, 1), "must be 0 or more"),
            (row(0, 1), row(0, -2), "must be 0 or more"),
            (torch.zeros(1, 2), row(0, 1), "integer label map"),
            (torch.zeros(2, dtype=torch.int64), row(0, 1), "integer label map"),
        ],
    )
    def test_illegal_input(self, prediction: torch.Tensor, target: torch.Tensor, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            count_overlap(prediction, target)


class TestAveragePrecision:
    def test_worked_case(self) -> None:
        """IoU 1 for instance 1; 3/4 for instance 2; instance 3 is missed and prediction 9 is false."""
        target = row(1, 1, 2, 2, 2, 2, 0, 3, 3, 0, 0)
        prediction = row(5, 5, 6, 6, 6, 0, 0, 0, 0, 9, 0)
        np.testing.assert_allclose(
            label_map_ap(prediction, target, [0.5, 0.75, 0.8, 1.0]), [2 / 4, 2 / 4, 1 / 5, 1 / 5]
        )

    def test_merged_and_split(self) -> None:
        """One prediction over two equal instances has IoU 1/2 with both: only one can be its partner."""
        assert label_map_ap(row(1, 1, 1, 1), row(1, 1, 2, 2), [0.5, 0.55]).tolist() == [0.5, 0.0]
        assert label_map_ap(row(1, 1, 2, 2), row(1, 1, 1, 1), [0.5, 0.55]).tolist() == [0.5, 0.0]

    def test_empty(self) -> None:
        one = EMPTY.clone()
        one[1, 1] = 3
        assert label_map_ap(EMPTY, EMPTY, [0.5]).tolist() == [1.0]
        assert label_map_ap(one, EMPTY, [0.5]).tolist() == [0.0]
        assert label_map_ap(EMPTY, one, [0.5]).tolist() == [0.0]
        nothing = torch.zeros(0, 0, dtype=torch.int64)
        assert label_map_ap(nothing, nothing, [0.5]).tolist() == [1.0]

    def test_mean_over_images(self) -> None:
        target = row(1, 1, 2, 2)
        assert label_map_ap([target, EMPTY, EMPTY + 1], [target, EMPTY + 1, EMPTY], [0.5]) == pytest.approx(
            1 / 3
        )
        with pytest.raises(ValueError, match="2 predictions for 1 targets"):
            label_map_ap([target, target], [target])
        with pytest.raises(ValueError, match="0 predictions"):
            label_map_ap([], [])
        with pytest.raises(ValueError, match="thresholds"):
            label_map_ap(target, target, [0.0])

    def test_ignored_pixels(self) -> None:
        target = row(1, 1, -1, -1, 0)
        assert label_map_ap(row(4, 4, 4, 9, 0), target, [1.0]).tolist() == [1.0]
        assert label_map_ap(row(4, 4, 4, 9, 9), target, [1.0]).tolist() == [0.5]

    def test_without_background(self) -> None:
        prediction, target = row(0, 0, 1, 1), row(3, 3, 0, 0)
        assert label_map_ap(prediction, target, [0.5], has_background=False).tolist() == [1.0]
        assert label_map_ap(prediction, target, [0.5]).tolist() == [0.0]

    @pytest.mark.parametrize("seed", range(4))
    def test_relabelling_and_identity(self, seed: int) -> None:
        target, prediction = random_labels(seed), random_labels(seed + 50)
        renamed = np.array([0, 40, 3, 77, 12, 6])[prediction]
        np.testing.assert_array_equal(label_map_ap(renamed, target), label_map_ap(prediction, target))
        assert label_map_ap(target, target).tolist() == [1.0] * len(IOU_THRESHOLDS)

    @pytest.mark.parametrize("seed", range(6))
    def test_matching_is_the_best_of_all(self, seed: int) -> None:
        """At low thresholds, where there is a choice: most pairs, then the largest sum of IoU."""
        overlap = count_overlap(random_labels(seed, 8, 4), random_labels(seed + 9, 8, 5))
        num_predicted, num_target = overlap.iou.shape
        best = (0, 0.0)
        for columns in itertools.permutations(range(num_target), num_predicted):
            values = [overlap.iou[p, t] for p, t in enumerate(columns) if overlap.iou[p, t] >= 0.1]
            best = max(best, (len(values), round(sum(values), 9)))
        rows, columns = match_instances(overlap, 0.1)
        assert (len(rows), round(float(overlap.iou[rows, columns].sum()), 9)) == best


class TestAgreement:
    def test_foreground_ari(self) -> None:
        target = row(0, 0, 1, 1, 2, 2)
        assert foreground_ari(row(9, 9, 5, 5, 6, 6), target) == 1.0
        assert foreground_ari(row(0, 0, 5, 5, 5, 5), target) == pytest.approx(0.0)
        assert foreground_ari(row(0, 0, 0, 0, 6, 6), target) == 1.0
        assert foreground_ari(EMPTY, EMPTY) is None
        assert foreground_ari(row(1, 2), row(-1, 0)) is None

    def test_ari_by_pair_counting(self) -> None:
        """Pairs: 2 together in both, 4 in the target, 3 in the prediction, 15 in all."""
        target, prediction = row(1, 1, 1, 2, 2, 3), row(1, 1, 2, 3, 3, 2)
        expected = (2 - 4 * 3 / 15) / ((4 + 3) / 2 - 4 * 3 / 15)
        assert foreground_ari(prediction, target) == pytest.approx(expected)
        assert partition_ari(prediction, target) == pytest.approx(expected)

    def test_partition_ari_counts_background_and_skips_ignored(self) -> None:
        assert partition_ari(row(0, 0, 1, 1, 5), row(0, 0, 1, 1, -1)) == 1.0
        assert partition_ari(row(3, 3, 1, 1), row(0, 0, 1, 1)) == 1.0
        assert partition_ari(row(1, 1, 1, 1), row(0, 0, 1, 1)) == 0.0
        assert partition_ari(row(1), row(-1)) is None

    def test_best_dice(self) -> None:
        overlap = count_overlap(row(1, 1, 0, 2), row(1, 1, 1, 0))
        assert symmetric_best_dice(overlap) == pytest.approx(min((4 / 5 + 0) / 2, 4 / 5))
        assert symmetric_best_dice(count_overlap(EMPTY, EMPTY)) == 1.0
        assert symmetric_best_dice(count_overlap(EMPTY, EMPTY + 1)) == 0.0

    def test_count_difference(self) -> None:
        assert count_difference(count_overlap(row(1, 2, 3), row(1, 1, -1))) == 1
        assert count_difference(count_overlap(row(0, 0, 0), row(1, 2, 3))) == -3


class TestAverageRecall:
    @staticmethod
    def image(prediction: torch.Tensor, target: torch.Tensor, scores: list[float]):
        labels = [int(value) for value in prediction.unique() if value > 0]
        return masks_of_label_map(encode_labels(prediction.numpy(), labels), scores, target.numpy())

    def test_worked_case(self) -> None:
        """IoU 1 and 0.75 by the second and third proposal, the first is false; three targets in all."""
        target = row(1, 1, 0, 2, 2, 2, 2, 0, 3, 0)
        prediction = row(7, 7, 0, 8, 8, 8, 0, 0, 0, 5)
        recall = average_recall([self.image(prediction, target, [0.9, 0.5, 0.4])], [1, 2, 3])
        assert recall["0.50"] == pytest.approx({"1": 0.0, "2": 1 / 3, "3": 2 / 3})
        at_most_075 = 6 / 10  # thresholds 0.50 .. 0.75
        assert recall["0.50:0.95"] == pytest.approx({"1": 0.0, "2": 1 / 3, "3": (1 + at_most_075) / 3})

    def test_pooled_over_images(self) -> None:
        target = row(1, 2, 3)
        images = [self.image(target, target, [3.0, 2.0, 1.0]), self.image(row(0, 0, 0), row(1, 0, 0), [])]
        recall = average_recall(images, [10, 30, 60, 100])
        assert recall["0.50"] == pytest.approx({"10": 3 / 4, "30": 3 / 4, "60": 3 / 4, "100": 3 / 4})

    def test_more_instances_than_proposals(self) -> None:
        target = torch.arange(1, 41).reshape(5, 8)
        recall = average_recall([self.image(target, target, list(range(40)))], [10, 30, 60, 100])
        assert recall["0.50:0.95"] == pytest.approx({"10": 0.25, "30": 0.75, "60": 1.0, "100": 1.0})

    def test_nothing_to_find(self) -> None:
        recall = average_recall([self.image(row(1, 0), row(0, 0), [1.0])], [10])
        assert recall == {"0.50": {"10": None}, "0.50:0.95": {"10": None}}
        assert average_recall([], [10])["0.50"] == {"10": None}

    def test_prints_nothing(self, capsys: pytest.CaptureFixture[str]) -> None:
        average_recall([self.image(row(1, 2), row(1, 2), [1.0, 2.0])])
        assert capsys.readouterr().out == ""


class TestEvaluator:
    def test_result(self) -> None:
        evaluator = Evaluator()
        target = row(1, 1, 2, 2, 0, -1)
        evaluator.add("perfect", "stained", (256, 320), target.clamp(min=0), [0.5, 0.6], target)
        evaluator.add("nothing", "fluorescence", (256, 321), torch.zeros_like(target), [], target)
        evaluator.add("empty", None, (10, 10), EMPTY, None, EMPTY)
        result = json.loads(json.dumps(evaluator.result()))
        assert len(evaluator) == 3
        overall = result["overall"]
        assert (overall["images"], overall["instances"], overall["predicted"]) == (3, 4, 2)
        assert overall["ap50"] == pytest.approx(2 / 3) and overall["ap_mean"] == pytest.approx(2 / 3)
        assert list(overall["ap"]) == [f"{threshold:.2f}" for threshold in IOU_THRESHOLDS]
        assert overall["ap50_pooled"] == 0.5 and overall["precision50"] == 1.0 and overall["recall50"] == 0.5
        assert overall["f1_50"] == pytest.approx(2 / 3)
        assert overall["ari"] == pytest.approx(1 / 2) and overall["abs_dic"] == pytest.approx(2 / 3)
        assert overall["ar"]["0.50"]["10"] == 0.5
        assert set(result["by_kind"]) == {"stained", "fluorescence"}
        assert result["by_kind"]["stained"]["ap_mean"] == 1.0
        assert {name: group["images"] for name, group in result["by_size"].items()} == {
            "small": 2,
            "large": 1,
        }
        rows = {entry["name"]: entry for entry in result["images"]}
        assert rows["nothing"]["dic"] == -2 and rows["empty"]["ari"] is None and rows["perfect"]["sbd"] == 1.0

    def test_no_images(self) -> None:
        result = json.loads(json.dumps(Evaluator().result()))
        assert (
            result["overall"]["images"] == 0 and result["overall"]["ap50"] is None and result["images"] == []
        )

    def test_scores_rank_the_proposals(self) -> None:
        target = torch.arange(1, 21).reshape(4, 5)
        prediction = target.clone()
        prediction[0] = 0  # 6..15 remain and are right, 16 is three pixels large instead of one
        prediction[3] = torch.tensor([16, 16, 16, 0, 0])
        for scores, found in (([1.0] * 10 + [0.0], 10), ([0.0] * 10 + [1.0], 9)):
            evaluator = Evaluator(proposals=[10])
            evaluator.add("a", None, (4, 5), prediction, torch.tensor(scores), target)
            recall = evaluator.result()["overall"]["ar"]["0.50"]["10"]
            assert recall == pytest.approx(found / 20)

    def test_of_thousands_of_fragments_the_best_alone_are_encoded(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The recall is that of all of them as masks, with ignored pixels and equal scores."""
        random = np.random.default_rng(3)
        target = np.kron(random.permutation(25).reshape(5, 5) - 1, np.ones((10, 10), dtype=np.int64))
        prediction = np.where(random.random((50, 50)) < 0.2, random.integers(1, 1800, (50, 50)), 0)
        prediction = np.where(prediction == 0, np.maximum(target, 0) + 1800, prediction)
        labels = np.unique(prediction)
        scores = random.integers(0, 20, len(labels)) + 10.0 * (labels > 1800)
        masks = masks_of_label_map(encode_labels(prediction, labels), scores.tolist(), target)
        encoded = []
        monkeypatch.setattr(
            "rpe.metrics.evaluator.encode_labels",
            lambda label, values: encoded.append(len(values)) or encode_labels(label, values),
        )
        evaluator = Evaluator(proposals=[5, 40])
        evaluator.add("a", None, (50, 50), prediction, scores.tolist(), target)
        assert evaluator.result()["overall"]["ar"] == average_recall([masks], [5, 40])
        assert 0.05 < evaluator.result()["overall"]["ar"]["0.50"]["40"] < 1
        assert len(labels) > 400 and sorted(encoded) == [23, 40]

    def test_score_of_an_ignored_proposal_goes_with_it(self) -> None:
        evaluator = Evaluator(proposals=[1])
        evaluator.add("a", None, (1, 4), row(1, 2, 3, 0), [0.9, 0.5, 0.4], row(-1, 1, 0, 0))
        assert evaluator.result()["overall"]["ar"]["0.50"]["1"] == 1.0

    @pytest.mark.parametrize("scores", [[0.5], [0.5, math.nan], [[0.1, 0.2]]])
    def test_wrong_scores(self, scores: list) -> None:
        with pytest.raises(ValueError, match="expected 2 finite scores"):
            Evaluator().add("a", None, (1, 2), row(1, 2), scores, row(1, 2))

    def test_without_background_and_proposals(self) -> None:
        evaluator = Evaluator([0.5], has_background=False, proposals=())
        evaluator.add("a", None, (1, 4), row(0, 0, 1, 1), None, row(1, 1, 0, 0))
        overall = evaluator.result()["overall"]
        assert overall["ap"] == {"0.50": 1.0} and overall["instances"] == 2 and overall["ar"] == {}
