"""Mixed precision: losses near those of float32, and runs that resume bit for bit, with the state of the gradient
scaler that float16 needs. A CPU is refused float16; here it trains in it all the same, to test that path without a
GPU."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator

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

needs_cpu = pytest.mark.skipif(torch.cuda.is_available(), reason="CPU precision, and there is a GPU")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


class ScalingAccelerator(Accelerator):
    """accelerate with automatic float16 and a gradient scaler on a CPU, which the library has on GPUs alone."""

    def __init__(self, **options: object) -> None:
        super().__init__(**options)
        if self.mixed_precision == "fp16":
            self.native_amp = True
            self.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8, growth_interval=4)


@pytest.fixture
def scaling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    # which optimisers of a build for GPUs would ask for its stream
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: None)
    monkeypatch.setattr(train_module, "Accelerator", ScalingAccelerator)


def config(folder: Path, precision: str) -> Config:
    training = replace(TINY.training, precision=precision)  # type: ignore[arg-type]
    return replace(TINY, output=str(folder), training=training)


def accumulated(config: Config) -> Config:
    return replace(config, training=replace(config.training, batch_size=1, accumulate=2))


def losses(folder: Path) -> np.ndarray:
    return np.array(training_curves(folder)["total"][1])


@pytest.fixture(scope="module")
def bfloat16(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bf16")
    train(config(folder, "bf16"))
    return folder


@needs_cpu
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


def train_in_two_parts(config: Config) -> None:
    """Stop after six of twelve steps, and resume."""
    save = train_module._save

    def save_and_stop(*arguments: object) -> None:
        save(*arguments)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(train_module, "_save", save_and_stop)
        train(config)
    assert read_checkpoint(Path(config.output) / CHECKPOINT)["training"]["step"] == 6
    train(config, resume=True)


def assert_same_weights(resumed: Path, undisturbed: Path) -> None:
    found, wanted = (read_checkpoint(folder / MODEL)["model"] for folder in (resumed, undisturbed))
    for name, values in wanted.items():
        assert values.dtype == torch.float32 or not values.is_floating_point()
        assert torch.equal(found[name], values), name


@needs_cpu
def test_bfloat16_resumes_bit_for_bit(tmp_path: Path, bfloat16: Path) -> None:
    train_in_two_parts(config(tmp_path, "bf16"))
    assert_same_weights(tmp_path, bfloat16)


@needs_cpu
def test_float16_resumes_bit_for_bit_with_its_gradient_scale(tmp_path: Path, scaling: None) -> None:
    """The scale doubles after every four steps; the run stops two steps after the first time."""
    whole, parts, exact = tmp_path / "whole", tmp_path / "parts", tmp_path / "exact"
    train(accumulated(config(whole, "fp16")))
    train_in_two_parts(accumulated(config(parts, "fp16")))
    assert_same_weights(parts, whole)
    scalers = [read_checkpoint(folder / CHECKPOINT)["training"]["scaler"] for folder in (parts, whole)]
    assert scalers[0] == scalers[1] and scalers[0]["scale"] == 2.0**11 and scalers[0]["_growth_tracker"] == 0
    train(accumulated(config(exact, "no")))
    difference = np.abs(losses(whole) - losses(exact)) / losses(exact)
    assert 0 < difference[0] < DEPTH**0.5 * ROUNDING and difference.max() < 0.1


@needs_gpu
def test_float16_on_a_gpu_trains_and_resumes(tmp_path: Path) -> None:
    """Not bit for bit: sums over pixels have no fixed order there."""
    whole, parts, exact = tmp_path / "whole", tmp_path / "parts", tmp_path / "exact"
    train(accumulated(config(whole, "fp16")))
    train_in_two_parts(accumulated(config(parts, "fp16")))
    scalers = [read_checkpoint(folder / CHECKPOINT)["training"]["scaler"] for folder in (parts, whole)]
    assert scalers[0] == scalers[1] and scalers[0]["scale"] > 0
    train(accumulated(config(exact, "no")))
    for folder in (whole, parts):
        assert (np.abs(losses(folder) - losses(exact)) / losses(exact)).max() < 0.1


@needs_cpu
def test_an_interrupted_run_leaves_nothing_to_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(train_module, "_one_step", stop)
    for precision in ("bf16", "no"):
        with pytest.raises(KeyboardInterrupt):
            train(config(tmp_path / precision, precision))


@needs_cpu
def test_float16_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"training\.precision is 'fp16', which needs a GPU.*take 'bf16'"):
        train(config(tmp_path, "fp16"))
    assert not list(tmp_path.iterdir())
