"""Every task end to end, from a config to numbers, a report and result files: a few steps on generated images and,
where `RPE_TEST_DATA` is set, on real ones with the configs of the repository.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

import rpe
from rpe.config import Config, DataConfig, DecodeConfig, GroupingConfig, ModelConfig, TrainingConfig
from rpe.errors import UserError
from rpe.run import run_evaluation, run_prediction, run_training
from rpe.settings import load_config
from rpe.tasks import HEADS, get

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
SHARED = os.environ.get("RPE_TEST_DATA")
DATA = "synthetic:num_images=3,size=32,instances=3"
QUIET = Console(file=open(os.devnull, "w"), width=140)
TINY = Config(
    data=DataConfig(root=DATA, crop=32),
    model=ModelConfig(channels=(8, 8), dim=4, num_classes=4),
    grouping=GroupingConfig(num_steps=1, kappa=10.0),
    decode=DecodeConfig(min_size=4, kappas=(5.0, 20.0), thresholds=(0.8, 0.95)),
    training=TrainingConfig(steps=6, batch_size=2, log_every=3),
)
EXPECTED_NUMBERS = {
    "instance": {"ap50", "ap_mean", "ari", "sbd", "abs_dic", "ar"},
    "proposals": {"ar50_10", "ar50_20", "ar50_30", "ar50_60", "ar_100", "ar"},
    "semantic": {"miou", "accuracy", "iou"},
    "semantic_instance": {"apr50", "coco_ap", "pq", "miou", "ap50", "ari", "sbd", "abs_dic"},
    "boundary": {"ods", "ois", "ap", "depths"},
}
EVERY_FILE = {"labels.png", "overlay.png", "embedding.png", "objects.json"}
FURTHER_FILES = {
    "semantic_instance": {"classes.png"},
    "boundary": {"boundary.png", "thin.png", "depth-1.png", "depth-2.png", "fused.png"},
}


def finished_run(config: Config, folder: Path) -> tuple[Path, dict[str, Any]]:
    """Train and evaluate; the checkpoint and the result."""
    result = run_training(replace(config, output=str(folder)), Path("tiny.toml"), resume=False, console=QUIET)
    assert result is not None
    return folder / "model.pt", result


@pytest.fixture(scope="module", params=sorted(HEADS))
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A tiny run of each task."""
    config = replace(TINY, task=request.param)
    if request.param == "boundary":
        config = replace(config, model=replace(config.model, dim=3))
    folder = tmp_path_factory.mktemp(request.param)
    return request.param, finished_run(config, folder)[0]


def test_every_name_of_the_config_is_a_task() -> None:
    names = set(get_args(get_type_hints(Config)["task"]))
    assert names == set(HEADS) == set(EXPECTED_NUMBERS)
    assert all(get(name).name == name for name in names)


def test_numbers_and_report(run: tuple[str, Path]) -> None:
    task, checkpoint = run
    facts = json.loads((checkpoint.parent / "evaluation.json").read_text())
    metrics = facts["metrics"]
    assert metrics["task"] == task and metrics["overall"]["images"] == len(metrics["images"]) == 3
    assert set(metrics["overall"]) >= EXPECTED_NUMBERS[task]
    for key, heading, meaning in metrics["columns"]:
        assert key in metrics["overall"] and heading and meaning
        value = metrics["overall"][key]
        assert value is None or key == "abs_dic" or 0 <= value <= 1
    assert all(metrics["order"] in row for row in metrics["images"])
    page = (checkpoint.parent / "evaluation.html").read_text()
    assert "the worst: " in page and "the best: " in page
    shown = [*metrics.get("plots", {}), *metrics.get("tables", {})]
    assert shown and all(title in page for title in shown)


def test_losses_of_the_heads_are_logged(run: tuple[str, Path]) -> None:
    task, checkpoint = run
    names = set(json.loads((checkpoint.parent / "evaluation.json").read_text())["curves"])
    heads = {name for name in ("foreground", "semantic", "boundary") if getattr(HEADS[task], name)}
    assert names == {"total", "step_0", "step_1"} | heads


def test_evaluating_again_leaves_the_first_evaluation_alone(run: tuple[str, Path]) -> None:
    _, checkpoint = run
    before = (checkpoint.parent / "evaluation.json").read_bytes()
    predictor = rpe.load(checkpoint, decode={"num_steps": 0})
    run_evaluation(predictor, checkpoint, DATA, "val", console=QUIET)
    name = "synthetic-num_images=3_size=32_instances=3-val-num_steps=0"
    facts = json.loads((checkpoint.parent / "evaluations" / name / "evaluation.json").read_text())
    assert facts["images"][0]["name"].startswith("val-") and facts["curves"]["total"]["steps"] == [3, 6]
    assert (checkpoint.parent / "evaluation.json").read_bytes() == before


def test_files_of_a_prediction(run: tuple[str, Path], tmp_path: Path) -> None:
    task, checkpoint = run
    pixels = np.random.default_rng(0).integers(0, 255, (30, 41, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    options: dict[str, Any] = {"batch_size": 1, "device": "cpu", "console": QUIET}
    assert run_prediction(checkpoint, [tmp_path / "a.png"], tmp_path / "out", **options) == 0
    written = {path.name.removeprefix("a."): path for path in (tmp_path / "out").glob("a.*")}
    assert set(written) == EVERY_FILE | FURTHER_FILES.get(task, set())
    for name, path in written.items():
        if name.endswith(".png"):
            assert Image.open(path).size == (41, 30)
    result = rpe.load(checkpoint).predict(pixels)
    assert result.labels.shape == (30, 41) and result.masks().shape == (len(result.scores), 30, 41)
    assert np.isfinite(result.scores).all()
    objects = json.loads(written["objects.json"].read_text())
    assert [entry["id"] for entry in objects] == [
        k + 1 for k, mask in enumerate(result.masks()) if mask.any()
    ]
    if result.classes is not None:
        assert all(entry["category_id"] == result.classes[entry["id"] - 1] for entry in objects)


def test_proposals_overlap_and_are_ranked_without_duplicates() -> None:
    """Three stripes at 0, 20 and 90 degrees: apart at the high threshold, the first two together at the low one, which
    adds one proposal; the third stripe is found twice and kept once."""
    angle = torch.deg2rad(torch.tensor([0.0, 20.0, 90.0])).repeat_interleave(4).expand(6, 12)
    embedding = torch.stack([angle.cos(), angle.sin()])[None]
    output = rpe.model.Output(embedding, torch.full((1, 1, 6, 12), 9.0))
    rules = DecodeConfig(min_size=1, num_steps=0, kappas=(5.0,), thresholds=(0.99, 0.95))
    grouping = rpe.RecurrentGrouping(1)
    many = get("proposals").decode(output, (6, 12), grouping, rules)
    assert many.proposals is not None and len(many.proposals) == len(many.scores) == 4
    assert (np.diff(many.scores) <= 0).all() and many.scores[-1] < many.scores[0]
    masks = many.masks()[:, 0]
    columns = sorted(np.flatnonzero(mask).tolist() for mask in masks)
    assert columns == [list(range(4)), list(range(8)), list(range(4, 8)), list(range(8, 12))]
    assert np.flatnonzero(masks[-1]).tolist() == list(range(8)), "the one that agrees least comes last"
    assert set(np.unique(many.labels)) == {1, 2, 3}, "and lies below the others"
    best = get("proposals").decode(output, (6, 12), grouping, replace(rules, max_proposals=2))
    assert len(best.masks()) == 2
    twice = get("proposals").decode(output, (6, 12), grouping, replace(rules, duplicate_iou=0.5))
    assert len(twice.scores) == 3, "a stripe is half of the pair"


def test_equal_points_are_moved_once_for_all_thresholds(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    forward = rpe.RecurrentGrouping.forward

    def counting(self: rpe.RecurrentGrouping, *arguments: Any) -> list[torch.Tensor]:
        calls.append(float(self.kappa))
        return forward(self, *arguments)

    monkeypatch.setattr(rpe.RecurrentGrouping, "forward", counting)
    torch.manual_seed(0)
    config = replace(TINY, task="proposals", decode=replace(TINY.decode, foreground_threshold=0.0))
    rpe.predict.Predictor(rpe.build_model(config), config).predict(torch.rand(3, 20, 20))
    assert calls == pytest.approx([5.0, 20.0])


def test_classes_are_voted_for_inside_each_object() -> None:
    """Two objects; the left one's pixels lean to class 1 and its right half alone to class 2 more strongly."""
    embedding = torch.zeros(1, 2, 4, 8)
    embedding[:, 0, :, :4] = 1
    embedding[:, 1, :, 4:] = 1
    semantic = torch.full((1, 3, 4, 8), -9.0)
    semantic[:, 1, :, :3] = 2.0
    semantic[:, 2, :, 3:] = 2.0
    output = rpe.model.Output(embedding, None, semantic)
    rules = DecodeConfig(min_size=1, threshold=0.9)
    result = get("semantic_instance").decode(output, (4, 8), rpe.RecurrentGrouping(1, kappa=20.0), rules)
    assert result.labels[0].tolist() == [1] * 4 + [2] * 4
    assert result.classes is not None and result.classes.tolist() == [1, 2]
    assert result.semantic is not None and result.semantic[0].tolist() == [1] * 3 + [2] * 5
    assert result.scores[0] == pytest.approx(0.75, abs=0.01) and result.scores[1] > 0.99


def test_semantic_tasks_need_fitting_classes() -> None:
    config = replace(TINY, task="semantic", model=replace(TINY.model, num_classes=3), output="x")
    with pytest.raises(UserError, match=r"num_classes is 3, and synthetic:.* has 4 classes.*set .* = 4"):
        run_training(config, Path("a.toml"), resume=False, console=QUIET)
    with pytest.raises(ValueError, match=r"model.num_classes must be 2 or more for task = 'semantic'"):
        rpe.build_model(replace(config, model=replace(TINY.model, num_classes=0)))


@pytest.mark.skipif(SHARED is None, reason="RPE_TEST_DATA is not set")
@pytest.mark.parametrize(
    ("config", "data", "split", "classes"),
    [
        ("voc_semantic_instance", "voc:voc_labelme", None, 21),
        ("voc_semantic", "voc:voc_labelme", None, 21),
        ("voc_proposals", "voc:voc_labelme", None, 0),
        ("coco_proposals", "coco:coco_tiny", "val", 0),
        ("bsds500_boundary", "bsds500:bsds500", "test", 0),
    ],
)
def test_configs_on_real_data(
    config: str, data: str, split: str | None, classes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two steps of a narrow network on small crops, then the first image of the test split."""
    from rpe.data.dataset import Dataset
    from rpe.tasks import boundary

    monkeypatch.setattr(Dataset, "__len__", lambda self: min(1, len(self.names)))
    monkeypatch.setattr(boundary, "_THRESHOLDS", 9)
    monkeypatch.setattr(boundary, "_DEPTH_THRESHOLDS", 3)
    name, folder = data.split(":")
    overrides = {
        "data.root": f"{name}:{Path(str(SHARED)) / folder}",
        "data.train_split": split or "",
        "data.test_split": "",
        "data.crop": 64,
        "model.channels": [8, 8, 8, 8],
        "model.dim": 8 if config != "bsds500_boundary" else 3,
        "grouping.num_steps": 1,
        "decode.num_steps": 1,
        "decode.min_size": 400,
        "training.steps": 2,
        "training.batch_size": 2,
        "training.precision": "no",
        "training.workers": 0,
    }
    settings = replace(load_config(CONFIGS / f"{config}.toml", overrides), output=str(tmp_path))
    assert settings.model.num_classes == classes
    run_training(settings, CONFIGS / f"{config}.toml", resume=False, console=QUIET)
    predictor = rpe.load(tmp_path / "model.pt")
    checkpoint, out = tmp_path / "model.pt", tmp_path / "out"
    result = run_evaluation(predictor, checkpoint, settings.data.root, split, out, console=QUIET)
    assert result["overall"]["images"] == 1 and set(result["overall"]) >= EXPECTED_NUMBERS[settings.task]
    assert (tmp_path / "out" / "evaluation.html").stat().st_size > 20_000
