"""Experiments: a figure and a JSON from each; what each claims holds in small; the peer is trained and decoded."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

import rpe_ops
from rpe import cli
from rpe.checkpoint import read_checkpoint
from rpe.config import DecodeConfig
from rpe.experiments import EXPERIMENTS, gradient, margin, size
from rpe.experiments.peer import ROWS, base_config
from rpe.experiments.record import run_experiment
from rpe.experiments.settings import Bandwidth, Gradient, Margin, Peer, Position, Size, Steps
from rpe.experiments.three_class import BACKGROUND, BORDER, INSIDE, classes, decode

SMALL = {
    "margin": Margin(dims=(2,), instances=(2, 4), restarts=2, steps=60),
    "size": Size(dim=4, points=256, repeats=1),
    "gradient": Gradient(points=30, steps=2),
    "steps": Steps(loops=(0, 1), training_steps=3, seeds=1),
    "bandwidth": Bandwidth(bandwidths=(0.2, 0.4), etas=(1.0,), loops=1, training_steps=3),
    "position": Position(training_steps=3, images=8),
    "peer": Peer(training_steps=3, seeds=2),
}


@pytest.fixture
def few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    from rpe.experiments import peer, small

    for name in ("_TRAIN_IMAGES", "_VALIDATION_IMAGES", "_TEST_IMAGES"):
        monkeypatch.setattr(small, name, 3)
    monkeypatch.setattr(peer, "_TUNING_IMAGES", 2)
    monkeypatch.setattr(small, "THRESHOLDS", (0.9,))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_leaves_a_figure_and_its_numbers(
    name: str, tmp_path: Path, few_images: None
) -> None:
    options = SMALL[name]
    if name == "peer":
        config = tmp_path / "peer.toml"
        config.write_text(
            "[data]\nroot = 'synthetic:num_images=3,size=32,instances=3'\ncrop = 32\n[model]\nchannels = [8, 8]\n"
            "[training]\nbatch_size = 2\n"
        )
        options = replace(options, config=config)  # type: ignore[type-var]
    run_experiment(name, options, tmp_path, Console(file=open("/dev/null", "w")))
    facts = json.loads((tmp_path / f"{name}.json").read_text())
    assert facts["experiment"] == name and facts["numbers"] and facts["seconds"] >= 0
    assert facts["versions"]["rpe_ops"] == rpe_ops.__version__
    assert set(facts["options"]) == set(vars(options))
    with Image.open(tmp_path / f"{name}.png") as picture:
        assert min(picture.size) > 300
    if name == "peer":
        assert set(facts["numbers"]["summary"]) == set(ROWS)
        assert all(len(runs) == 2 for runs in facts["numbers"]["runs"].values())
        before = {path: path.stat().st_mtime_ns for path in (tmp_path / "peer").glob("*/model.pt")}
        assert len(before) == 4
        again = run_experiment(name, options, tmp_path, Console(file=open("/dev/null", "w")))
        assert again["numbers"] == facts["numbers"]
        assert before == {path: path.stat().st_mtime_ns for path in before}, "finished runs are not repeated"


def test_steps_with_position_channels_in_place_of_the_rotation(tmp_path: Path, few_images: None) -> None:
    options = Steps(loops=(0,), training_steps=1, seeds=1, position_channels=True)
    run_experiment("steps", options, tmp_path, Console(file=open("/dev/null", "w")))
    model = read_checkpoint(tmp_path / "steps" / "T0-0-position-channels" / "model.pt")["config"].model
    assert model.position_periods == (64.0,) and model.rotation_periods == ()


def test_the_command_lists_and_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: "pytest.CaptureFixture[str]"
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    for arguments in (["--list"], []):
        monkeypatch.setattr(sys, "argv", ["rpe", "experiment", *arguments])
        with pytest.raises(SystemExit) as stop:
            cli.main()
            raise SystemExit(0)
        assert stop.value.code == 0
        told = capsys.readouterr().out
        assert all(name in told for name in EXPERIMENTS)
    options = ["--points", "256", "--repeats", "1", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["rpe", "experiment", "size", *options])
    with pytest.raises(SystemExit) as stop:
        cli.main()
        raise SystemExit(0)
    assert stop.value.code == 0
    assert json.loads((tmp_path / "size.json").read_text())["options"]["points"] == 256


def test_margins_are_attained_down_to_the_bound_and_not_below() -> None:
    options = Margin(restarts=8, steps=300)
    for number, dim in ((4, 2), (4, 3)):
        bound = rpe_ops.suggest_margin(number, dim)
        assert margin.reaches_zero(number, dim, bound + 0.02, options)
        assert not margin.reaches_zero(number, dim, bound - 0.02, options)


def test_instance_weights_make_the_loss_blind_to_sizes_and_uniform_ones_do_not() -> None:
    losses = np.stack([size._losses(sizes, Size(repeats=4)) for sizes in ([256] * 4, [940, 28, 28, 28])])
    change = losses[1] / losses[0]
    for name, ratio in zip(size._WEIGHTINGS, change, strict=True):
        assert abs(ratio - 1) < 0.05 if name.startswith("instance") else abs(ratio - 1) > 0.3, (name, ratio)


def test_gradients_fade_for_grouped_points_last_at_borders() -> None:
    options = Gradient()
    angle, label = gradient.overlapping_clusters(options)
    length, _ = gradient.gradients_by_loop(angle, label, options)
    border = gradient.near_border(angle)
    fading = length[3] / length[0]
    assert fading[~border].median() < 0.3
    assert length[3][border].mean() > 3 * length[3][~border].mean()
    assert length[5].mean() < 0.1 * length[0].mean()


def test_classes_of_the_peer() -> None:
    label = torch.zeros(1, 7, 9, dtype=torch.int64)
    label[0, 1:6, 1:5], label[0, 1:6, 5:8] = 3, 7
    label[0, 6] = -1
    found = classes(label)[0]
    assert found[0].eq(BACKGROUND).all() and found[6].eq(-1).all()
    assert found[3, 2:4].eq(INSIDE).all() and found[3, 6] == INSIDE
    assert found[3, [1, 4, 5, 7]].eq(BORDER).all() and found[1, 1:8].eq(BORDER).all()


def test_the_peer_decodes_what_it_is_taught() -> None:
    label = np.zeros((20, 30), dtype=np.int64)
    label[2:12, 2:12], label[2:12, 12:22], label[15:17, 15:17] = 1, 2, 3
    target = classes(torch.from_numpy(label)[None])[0]
    probability = torch.nn.functional.one_hot(target, 3).permute(2, 0, 1).float().numpy()
    found = decode(probability, DecodeConfig(min_size=5, core_threshold=0.5))
    assert found.max() == 2, "the third has no inside and is small"
    for value in (1, 2):
        assert len(np.unique(found[label == value])) == 1
    assert (found[label == 0] == 0).all()


def test_options_of_the_peer_change_its_settings(tmp_path: Path) -> None:
    base = base_config(Peer())
    changed = base_config(Peer(data="synthetic:num_images=2", training_steps=7, output_stride=4))
    assert changed.training.steps == 7 and changed.model.output_stride == 4
    assert changed.data.root == "synthetic:num_images=2" and base.data.root != changed.data.root
