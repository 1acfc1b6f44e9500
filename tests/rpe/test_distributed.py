"""Training in several processes: the same losses as one process with the same global batch, and one evaluation."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rpe.evaluate import training_curves

CONFIG = """
seed = 3
[data]
root = "synthetic:num_images=6,size=40,instances=4"
crop = 32
noise = 0.05
[model]
channels = [8, 8]
norm = "group"
dim = 4
position_periods = [16]
[grouping]
num_steps = 2
learn_kappa = true
[objective]
window = 8
max_points = 40
[training]
steps = 10
log_every = 1
checkpoint_every = 5
schedule = "poly"
threads = 1
"""
TOLERANCE = 1e-3
"""Largest relative difference of a loss over ten steps: sums in another order, which AdamW's first steps magnify."""


def launch(folder: Path, processes: int, *options: str) -> "subprocess.CompletedProcess[str]":
    """`rpe train` under torchrun where there is more than one process."""
    config = folder.with_suffix(".toml")
    config.write_text(CONFIG)
    runner = ["-m", "rpe"]
    if processes > 1:
        rendezvous = ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
        runner = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes), *rendezvous, *runner]
    command = [sys.executable, *runner, "train", str(config), "--output", str(folder), *options]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)


def losses(folder: Path, processes: int, *options: str) -> dict[str, np.ndarray]:
    done = launch(folder, processes, *options, "--data.test-split", "")
    assert done.returncode == 0, done.stderr[-3000:]
    return {name: np.array(values) for name, (_, values) in training_curves(folder).items()}


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def one_process(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    folder = tmp_path_factory.mktemp("one") / "run"
    return losses(folder, 1, "--training.batch-size", "4")


def assert_same_curves(given: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    assert given.keys() == wanted.keys() and len(wanted["total"]) == 10
    assert np.ptp(wanted["total"]) > 20 * TOLERANCE * wanted["total"].mean(), "a curve that shows something"
    for name in wanted:
        np.testing.assert_allclose(given[name], wanted[name], rtol=TOLERANCE, err_msg=name)


def test_accumulated_batches_are_one_batch(tmp_path: Path, one_process: dict[str, np.ndarray]) -> None:
    divided = losses(tmp_path / "run", 1, "--training.batch-size", "2", "--training.accumulate", "2")
    assert_same_curves(divided, one_process)


def test_two_processes_are_one_process(tmp_path: Path, one_process: dict[str, np.ndarray]) -> None:
    assert_same_curves(losses(tmp_path / "run", 2, "--training.batch-size", "2"), one_process)


def test_two_processes_evaluate_once_and_resume_as_two(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    done = launch(folder, 2, "--training.batch-size", "2", "--training.steps", "5")
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("report: ") == 1 and done.stdout.count("step 5/5") == 1
    assert (folder / "evaluation.json").exists()
    again = launch(folder, 1, "--training.batch-size", "2", "--training.steps", "5", "--resume")
    assert again.returncode == 1 and "had 2 process(es) and now has 1" in again.stderr.replace("\n", " ")
