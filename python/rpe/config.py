"""Every setting of the package, as frozen dataclasses with defaults. Reading files and command lines is
`settings.py`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class DataConfig:
    """Where samples come from and how training crops are cut."""

    root: str = "synthetic:"
    """FORMAT:ROOT of the data set, for example dsb2018:/data/dsb2018."""
    train_split: str = "train"
    """Split to train on; an empty string takes every sample."""
    test_split: str = "test"
    """Split to evaluate on after training."""
    crop: int = 128
    """Side of a training crop in pixels."""


@dataclass(frozen=True)
class ModelConfig:
    """The network."""

    backbone: str = "unet"
    """unet, resnet_fpn, or a name registered with rpe.register_backbone."""
    channels: tuple[int, ...] = (32, 64, 96, 128)
    """Widths of the backbone's levels."""
    output_stride: int = 2
    """Pixels per cell of the embedding map."""
    norm: Literal["batch", "group"] = "batch"
    """Normalisation layers."""
    dim: int = 16
    """Embedding dimension D."""
    foreground: bool = True
    """Add the head that tells objects from background."""


@dataclass(frozen=True)
class GroupingConfig:
    """Recurrent mean shift."""

    num_steps: int = 3
    """T, supervised steps in training."""
    kappa: float | None = None
    """Concentration; none takes kappa_from_margin(objective.margin)."""
    eta: float = 1.0
    """Step size."""
    learn_kappa: bool = False
    """Train log(kappa) with the network."""


@dataclass(frozen=True)
class ObjectiveConfig:
    """The losses."""

    margin: float = 0.5
    """Margin on the similarity s in [0, 1]."""
    weight: Literal["instance", "uniform"] = "instance"
    """Point weights of the pairwise loss."""
    normalizer: Literal["points", "weights"] = "weights"
    """What divides a window's pairwise loss."""
    background: Literal["ignore", "instance"] = "ignore"
    """Leave background out of the pairwise loss, or treat it as one more instance."""
    window: int = 32
    """Side in cells of the windows whose points are compared; 0 compares all points of an image."""
    max_points: int = 0
    """Points sampled per window, shared evenly among instances; 0 takes all."""
    foreground_weight: float = 1.0
    """Weight of the foreground loss."""
