"""Data formats on embedded trees: what a sample looks like, and what is said of every kind of bad file."""

from __future__ import annotations

import pickle
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from rpe.check_data import check, run, survey
from rpe.data import DataError, Problem, formats, open_dataset
from rpe.data.cache import ArrayCache
from rpe.data.dsb2018 import kind_of_image


def write_png(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def mask(size: tuple[int, int], rows: slice, columns: slice) -> np.ndarray:
    picture = np.zeros(size, dtype=np.uint8)
    picture[rows, columns] = 255
    return picture


@pytest.fixture
def nuclei(tmp_path: Path) -> Path:
    """Two images in the Kaggle tree: `a` dark with two nuclei, `b` coloured with one; and split lists."""
    dark = np.full((12, 16, 4), (10, 10, 10, 255), dtype=np.uint8)
    stained = np.full((12, 16, 4), (230, 180, 220, 7), dtype=np.uint8)
    for name, image in (("a", dark), ("b", stained)):
        write_png(tmp_path / "stage1_train" / name / "images" / f"{name}.png", image)
    masks = tmp_path / "stage1_train" / "a" / "masks"
    write_png(masks / "1.png", mask((12, 16), slice(1, 4), slice(2, 5)))
    write_png(masks / "2.png", mask((12, 16), slice(4, 6), slice(2, 5)))
    write_png(tmp_path / "stage1_train" / "b" / "masks" / "1.png", mask((12, 16), slice(0, 12), slice(8, 9)))
    (tmp_path / "train.txt").write_text("# comment\nb\n\n")
    (tmp_path / "test.txt").write_text("a\n")
    return tmp_path


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    """Two images in the `labels` tree, one PNG of 16 bits and one TIFF."""
    label = np.array([[0, 700], [3, 3]], dtype=np.uint16)
    write_png(tmp_path / "images" / "a.png", np.array([[0, 255], [51, 102]], dtype=np.uint8))
    write_png(tmp_path / "images" / "b.jpg", np.zeros((2, 2, 3), dtype=np.uint8))
    write_png(tmp_path / "labels" / "a.png", label)
    tifffile.imwrite(tmp_path / "labels" / "b.tif", label.astype(np.int32))
    return tmp_path


def only_problem(spec: str) -> Problem:
    (problem,) = check(spec)
    assert problem.remedy
    return problem


class TestRegistry:
    def test_formats(self) -> None:
        assert formats() == ("bsds500", "coco", "dsb2018", "labels", "synthetic", "voc")

    def test_unknown_format_lists_the_known(self) -> None:
        with pytest.raises(
            ValueError, match="FORMAT:ROOT with FORMAT one of bsds500, coco, dsb2018, labels, synthetic"
        ):
            open_dataset("zarr:/somewhere")

    @pytest.mark.parametrize("name", ["bsds500", "coco", "dsb2018", "labels", "voc"])
    def test_missing_root(self, name: str, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="nowhere: no such folder"):
            open_dataset(f"{name}:{tmp_path / 'nowhere'}")
        with pytest.raises(DataError, match="no folder given"):
            open_dataset(name)


class TestSynthetic:
    def test_depends_on_seed_split_and_index_alone(self) -> None:
        first, again = (open_dataset("synthetic:num_images=3,size=32,seed=4") for _ in range(2))
        for one, other in zip(reversed(list(first)), reversed(list(again)), strict=True):
            assert torch.equal(one.image, other.image) and torch.equal(one.label, other.label)
        test = open_dataset("synthetic:num_images=3,size=32,seed=4", "test")
        other_seed = open_dataset("synthetic:num_images=3,size=32,seed=5")
        assert not torch.equal(first[0].image, test[0].image)
        assert not torch.equal(first[0].image, other_seed[0].image)
        assert not torch.equal(first[0].image, first[1].image)

    def test_samples(self) -> None:
        dataset = open_dataset("synthetic:num_images=20,size=48,instances=6")
        touching = 0
        for sample in dataset:
            assert sample.image.dtype == torch.float32 and sample.image.shape == (3, 48, 48)
            assert 0 <= sample.image.min() and sample.image.max() <= 1
            present = sample.label.unique().tolist()
            assert present == list(range(len(present))) and 2 <= len(present) - 1 <= 6
            left, right = sample.label[:, :-1], sample.label[:, 1:]
            touching += bool(((left != right) & (left > 0) & (right > 0)).any())
        assert touching >= 10

    def test_the_class_is_the_shape(self) -> None:
        """Most whole discs are as long as wide, most whole ellipses are not; some are partly covered."""
        dataset = open_dataset("synthetic:num_images=40,size=128,instances=3,seed=1")
        assert dataset.classes == ("background", "disc", "ellipse", "polygon")
        spread: dict[int, list[float]] = {1: [], 2: [], 3: []}
        for sample in dataset:
            assert sample.semantic is not None and sample.instance_class is not None
            of_label = torch.tensor([0, *sample.instance_class.values()])
            assert torch.equal(sample.semantic, of_label[sample.label])
            for number, shape in sample.instance_class.items():
                points = (sample.label == number).nonzero().double()
                is_cut = bool((points == 0).any() or (points == 127).any())
                if not is_cut:
                    axes = torch.linalg.eigvalsh(torch.cov(points.T))
                    spread[shape].append(float((axes[1] / axes[0]).sqrt()))
        assert np.median(spread[1]) < 1.1 and np.median(spread[2]) > 1.5 and len(spread[3]) > 10

    def test_defaults(self) -> None:
        dataset = open_dataset("synthetic")
        assert len(dataset) == 64 and dataset[-1].size == (64, 64) and dataset.has_background
        assert dataset.names[0] == "train-00000"

    @pytest.mark.parametrize("root", ["size=3", "num_images=0", "colour=red", "seed=-1", "size"])
    def test_wrong_parameter(self, root: str) -> None:
        with pytest.raises(DataError, match="expected num_images=N"):
            open_dataset(f"synthetic:{root}")

    def test_wrong_split(self) -> None:
        with pytest.raises(DataError, match="train, test, val"):
            open_dataset("synthetic", "holdout")


class TestDsb2018:
    def test_samples(self, nuclei: Path) -> None:
        dataset = open_dataset(f"dsb2018:{nuclei}")
        assert dataset.names == ["a", "b"]
        a, b = dataset[0], dataset[1]
        assert a.image.shape == (3, 12, 16) and torch.all(a.image == 10 / 255)
        assert a.label[1:4, 2:5].unique().tolist() == [1] and a.label[4:6, 2:5].unique().tolist() == [2]
        assert int((a.label > 0).sum()) == 15
        assert (a.kind, b.kind) == ("fluorescence", "stained")
        assert torch.equal(dataset[0].label, a.label)

    def test_images_directly_below_the_root(self, nuclei: Path) -> None:
        assert open_dataset(f"dsb2018:{nuclei / 'stage1_train'}").names == ["a", "b"]

    def test_splits(self, nuclei: Path) -> None:
        assert open_dataset(f"dsb2018:{nuclei}", "train").names == ["b"]
        assert open_dataset(f"dsb2018:{nuclei}", "test").names == ["a"]
        with pytest.raises(DataError, match=r"val.txt: split 'val' was asked for"):
            open_dataset(f"dsb2018:{nuclei}", "val")

    def test_split_of_unknown_images(self, nuclei: Path) -> None:
        (nuclei / "train.txt").write_text("b\nzebra\nb\n")
        with pytest.raises(DataError, match=r"train.txt: line 2: there is no image named zebra.*1 more"):
            open_dataset(f"dsb2018:{nuclei}", "train")
        assert len(check(f"dsb2018:{nuclei}", "train")) == 2
        (nuclei / "train.txt").write_text("# nothing\n")
        with pytest.raises(DataError, match="the split list is empty"):
            open_dataset(f"dsb2018:{nuclei}", "train")
        (nuclei / "train.txt").write_bytes(b"\xff\xfe\xfa")
        with pytest.raises(DataError, match="cannot be read"):
            open_dataset(f"dsb2018:{nuclei}", "train")

    def test_kinds(self) -> None:
        grey = np.full((3, 4, 4), 0.9, dtype=np.float32)
        assert kind_of_image(grey) == "brightfield"
        assert kind_of_image(grey * 0.1) == "fluorescence"
        assert kind_of_image(grey * np.array([1, 0.8, 0.9], dtype=np.float32)[:, None, None]) == "stained"

    def test_truncated_image(self, nuclei: Path) -> None:
        file = nuclei / "stage1_train" / "b" / "images" / "b.png"
        file.write_bytes(file.read_bytes()[:50])
        with pytest.raises(DataError, match=r"b\.png: cannot be read as an image"):
            open_dataset(f"dsb2018:{nuclei}")[1]
        assert only_problem(f"dsb2018:{nuclei}").file == str(file)

    def test_broken_mask(self, nuclei: Path) -> None:
        file = nuclei / "stage1_train" / "a" / "masks" / "2.png"
        file.write_bytes(b"no picture")
        with pytest.raises(DataError, match=r"2\.png: cannot be read"):
            open_dataset(f"dsb2018:{nuclei}")[0]

    def test_mask_of_another_size(self, nuclei: Path) -> None:
        write_png(nuclei / "stage1_train" / "a" / "masks" / "3.png", np.zeros((16, 12), dtype=np.uint8))
        with pytest.raises(DataError, match=r"3\.png: the mask is 12 x 16 pixels, its image is 16 x 12"):
            open_dataset(f"dsb2018:{nuclei}")[0]

    def test_missing_masks_folder(self, nuclei: Path) -> None:
        write_png(nuclei / "stage1_train" / "c" / "images" / "c.png", np.zeros((4, 4), dtype=np.uint8))
        with pytest.raises(DataError, match=r"c\.png: the image has no labels"):
            open_dataset(f"dsb2018:{nuclei}")
        assert len(open_dataset(f"dsb2018:{nuclei}", strict=False)) == 2
        assert "no labels" in only_problem(f"dsb2018:{nuclei}").message

    def test_missing_image(self, nuclei: Path) -> None:
        (nuclei / "stage1_train" / "a" / "images" / "a.png").unlink()
        assert only_problem(f"dsb2018:{nuclei}").message == "has no images/a.png"

    def test_faults_that_are_no_errors(self, nuclei: Path) -> None:
        masks = nuclei / "stage1_train" / "a" / "masks"
        write_png(masks / "3.png", mask((12, 16), slice(1, 6), slice(2, 8)))
        write_png(masks / "4.png", np.zeros((12, 16), dtype=np.uint8))
        (masks / "notes.txt").write_text("hello")
        for file in (nuclei / "stage1_train" / "b" / "masks").iterdir():
            file.unlink()
        (nuclei / "stage1_train" / "list.csv").write_text("")
        messages = {Path(problem.file).name: problem.message for problem in check(f"dsb2018:{nuclei}")}
        assert set(messages) == {"3.png", "4.png", "notes.txt", "masks", "list.csv"}
        assert "shares 15 pixels" in messages["3.png"]
        assert "holds no masks" in messages["masks"]
        (nuclei / "stage1_train" / "list.csv").unlink()
        sample = open_dataset(f"dsb2018:{nuclei}")[0]
        assert int((sample.label == 3).sum()) == 15 and int((sample.label == 1).sum()) == 9

    def test_few_shared_pixels_are_no_problem(self, nuclei: Path) -> None:
        write_png(nuclei / "stage1_train" / "a" / "masks" / "3.png", mask((12, 16), slice(5, 8), slice(2, 5)))
        assert check(f"dsb2018:{nuclei}") == []

    def test_folder_without_images(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="holds no images"):
            open_dataset(f"dsb2018:{tmp_path}")
        assert "holds no images" in only_problem(f"dsb2018:{tmp_path}").message

    def test_dataset_can_be_pickled(self, nuclei: Path) -> None:
        dataset = open_dataset(f"dsb2018:{nuclei}")
        before = dataset[0].label
        assert torch.equal(pickle.loads(pickle.dumps(dataset))[0].label, before)

    def test_real_data(self, test_data: Path) -> None:
        spec = f"dsb2018:{test_data / 'dsb2018'}"
        assert (len(open_dataset(spec)), len(open_dataset(spec, "test"))) == (150, 51)
        start = time.perf_counter()
        found = survey(spec, "train")
        seconds = time.perf_counter() - start
        assert found.num_images == 99 and found.problems == []
        assert min(found.instances) >= 1 and max(found.instances) <= 260
        assert set(found.kinds) == {"fluorescence", "stained", "brightfield"}
        assert found.sizes[256, 320] > 10 and found.sizes[1024, 1024] >= 1
        assert seconds < 60


class TestLabels:
    def test_samples(self, labels: Path) -> None:
        dataset = open_dataset(f"labels:{labels}")
        assert dataset.names == ["a", "b"]
        for sample in dataset:
            assert sample.label.tolist() == [[0, 700], [3, 3]] and sample.kind is None
        expected = torch.tensor([[0, 255], [51, 102]]) / 255
        assert torch.equal(dataset[0].image, expected.expand(3, 2, 2))

    def test_split(self, labels: Path) -> None:
        (labels / "test.txt").write_text("b\n")
        dataset = open_dataset(f"labels:{labels}", "test")
        assert dataset.names == ["b"] and dataset[0].name == "b"

    def test_image_without_label_map(self, labels: Path) -> None:
        (labels / "labels" / "a.png").unlink()
        with pytest.raises(DataError, match=r"a\.png: the image has no label map"):
            open_dataset(f"labels:{labels}")

    def test_faults_of_the_tree(self, labels: Path) -> None:
        write_png(labels / "images" / "a.bmp", np.zeros((2, 2), dtype=np.uint8))
        write_png(labels / "labels" / "c.png", np.zeros((2, 2), dtype=np.uint8))
        (labels / "images" / "readme.txt").write_text("")
        (labels / "images" / ".hidden").write_text("")
        messages = {Path(problem.file).name: problem.message for problem in check(f"labels:{labels}")}
        assert set(messages) == {"a.png", "c.png", "readme.txt"}
        assert "same stem as a.bmp" in messages["a.png"]

    def test_sizes_differ(self, labels: Path) -> None:
        write_png(labels / "labels" / "a.png", np.zeros((2, 3), dtype=np.uint16))
        with pytest.raises(
            DataError, match=r"a\.png: the label map is 3 x 2 pixels, its image a\.png is 2 x 2"
        ):
            open_dataset(f"labels:{labels}")[0]

    @pytest.mark.parametrize(
        ("array", "message"),
        [
            (np.array([[0, -1], [1, 1]], dtype=np.int16), "labels range from -1 to 1"),
            (np.array([[0, 1], [1, 1]], dtype=np.float32), "holds whole numbers, this file holds float32"),
            (np.zeros((2, 2, 3), dtype=np.uint8), "one number per pixel"),
        ],
    )
    def test_bad_tiff(self, labels: Path, array: np.ndarray, message: str) -> None:
        tifffile.imwrite(labels / "labels" / "b.tif", array)
        with pytest.raises(DataError, match=rf"b\.tif: .*{message}"):
            open_dataset(f"labels:{labels}")[1]

    def test_empty_folder(self, labels: Path) -> None:
        for file in (labels / "images").iterdir():
            file.unlink()
        with pytest.raises(DataError, match="images: the folder is empty"):
            open_dataset(f"labels:{labels}")

    def test_no_folder(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="images: no such folder"):
            open_dataset(f"labels:{tmp_path}")

    def test_real_data(self, test_data: Path, tmp_path: Path) -> None:
        """Frames of YCB-Video: pictures with and without an opacity channel, label maps of 8 bits."""
        frames = sorted((test_data / "ycb_video").rglob("*-color.png"))
        for number, frame in enumerate(frames):
            for folder, file in (("images", frame), ("labels", Path(str(frame).replace("-color", "-label")))):
                (tmp_path / folder).mkdir(exist_ok=True)
                (tmp_path / folder / f"{number:02d}.png").symlink_to(file)
        found = survey(f"labels:{tmp_path}")
        assert (found.num_images, found.problems) == (14, [])
        assert found.instances == [3] * 5 + [4] * 5 + [5, 8, 5] + [3]
        assert found.sizes == Counter({(480, 640): 14})


class TestDataset:
    def test_index_outside(self) -> None:
        dataset = open_dataset("synthetic:num_images=2,size=16")
        assert dataset[-2].name == dataset[0].name
        with pytest.raises(IndexError, match="index 2 is outside a synthetic data set of 2 images"):
            dataset[2]

    def test_error_crosses_a_worker(self, labels: Path) -> None:
        (labels / "images" / "a.png").write_bytes(b"no picture")
        loader = torch.utils.data.DataLoader(
            open_dataset(f"labels:{labels}"), batch_size=None, num_workers=1, multiprocessing_context="fork"
        )
        with pytest.raises(DataError) as caught:
            list(loader)
        with pytest.raises(DataError) as expected:
            open_dataset(f"labels:{labels}")[0]
        assert str(caught.value) == str(expected.value) and "a.png: cannot be read" in str(caught.value)

    def test_error_survives_pickling(self) -> None:
        error = pickle.loads(pickle.dumps(DataError("is torn", file="x.png", remedy="mend it")))
        assert str(error) == "x.png: is torn; mend it" and (error.file, error.remedy) == ("x.png", "mend it")

    def test_cache_is_bounded(self) -> None:
        cache = ArrayCache(100)
        for name in "abcd":
            cache.put(name, np.zeros(10, dtype=np.int32))
            cache.get("a")
        assert len(cache) == 2 and cache.num_bytes == 80
        assert cache.get("a") is not None and cache.get("d") is not None and cache.get("b") is None
        cache.put("large", np.zeros(100, dtype=np.int32))
        assert cache.get("large") is None


class TestCheckData:
    def test_counts(self, nuclei: Path) -> None:
        found = survey(f"dsb2018:{nuclei}")
        assert (found.num_images, found.instances, found.problems) == (2, [2, 1], [])
        assert found.sizes == Counter({(12, 16): 2})
        assert found.kinds == Counter({"fluorescence": 1, "stained": 1})

    def test_exit_status_and_output(self, labels: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(f"labels:{labels}") == 0
        assert "no problems" in capsys.readouterr().out
        (labels / "images" / "a.png").write_bytes(b"")
        (labels / "labels" / "b.tif").unlink()
        assert run(f"labels:{labels}") == 1
        output = capsys.readouterr().out
        assert f"{labels / 'images' / 'a.png'}: cannot be read" in output and "2 problems" in output
        assert "remedy: " in output

    def test_unknown_format_raises(self) -> None:
        with pytest.raises(ValueError, match="FORMAT:ROOT"):
            run("zarr:/somewhere")
