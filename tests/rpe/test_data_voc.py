"""Format `voc`: VOC's palette PNG and SBD's MATLAB files, one, the other and both; classes, void, and every fault."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import io

from rpe.check_data import check, survey
from rpe.config import DataConfig, ModelConfig
from rpe.data import IGNORE, DataError, open_dataset
from rpe.data.voc import CLASSES
from rpe.views import TrainingViews

SIZE = (6, 8)
OBJECTS = np.array([[0, 0, 255, 1, 1, 255, 4, 4]] * 6, dtype=np.uint8)
KINDS = np.array([[0, 0, 255, 15, 15, 255, 2, 2]] * 6, dtype=np.uint8)


def palette(path: Path, values: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(values, mode=None).convert("P")
    picture.putdata(values.ravel().tolist())
    picture.putpalette(list(range(256)) * 3)
    picture.save(path)
    return path


def picture(path: Path, size: tuple[int, int] = SIZE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), 100, dtype=np.uint8)).save(path)


def voc_image(tree: Path, name: str) -> None:
    picture(tree / "JPEGImages" / f"{name}.jpg")
    palette(tree / "SegmentationObject" / f"{name}.png", OBJECTS)
    palette(tree / "SegmentationClass" / f"{name}.png", KINDS)


def sbd_image(tree: Path, name: str, objects: np.ndarray, categories: list[int]) -> None:
    """As in SBD: structs GTinst and GTcls, maps of uint8, categories as a column."""
    picture(tree / "img" / f"{name}.jpg")
    kinds = np.array([0, *categories], dtype=np.uint8)[objects]
    column = np.array(categories, dtype=np.uint8).reshape(-1, 1)
    for folder, variable, struct in (
        ("inst", "GTinst", {"Segmentation": objects, "Categories": column}),
        ("cls", "GTcls", {"Segmentation": kinds, "CategoriesPresent": np.unique(column)}),
    ):
        (tree / folder).mkdir(parents=True, exist_ok=True)
        io.savemat(tree / folder / f"{name}.mat", {variable: struct})


def lists(folder: Path, **splits: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for split, names in splits.items():
        (folder / f"{split}.txt").write_text("".join(f"{name}\n" for name in names.split()))


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    for name in ("2007_1", "2007_2"):
        voc_image(tmp_path, name)
    picture(tmp_path / "JPEGImages" / "2007_9.jpg")
    lists(
        tmp_path / "ImageSets" / "Segmentation",
        train="2007_1",
        val="2007_2",
        trainval="2007_1 2007_2",
        test="2007_9",
    )
    return tmp_path


@pytest.fixture
def sbd(tmp_path: Path) -> Path:
    tree = tmp_path / "benchmark_RELEASE" / "dataset"
    objects = np.array([[0, 0, 1, 1, 1, 2, 2, 2]] * 6, dtype=np.uint8)
    for name in ("2007_1", "2007_2", "2008_3"):
        sbd_image(tree, name, objects, [7, 20])
    lists(tree, train="2007_2 2008_3", val="2007_1")
    return tree


class TestVoc:
    def test_maps(self, voc: Path) -> None:
        dataset = open_dataset(f"voc:{voc}")
        assert dataset.names == ["2007_1", "2007_2"] and dataset.classes == CLASSES and len(CLASSES) == 21
        sample = dataset[0]
        assert sample.semantic is not None
        row = [0, 0, IGNORE, 1, 1, IGNORE, 4, 4]
        assert sample.label.tolist() == [row] * 6
        assert sample.semantic.tolist() == [[0, 0, IGNORE, 15, 15, IGNORE, 2, 2]] * 6
        assert sample.instance_class == {1: 15, 4: 2}
        assert check(f"voc:{voc}") == []

    @pytest.mark.parametrize("above", ["VOC2012", "VOCdevkit/VOC2012"])
    def test_root_may_be_above(self, tmp_path: Path, above: str) -> None:
        voc_image(tmp_path / above, "a")
        assert open_dataset(f"voc:{tmp_path}").names == ["a"]

    def test_splits(self, voc: Path) -> None:
        assert open_dataset(f"voc:{voc}", "train").names == ["2007_1"]
        assert open_dataset(f"voc:{voc}", "trainval").names == ["2007_1", "2007_2"]
        with pytest.raises(DataError, match=r"train_aug\.txt: split 'train_aug' was asked for"):
            open_dataset(f"voc:{voc}", "train_aug")
        with pytest.raises(DataError, match=r"test\.txt: line 1: there is no image named 2007_9"):
            open_dataset(f"voc:{voc}", "test")

    def test_void_as_background_of_the_instances(self, voc: Path) -> None:
        palette(
            voc / "SegmentationObject" / "2007_1.png", np.where(OBJECTS == 255, 0, OBJECTS).astype(np.uint8)
        )
        dataset = open_dataset(f"voc:{voc}")
        assert dataset[0].label.tolist() == dataset[1].label.tolist()

    def test_names_of_other_classes(self, voc: Path) -> None:
        (voc / "class_names.txt").write_text("ground\ncat\ndog\n")
        with pytest.raises(DataError, match=r"2007_1\.png: holds class 15, there are the classes 0 to 2"):
            open_dataset(f"voc:{voc}")[0]
        palette(voc / "SegmentationClass" / "2007_1.png", np.where(KINDS == 15, 1, KINDS).astype(np.uint8))
        dataset = open_dataset(f"voc:{voc}")
        assert dataset.classes == ("ground", "cat", "dog") and dataset[0].instance_class == {1: 1, 4: 2}
        (voc / "class_names.txt").write_text("\n")
        with pytest.raises(DataError, match=r"class_names\.txt: lists no classes"):
            open_dataset(f"voc:{voc}")

    def test_maps_that_disagree(self, voc: Path) -> None:
        kinds, objects = KINDS.copy(), OBJECTS.copy()
        kinds[:2, 3:5] = 9
        kinds[3:, 3:5] = 15
        kinds[:, 6:] = 0
        kinds[:, 0:2] = 6
        palette(voc / "SegmentationClass" / "2007_1.png", kinds)
        palette(voc / "SegmentationObject" / "2007_1.png", objects)
        found = [problem.message for problem in check(f"voc:{voc}")]
        assert found == [
            "instance 4 has no class in 2007_1.png",
            "16 pixels belong to an instance of another class",
            "12 pixels have a class and no instance, and are ignored",
        ]
        sample = open_dataset(f"voc:{voc}")[0]
        assert sample.instance_class == {1: 15} and sample.label[0].tolist()[:2] == [IGNORE, IGNORE]
        assert 4 not in sample.label, "neither object nor background"
        assert sample.semantic is not None and sample.semantic[0].tolist()[:2] == [6, 6]

    def test_memory_does_not_grow_with_the_number_of_images(self, tmp_path: Path) -> None:
        """Opening a tree and reading each image of it once: of more images their names alone are kept."""
        side, peaks = 64, {}
        picture(tmp_path / "a.jpg", (side, side))
        palette(tmp_path / "a.png", np.tile(OBJECTS[0], (side, side // 8)))
        palette(tmp_path / "b.png", np.tile(KINDS[0], (side, side // 8)))
        for images in (20, 200):
            root = tmp_path / str(images)
            for folder, source in (
                ("JPEGImages", "a.jpg"),
                ("SegmentationObject", "a.png"),
                ("SegmentationClass", "b.png"),
            ):
                (root / folder).mkdir(parents=True)
                for number in range(images):
                    target = root / folder / f"2007_{number:06d}{Path(source).suffix}"
                    target.hardlink_to(tmp_path / source)
            lists(
                root / "ImageSets" / "Segmentation", train="\n".join(f"2007_{k:06d}" for k in range(images))
            )
            tracemalloc.start()
            views = TrainingViews(
                open_dataset(f"voc:{root}", "train"),
                DataConfig(crop=32),
                ModelConfig(),
                seed=0,
                count=2 * images,
            )
            views.load()
            for number in range(len(views.samples)):
                views.samples[number]
            for number in range(0, len(views), 5):
                views[number]
            peaks[images] = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        image_bytes = side * side * (3 * 4 + 8 + 8)  # of a sample: colours, labels, classes
        assert peaks[200] - peaks[20] < 180 * image_bytes / 25

    def test_missing_and_wrong_files(self, voc: Path) -> None:
        dataset = open_dataset(f"voc:{voc}")
        palette(voc / "SegmentationClass" / "2007_1.png", KINDS.T.copy())
        with pytest.raises(
            DataError, match=r"SegmentationClass/2007_1\.png: the map is 6 x 8 pixels, its image"
        ):
            dataset[0]
        (voc / "SegmentationClass" / "2007_1.png").unlink()
        with pytest.raises(DataError, match=r"SegmentationClass/2007_1\.png: the file does not exist"):
            dataset[0]
        with pytest.raises(
            DataError, match="2007_1.png: is not there, only the one in SegmentationObject is"
        ):
            open_dataset(f"voc:{voc}")
        (voc / "SegmentationClass" / "2007_1.png").write_bytes(b"no picture")
        with pytest.raises(DataError, match=r"SegmentationClass/2007_1\.png: cannot be read"):
            dataset[0]
        (voc / "JPEGImages" / "2007_2.jpg").unlink()
        with pytest.raises(DataError, match=r"JPEGImages/2007_2\.jpg: the image is annotated and not there"):
            open_dataset(f"voc:{voc}")
        (voc / "JPEGImages" / "2007_2.jpeg").write_bytes(b"")
        (voc / "SegmentationObject" / ".hidden").write_bytes(b"")
        found = {Path(problem.file).name: problem.message for problem in check(f"voc:{voc}")}
        assert set(found) == {"2007_1.png", "2007_2.jpg", "2007_2.jpeg"}
        assert found["2007_2.jpeg"] == "not a .jpg file, not read"

    def test_no_tree(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="no folder SegmentationObject"):
            open_dataset(f"voc:{tmp_path}")

    def test_real_data(self, test_data: Path) -> None:
        found = survey(f"voc:{test_data / 'voc_labelme'}")
        assert (found.num_images, found.instances, found.problems) == (2, [3, 3], [])
        dataset = open_dataset(f"voc:{test_data / 'voc_labelme'}")
        names = [
            sorted(dataset.classes[number] for number in (sample.instance_class or {}).values())
            for sample in dataset
        ]
        assert names == [["bottle", "person", "person"], ["bus", "bus", "car"]]
        assert int((dataset[0].label == IGNORE).sum()) == 9460


class TestSbd:
    def test_maps(self, sbd: Path) -> None:
        dataset = open_dataset(f"voc:{sbd.parents[1]}")
        assert dataset.names == ["2007_1", "2007_2", "2008_3"]
        sample = dataset[2]
        assert sample.semantic is not None
        assert sample.label.tolist() == [[0, 0, 1, 1, 1, 2, 2, 2]] * 6
        assert sample.semantic.tolist() == [[0, 0, 7, 7, 7, 20, 20, 20]] * 6
        assert sample.instance_class == {1: 7, 2: 20}
        assert check(f"voc:{sbd.parents[1]}") == []

    @pytest.mark.parametrize("split", ["train", "sbd_train"])
    def test_root_and_splits(self, sbd: Path, split: str) -> None:
        for root in (sbd, sbd.parent, sbd.parents[1]):
            assert open_dataset(f"voc:{root}", split).names == ["2007_2", "2008_3"]

    def test_beside_voc(self, voc: Path, sbd: Path) -> None:
        """VOC's own annotation wins, except in the lists of SBD; train_aug leaves VOC's val out."""
        assert open_dataset(f"voc:{voc}").names == ["2007_1", "2007_2", "2008_3"]
        lists(voc / "ImageSets" / "Segmentation", train="2007_1", val="2007_2")
        augmented = open_dataset(f"voc:{voc}", "train_aug")
        assert augmented.names == ["2007_1", "2008_3"]
        assert [sample.instance_class for sample in augmented] == [{1: 15, 4: 2}, {1: 7, 2: 20}]
        held_out = open_dataset(f"voc:{voc}", "sbd_val")
        assert held_out.names == ["2007_1"] and held_out[0].instance_class == {1: 7, 2: 20}
        assert check(f"voc:{voc}") == check(f"voc:{voc}", "train_aug") == []
        lists(voc / "ImageSets" / "Segmentation", train_aug="2008_3")
        assert open_dataset(f"voc:{voc}", "train_aug").names == ["2008_3"]

    def test_faults(self, sbd: Path) -> None:
        dataset = open_dataset(f"voc:{sbd}")
        struct = {"Segmentation": np.full(SIZE, 3, dtype=np.uint8), "Categories": np.array([[7], [20]])}
        io.savemat(sbd / "inst" / "2007_1.mat", {"GTinst": struct})
        with pytest.raises(DataError, match=r"2007_1\.mat: has an instance 3 but only 2 categories"):
            dataset[0]
        io.savemat(sbd / "cls" / "2007_1.mat", {"GTcls": {"Segmentation": np.zeros((2, 2))}})
        with pytest.raises(
            DataError, match=r"inst/2007_1\.mat: its map is 8 x 6 pixels, that of .*cls/2007_1\.mat is 2 x 2"
        ):
            dataset[0]
        (sbd / "cls" / "2007_2.mat").unlink()
        with pytest.raises(DataError, match=r"cls/2007_2\.mat: the file does not exist"):
            dataset[1]
        (sbd / "inst" / "2008_3.mat").write_bytes(b"torn")
        with pytest.raises(DataError, match=r"inst/2008_3\.mat: cannot be read as a MATLAB file"):
            dataset[2]
        assert len(check(f"voc:{sbd}")) == 3
        with pytest.raises(DataError, match=r"cls/2007_2\.mat: is not there"):
            open_dataset(f"voc:{sbd}")
