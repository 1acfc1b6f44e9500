"""Format `synthetic`: generated pictures of discs, ellipses and polygons over a textured ground; needs no files.

ROOT holds parameters: `synthetic:num_images=64,size=64,seed=0,instances=8`, each optional. Instances never overlap;
many touch, and many share one colour, so that neither colour nor gaps alone tell them apart. The class is the shape.
An image depends on (seed, split, index) only.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from skimage.draw import polygon2mask

from .dataset import Dataset
from .registry import register
from .sample import DataError, Problem, Sample

_DEFAULTS = {"num_images": 64, "size": 64, "seed": 0, "instances": 8}
_SMALLEST = {"num_images": 1, "size": 16, "seed": 0, "instances": 1}
CLASSES = ("background", "disc", "ellipse", "polygon")
_SPLITS = {"train": 0, "test": 1, "val": 2}
_MIN_VISIBLE = 0.6
"""Share of its area that an instance must keep where its place is partly taken."""
_SAME_COLOUR = 0.5
"""Chance that an instance takes the colour of an earlier one."""
_MIN_CONTRAST = 0.25
"""Smallest difference to the ground in some channel; its texture spreads over about +-0.15."""


@register("synthetic")
class Synthetic(Dataset):
    """Generated images; split None is "train", and "test" and "val" are other images of the same making."""

    def __init__(self, root: str = "", split: str | None = None, *, strict: bool = True) -> None:
        super().__init__(root, split)
        parameters = _parse(root)
        if split is not None and split not in _SPLITS:
            raise DataError(
                f"synthetic data has no split {split!r}", remedy=f"use one of {', '.join(_SPLITS)}"
            )
        self.size = parameters["size"]
        self.instances = parameters["instances"]
        self.classes = CLASSES
        self.seed = (parameters["seed"], _SPLITS[split or "train"])
        self.names = [f"{split or 'train'}-{index:05d}" for index in range(parameters["num_images"])]

    def _load(self, index: int) -> tuple[Sample, list[Problem]]:
        random = np.random.default_rng([*self.seed, index])
        image, label, classes = draw(random, self.size, self.instances)
        sample = Sample(
            torch.from_numpy(image),
            torch.from_numpy(label),
            self.names[index],
            semantic=torch.from_numpy(np.array([0, *classes])[label]),
            instance_class=dict(enumerate(classes, start=1)),
        )
        return sample, []


def _parse(root: str) -> dict[str, int]:
    """`key=value,...` over the defaults."""
    parameters = dict(_DEFAULTS)
    for part in filter(None, (part.strip() for part in root.split(","))):
        key, _, value = part.partition("=")
        if key not in _DEFAULTS or not value.isdecimal() or int(value) < _SMALLEST[key]:
            expected = ", ".join(f"{name}=N (N >= {low})" for name, low in _SMALLEST.items())
            raise DataError(f"synthetic data does not understand {part!r}", remedy=f"expected {expected}")
        parameters[key] = int(value)
    return parameters


def draw(
    random: np.random.Generator, size: int, instances: int
) -> tuple[NDArray[np.float32], NDArray[np.int64], list[int]]:
    """One picture float32 `[3, size, size]` in 0..1, its labels int64 `[size, size]` up to `instances` at most, and the
    class of each.
    """
    ground = random.uniform(0.05, 0.6, 3)
    image = _texture(random, size, ground)
    label = np.zeros((size, size), dtype=np.int64)
    colours: list[NDArray[np.float64]] = []
    classes: list[int] = []
    wanted = int(random.integers((instances + 2) // 3, instances + 1))
    for _ in range(20 * instances):
        if len(colours) == wanted:
            break
        shape, shape_class = _shape(random, size, label)
        visible = shape & (label == 0)
        if visible.sum() < max(9.0, _MIN_VISIBLE * shape.sum()) or ndimage.label(visible)[1] != 1:
            continue
        if colours and random.random() < _SAME_COLOUR:
            colour = colours[int(random.integers(len(colours)))]
        else:
            colour = _colour_unlike(random, ground)
        colours.append(colour)
        classes.append(shape_class)
        label[visible] = len(colours)
        shading = 1 + 0.15 * _smooth_noise(random, size, size / 8)
        image[:, visible] = (colour[:, None, None] * shading)[:, visible]
    image += random.normal(0, 0.02, image.shape)
    return np.clip(image, 0, 1).astype(np.float32), label, classes


def _colour_unlike(random: np.random.Generator, ground: NDArray[np.float64]) -> NDArray[np.float64]:
    """A colour [3] that can be told from the ground's in one channel at least."""
    while True:
        colour = random.uniform(0.15, 1.0, 3)
        if np.abs(colour - ground).max() > _MIN_CONTRAST:
            return colour


def _texture(random: np.random.Generator, size: int, colour: NDArray[np.float64]) -> NDArray[np.float64]:
    """Background [3, size, size]: one colour with coarse and fine texture."""
    coarse = 0.06 * _smooth_noise(random, size, size / 6)
    fine = 0.03 * _smooth_noise(random, size, 1.0)
    return colour[:, None, None] + coarse + fine


def _smooth_noise(random: np.random.Generator, size: int, scale: float) -> NDArray[np.float64]:
    """Noise [size, size] of zero mean and unit spread, smooth over `scale` pixels."""
    noise = ndimage.gaussian_filter(random.standard_normal((size, size)), scale, mode="wrap")
    noise -= noise.mean()
    return np.asarray(noise / max(float(noise.std()), 1e-12))


def _shape(random: np.random.Generator, size: int, label: NDArray[np.int64]) -> tuple[NDArray[np.bool_], int]:
    """Pixels of a random disc, ellipse or polygon, and its class; every second one starts beside an instance, so that
    many touch.
    """
    radius = random.uniform(size / 14, size / 6)
    rim = np.argwhere(ndimage.binary_dilation(label > 0, iterations=max(1, int(0.8 * radius))) & (label == 0))
    if len(rim) and random.random() < 0.5:
        centre = rim[int(random.integers(len(rim)))].astype(np.float64)
    else:
        centre = random.uniform(0, size, 2)
    kind = int(random.integers(3))
    if kind == 2:
        corners = int(random.integers(3, 7))
        angles = np.sort((np.arange(corners) + random.uniform(0, 0.7, corners)) * 2 * np.pi / corners)
        points = centre + 1.3 * radius * np.stack([np.sin(angles), np.cos(angles)], axis=1)
        return np.asarray(polygon2mask((size, size), points)), 1 + kind
    stretch = 1.0 if kind == 0 else random.uniform(1.3, 2.2)
    turn = random.uniform(0, np.pi)
    row, column = np.mgrid[:size, :size] - centre[:, None, None]
    along = np.cos(turn) * column + np.sin(turn) * row
    across = np.cos(turn) * row - np.sin(turn) * column
    return np.asarray((along / stretch) ** 2 + (across * np.sqrt(stretch)) ** 2 <= radius**2), 1 + kind
