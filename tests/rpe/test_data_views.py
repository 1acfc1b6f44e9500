"""Training views of a data set that streams: nothing read beforehand or kept, the same views in any worker."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rpe.config import DataConfig, ModelConfig
from rpe.data import DataError, open_dataset
from rpe.views import TrainingViews

DATA = DataConfig(crop=16, scale=(0.5, 2.0), rotation=30.0, flip="horizontal", gamma=0.2, noise=0.1)


@pytest.fixture
def voc(tmp_path: Path) -> str:
    """Five images of different sizes with two instances each."""
    for name in range(5):
        label = np.zeros((20 + name, 24), dtype=np.uint8)
        label[4:12, 3:11] = 1
        label[10:18, 11:22] = 2
        for folder, values in (("SegmentationObject", label), ("SegmentationClass", label * 7)):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(values).save(tmp_path / folder / f"{name}.png")
        (tmp_path / "JPEGImages").mkdir(exist_ok=True)
        Image.fromarray(label * 90).save(tmp_path / "JPEGImages" / f"{name}.jpg")
    return f"voc:{tmp_path}"


def views(spec: str, count: int = 12) -> TrainingViews:
    return TrainingViews(open_dataset(spec), DATA, ModelConfig(), seed=3, count=count)


def test_views_carry_classes(voc: str) -> None:
    for index in range(12):
        view = views(voc)[index]
        assert view["image"].shape == (3, 16, 16) and view["label"].shape == view["semantic"].shape == (
            16,
            16,
        )
        seen = view["label"] > 0
        assert torch.equal(view["semantic"][seen], 7 * view["label"][seen])


def test_workers_and_resuming_change_nothing(voc: str) -> None:
    expected = [views(voc)[index] for index in range(12)]
    for workers, start in ((0, 0), (2, 0), (2, 7)):
        loader = torch.utils.data.DataLoader(
            views(voc),
            batch_size=None,
            sampler=range(start, 12),
            num_workers=workers,
            multiprocessing_context="fork" if workers else None,
        )
        for found, wanted in zip(loader, expected[start:], strict=True):
            assert found.keys() == wanted.keys()
            assert all(torch.equal(found[key], wanted[key]) for key in wanted)


def test_a_data_set_that_streams_is_neither_read_beforehand_nor_kept(
    voc: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = views(voc)
    read: list[int] = []
    load = found.samples._load
    monkeypatch.setattr(found.samples, "_load", lambda index: (read.append(index), load(index))[1])
    found.load()
    assert read == []
    for _ in range(3):
        found[0]
    assert len(read) == 3 and found.samples.streams


def test_a_bad_file_is_named_by_the_worker(voc: str) -> None:
    for file in (Path(voc.partition(":")[2]) / "SegmentationClass").iterdir():
        file.write_bytes(b"torn")
    loader = torch.utils.data.DataLoader(
        views(voc), batch_size=2, num_workers=1, multiprocessing_context="fork"
    )
    with pytest.raises(DataError, match=r"SegmentationClass/\d\.png: cannot be read"):
        next(iter(loader))
