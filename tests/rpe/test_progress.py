"""Words for slow work: none in the first second, then one line or a bar, from the first process alone; and a COCO JSON
is read once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from rpe import progress
from rpe.config import DataConfig, ModelConfig
from rpe.data import DataError, coco_index, open_dataset
from rpe.data.coco_index import open_index
from rpe.progress import told
from rpe.views import TrainingViews


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_PATIENCE", 0.0)


def test_quick_work_is_silent(capfd: pytest.CaptureFixture[str]) -> None:
    assert list(told(range(3), "reading")) == [0, 1, 2]
    assert capfd.readouterr() == ("", "")


def test_slow_work_says_one_line_on_standard_error(
    impatient: None, capfd: pytest.CaptureFixture[str]
) -> None:
    assert list(told(range(3), "reading [a].json")) == [0, 1, 2]
    assert capfd.readouterr() == ("", "reading [a].json ...\n")


def test_one_process_of_several_speaks(
    impatient: None, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    assert list(told(range(3), "reading")) == [0, 1, 2]
    assert capfd.readouterr() == ("", "")


def test_a_terminal_shows_a_bar(
    impatient: None, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    assert list(told(range(3), "reading")) == [0, 1, 2]
    shown = capfd.readouterr()
    assert shown.out == "" and "reading" in shown.err and "%" in shown.err and "..." not in shown.err


def test_reading_before_training_names_the_data(impatient: None, capfd: pytest.CaptureFixture[str]) -> None:
    data = DataConfig(root="synthetic:num_images=2,size=16,instances=1", crop=8)
    views = TrainingViews(open_dataset(data.root), data, ModelConfig(), seed=0, count=1)
    views.load()
    views.load()
    assert capfd.readouterr().err == f"reading 2 images of {data.root} ...\n"


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """Two pictures, one annotation each, in splits of a list."""
    content = {
        "images": [{"id": k, "file_name": f"{k}.png"} for k in range(2)],
        "annotations": [
            {"id": k, "image_id": k, "category_id": 1, "segmentation": [[0, 0, 4, 0, 4, 4]]} for k in range(2)
        ],
        "categories": [{"id": 1, "name": "thing"}],
    }
    (tmp_path / "all.json").write_text(json.dumps(content))
    for k, split in enumerate(("train", "test")):
        Image.new("L", (8, 8)).save(tmp_path / f"{k}.png")
        (tmp_path / f"{split}.txt").write_text(f"{k}\n")
    return tmp_path


def test_a_coco_json_is_read_once_for_all_splits(coco: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    stream = coco_index.stream_arrays
    monkeypatch.setattr(coco_index, "stream_arrays", lambda path: (read.append(path), stream(path))[1])
    names = [open_dataset(f"coco:{coco}", split).names for split in ("train", "test", None, "train")]
    assert names == [["0"], ["1"], ["0", "1"], ["0"]]
    assert read == [coco / "all.json"]


def test_a_coco_json_that_has_changed_is_read_again(coco: Path) -> None:
    path = coco / "all.json"
    before = open_index(path)
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "annotations": content["annotations"][:1]}))
    after = open_index(path)
    assert len(before.images) == len(after.images) == 2 and after.annotations(1) == []
    path.unlink()
    with pytest.raises(DataError, match=r"all\.json: cannot be read"):
        open_index(path)


def test_a_large_coco_json_says_that_it_is_read(
    coco: Path, impatient: None, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coco_index, "_BLOCK", 1)
    open_index(coco / "all.json")
    assert capfd.readouterr().err.count("reading") == 1
