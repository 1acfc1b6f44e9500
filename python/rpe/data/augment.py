"""Random crops, flips, quarter turns, zoom and colour jitter of a Sample.

Every draw comes from the torch.Generator that is passed in, so training can resume at the same numbers. Labels are only
ever indexed, never interpolated. Padded pixels repeat the image's border and carry the label IGNORE.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .components import split_components
from .sample import IGNORE, Sample


def sample_generator(seed: int, epoch: int, index: int) -> torch.Generator:
    """A generator that depends on (seed, epoch, index) alone: the same crops for any number of workers."""
    mixed = 0
    for part in (seed, epoch, index):
        mixed = (mixed * 6364136223846793005 + part + 1442695040888963407) % 2**63
    generator = torch.Generator()
    generator.manual_seed(mixed)
    return generator


@dataclass(frozen=True)
class RandomCrop:
    """Cut a window of `height` x `width` pixels at a random place; a smaller image is padded at a random place.

    Padding repeats the border in the image and is IGNORE in the label.
    """

    height: int
    width: int

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise ValueError(f"RandomCrop: expected a positive size, got {self.height} x {self.width}")

    def __call__(self, sample: Sample, generator: torch.Generator) -> Sample:
        """The window, as a Sample of exactly this size."""
        image, label = sample.image, sample.label
        pad_rows = max(0, self.height - sample.size[0])
        pad_columns = max(0, self.width - sample.size[1])
        if pad_rows or pad_columns:
            top, left = _integer(pad_rows + 1, generator), _integer(pad_columns + 1, generator)
            padding = (left, pad_columns - left, top, pad_rows - top)
            image = F.pad(image, padding, mode="replicate")
            label = F.pad(label, padding, value=IGNORE)
        top = _integer(image.shape[1] - self.height + 1, generator)
        left = _integer(image.shape[2] - self.width + 1, generator)
        rows, columns = slice(top, top + self.height), slice(left, left + self.width)
        return replace(sample, image=image[:, rows, columns], label=label[rows, columns])


def augment(
    sample: Sample,
    crop_size: int | tuple[int, int],
    generator: torch.Generator,
    *,
    flip: bool = True,
    rotate: bool = True,
    scale: tuple[float, float] = (1.0, 1.0),
    brightness: float = 0.2,
    contrast: float = 0.2,
    colour: float = 0.1,
    split: bool = False,
    min_pixels: int = 0,
) -> Sample:
    """A random view of a sample, of exactly `crop_size`.

    Args:
        sample: any size from 1 x 1 up; not changed.
        crop_size: pixels, one number or (height, width).
        generator: source of every random number; a CPU generator.
        flip: left-right and up-down, each with chance 1/2.
        rotate: by 0, 90, 180 or 270 degrees.
        scale: zoom drawn log-uniformly from this range; 2 shows things at twice their size.
        brightness: all values times a factor in 1 +- brightness.
        contrast: distance from the image's mean times a factor in 1 +- contrast.
        colour: each channel times its own factor in 1 +- colour.
        split: give the parts of an instance that the crop cut apart labels of their own.
        min_pixels: instances with fewer visible pixels become IGNORE; 0 keeps all.

    Raises:
        ValueError: a size, range or strength that makes no sense.
    """
    height, width = (crop_size, crop_size) if isinstance(crop_size, int) else crop_size
    if not 0 < scale[0] <= scale[1]:
        raise ValueError(f"augment: scale must be a range 0 < low <= high, got {scale}")
    for name, strength in (("brightness", brightness), ("contrast", contrast), ("colour", colour)):
        if not 0 <= strength < 1:
            raise ValueError(f"augment: {name} must lie in [0, 1), got {strength}")
    zoom = math.exp(_uniform(math.log(scale[0]), math.log(scale[1]), generator))
    turns = _integer(4, generator) if rotate else 0
    window = (height, width) if turns % 2 == 0 else (width, height)
    crop = RandomCrop(*(max(1, round(length / zoom)) for length in window))
    view = crop(sample, generator)
    image, label = _resize(view.image, view.label, *window)
    image, label = torch.rot90(image, turns, (1, 2)), torch.rot90(label, turns, (0, 1))
    for axis in (0, 1):
        if flip and _integer(2, generator):
            image, label = image.flip(axis + 1), label.flip(axis)
    image = _jitter(image, brightness, contrast, colour, generator)
    if split:
        label = split_components(label)
    if min_pixels > 0:
        label = _ignore_slivers(label, min_pixels)
    return replace(sample, image=image.contiguous(), label=label.contiguous())


def _resize(image: Tensor, label: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Bilinear for the image [3, H, W]; for the label [H, W] the pixel under each centre."""
    if label.shape == (height, width):
        return image, label
    rows = ((torch.arange(height) + 0.5) * (label.shape[0] / height)).long().clamp_(max=label.shape[0] - 1)
    columns = ((torch.arange(width) + 0.5) * (label.shape[1] / width)).long().clamp_(max=label.shape[1] - 1)
    resized = F.interpolate(
        image[None], (height, width), mode="bilinear", antialias=True, align_corners=False
    )[0]
    return resized, label[rows][:, columns]


def _jitter(
    image: Tensor, brightness: float, contrast: float, colour: float, generator: torch.Generator
) -> Tensor:
    """Change the colours of an image [3, H, W]; stays in 0..1."""
    gain = _uniform(1 - brightness, 1 + brightness, generator)
    stretch = _uniform(1 - contrast, 1 + contrast, generator)
    channel = 1 + colour * (2 * torch.rand(3, 1, 1, generator=generator) - 1)
    mean = image.mean()
    return (((image - mean) * stretch + mean) * gain * channel).clamp_(0, 1)


def _ignore_slivers(label: Tensor, min_pixels: int) -> Tensor:
    """Labels above 0 with fewer than min_pixels pixels become IGNORE."""
    values, inverse, counts = np.unique(label.numpy(), return_inverse=True, return_counts=True)
    sliver = (values > 0) & (counts < min_pixels)
    return label.masked_fill(torch.from_numpy(sliver[inverse.reshape(label.shape)]), IGNORE)


def _integer(bound: int, generator: torch.Generator) -> int:
    """One of 0 .. bound - 1."""
    return int(torch.randint(bound, (1,), generator=generator).item())


def _uniform(low: float, high: float, generator: torch.Generator) -> float:
    return low + (high - low) * float(torch.rand(1, generator=generator).item())
