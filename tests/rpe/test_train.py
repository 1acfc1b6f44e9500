"""Training: killed and resumed runs end bit for bit like undisturbed ones; checkpoints are whole, plain and
checked.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import rpe
from rpe.checkpoint import FORMAT, KIND, random_state, read_checkpoint, save_checkpoint, set_random_state
from rpe.config import Config, DataConfig, GroupingConfig, ModelConfig, ObjectiveConfig, TrainingConfig
from rpe.errors import UserError
from rpe.schedule import rate_factor
from rpe.settings import to_mapping
from rpe.train import CHECKPOINT, MODEL, TrainingStep, train
from rpe.views import TrainingViews

TINY = Config(
    seed=5,
    data=DataConfig(
        root="synthetic:num_images=6,size=40,instances=4", crop=32, noise=0.05, gamma=0.2, scale=(0.8, 1.2)
    ),
    model=ModelConfig(channels=(8, 8), dim=4, position_periods=(16.0,)),
    grouping=GroupingConfig(num_steps=2, learn_kappa=True),
    objective=ObjectiveConfig(window=8, max_points=40),
    training=TrainingConfig(steps=12, batch_size=2, accumulate=2, log_every=4, checkpoint_every=3, threads=1),
)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    content: dict[str, torch.Tensor] = read_checkpoint(folder / MODEL)["model"]
    return content


def assert_equal_weights(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def run_in_process(config: Config, *, resume: bool) -> "subprocess.Popen[bytes]":
    code = (
        "import json, sys; from rpe import Config; from rpe.train import train\n"
        "from rpe.settings import from_mapping\n"
        "train(from_mapping(Config, json.loads(sys.argv[1]), source='x'), resume=sys.argv[2] == '1')"
    )
    arguments = [sys.executable, "-c", code, json.dumps(to_mapping(config)), str(int(resume))]
    return subprocess.Popen(
        arguments, stdout=subprocess.DEVNULL, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    )


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    process = run_in_process(replace(TINY, output=str(folder)), resume=False)
    assert process.wait(timeout=300) == 0
    return folder


def test_a_killed_run_resumes_to_the_same_weights(tmp_path: Path, undisturbed: Path) -> None:
    config = replace(TINY, output=str(tmp_path))
    process = run_in_process(config, resume=False)
    deadline = time.monotonic() + 300
    while not (tmp_path / CHECKPOINT).exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    step = read_checkpoint(tmp_path / CHECKPOINT)["training"]["step"]
    assert 0 < step < TINY.training.steps, "killed too late to show anything"
    assert run_in_process(config, resume=True).wait(timeout=300) == 0
    assert_equal_weights(weights(tmp_path), weights(undisturbed))


def test_resuming_a_finished_or_an_unborn_run(tmp_path: Path, undisturbed: Path) -> None:
    before = (undisturbed / MODEL).read_bytes()
    train(replace(TINY, output=str(undisturbed)), resume=True)
    assert (undisturbed / MODEL).read_bytes() == before
    config = replace(TINY, output=str(tmp_path))
    train(config, resume=True)
    assert_equal_weights(weights(tmp_path), weights(undisturbed))


def test_a_finished_run_takes_other_rules_of_decoding(tmp_path: Path, undisturbed: Path) -> None:
    shutil.copytree(undisturbed, tmp_path / "run")
    config = replace(TINY, output=str(tmp_path / "run"), decode=replace(TINY.decode, threshold=0.123))
    train(config, resume=True)
    assert read_checkpoint(tmp_path / "run" / MODEL)["config"].decode.threshold == 0.123
    assert_equal_weights(weights(tmp_path / "run"), weights(undisturbed))


def test_views_do_not_depend_on_workers(tmp_path: Path, undisturbed: Path) -> None:
    train(replace(TINY, output=str(tmp_path), training=replace(TINY.training, workers=1)))
    assert_equal_weights(weights(tmp_path), weights(undisturbed))


def test_a_folder_with_a_run_is_not_overwritten(undisturbed: Path) -> None:
    with pytest.raises(UserError, match="already holds a run; add --resume"):
        train(replace(TINY, output=str(undisturbed)))


def test_resuming_with_other_settings_is_refused(undisturbed: Path) -> None:
    other = replace(TINY, output=str(undisturbed), model=replace(TINY.model, dim=5), seed=6)
    with pytest.raises(UserError, match=r"seed was 5 and is 6, model.dim was 4 and is 5"):
        train(other, resume=True)


def test_checkpoint_is_plain_and_tells_its_origin(undisturbed: Path) -> None:
    content = torch.load(undisturbed / CHECKPOINT, weights_only=True)
    assert content["kind"] == KIND and content["format"] == FORMAT and content["version"]
    assert content["config"]["model"]["dim"] == 4
    assert set(content["training"]) >= {"step", "optimizer", "scheduler", "random"}
    assert not list(undisturbed.glob(".*writing"))
    assert any(undisturbed.rglob("events.out.tfevents*"))
    assert read_checkpoint(undisturbed / CHECKPOINT)["config"] == replace(TINY, output=str(undisturbed))
    predictor = rpe.load(undisturbed / MODEL)
    assert predictor.model.grouping.kappa.item() != pytest.approx(36.0, abs=1e-6), "kappa was learnt"


def test_training_lowers_the_loss(tmp_path: Path) -> None:
    config = replace(
        TINY,
        output=str(tmp_path),
        training=replace(TINY.training, steps=40, accumulate=1, learning_rate=0.01),
    )

    def loss(module: TrainingStep) -> float:
        views = TrainingViews(
            rpe.data.open_dataset(config.data.root), config.data, config.model, seed=99, count=8
        )
        batch = [views[index] for index in range(8)]
        image, label = (torch.stack([view[key] for view in batch]) for key in ("image", "label"))
        with torch.no_grad():
            return float(module.eval()(image, label, torch.Generator().manual_seed(0)).total)

    torch.manual_seed(config.seed)
    before = loss(TrainingStep(config))
    train(config)
    after_module = TrainingStep(config)
    after_module.model.load_state_dict(weights(tmp_path))
    assert loss(after_module) < 0.9 * before


@pytest.mark.parametrize(("schedule", "middle"), [("cosine", 0.5), ("poly", 0.5**0.9)])
def test_the_rate_rises_then_falls_to_zero(schedule: str, middle: float) -> None:
    config = TrainingConfig(steps=110, warmup=0.09, schedule=schedule)  # type: ignore[arg-type]
    rates = [rate_factor(step, config) for step in range(111)]
    assert rates[0] == pytest.approx(0.1) and max(rates) == 1.0 and rates[110] == pytest.approx(0.0)
    assert rates[:10] == sorted(rates[:10]) and rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[60] == pytest.approx(middle)


def test_recomputed_steps_give_the_same_gradients_and_keep_less() -> None:
    points = torch.nn.functional.normalize(
        torch.randn(300, 8, generator=torch.Generator().manual_seed(0)), dim=1
    )
    offsets = torch.tensor([0, 120, 300])

    def run(recompute: bool) -> tuple[torch.Tensor, list[torch.Tensor], int]:
        grouping = rpe.RecurrentGrouping(num_steps=5, kappa=9.0, learn_kappa=True, recompute=recompute)
        leaf, kept = points.clone().requires_grad_(), {}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            kept[tensor.data_ptr()] = tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            value = sum(step.square().mul(torch.arange(8.0)).sum() for step in grouping(leaf, offsets))
        gradients = torch.autograd.grad(value, [leaf, grouping.log_kappa])
        return value.detach(), list(gradients), sum(kept.values())

    value, gradients, stored = run(False)
    again, same, fewer = run(True)
    torch.testing.assert_close(again, value)
    for left, right in zip(same, gradients, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5)
    assert fewer < 0.8 * stored, (fewer, stored)


def test_views_are_functions_of_their_number() -> None:
    samples = rpe.data.open_dataset(TINY.data.root)
    a = TrainingViews(samples, TINY.data, TINY.model, seed=1, count=9)
    b = TrainingViews(samples, TINY.data, TINY.model, seed=1, count=4)
    first = [a[index] for index in (3, 1)]
    second = [b[index] for index in (1, 3)]
    assert torch.equal(first[0]["image"], second[1]["image"]) and torch.equal(
        first[1]["label"], second[0]["label"]
    )
    assert a[0]["image"].shape == (3, 32, 32) and a[0]["label"].shape == (32, 32)
    other = TrainingViews(samples, TINY.data, TINY.model, seed=2, count=9)
    assert not torch.equal(a[0]["image"], other[0]["image"])


def test_random_states_come_back() -> None:
    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    state = random_state()
    first = draw()
    set_random_state(state)
    assert draw() == first


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 broken"])
def test_files_that_are_no_checkpoints_are_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.pt: not a checkpoint, or a damaged one"):
        rpe.load(path)


def broken(path: Path, **changes: Any) -> None:
    content = torch.load(path, weights_only=True)
    content.update(changes)
    torch.save(content, path)


def test_checkpoints_of_others_newer_ones_and_of_other_models_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such checkpoint"):
        rpe.load(tmp_path / "none.pt")
    path = tmp_path / "a.pt"
    torch.save({"state_dict": {}}, path)
    with pytest.raises(UserError, match="not a checkpoint of rpe"):
        rpe.load(path)
    save_checkpoint(path, TINY, rpe.build_model(TINY).state_dict())
    rpe.load(path)
    broken(path, format=FORMAT + 1, version="9.0")
    with pytest.raises(UserError, match=r"format 2, written by rpe_ops 9\.0.*upgrade"):
        rpe.load(path)
    save_checkpoint(path, replace(TINY, model=replace(TINY.model, dim=6)), rpe.build_model(TINY).state_dict())
    with pytest.raises(UserError, match="weights are of another model.*embedding_head"):
        rpe.load(path)
    unknown = replace(TINY, model=replace(TINY.model, backbone="mine"))
    save_checkpoint(path, unknown, rpe.build_model(TINY).state_dict())
    with pytest.raises(UserError, match="'mine' is not one of"):
        rpe.load(path)
    own = rpe.build_backbone("unet", channels=(8, 8), in_channels=7)
    assert rpe.load(path, backbone=own).model.dim == 4
