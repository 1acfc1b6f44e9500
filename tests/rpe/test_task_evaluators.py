"""What the tasks' evaluators count, on predictions made by hand: perfect ones score 1, known mistakes cost."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from rpe.config import DecodeConfig
from rpe.data import Dataset, Sample, open_dataset
from rpe.grouping import RecurrentGrouping
from rpe.metrics import encode_labels, encode_mask
from rpe.model import Output
from rpe.prediction import Prediction
from rpe.tasks import get
from rpe.tasks.boundary import annotators
from rpe.tasks.ridges import ridges
from rpe.tasks.truth import scored_masks

EMBEDDING = np.zeros((2, 1, 1), dtype=np.float32)


@pytest.fixture
def data() -> Dataset:
    return open_dataset("synthetic:num_images=2,size=48,instances=5")


def perfect(sample: Sample) -> Prediction:
    """The truth of a generated image as a prediction."""
    assert sample.instance_class is not None and sample.semantic is not None
    labels = sample.label.numpy().astype(np.int32)
    count = int(labels.max())
    return Prediction(
        labels,
        np.linspace(0.9, 0.8, count, dtype=np.float32),
        EMBEDDING,
        classes=np.array([sample.instance_class[k + 1] for k in range(count)]),
        semantic=sample.semantic.numpy(),
        proposals=tuple(encode_labels(labels, range(1, count + 1))),
    )


@pytest.mark.parametrize("task", ["instance", "proposals", "semantic", "semantic_instance"])
def test_perfect_predictions(task: str, data: Dataset) -> None:
    evaluator = get(task).evaluator(data)
    for index, sample in enumerate(data):
        evaluator.add(index, sample, perfect(sample))
    result = evaluator.result()
    for key, _, _ in result["columns"]:
        assert result["overall"][key] == pytest.approx(0.0 if key == "abs_dic" else 1.0), key
    assert all(row[result["order"]] == 1.0 for row in result["images"])


def test_a_wrong_class_costs_class_metrics_alone(data: Dataset) -> None:
    evaluator = get("semantic_instance").evaluator(data)
    for index, sample in enumerate(data):
        right = perfect(sample)
        assert right.classes is not None
        wrong = Prediction(
            right.labels, right.scores, EMBEDDING, classes=right.classes % 3 + 1, semantic=right.semantic
        )
        evaluator.add(index, sample, wrong)
    overall = evaluator.result()["overall"]
    assert overall["ap50"] == overall["sbd"] == overall["miou"] == 1.0
    assert overall["apr50"] == overall["pq"] == 0.0


def test_fates_are_summed_over_images(data: Dataset) -> None:
    evaluator = get("instance").evaluator(data)
    total = 0
    for index, sample in enumerate(data):
        one = (sample.label.numpy() > 0).astype(np.int32)
        evaluator.add(index, sample, Prediction(one, np.ones(1, dtype=np.float32), EMBEDDING))
        total += int(sample.label.max())
    result = evaluator.result()
    fates = result["overall"]["fates"]
    assert fates["correct"] + fates["split"] + fates["merged"] + fates["missed"] == total
    assert fates["merged"] > 0
    rows = result["tables"]["Splits and merges"]["rows"]
    assert {name: number for name, number, _ in rows} == fates


def test_coco_truth_is_taken_from_the_annotations(data: Dataset) -> None:
    """Overlapping masks and a crowd, which no label map can hold; classes by the order of the ids."""
    one, other = np.zeros((2, 4, 8), dtype=np.bool_)
    one[:, :6] = True
    other[:, 2:] = True

    class Annotated:
        category_ids = (3, 7)

        def ground_truth(self, index: int) -> list[dict]:
            return [
                {"segmentation": encode_mask(one), "category_id": 7, "iscrowd": 0},
                {"segmentation": encode_mask(other), "category_id": 3, "iscrowd": 1},
            ]

    sample = Sample(torch.zeros(3, 4, 8), torch.zeros(4, 8, dtype=torch.int64), "a")
    masks = scored_masks(Annotated(), 0, sample, [encode_mask(one)], [0.5], [2])  # type: ignore[arg-type]
    assert masks.target_classes == [2, 1] and masks.is_crowd == [False, True]
    assert len(masks.targets) == 2 and masks.classes == [2]


class TestBoundary:
    def test_prediction_is_the_mean_of_all_depths(self) -> None:
        logit = torch.full((1, 3, 6, 8), -4.0)
        logit[:, :, :, 4] = torch.tensor([4.0, 2.0, 8.0])[None, :, None]
        result = get("boundary").decode(
            Output(torch.ones(1, 2, 6, 8) / 2**0.5, boundary=logit),
            (6, 8),
            RecurrentGrouping(0),
            DecodeConfig(),
        )
        assert result.boundary is not None and result.boundary_depths is not None
        np.testing.assert_allclose(result.boundary, result.boundary_depths.mean(axis=0), rtol=1e-6)
        assert result.boundary[0, 4] == pytest.approx(torch.tensor([4.0, 2.0, 8.0]).sigmoid().mean().item())
        assert result.labels[0].tolist() == [1] * 4 + [0] + [2] * 3 and (result.scores > 0.9).all()

    def test_the_truth_as_a_prediction(self, data: Dataset) -> None:
        evaluator = get("boundary").evaluator(data)
        for index, sample in enumerate(data):
            (truth,) = annotators(sample)
            maps = np.stack([truth, np.zeros_like(truth)]).astype(np.float32)
            labels = np.ones(sample.size, dtype=np.int32)
            prediction = Prediction(
                labels, np.ones(1, np.float32), EMBEDDING, boundary=maps[0], boundary_depths=maps
            )
            evaluator.add(index, sample, prediction)
        overall = evaluator.result()["overall"]
        assert overall["ods"] == overall["ois"] == 1.0
        assert overall["depths"] == {
            "depth 1": {"ods": 1.0, "ois": 1.0, "ap": pytest.approx(overall["ap"])},
            "fused": {"ods": 0.0, "ois": 0.0, "ap": 0.0},
        }

    def test_annotators(self) -> None:
        image, label = torch.zeros(3, 3, 6), torch.tensor([[1, 1, 1, 2, 2, 2]] * 3)
        drawn = torch.zeros(3, 6, dtype=torch.bool)
        drawn[:, 2] = True
        given = annotators(Sample(image, label, "a", boundaries=(drawn, ~drawn)))
        assert len(given) == 2 and (given[0] == drawn.numpy()).all()
        (derived,) = annotators(Sample(image, label, "a"))
        assert derived[1].sum() == 1 and derived[1, 2:4].any(), "one pixel wide"
        assert len(annotators(Sample(image, label, "a", annotations=(label, label)))) == 2

    def test_ridges_do_not_depend_on_how_many_rows_are_thinned_at_once(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        noise = np.random.default_rng(0).random((100, 37))
        smooth = gaussian_filter(noise, 2.0)
        whole = ridges(smooth)
        monkeypatch.setattr("rpe.tasks.ridges._ROWS", 24)
        np.testing.assert_array_equal(ridges(smooth), whole)
        assert 0 < (whole > 0).mean() < 0.5

    @pytest.mark.parametrize("degrees", [0, 20, 45, 70, 90, 135])
    def test_ridges_keep_the_crest_of_a_wide_boundary(self, degrees: int) -> None:
        """A smooth line through the middle at any angle: what stays lies on it, and all of it stays."""
        row, column = np.mgrid[:41, :41] - 20.0
        turn = np.deg2rad(degrees)
        distance = np.abs(row * np.cos(turn) - column * np.sin(turn))
        thinned = ridges(0.9 * np.exp(-((distance / 3) ** 2)))
        assert distance[thinned > 0.3].max() <= 1.0
        assert (thinned[distance < 0.5] > 0.8).mean() > 0.95
        assert (ridges(np.zeros((5, 7))) == 0).all() and ridges(np.ones((1, 4))).shape == (1, 4)
