"""Format `bsds500`: several annotators, the rule for the label map, and every fault named."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from scipy import io

from rpe.check_data import check, survey
from rpe.data import DataError, augment, choose_annotator, open_dataset, sample_generator
from rpe.data.matlab_structure import extract_variable

SIZE = (6, 9)


def regions(number: int) -> np.ndarray:
    """Vertical stripes 1..number over SIZE."""
    return np.broadcast_to(1 + np.arange(SIZE[1]) * number // SIZE[1], SIZE).astype(np.uint16)


def write_truth(path: Path, maps: list[np.ndarray], **replaced: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cell = np.empty((1, len(maps)), dtype=object)
    for place, values in enumerate(maps):
        boundaries = np.zeros(values.shape, dtype=np.uint8)
        boundaries[:, 1:] = np.diff(values.astype(int), axis=1) != 0
        cell[0, place] = {"Segmentation": values, "Boundaries": boundaries, **replaced}
    io.savemat(path, {"groundTruth": cell})


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """One image in train with 9, 2, 5 and 3 regions, one in test with one annotator."""
    data = tmp_path / "BSDS500" / "data"
    for split, name in (("train", "22"), ("test", "101")):
        (data / "images" / split).mkdir(parents=True)
        Image.fromarray(np.full((*SIZE, 3), 51, dtype=np.uint8)).save(data / "images" / split / f"{name}.jpg")
    write_truth(data / "groundTruth" / "train" / "22.mat", [regions(number) for number in (9, 2, 5, 3)])
    write_truth(data / "groundTruth" / "test" / "101.mat", [regions(4)])
    (data / "images" / "train" / "Thumbs.db").write_bytes(b"")
    return tmp_path


def truth(tree: Path) -> Path:
    return tree / "BSDS500" / "data" / "groundTruth" / "train" / "22.mat"


def test_all_annotators_and_the_median_one(tree: Path) -> None:
    dataset = open_dataset(f"bsds500:{tree}")
    assert dataset.names == ["22", "101"] and not dataset.has_background and dataset.classes == ()
    sample = dataset[0]
    assert [int(values.max()) for values in sample.annotations] == [9, 2, 5, 3]
    np.testing.assert_array_equal(sample.label.numpy(), regions(3))
    for annotation, boundary in zip(sample.annotations, sample.boundaries, strict=True):
        assert boundary.dtype == torch.bool
        assert torch.equal(boundary[:, 1:], annotation[:, 1:] != annotation[:, :-1])
    assert len(dataset[1].annotations) == len(dataset[1].boundaries) == 1
    assert check(f"bsds500:{tree}") == []


@pytest.mark.parametrize("below", ["", "BSDS500", "BSDS500/data"])
def test_root_may_be_any_folder_of_the_tree(tree: Path, below: str) -> None:
    assert open_dataset(f"bsds500:{tree / below}", "test").names == ["101"]


def test_splits_are_folders(tree: Path) -> None:
    for split in ("val", "trainval"):
        with pytest.raises(DataError, match="val: no such folder; use one of the splits train, test"):
            open_dataset(f"bsds500:{tree}", split)
    with pytest.raises(DataError, match="no folder data/images"):
        open_dataset(f"bsds500:{tree / 'BSDS500' / 'data' / 'images'}")
    for file in (tree / "BSDS500" / "data").rglob("101.*"):
        file.unlink()
    with pytest.raises(DataError, match="test: the folder holds no images"):
        open_dataset(f"bsds500:{tree}", "test")


def test_training_takes_every_annotator_in_turn(tree: Path) -> None:
    sample = open_dataset(f"bsds500:{tree}")[0]
    seen = set()
    for index in range(40):
        chosen = choose_annotator(sample, sample_generator(0, 0, index))
        again = augment(sample, SIZE, sample_generator(0, 0, index), flip="none", quarter_turns=False)
        assert torch.equal(again.label, chosen.label) and len(again.annotations) == 1
        assert torch.equal(again.annotations[0], again.label)
        assert torch.equal(again.boundaries[0][:, 1:], again.label[:, 1:] != again.label[:, :-1])
        seen.add(int(chosen.label.max()))
    assert seen == {9, 2, 5, 3}
    one = open_dataset(f"bsds500:{tree}")[1]
    assert choose_annotator(one, sample_generator(0, 0, 0)) is one


def test_files_without_a_partner(tree: Path) -> None:
    truth(tree).rename(truth(tree).with_name("23.mat"))
    with pytest.raises(DataError, match=r"22\.jpg: the image has no annotation .*22\.mat.*\(and 1 more"):
        open_dataset(f"bsds500:{tree}")
    (truth(tree).parent / "22.png").write_bytes(b"")
    found = {Path(problem.file).name: problem.message for problem in check(f"bsds500:{tree}")}
    assert set(found) == {"22.jpg", "23.mat", "22.png"} and found["22.png"] == "not a .mat file, not read"
    assert "no image" in found["23.mat"]


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        ({"Segmentation": regions(2).T}, r"a map in it is 6 x 9 pixels, its image 22\.jpg is 9 x 6"),
        ({"Boundaries": regions(2)[:3]}, "a map in it is 9 x 3 pixels"),
        ({"Segmentation": regions(2) - 1.5}, "holds numbers that are no labels"),
        ({"Segmentation": np.full(SIZE, np.nan)}, "holds numbers that are no labels"),
        ({"Segmentation": np.full(SIZE, np.inf)}, "holds numbers that are no labels"),
        ({"Segmentation": np.zeros((*SIZE, 2))}, r"no map \[H, W\] of numbers but float64 \[6, 9, 2\]"),
        ({"Segmentation": "text"}, r"no map \[H, W\] of numbers"),
    ],
)
def test_maps_that_cannot_be_used(tree: Path, replaced: dict[str, Any], message: str) -> None:
    write_truth(truth(tree), [regions(2)], **replaced)
    with pytest.raises(DataError, match=rf"22\.mat: .*{message}"):
        open_dataset(f"bsds500:{tree}")[0]
    (problem,) = check(f"bsds500:{tree}")
    assert problem.file == str(truth(tree)) and problem.remedy


def test_files_that_cannot_be_used(tree: Path) -> None:
    dataset = open_dataset(f"bsds500:{tree}")
    content = truth(tree).read_bytes()
    for damaged in (b"", b"no matlab", content[: len(content) // 2], content[:200] + b"\x00" * 100):
        truth(tree).write_bytes(damaged)
        with pytest.raises(DataError, match=r"22\.mat: (cannot be read as a MATLAB file|has no struct)"):
            dataset[0]
    io.savemat(truth(tree), {"other": 3})
    with pytest.raises(DataError, match=r"22\.mat: has no struct 'groundTruth'"):
        dataset[0]
    io.savemat(truth(tree), {"groundTruth": {"Boundaries": regions(1)}})
    with pytest.raises(DataError, match=r"22\.mat: the struct has no field 'Segmentation'"):
        dataset[0]
    truth(tree).write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + b"\x89HDF\r\n")
    with pytest.raises(DataError, match=r"22\.mat: is a MATLAB 7\.3 file"):
        dataset[0]
    truth(tree).unlink()
    with pytest.raises(DataError, match=r"22\.mat: the file does not exist"):
        dataset[0]


@pytest.mark.parametrize("compressed", [True, False])
def test_damage_anywhere_in_a_file_is_told(tree: Path, compressed: bool) -> None:
    """Whatever byte is damaged, the file is read or refused by its name: scipy alone would take the process down."""
    cell = io.loadmat(truth(tree))["groundTruth"]
    io.savemat(truth(tree), {"groundTruth": cell}, do_compression=compressed)
    dataset = open_dataset(f"bsds500:{tree}")
    content = truth(tree).read_bytes()
    random = np.random.default_rng(0)
    refused = 0
    for place in random.choice(np.arange(124, len(content)), 150, replace=False):
        damaged = bytearray(content)
        damaged[place] ^= int(random.integers(1, 256))
        truth(tree).write_bytes(damaged)
        sample, problems = dataset.inspect(0)
        refused += sample is None
        assert (sample is None) <= bool(problems)
        assert all(Path(problem.file) == truth(tree) for problem in problems)
    assert refused >= (140 if compressed else 20)


def test_variables_of_every_kind() -> None:
    """Numbers, text, structs in cells, complex and empty arrays come out as scipy wrote them."""
    values = {
        "other": np.arange(3),
        "wanted": {
            "a": np.arange(6.0).reshape(2, 3),
            "long_name": "text",
            "c": np.array([[1 + 2j, 3]]),
            "d": np.array([[{"e": np.zeros((0, 0))}, "f"]], dtype=object),
        },
    }
    buffer = BytesIO()
    io.savemat(buffer, values)
    content = extract_variable(buffer.getvalue(), "wanted")
    assert content is not None and extract_variable(buffer.getvalue(), "absent") is None
    found = io.loadmat(BytesIO(content))
    assert "other" not in found
    assert repr(found["wanted"]) == repr(io.loadmat(buffer)["wanted"])


def test_pixels_without_a_region(tree: Path) -> None:
    write_truth(truth(tree), [regions(3) - 1])
    (problem,) = check(f"bsds500:{tree}")
    assert "annotator 1 leaves 18 pixels without a region" in problem.message
    assert open_dataset(f"bsds500:{tree}")[0].label.unique().tolist() == [0, 1, 2]


@pytest.mark.parametrize(("split", "images"), [("train", 60), ("val", 20), ("test", 40)])
def test_real_data(test_data: Path, split: str, images: int) -> None:
    spec = f"bsds500:{test_data / 'bsds500'}"
    found = survey(spec, split)
    assert (found.num_images, found.problems) == (images, [])
    assert found.annotators.total() == images and set(found.annotators) <= set(range(4, 10))
    assert set(found.sizes) == {(321, 481), (481, 321)}
    assert len(open_dataset(spec, "trainval")) == 80 and len(open_dataset(spec)) == 120
    sample = open_dataset(spec, split)[0]
    assert 4 <= len(sample.annotations) == len(sample.boundaries) <= 9
    for annotation, boundary in zip(sample.annotations, sample.boundaries, strict=True):
        near = F.max_pool2d(boundary[None, None].float(), 3, stride=1, padding=1)[0, 0] > 0
        changes = annotation[:, 1:] != annotation[:, :-1]
        assert float(near[:, 1:][changes].float().mean()) > 0.9
        assert float(near.float().mean()) < 0.3
