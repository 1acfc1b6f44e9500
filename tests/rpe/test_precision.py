"""Mixed precision on a CPU: bfloat16 trains with losses near those of float32 and resumes bit for bit; float16, which a
CPU does not train with, is refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rpe import train as train_module
from rpe.checkpoint import read_checkpoint
from rpe.config import Config, DataConfig, GroupingConfig, ModelConfig, TrainingConfig
from rpe.errors import UserError
from rpe.evaluate import training_curves
from rpe.train import CHECKPOINT, MODEL, train

STEPS = 12
TINY = Config(
    seed=5,
    data=DataConfig(root="synthetic:num_images=6,size=40,instances=4", crop=32),
    model=ModelConfig(channels=(8, 8), dim=4, norm="group"),
    grouping=GroupingConfig(num_steps=2),
    training=TrainingConfig(steps=STEPS, batch_size=2, log_every=1, checkpoint_every=6, threads=1),
)
ROUNDING = 2.0**-8
"""Relative distance of two neighbouring bfloat16 numbers."""
DEPTH = 8
"""Layers of the network: convolutions whose results are rounded, one after the other."""

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="CPU precision, and there is a GPU")


def config(folder: Path, precision: str) -> Config:
    training = replace(TINY.training, precision=precision)  # type: ignore[arg-type]
    return replace(TINY, output=str(folder), training=training)


def losses(folder: Path) -> np.ndarray:
    return np.array(training_curves(folder)["total"][1])


@pytest.fixture(scope="module")
def bfloat16(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bf16")
    train(config(folder, "bf16"))
    return folder


def test_losses_of_bfloat16_are_near_those_of_float32(tmp_path: Path, bfloat16: Path) -> None:
    """Before the first update alone rounding differs: once a layer, in each at random, so that the relative error of an
    activation, and of a loss that is no steeper than linear in it, is some sqrt(layers) roundings. Weights that have
    moved apart may double that at each of the few steps that matter; after twelve it must not be a tenth."""
    train(config(tmp_path, "no"))
    exact, rounded = losses(tmp_path), losses(bfloat16)
    assert len(exact) == len(rounded) == STEPS
    difference = np.abs(rounded - exact) / exact
    assert 0 < difference[0] < DEPTH**0.5 * ROUNDING
    assert difference.max() < 0.1
    assert rounded[-3:].mean() < 0.9 * rounded[:3].mean(), "it trains"


def test_bfloat16_resumes_bit_for_bit(
    tmp_path: Path, bfloat16: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = train_module._save

    def save_and_stop(*arguments: object) -> None:
        save(*arguments)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    monkeypatch.setattr(train_module, "_save", save_and_stop)
    with pytest.raises(KeyboardInterrupt):
        train(config(tmp_path, "bf16"))
    monkeypatch.undo()
    assert read_checkpoint(tmp_path / CHECKPOINT)["training"]["step"] == 6
    train(config(tmp_path, "bf16"), resume=True)
    resumed, undisturbed = (read_checkpoint(folder / MODEL)["model"] for folder in (tmp_path, bfloat16))
    for name, values in undisturbed.items():
        assert values.dtype == torch.float32 or not values.is_floating_point()
        assert torch.equal(resumed[name], values), name


def test_an_interrupted_run_leaves_nothing_to_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(train_module, "_one_step", stop)
    for precision in ("bf16", "no"):
        with pytest.raises(KeyboardInterrupt):
            train(config(tmp_path / precision, precision))


def test_float16_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"training\.precision is 'fp16', which needs a GPU.*take 'bf16'"):
        train(config(tmp_path, "fp16"))
    assert not list(tmp_path.iterdir())
