"""The truth of the task `boundary` where void bands lie around objects, as in VOC: labels grow until they meet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rpe.config import Config, DataConfig
from rpe.data import IGNORE, open_dataset
from rpe.data.void import REACH, close_bands
from rpe.losses import label_boundaries
from rpe.tasks import get
from rpe.tasks.boundary import annotators
from rpe.train import _loader

SIDE, VOID = 40, 255


@pytest.fixture
def spec(tmp_path: Path) -> str:
    """A square of 14 pixels in a void band of five, and a void square of twelve in the lower right corner."""
    label = np.zeros((SIDE, SIDE), dtype=np.uint8)
    label[10:34, 10:34] = VOID
    label[15:29, 15:29] = 1
    label[28:, 28:] = VOID
    for folder, values in (
        ("SegmentationObject", label),
        ("SegmentationClass", np.where(label == 1, 7, label)),
    ):
        (tmp_path / folder).mkdir()
        Image.fromarray(values.astype(np.uint8)).save(tmp_path / folder / "a.png")
    (tmp_path / "JPEGImages").mkdir()
    Image.fromarray(label).convert("RGB").save(tmp_path / "JPEGImages" / "a.jpg")
    return f"voc:{tmp_path}"


def labels_of_views(task: str, spec: str) -> torch.Tensor:
    data = DataConfig(root=spec, train_split="", crop=SIDE)
    batch = next(iter(_loader(Config(task=task, data=data), open_dataset(spec), 0, 1)))  # type: ignore[arg-type]
    label: torch.Tensor = batch["label"]
    return label


def test_training_sees_boundaries_in_void_bands(spec: str) -> None:
    """A contour of some 4 x 18 pixels, two pixels wide; of the plain labels no two different ones touch."""
    assert not label_boundaries(labels_of_views("semantic_instance", spec)).any()
    found = label_boundaries(labels_of_views("boundary", spec)).sum((1, 2))
    assert len(found) == 8 and (found > 0.8 * 2 * 4 * 18).all(), found


def test_evaluation_sees_the_same_boundary_one_pixel_wide(spec: str) -> None:
    sample = open_dataset(spec)[0]
    (truth,) = annotators(sample)
    rows, columns = np.nonzero(truth[:26, :26])  # away from the void square
    assert len(rows) > 20
    nearest = np.minimum(rows, columns)
    assert ((nearest >= 11) & (nearest <= 13)).all(), "in the middle of the band of rows and columns 10 to 14"


def test_wide_regions_stay_ignored_and_every_label_grows() -> None:
    label = torch.full((1, 41), IGNORE)
    label[0, :5], label[0, -3:] = 0, 6
    closed = close_bands(label)
    assert closed[0, : 5 + REACH].tolist() == [0] * (5 + REACH)
    assert closed[0, -3 - REACH :].tolist() == [6] * (3 + REACH)
    assert (closed[0, 5 + REACH : -3 - REACH] == IGNORE).all()
    assert (label == IGNORE).sum() == 33, "the map given is not changed"
    whole = torch.arange(6).view(2, 3)
    assert close_bands(whole) is whole
    assert (close_bands(torch.full((4, 4), IGNORE)) == IGNORE).all()


def test_other_tasks_leave_void_alone(spec: str) -> None:
    sample = open_dataset(spec)[0]
    for task in ("instance", "proposals", "semantic", "semantic_instance"):
        assert get(task).training_sample(sample) is sample
    assert (labels_of_views("instance", spec) == IGNORE).any()
