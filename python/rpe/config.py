"""Every setting of the package: frozen dataclasses with their defaults and one line of help each.
 `settings.py` reads files and overrides into them; the command line shows these docstrings. Nothing here does
anything.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class DataConfig:
    """Where samples come from and how training views are cut."""

    root: str = "synthetic:"
    """FORMAT:ROOT of the data set, for example dsb2018:/data/dsb2018."""
    train_split: str = "train"
    """Split to train on; empty takes every sample."""
    test_split: str = "test"
    """Split to evaluate on when training ends; empty skips the evaluation."""
    crop: int = 128
    """Side of a training view in pixels."""
    scale: tuple[float, float] = (1.0, 1.0)
    """Range of the random zoom."""
    flip: Literal["none", "horizontal", "both"] = "both"
    """Random mirroring: none, left-right, or left-right and up-down."""
    quarter_turns: bool = True
    """Rotate by 0, 90, 180 or 270 degrees."""
    rotation: float = 0.0
    """Rotate by up to this many degrees either way, up to 180."""
    brightness: float = 0.2
    """Random gain, 1 +- this."""
    contrast: float = 0.2
    """Random contrast, 1 +- this."""
    colour: float = 0.1
    """Random gain of each channel, 1 +- this."""
    gamma: float = 0.0
    """Random exponent of the intensities, between exp(-this) and exp(this)."""
    noise: float = 0.0
    """Largest standard deviation of added Gaussian noise."""
    min_pixels: int = 4
    """Instances with fewer pixels in a view are ignored."""
    balance: float = 0.5
    """How often kinds of images are drawn: 0 by their number of images, 1 all equally."""


@dataclass(frozen=True)
class ModelConfig:
    """The network."""

    backbone: str = "unet"
    """Registered name: unet, resnet_fpn or your own; timm:NAME is an encoder of timm with a pyramid."""
    channels: tuple[int, ...] = (32, 64, 96, 128)
    """Widths of the backbone's levels."""
    output_stride: int = 2
    """Pixels per cell of the embedding map."""
    atrous_stride: int = 0
    """Stride from which the stages of resnet_fpn or timm dilate and shrink no more: 4, 8, 16 or 32; 0 leaves it to the
    backbone.
    """
    pretrained: bool = False
    """Start from timm's weights, which are downloaded."""
    norm: Literal["batch", "group"] = "batch"
    """Normalisation layers."""
    dim: int = 16
    """Embedding dimension D."""
    foreground: bool = True
    """Add the head that tells objects from background; the tasks instance and proposals have it."""
    core: bool = False
    """The foreground head also learns which pixels lie inside an object, away from its rim; these alone are compared
    and grouped, and objects grow from them over the rest of the foreground.
    """
    num_classes: int = 0
    """Classes of the semantic head, the background counted; the tasks semantic and semantic_instance need it."""
    position_periods: tuple[float, ...] = ()
    """Periods in pixels of sine and cosine channels of the position, appended to the image."""
    rotation_periods: tuple[float, ...] = ()
    """Periods in pixels at which the position turns the channels of the embedding."""
    normalize: Literal["none", "percentile"] = "none"
    """Stretch each image between its 1st and 99.8th percentile before the network sees it."""
    invert_bright: bool = False
    """Invert images whose median is above one half, so that the ground is always dark."""


@dataclass(frozen=True)
class GroupingConfig:
    """Recurrent mean shift."""

    num_steps: int = 3
    """Steps T that training supervises, each with weight 1."""
    kappa: float | None = None
    """Concentration; by default rpe_ops.kappa_from_margin(objective.margin)."""
    eta: float = 1.0
    """Step size."""
    learn_kappa: bool = False
    """Train log(kappa) with the network."""
    tol: float = 1e-3
    """Largest share of any point's kernel mass that a step may leave out at inference, unless decode.tol is set; 0
    computes every pair.
    """
    training_tol: float = 0.0
    """The same in training."""


@dataclass(frozen=True)
class ObjectiveConfig:
    """The losses."""

    margin: float = 0.5
    """Margin on the similarity s in [0, 1]."""
    weight: Literal["instance", "uniform"] = "instance"
    """Point weights of the pairwise loss."""
    normalizer: Literal["points", "weights"] = "weights"
    """What divides the pairwise loss of a window."""
    background: Literal["ignore", "instance"] = "ignore"
    """Leave background out of the pairwise loss, or treat it as one more instance."""
    window: int = 32
    """Side in cells of the windows whose points are compared; 0 compares all points of an image."""
    max_points: int = 0
    """Points sampled per window, shared evenly among its instances; 0 takes all."""
    embedding_weight: float = 1.0
    """Weight of the pairwise losses."""
    foreground_weight: float = 1.0
    """Weight of the foreground loss."""
    semantic_weight: float = 1.0
    """Weight of the cross-entropy of classes."""
    boundary_weight: float = 1.0
    """Weight of the boundary losses."""


@dataclass(frozen=True)
class DecodeConfig:
    """From embeddings to label maps."""

    background: Literal["head", "largest", "none"] = "head"
    """What becomes 0: the foreground head's choice, the largest cluster with all its parts, or nothing."""
    foreground_threshold: float = 0.5
    """Probability above which a pixel belongs to an object."""
    core_threshold: float | None = None
    """Probability of the inside above which cells are grouped, by default 0.5; objects then grow over the rest of the
    foreground. For a model without `model.core` it is one of the foreground, and by default all of that is grouped.
    """
    num_steps: int | None = None
    """Mean-shift steps; by default grouping.num_steps."""
    tol: float | None = None
    """Largest share of any point's kernel mass that a step may leave out; by default grouping.tol."""
    threshold: float = 0.9
    """Similarity at which two converged points belong to one cluster."""
    window: int = 0
    """Side in cells of the overlapping windows that are grouped one by one and stitched; 0 groups the image
    at once.
    """
    connected: bool = True
    """Cut clusters that fall apart in the plane."""
    min_size: int = 16
    """Objects with fewer pixels are removed."""
    kappas: tuple[float, ...] = ()
    """Concentrations at which proposals are made, each with every threshold; by default that of the grouping."""
    thresholds: tuple[float, ...] = ()
    """Thresholds at which proposals are made; by default `threshold`."""
    duplicate_iou: float = 0.9
    """Of two proposals that overlap at least so much the one with the lower score is left out."""
    max_proposals: int = 100
    """Proposals kept in an image, best first."""


@dataclass(frozen=True)
class TrainingConfig:
    """The training loop."""

    steps: int = 1000
    """Optimiser steps."""
    batch_size: int = 8
    """Views per batch; a step takes batch_size x accumulate x processes of them."""
    accumulate: int = 1
    """Batches whose gradients are averaged into one step."""
    learning_rate: float = 3e-3
    """Peak of the schedule."""
    schedule: Literal["cosine", "poly"] = "cosine"
    """How the learning rate falls to zero after the warm-up."""
    power: float = 0.9
    """Exponent of the poly schedule."""
    weight_decay: float = 0.01
    """Of AdamW."""
    warmup: float = 0.05
    """Share of the steps in which the learning rate rises."""
    clip: float = 5.0
    """Largest gradient norm; 0 does not clip."""
    precision: Literal["no", "bf16", "fp16"] = "no"
    """Automatic mixed precision of the backbone."""
    recompute: bool = False
    """Recompute each mean-shift step in the backward pass: less memory for more time."""
    workers: int = 0
    """Processes that prepare views."""
    threads: int = 0
    """CPU threads of PyTorch; 0 leaves its choice."""
    log_every: int = 20
    """Steps between two log entries."""
    checkpoint_every: int = 200
    """Steps between two checkpoints."""


@dataclass(frozen=True)
class Config:
    """All settings of one run."""

    task: Literal["instance", "proposals", "semantic", "semantic_instance", "boundary"] = "instance"
    """What is predicted: instances, ranked object proposals, classes, instances with classes, or boundaries."""
    output: str = ""
    """Folder of the run; by default runs/NAME-OF-THE-CONFIG."""
    seed: int = 0
    """Of initialisation, views and windows."""
    backend: str = "auto"
    """rpe_ops backend."""
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    grouping: GroupingConfig = field(default_factory=GroupingConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
