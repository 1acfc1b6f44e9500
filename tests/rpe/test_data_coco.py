"""Format `coco`: trees, classes, overlaps and crowds on embedded JSON; every fault named; memory."""

from __future__ import annotations

import json
import pickle
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from rpe.check_data import check, survey
from rpe.data import IGNORE, DataError, open_dataset
from rpe.data.coco import Coco
from rpe.data.json_stream import stream_arrays

HEIGHT, WIDTH = 8, 10


def box(left: int, top: int, right: int, bottom: int) -> list[list[float]]:
    """Polygon of the pixels left..right-1, top..bottom-1."""
    return [[left, top, right, top, right, bottom, left, bottom]]


def rle(rows: slice, columns: slice, *, compressed: bool) -> dict[str, Any]:
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8, order="F")
    mask[rows, columns] = 1
    if compressed:
        return {"size": [HEIGHT, WIDTH], "counts": coco_mask.encode(mask)["counts"].decode()}
    flat = mask.flatten(order="F")
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat, [0]])))
    counts = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    return {"size": [HEIGHT, WIDTH], "counts": counts}


def content() -> dict[str, Any]:
    """Two images; categories with gaps; the first image has every form of mask, an overlap and a crowd."""
    annotations = [
        {"category_id": 90, "segmentation": box(0, 0, 4, 4)},
        {"category_id": 3, "segmentation": box(1, 1, 3, 3)},
        {"category_id": 3, "segmentation": rle(slice(5, 8), slice(0, 3), compressed=False)},
        {"category_id": 3, "segmentation": rle(slice(2, 8), slice(2, 9), compressed=False), "iscrowd": 1},
        {"category_id": 90, "segmentation": rle(slice(0, 2), slice(7, 9), compressed=True), "iscrowd": 0},
    ]
    return {
        "annotations": [{"id": 10 + k, "image_id": 7, **entry} for k, entry in enumerate(annotations)],
        "extra": {"nested": [1, [2]]},
        "images": [
            {"id": 7, "file_name": "a.png", "height": HEIGHT, "width": WIDTH},
            {"id": 0, "file_name": "b\u00e9.png"},
        ],
        "categories": [{"id": 90, "name": "brush"}, {"id": 3, "name": "c\u00e4r"}],
    }


def write(folder: Path, data: Any, name: str = "annotations/instances_train2017.json") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(data if isinstance(data, str) else json.dumps(data, ensure_ascii=False), encoding="utf-8")
    return path


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((HEIGHT, WIDTH), dtype=np.uint8)).save(path)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    write(tmp_path, content())
    picture(tmp_path / "train2017" / "a.png")
    picture(tmp_path / "train2017" / "b\u00e9.png")
    return tmp_path


def messages(root: Path) -> list[str]:
    found = check(f"coco:{root}")
    assert all(problem.file and problem.remedy for problem in found)
    return [problem.message for problem in found]


class TestSamples:
    def test_maps(self, tree: Path) -> None:
        dataset = open_dataset(f"coco:{tree}")
        assert isinstance(dataset, Coco)
        assert dataset.names == ["a", "b\u00e9"]
        assert dataset.classes == ("background", "c\u00e4r", "brush") and dataset.category_ids == (3, 90)
        a, b = dataset[0], dataset[1]
        assert a.semantic is not None and b.semantic is not None
        expected = np.zeros((HEIGHT, WIDTH), dtype=np.int64)
        expected[2:8, 2:9] = IGNORE
        expected[0:4, 0:4] = 1
        expected[1:3, 1:3] = 2
        expected[5:8, 0:3] = 3
        expected[0:2, 7:9] = 4
        np.testing.assert_array_equal(a.label.numpy(), expected)
        assert a.instance_class == {1: 2, 2: 1, 3: 1, 4: 2}
        classes = np.array([0, 2, 1, 1, 2, IGNORE])
        np.testing.assert_array_equal(a.semantic.numpy(), classes[expected])
        assert b.instance_class == {} and not b.label.any() and not b.semantic.any()
        assert check(f"coco:{tree}") == []

    def test_ground_truth_keeps_overlaps_and_crowds(self, tree: Path) -> None:
        dataset = open_dataset(f"coco:{tree}")
        assert isinstance(dataset, Coco)
        truth = dataset.ground_truth(0)
        assert [entry["id"] for entry in truth] == [10, 11, 12, 13, 14]
        assert [entry["area"] for entry in truth] == [16, 4, 9, 42, 4]
        assert [entry["iscrowd"] for entry in truth] == [0, 0, 0, 1, 0]
        assert [entry["category_id"] for entry in truth] == [90, 3, 3, 3, 90]
        assert truth[0]["bbox"] == [0, 0, 4, 4]
        assert coco_mask.decode(truth[0]["segmentation"])[:4, :4].all()
        assert dataset.ground_truth(1) == []

    def test_of_equal_masks_the_later_is_painted_last(self, tree: Path) -> None:
        data = content()
        data["annotations"].append({**data["annotations"][1], "id": 99})
        write(tree, data)
        dataset = open_dataset(f"coco:{tree}")
        assert int((dataset[0].label == 5).sum()) == 4 and 2 not in dataset[0].instance_class
        assert messages(tree) == ["annotation 11 of image 7 (a.png) has no pixels that can be seen"]


class TestTrees:
    @pytest.mark.parametrize("split", [None, "train", "train2017"])
    def test_splits_are_files(self, tree: Path, split: str | None) -> None:
        assert len(open_dataset(f"coco:{tree}", split)) == 2

    def test_several_files(self, tree: Path) -> None:
        data = content()
        data["images"] = [{"id": 1, "file_name": "c.png"}]
        data["annotations"] = []
        write(tree, data, "annotations/instances_val2017.json")
        picture(tree / "val2017" / "c.png")
        assert open_dataset(f"coco:{tree}").names == ["a", "b\u00e9", "c"]
        assert open_dataset(f"coco:{tree}", "val").names == ["c"]
        with pytest.raises(DataError, match="split 'test' fits none.*use one of train2017, val2017"):
            open_dataset(f"coco:{tree}", "test")
        data["categories"] = data["categories"][:1]
        path = write(tree, data, "annotations/instances_val2017.json")
        with pytest.raises(DataError, match=f"{path}: its categories are not those of"):
            open_dataset(f"coco:{tree}")

    @pytest.mark.parametrize("folder", ["images", ".", "images/trainval", "JPEGImages"])
    @pytest.mark.parametrize("json_is_root", [True, False])
    def test_one_file_and_a_split_list(self, tmp_path: Path, folder: str, json_is_root: bool) -> None:
        path = write(tmp_path, content(), "trainval.json")
        for name in ("a.png", "b\u00e9.png"):
            picture(tmp_path / folder / name)
        (tmp_path / "train.txt").write_text("b\u00e9\n", encoding="utf-8")
        root = path if json_is_root else tmp_path
        assert open_dataset(f"coco:{root}").names == ["a", "b\u00e9"]
        assert open_dataset(f"coco:{root}", "train").names == ["b\u00e9"]
        with pytest.raises(DataError, match=r"val\.txt: split 'val' was asked for"):
            open_dataset(f"coco:{root}", "val")

    def test_json_in_annotations_as_root(self, tree: Path) -> None:
        assert len(open_dataset(f"coco:{tree / 'annotations' / 'instances_train2017.json'}")) == 2

    def test_no_json(self, tmp_path: Path) -> None:
        write(tmp_path, content(), "annotations/captions_train2017.json")
        with pytest.raises(DataError, match="there is no JSON"):
            open_dataset(f"coco:{tmp_path}")

    def test_no_images(self, tmp_path: Path) -> None:
        path = write(tmp_path, content())
        with pytest.raises(DataError, match=f"{path}: its images are not found"):
            open_dataset(f"coco:{tmp_path}")

    def test_dataset_can_be_pickled(self, tree: Path) -> None:
        dataset = open_dataset(f"coco:{tree}")
        assert torch.equal(pickle.loads(pickle.dumps(dataset))[0].label, dataset[0].label)


class TestFaults:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda data: data["images"].append({"id": 8, "file_name": "c.png"}), "image 8 is not there"),
            (lambda data: data["images"].append({"id": 7, "file_name": "c.png"}), "image id 7 stands twice"),
            (lambda data: data["images"].append({"id": 8, "file_name": "a.png"}), "image 8 has the name a, "),
            (lambda data: data["images"].append({"file_name": "a.png"}), 'has no "id"'),
            (lambda data: data["images"].append("a.png"), 'has no "id"'),
            (lambda data: data["images"][1].update(height=0), "image 0 has a height or width that is no"),
            (lambda data: data["categories"].append({"id": 3}), "category id 3 stands twice"),
            (lambda data: data["categories"].append({"name": "x"}), 'category at byte .* has no "id"'),
            (lambda data: data["annotations"][0].pop("image_id"), 'lacks a whole number as "id", "image_id"'),
            (lambda data: data["annotations"].append(3), "annotation at byte .* lacks"),
            (lambda data: data["annotations"][0].update(image_id=5), "annotation 10 belongs to image 5"),
            (lambda data: data["annotations"][0].update(category_id=1), "annotation 10 is of category 1"),
            (lambda data: data["annotations"][0].update(id=11), "annotation id 11 stands twice"),
        ],
    )
    def test_of_the_file(self, tree: Path, change: Any, message: str) -> None:
        data = content()
        change(data)
        path = write(tree, data)
        with pytest.raises(DataError, match=message) as caught:
            open_dataset(f"coco:{tree}")
        assert caught.value.file == str(path) and caught.value.remedy
        assert len(check(f"coco:{tree}")) == 1
        assert len(open_dataset(f"coco:{tree}", strict=False)) in (1, 2)

    @pytest.mark.parametrize(
        ("segmentation", "message"),
        [
            (None, "neither polygons nor an RLE"),
            ([[0, 0, 1, 1, float("nan"), 3]], "far outside"),
            ({"size": [HEIGHT, WIDTH], "counts": "zz"}, "torn"),
            ({"size": [WIDTH, HEIGHT], "counts": [80]}, "has the size"),
        ],
    )
    def test_of_a_mask(self, tree: Path, segmentation: Any, message: str) -> None:
        data = content()
        data["annotations"][1]["segmentation"] = segmentation
        path = write(tree, data)
        with pytest.raises(
            DataError, match=rf"annotation 11 of image 7 \(a\.png\) cannot be used: .*{message}"
        ):
            open_dataset(f"coco:{tree}")[0]
        (problem,) = check(f"coco:{tree}")
        assert problem.file == str(path)

    def test_a_polygon_of_two_points_is_told_and_left_out(self, tree: Path) -> None:
        data = content()
        data["annotations"][1]["segmentation"].append([1, 1, 2, 2])
        write(tree, data)
        assert messages(tree) == ["annotation 11 of image 7 (a.png) has a polygon of fewer than three points"]
        assert int((open_dataset(f"coco:{tree}")[0].label == 2).sum()) == 4

    def test_size_of_the_image(self, tree: Path) -> None:
        data = content()
        data["images"][0].update(height=WIDTH, width=HEIGHT)
        write(tree, data)
        with pytest.raises(DataError, match=r"a\.png: the image is 10 x 8 pixels, .*json says 8 x 10"):
            open_dataset(f"coco:{tree}")[0]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "is no valid JSON at byte 0"),
            ("[]", "expected '{', found '\\['"),
            ('{"images": [{"id": 1', "is no valid JSON at byte 20"),
            ('{"images": [{"id": 1} {"id": 2}]}', "expected ',', found '{'"),
            ('{"images": [', "is no valid JSON"),
            ('{"images": [{"id": 1}], "categories": [nul]}', "at byte 39"),
            ("{}", "has no 'images' and no 'categories'"),
            ('{"images": [{"id": 1, "file_name": "\xff"}]}', "has no 'categories'"),
        ],
    )
    def test_of_the_json(self, tree: Path, text: str, message: str) -> None:
        path = write(tree, text)
        with pytest.raises(DataError, match=message) as caught:
            open_dataset(f"coco:{tree}")
        assert caught.value.file == str(path)
        assert len(check(f"coco:{tree}")) == 1

    def test_name_that_is_no_utf8(self, tree: Path) -> None:
        path = write(tree, content())
        path.write_bytes(path.read_bytes().replace("\u00e9".encode(), "\u00e9".encode("latin-1")))
        assert messages(tree)[0].startswith("image 0 is not there: ")
        assert open_dataset(f"coco:{tree}", strict=False).names == ["a"]

    def test_file_that_changes_while_it_is_open(self, tree: Path) -> None:
        dataset = open_dataset(f"coco:{tree}")
        path = write(tree, "{}")
        with pytest.raises(DataError, match=f"{path}: has changed since it was opened"):
            dataset[0]
        path.unlink()
        with pytest.raises(DataError, match=f"{path}: cannot be read"):
            dataset[0]

    def test_many_faults_are_counted(self, tree: Path) -> None:
        data = content()
        data["annotations"] += [{"id": 100 + k, "image_id": 5, "category_id": 3} for k in range(300)]
        write(tree, data)
        found = messages(tree)
        assert len(found) == 101 and found[-1] == "and 200 more faults"


class TestScale:
    def test_elements_across_the_edges_of_the_buffer(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        values = [1234567, -1.5e-3, 'w\u00f6rd, \\ "', [1, [2]], {"a": None, "b": [True]}, 98765]
        path = tmp_path / "a.json"
        path.write_bytes(b"\xef\xbb\xbf" + json.dumps({"n": 12345, "x": values, "y": [7]}, indent=1).encode())
        for chunk in range(1, 12):
            monkeypatch.setattr("rpe.data.json_stream._CHUNK", max(chunk, 3))
            found = list(stream_arrays(path))
            assert [element.decode() for element in found] == [*values, 7]
            assert [element.key for element in found] == ["x"] * len(values) + ["y"]
            content = path.read_bytes()
            for element in found:
                assert content[element.offset :].startswith(element.text.encode("latin-1"))

    @pytest.fixture
    def measured(self, tmp_path: Path) -> dict[tuple[int, int], int]:
        """Peak memory of opening JSON files of (images, points per polygon), and of reading half of the images."""
        picture(tmp_path / "images" / "a.png")
        for number in range(500):
            (tmp_path / "images" / f"{number}.png").hardlink_to(tmp_path / "images" / "a.png")
        peaks = {}
        for images, points in ((100, 4), (100, 1500), (500, 4)):
            ring = np.stack([np.arange(points) % WIDTH, np.arange(points) % HEIGHT], axis=1).ravel() + 0.25
            data = content()
            data["images"] = [{"id": k, "file_name": f"{k}.png"} for k in range(images)]
            data["annotations"] = [
                {"id": k, "image_id": k // 4, "category_id": 3, "segmentation": [ring.tolist()]}
                for k in range(4 * images)
            ]
            path = write(tmp_path, data, f"{images}-{points}.json")
            del data
            tracemalloc.start()
            dataset = open_dataset(f"coco:{path}")
            for index in range(0, len(dataset), 10):
                dataset[index]
            peaks[images, points] = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        return peaks

    def test_memory_follows_the_index_and_not_the_masks(self, measured: dict[tuple[int, int], int]) -> None:
        """Far longer polygons, 38 MB as Python objects: as good as the same. More images: their rows only."""
        assert measured[100, 1500] < measured[100, 4] + 8 * 2**20
        assert measured[500, 4] - measured[100, 4] < 400 * 2500


class TestRealData:
    @pytest.mark.parametrize(
        ("folder", "split", "images", "instances", "crowds"),
        [
            ("coco_tiny", "train", 80, 699, 6),
            ("coco_tiny", "val2017", 80, 804, 11),
            ("nuts_coco", None, 13, 113, 0),
        ],
    )
    def test_counts(
        self, test_data: Path, folder: str, split: str | None, images: int, instances: int, crowds: int
    ) -> None:
        spec = f"coco:{test_data / folder}"
        found = survey(spec, split)
        assert (found.num_images, sum(found.instances), found.problems) == (images, instances, [])
        assert found.classes.total() == instances
        dataset = open_dataset(spec, split)
        assert isinstance(dataset, Coco)
        truth = [entry for index in range(len(dataset)) for entry in dataset.ground_truth(index)]
        assert sum(entry["iscrowd"] for entry in truth) == crowds and len(truth) == instances + crowds
        assert len(dataset.classes) == (4 if folder == "nuts_coco" else 81)
        sizes = {"coco_tiny": 160, "nuts_coco": 13}
        assert len(open_dataset(spec)) == sizes[folder]

    def test_masks_are_those_of_pycocotools(
        self, test_data: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Every pixel's label is an annotation that covers it, the smallest of them; and the classes are its own."""
        root = test_data / "coco_tiny"
        reference = COCO(root / "annotations" / "instances_val2017.json")
        dataset = open_dataset(f"coco:{root}", "val")
        for number, image_id in enumerate(list(reference.imgs)[:20]):
            entries = [reference.anns[key] for key in reference.getAnnIds(imgIds=image_id, iscrowd=False)]
            masks = np.stack([reference.annToMask(entry) for entry in entries]).astype(bool)
            sample = dataset[number]
            label = sample.label.numpy()
            assert sample.semantic is not None and sample.instance_class is not None
            np.testing.assert_array_equal(label > 0, masks.any(axis=0))
            areas = masks.sum(axis=(1, 2))
            smallest = np.where(masks, areas[:, None, None], areas.max() + 1).min(axis=0)
            inside = label > 0
            np.testing.assert_array_equal(areas[label[inside] - 1], smallest[inside])
            names = {k: reference.cats[entry["category_id"]]["name"] for k, entry in enumerate(entries, 1)}
            assert {k: dataset.classes[value] for k, value in sample.instance_class.items()} == names
            expected = [dataset.classes.index(names[value]) for value in label[inside].tolist()]
            np.testing.assert_array_equal(sample.semantic.numpy()[inside], expected)
