"""Training in several processes, whoever starts them: the same losses as one process with the same global batch,
interrupted or not, and one evaluation."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rpe.checkpoint import read_checkpoint
from rpe.evaluate import training_curves
from rpe.train import CHECKPOINT, MODEL

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


LAUNCHERS = {
    "torchrun": ["torch.distributed.run", "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"],
    # Without --multi_gpu it starts a single process where there are not several GPUs.
    "accelerate launch": ["accelerate.commands.launch", "--multi_gpu", "--main_process_port", "0"],
}
COUNT = {"torchrun": "--nproc-per-node", "accelerate launch": "--num_processes"}


INTERRUPTED = """
import torch.distributed
from rpe import cli, train
save = train._save
def save_and_stop(*arguments):
    save(*arguments)
    torch.distributed.barrier()
    raise SystemExit("stopped after a checkpoint")
train._save = save_and_stop
cli.main()
"""

ENDED = """
from pathlib import Path
from rpe import cli
try:
    cli.main()
finally:
    names = [name.read_text() for name in Path("/proc/self/task").glob("*/comm")]
    assert not any("gloo" in name for name in names), f"threads that may abort the process at its end: {names}"
"""


def launch(
    folder: Path,
    processes: int,
    *options: str,
    launcher: str = "torchrun",
    program: tuple[str, ...] = ("-m", "rpe"),
) -> "subprocess.CompletedProcess[str]":
    """`rpe train`, or another program with its options, by a launcher where there is more than one process."""
    config = folder.with_suffix(".toml")
    config.write_text(CONFIG)
    runner = [*program]
    if processes > 1:
        runner = ["-m", *LAUNCHERS[launcher], COUNT[launcher], str(processes), *runner]
    command = [sys.executable, *runner, "train", str(config), "--output", str(folder), *options]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    plural = "process" if processes == 1 else "processes"
    assert done.returncode or f"training on cpu in {processes} {plural}" in done.stdout
    return done


def losses(folder: Path, processes: int, *options: str, **launching: Any) -> dict[str, np.ndarray]:
    done = launch(folder, processes, *options, "--data.test-split", "", **launching)
    assert done.returncode == 0, done.stderr[-9000:]
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


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_two_processes_are_one_process(
    launcher: str, tmp_path: Path, one_process: dict[str, np.ndarray]
) -> None:
    two = losses(tmp_path / "run", 2, "--training.batch-size", "2", launcher=launcher)
    assert_same_curves(two, one_process)


def test_an_interrupted_run_of_two_processes_that_accumulates_and_recomputes_is_one_process(
    tmp_path: Path, one_process: dict[str, np.ndarray]
) -> None:
    """Stopped after five of ten steps and resumed: the curves of one process that was never stopped, and bit for bit
    the weights of two that were not. Those leave no thread of their process group behind."""
    program, ended = tmp_path / "interrupted.py", tmp_path / "ended.py"
    program.write_text(INTERRUPTED)
    ended.write_text(ENDED)
    divided = ("--training.batch-size", "1", "--training.accumulate", "2", "--training.recompute")
    done = launch(tmp_path / "run", 2, *divided, "--data.test-split", "", program=(str(program),))
    assert done.returncode != 0 and "stopped after a checkpoint" in done.stderr, done.stderr[-3000:]
    assert read_checkpoint(tmp_path / "run" / CHECKPOINT)["training"]["step"] == 5
    assert not (tmp_path / "run" / MODEL).exists()
    assert_same_curves(losses(tmp_path / "run", 2, *divided, "--resume"), one_process)
    losses(tmp_path / "undisturbed", 2, *divided, program=(str(ended),))
    resumed, undisturbed = (
        read_checkpoint(tmp_path / name / MODEL)["model"] for name in ("run", "undisturbed")
    )
    for name, values in undisturbed.items():
        assert torch.equal(resumed[name], values), name


def test_two_processes_evaluate_once_and_resume_as_two(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    done = launch(folder, 2, "--training.batch-size", "2", "--training.steps", "5")
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("report: ") == 1 and done.stdout.count("step 5/5") == 1
    assert (folder / "evaluation.json").exists()
    again = launch(folder, 1, "--training.batch-size", "2", "--training.steps", "5", "--resume")
    assert again.returncode == 1 and "had 2 process(es) and now has 1" in again.stderr.replace("\n", " ")
