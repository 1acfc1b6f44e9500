"""Random crops, flips, rotation, zoom and colour jitter of a Sample: the image and all its maps move together.

Every draw comes from the torch.Generator that is passed in, so training can resume at the same numbers. Labels are only
ever indexed (the pixel under each centre), never interpolated. Pixels from outside the image repeat its border and are
IGNORE in every map of labels or classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from .components import split_components
from .rotation import bounding_size, rotate
from .sample import IGNORE, Sample

_LARGE_LABEL = 2**17
"""Labels from here on are numbered anew before they are counted: a count of each number up to them would be slow."""


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
        pad_rows = max(0, self.height - sample.size[0])
        pad_columns = max(0, self.width - sample.size[1])
        if pad_rows or pad_columns:
            top, left = _integer(pad_rows + 1, generator), _integer(pad_columns + 1, generator)
            padding = (left, pad_columns - left, top, pad_rows - top)
            sample = sample.map_pixels(
                lambda image: F.pad(image, padding, mode="replicate"),
                lambda values, outside: F.pad(values, padding, value=outside),
            )
        top = _integer(sample.size[0] - self.height + 1, generator)
        left = _integer(sample.size[1] - self.width + 1, generator)
        rows, columns = slice(top, top + self.height), slice(left, left + self.width)
        return sample.map_pixels(
            lambda image: image[:, rows, columns], lambda values, outside: values[rows, columns]
        )


def choose_annotator(sample: Sample, generator: torch.Generator) -> Sample:
    """One annotator of several, all equally likely: label, annotations and boundaries become that one's.

    A sample of one annotator is returned as it is, and nothing is drawn.
    """
    if len(sample.annotations) < 2:
        return sample
    chosen = _integer(len(sample.annotations), generator)
    one = slice(chosen, chosen + 1)
    return replace(
        sample,
        label=sample.annotations[chosen],
        annotations=sample.annotations[one],
        boundaries=sample.boundaries[one],
    )


def augment(
    sample: Sample,
    crop_size: int | tuple[int, int],
    generator: torch.Generator,
    *,
    flip: Literal["none", "horizontal", "both"] = "both",
    quarter_turns: bool = True,
    rotation: float = 0.0,
    scale: tuple[float, float] = (1.0, 1.0),
    brightness: float = 0.2,
    contrast: float = 0.2,
    colour: float = 0.1,
    split: bool = False,
    min_pixels: int = 0,
) -> Sample:
    """A random view of a sample, of exactly `crop_size`; of several annotators one is chosen (`choose_annotator`).

    Args:
        sample: any size from 1 x 1 up; not changed.
        crop_size: pixels, one number or (height, width).
        generator: source of every random number; a CPU generator.
        flip: left-right, or left-right and up-down, each with chance 1/2.
        quarter_turns: rotate by 0, 90, 180 or 270 degrees.
        rotation: rotate by an angle drawn from -rotation to rotation, in degrees up to 180.
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
    if flip not in ("none", "horizontal", "both"):
        raise ValueError(f'augment: flip must be "none", "horizontal" or "both", got {flip!r}')
    if not 0 <= rotation <= 180:
        raise ValueError(f"augment: rotation must lie in [0, 180] degrees, got {rotation}")
    for name, strength in (("brightness", brightness), ("contrast", contrast), ("colour", colour)):
        if not 0 <= strength < 1:
            raise ValueError(f"augment: {name} must lie in [0, 1), got {strength}")
    view = choose_annotator(sample, generator)
    zoom = math.exp(_uniform(math.log(scale[0]), math.log(scale[1]), generator))
    turns = _integer(4, generator) if quarter_turns else 0
    window = (height, width) if turns % 2 == 0 else (width, height)
    source = (max(1, round(window[0] / zoom)), max(1, round(window[1] / zoom)))
    if rotation > 0:
        angle = math.radians(_uniform(-rotation, rotation, generator))
        view = rotate(RandomCrop(*bounding_size(source, angle))(view, generator), angle, source)
    else:
        view = RandomCrop(*source)(view, generator)
    view = _resize(view, *window)
    mirrored = [
        axis for axis in {"none": (), "horizontal": (1,), "both": (0, 1)}[flip] if _integer(2, generator)
    ]
    view = view.map_pixels(
        lambda image: torch.rot90(image, turns, (1, 2)).flip([axis + 1 for axis in mirrored]),
        lambda values, outside: torch.rot90(values, turns, (0, 1)).flip(mirrored),
    )
    view = replace(view, image=_jitter(view.image, brightness, contrast, colour, generator))
    if split:
        view = _split(view)
    if min_pixels > 0:
        view = replace(view, label=_ignore_slivers(view.label, min_pixels))
    return view.map_pixels(Tensor.contiguous, lambda values, outside: values.contiguous())


def _resize(view: Sample, height: int, width: int) -> Sample:
    """Bilinear for the image; for the maps the pixel under each centre."""
    if view.size == (height, width):
        return view
    rows = ((torch.arange(height) + 0.5) * (view.size[0] / height)).long().clamp_(max=view.size[0] - 1)
    columns = ((torch.arange(width) + 0.5) * (view.size[1] / width)).long().clamp_(max=view.size[1] - 1)
    return view.map_pixels(
        lambda image: F.interpolate(
            image[None], (height, width), mode="bilinear", antialias=True, align_corners=False
        )[0],
        lambda values, outside: values[rows][:, columns],
    )


def _jitter(
    image: Tensor, brightness: float, contrast: float, colour: float, generator: torch.Generator
) -> Tensor:
    """Change the colours of an image [3, H, W]; stays in 0..1."""
    gain = _uniform(1 - brightness, 1 + brightness, generator)
    stretch = _uniform(1 - contrast, 1 + contrast, generator)
    channel = 1 + colour * (2 * torch.rand(3, 1, 1, generator=generator) - 1)
    mean = image.mean()
    return (((image - mean) * stretch + mean) * gain * channel).clamp_(0, 1)


def _split(view: Sample) -> Sample:
    """Cut instances that fall apart; the parts keep their class."""
    label = split_components(view.label)
    classes = view.instance_class
    if classes is not None:
        owners = torch.stack([label.flatten(), view.label.flatten()]).unique(dim=1).T.tolist()
        classes = {part: classes[owner] for part, owner in owners if owner in classes}
    return replace(view, label=label, instance_class=classes)


def _ignore_slivers(label: Tensor, min_pixels: int) -> Tensor:
    """Labels above 0 with fewer than min_pixels pixels become IGNORE."""
    number = label.clamp(min=0)
    if int(number.max()) >= _LARGE_LABEL:
        number = number.unique(return_inverse=True)[1]
    is_sliver = number.flatten().bincount() < min_pixels
    return label.masked_fill(is_sliver[number] & (label > 0), IGNORE)


def _integer(bound: int, generator: torch.Generator) -> int:
    """One of 0 .. bound - 1."""
    return int(torch.randint(bound, (1,), generator=generator).item())


def _uniform(low: float, high: float, generator: torch.Generator) -> float:
    return low + (high - low) * float(torch.rand(1, generator=generator).item())
