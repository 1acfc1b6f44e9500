"""The experiments by name, with their options: what `rpe experiment --list` and `--help` show.

The first line of a class says what its experiment asks. Nothing here imports PyTorch or runs anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Margin:
    """Which margin can still be satisfied, by dimension and number of instances, beside the spherical-code bound."""

    dims: tuple[int, ...] = (2, 3, 4, 8)
    """Embedding dimensions."""
    instances: tuple[int, ...] = (2, 3, 4, 6, 8, 12)
    """Numbers of instances."""
    restarts: int = 8
    """Random starts per case; the best one counts."""
    steps: int = 250
    """Optimiser steps from each start."""
    seed: int = 0
    """Of the starts."""


@dataclass(frozen=True)
class Size:
    """The loss against size and number of instances, under instance weights and under uniform ones."""

    dim: int = 16
    """Embedding dimension."""
    points: int = 4096
    """Points of the image whose instance sizes change."""
    noise: float = 0.5
    """Length of the noise beside unit centres."""
    repeats: int = 20
    """Random embeddings per case."""
    seed: int = 0
    """Of the embeddings."""


@dataclass(frozen=True)
class Gradient:
    """Which points of overlapping clusters still receive a gradient after T loops."""

    points: int = 300
    """Points of each of the three clusters."""
    spread: float = 0.35
    """Standard deviation of a cluster's angle, in radians."""
    steps: int = 5
    """Loops T."""
    kappa: float = 10.0
    """Concentration."""
    margin: float = 0.5
    """Margin of the loss."""
    seed: int = 0
    """Of the points."""


@dataclass(frozen=True)
class Steps:
    """Accuracy against T, in training and, separately, at inference."""

    loops: tuple[int, ...] = (0, 1, 3, 5)
    """Values of T."""
    training_steps: int = 400
    """Optimiser steps of each model."""
    seeds: int = 3
    """Models of each T."""
    position_channels: bool = False
    """Networks with position channels of period 64 in place of the rotation of the embedding."""


@dataclass(frozen=True)
class Bandwidth:
    """Accuracy against the bandwidth of the kernel and the step size eta."""

    bandwidths: tuple[float, ...] = (0.1, 0.15, 0.2, 0.3, 0.45, 0.65, 0.9)
    """Bandwidths, kappa = 1 / bandwidth^2."""
    etas: tuple[float, ...] = (0.25, 0.5, 1.0, 1.5)
    """Step sizes."""
    loops: int = 5
    """T at inference."""
    training_steps: int = 1000
    """Optimiser steps of the model, which is trained at a bandwidth of 0.22 and eta 1."""
    seed: int = 0
    """Of the model."""


@dataclass(frozen=True)
class Position:
    """What an embedding encodes: how well it predicts position, scale and colour of the objects, and from what."""

    training_steps: int = 400
    """Optimiser steps of each model."""
    images: int = 64
    """Test images."""
    seed: int = 0
    """Of the models."""


@dataclass(frozen=True)
class Peer:
    """The embedding with grouping against a three-class head (inside, border, background) on the same backbone."""

    config: Path | None = None
    """TOML or YAML file with data, backbone and training; by default small generated images."""
    data: str = ""
    """FORMAT:ROOT, in place of the config's."""
    training_steps: int = 0
    """Optimiser steps, in place of the config's."""
    seeds: int = 3
    """Models of each kind."""
    output_stride: int = 0
    """Pixels per cell of both networks, in place of the config's."""


EXPERIMENTS: dict[str, type] = {
    "margin": Margin,
    "size": Size,
    "gradient": Gradient,
    "steps": Steps,
    "bandwidth": Bandwidth,
    "position": Position,
    "peer": Peer,
}
"""Name of an experiment, its file here, and the class of its options."""
