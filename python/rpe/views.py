"""Random training views of a data set, as a map-style dataset: view number k is a function of (seed, k)
alone.
 That makes the data order part of no state: resuming at step s means starting at view s * batch size, with
any number of workers. Images are preprocessed once and kept in memory while they fit.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import torch
import torch.utils.data
from torch import Tensor

from .config import DataConfig, ModelConfig
from .data import Dataset, Sample, augment, sample_generator
from .preprocess import preprocess
from .progress import told

_CACHE_BYTES = 2 * 2**30
_PLANE = 2**16
"""Side in pixels of the plane on which a view has a random origin: many times any period of the position channels."""
_EMPTY_RETRIES = 4
"""Draws after which a view without any object is accepted: empty ground must be seen, but not often."""


class TrainingViews(torch.utils.data.Dataset[dict[str, Tensor]]):
    """Views of `samples`, `count` of them.

    Args:
        samples: the data set; read lazily, once.
        data: how views are cut.
        model: preprocessing of the images.
        seed: of every draw.
        count: length.
        prepare: what the task changes of a sample, by default nothing; takes and gives maps of one size.
    """

    def __init__(
        self,
        samples: Dataset,
        data: DataConfig,
        model: ModelConfig,
        *,
        seed: int,
        count: int,
        prepare: Callable[[Sample], Sample] | None = None,
    ) -> None:
        self.samples, self.data, self.model, self.prepare = samples, data, model, prepare
        self.seed, self.count = seed, count
        self._cache: dict[int, Sample] = {}
        self._cached_bytes = 0
        self._chance: Tensor | None = None

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """View `index`: image float32 `[3, crop, crop]`, label int64 `[crop, crop]`, origin int64 `[2]` for the
        model's position channels, and where the data has classes semantic int64 `[crop, crop]`.
        """
        generator = sample_generator(self.seed, 0, index)
        for _ in range(_EMPTY_RETRIES):
            chosen = int(torch.multinomial(self._chances(), 1, generator=generator))
            view = self._view(self._sample(chosen), generator)
            if bool((view.label > 0).any()):
                break
        origin = torch.randint(_PLANE, (2,), generator=generator)
        maps = {} if view.semantic is None else {"semantic": view.semantic}
        return {"image": view.image, "label": view.label, "origin": origin, **maps}

    def load(self) -> None:
        """Read every sample now, in this process (before workers are forked), unless the data set streams."""
        self._chances()

    def _view(self, sample: Sample, generator: torch.Generator) -> Sample:
        data = self.data
        view = augment(
            sample,
            data.crop,
            generator,
            flip=data.flip,
            quarter_turns=data.quarter_turns,
            rotation=data.rotation,
            scale=data.scale,
            brightness=data.brightness,
            contrast=data.contrast,
            colour=data.colour,
            min_pixels=data.min_pixels,
        )
        image = view.image
        if data.gamma > 0:
            image = image ** math.exp(data.gamma * (2 * float(torch.rand(1, generator=generator)) - 1))
        if data.noise > 0:
            spread = data.noise * float(torch.rand(1, generator=generator))
            image = image + spread * torch.randn(image.shape, generator=generator)
        return replace(view, image=image)

    def _sample(self, index: int) -> Sample:
        sample = self._cache.get(index)
        if sample is None:
            sample = self.samples[index]
            sample = sample if self.prepare is None else self.prepare(sample)
            sample = replace(sample, image=preprocess(sample.image, self.model))
            size = sample.num_bytes
            if not self.samples.streams and self._cached_bytes + size <= _CACHE_BYTES:
                self._cache[index] = sample
                self._cached_bytes += size
        return sample

    def _chances(self) -> Tensor:
        """`[len(samples)]` chance of each image: kinds count by their number of images to the power 1 - balance. The
        images of a data set that streams have no kinds and equal chances.
        """
        if self._chance is None and self.samples.streams:
            self._chance = torch.ones(len(self.samples), dtype=torch.float64)
        if self._chance is None:
            what = f"reading {len(self.samples)} images of {self.samples.format}:{self.samples.root}"
            kinds = [_group(self._sample(index)) for index in told(range(len(self.samples)), what)]
            number = Counter(kinds)
            weight = [number[kind] ** -self.data.balance for kind in kinds]
            self._chance = torch.tensor(weight, dtype=torch.float64)
        return self._chance


def _group(sample: Sample) -> tuple[str | None, int]:
    """Images of one kind and about one size are balanced as one group."""
    return sample.kind, round(math.log2(sample.label.numel()))
