"""Names and category ids of classes, from the data through training and the checkpoint into every result."""

import contextlib
import io
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from rich.console import Console

import rpe
from rpe.classes import Classes
from rpe.config import Config, DataConfig, DecodeConfig, GroupingConfig, ModelConfig, TrainingConfig
from rpe.data import open_dataset
from rpe.errors import UserError
from rpe.evaluate import evaluate
from rpe.metrics import encode_mask
from rpe.prediction import Prediction
from rpe.run import run_prediction, run_training
from rpe.tasks import get

SIDE = 32
IDS, NAMES = (3, 90), ("car", "brush")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """COCO data of six images with overlapping boxes and a crowd; ids of images, categories and names are unlike
    positions."""
    folder, random = tmp_path_factory.mktemp("coco"), np.random.default_rng(0)
    images, annotations = [], []
    for number in range(6):
        name = f"picture-{number}.png"
        images.append({"id": 500 - 7 * number, "file_name": name, "height": SIDE, "width": SIDE})
        pixels = random.integers(0, 90, (SIDE, SIDE, 3), dtype=np.uint8)
        for kind in (0, 1, 0, 1):
            top, left = random.integers(0, SIDE - 10, 2).tolist()
            height, width = random.integers(6, 10, 2).tolist()
            pixels[top : top + height, left : left + width, kind] = 220
            edges = [left, top, left + width, top, left + width, top + height, left, top + height]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": images[-1]["id"],
                    "category_id": IDS[kind],
                    "segmentation": [edges],
                    "area": height * width,
                    "bbox": [left, top, width, height],
                    "iscrowd": 0,
                }
            )
        (folder / "train").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(folder / "train" / name)
    crowd = np.zeros((SIDE, SIDE), dtype=bool)
    crowd[:9, :9] = True
    code = encode_mask(crowd)
    segmentation = {"size": code["size"], "counts": code["counts"].decode()}
    extra = {"id": 99, "image_id": 500, "category_id": 3, "iscrowd": 1, "area": 81, "bbox": [0, 0, 9, 9]}
    annotations.append({**extra, "segmentation": segmentation})
    categories = [{"id": number, "name": name} for number, name in zip(IDS[::-1], NAMES[::-1], strict=True)]
    (folder / "annotations").mkdir()
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations" / "instances_train.json").write_text(json.dumps(content))
    return folder


def config(tree: Path, out: Path, task: str = "semantic_instance") -> Config:
    return Config(
        task=task,  # type: ignore[arg-type]
        output=str(out),
        data=DataConfig(root=f"coco:{tree}", test_split="train", crop=SIDE),
        model=ModelConfig(channels=(8, 8), dim=4, num_classes=3),
        grouping=GroupingConfig(num_steps=1, kappa=10.0),
        decode=DecodeConfig(min_size=4, foreground_threshold=0.2),
        training=TrainingConfig(steps=2, batch_size=2),
    )


@pytest.fixture(scope="module")
def run(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on that data."""
    out = tmp_path_factory.mktemp("run")
    told = Console(file=io.StringIO(), width=200)
    run_training(config(tree, out), Path("x.toml"), resume=False, console=told)
    assert str(out / "coco_results.json") in told.file.getvalue()  # type: ignore[attr-defined]
    return out


def test_names_and_ids_go_into_the_checkpoint_and_the_results(run: Path, tree: Path, tmp_path: Path) -> None:
    for file in ("model.pt", "checkpoint.pt"):
        assert rpe.load(run / file).classes == Classes(("background", *NAMES), IDS)
    image = tree / "train" / "picture-0.png"
    numbered = tmp_path / "000000000042.png"
    numbered.write_bytes(image.read_bytes())
    told = Console(file=io.StringIO(), width=200)
    options: dict[str, Any] = {"batch_size": 1, "device": "cpu", "console": told}
    assert run_prediction(run / "model.pt", [image, numbered], tmp_path / "out", **options) == 0
    objects = json.loads((tmp_path / "out" / "picture-0.objects.json").read_text())
    assert objects and {entry["image_id"] for entry in objects} == {"picture-0"}
    for entry in objects:
        assert entry["category_id"] == IDS[entry["class"] - 1]
        assert entry["category"] == NAMES[entry["class"] - 1]
        assert entry["category"] in told.file.getvalue()  # type: ignore[attr-defined]
    found = json.loads((tmp_path / "out" / "000000000042.objects.json").read_text())
    assert {entry["image_id"] for entry in found} == {42}
    page = (run / "evaluation.html").read_text()
    assert "<td>brush</td>" in page and "true classes: car, brush" in page


def test_a_checkpoint_without_names_counts_by_position(run: Path, tree: Path, tmp_path: Path) -> None:
    content = torch.load(run / "model.pt", weights_only=True)
    del content["classes"]
    torch.save(content, tmp_path / "old.pt")
    options: dict[str, Any] = {"batch_size": 1, "device": "cpu", "console": Console(file=io.StringIO())}
    image = tree / "train" / "picture-0.png"
    assert run_prediction(tmp_path / "old.pt", [image], tmp_path / "out", **options) == 0
    objects = json.loads((tmp_path / "out" / "picture-0.objects.json").read_text())
    assert objects
    for entry in objects:
        assert entry["category_id"] == entry["class"] and entry["category"] == f"class {entry['class']}"
    result = evaluate(rpe.load(tmp_path / "old.pt"), open_dataset(f"coco:{tree}"))
    assert set(result["overall"]["iou"]) <= {"background", *NAMES}, "those of the data"


def test_data_with_other_classes_is_refused(run: Path, tree: Path, tmp_path: Path) -> None:
    predictor = rpe.load(run / "model.pt")
    dataset = open_dataset(f"coco:{tree}")
    dataset.classes = ("Background", "brush", "car")
    with pytest.raises(UserError, match=r"coco:.*: class 1 is 'brush', and 'car' in the data that the model"):
        evaluate(predictor, dataset)
    dataset.classes = ("Background", " Car", "Brush")
    get("semantic").check(predictor.config, dataset, predictor.classes)
    get("instance").check(predictor.config, dataset, Classes(("x", "y")))


def noisy_truth(tree: Path, task: str) -> Any:
    """Stands for a trained predictor: the annotated masks, moved a little, some of the wrong class, some missing."""
    dataset = open_dataset(f"coco:{tree}")
    random, found = np.random.default_rng(1), {}
    for index in range(len(dataset)):
        masks, kinds = [], []
        for annotation in dataset.ground_truth(index):  # type: ignore[attr-defined]
            if not annotation["iscrowd"] and random.random() < 0.9:
                mask = coco_mask.decode(annotation["segmentation"]).astype(bool)
                masks.append(np.roll(mask, int(random.integers(0, 3)), axis=1))
                right = 1 + IDS.index(annotation["category_id"])
                kinds.append(right if random.random() < 0.8 else 3 - right)
        labels = np.zeros((SIDE, SIDE), dtype=np.int32)
        for number, mask in enumerate(masks, start=1):
            labels[mask] = number
        if task == "semantic_instance":
            present = np.unique(labels[labels > 0])
            kinds = [kinds[number - 1] for number in present]
            labels = (np.searchsorted(present, labels) + 1).astype(np.int32) * (labels > 0)
        scores = random.random(len(kinds)).astype(np.float32)
        if task == "proposals":
            scores = -np.sort(-scores)
        prediction = Prediction(labels, scores, np.zeros((2, 0, 0), dtype=np.float32))
        if task == "proposals":
            prediction = replace(prediction, proposals=tuple(map(encode_mask, masks)))
        else:
            semantic = np.array([0, *kinds])[labels]
            prediction = replace(prediction, classes=np.array(kinds), semantic=semantic)
        found[dataset[index].image.numpy().tobytes()] = prediction

    def predict(image: torch.Tensor, **_: Any) -> Prediction:
        return found[image.numpy().tobytes()]

    settings = config(tree, Path("x"), task)
    return SimpleNamespace(task=get(task), config=settings, classes=Classes(), predict=predict)


@pytest.mark.parametrize("task", ["semantic_instance", "proposals"])
def test_results_are_those_of_pycocotools_with_the_original_file(
    task: str, tree: Path, tmp_path: Path
) -> None:
    file = tmp_path / "results.json"
    overall = evaluate(noisy_truth(tree, task), open_dataset(f"coco:{tree}"), results=file)["overall"]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(tree / "annotations" / "instances_train.json"))
        evaluation = COCOeval(truth, truth.loadRes(str(file)), iouType="segm")
        evaluation.params.useCats = int(task == "semantic_instance")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    if task == "semantic_instance":
        assert 0.1 < overall["coco_ap"] < 0.9
        assert overall["coco_ap"] == pytest.approx(evaluation.stats[0])
        assert overall["coco_ap50"] == pytest.approx(evaluation.stats[1])
    else:
        assert 0.1 < overall["ar_100"] < 0.99
        assert overall["ar_100"] == pytest.approx(evaluation.stats[8])


def test_results_without_an_object_are_an_empty_list(tmp_path: Path) -> None:
    from rpe.export import ResultsFile

    nothing = Prediction(np.zeros((4, 4), np.int32), np.zeros(0, np.float32), np.zeros((2, 0, 0), np.float32))
    with ResultsFile(tmp_path / "new" / "x.json", Classes()) as file:
        file.add(3, nothing)
    assert json.loads((tmp_path / "new" / "x.json").read_text()) == []
    with pytest.raises(OSError, match="lost"), ResultsFile(tmp_path / "y.json", Classes()):
        raise OSError("lost")
    assert [path.name for path in tmp_path.iterdir()] == ["new"], "no half a file"


def test_names_in_words() -> None:
    classes = Classes(("background", "dog", "cat"), (18, 17))
    assert classes.count([2, 1, 2]) == "2 cat, 1 dog" and classes.listing([0, 1, 1]) == "background, dog"
    assert classes.category_id(2) == 17 and classes.category_id(None) == 18
    assert Classes().category_id(2) == 2 and Classes().category_id(None) == 1
    assert Classes().count(range(10)).endswith("1 class 7, 2 more") and Classes().count([]) == ""
    assert Classes.from_mapping(classes.to_mapping()) == classes
