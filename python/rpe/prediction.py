"""What a model says about one image. How it is found is the task's business (`tasks/`), writing it `export.py`'s."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Prediction:
    """Objects of one image, and what else its task predicts."""

    labels: NDArray[np.int32]
    """`[H, W]`, 0 = background, objects 1..K. Task semantic: the classes, object k being class k; boundary: the regions
    between boundaries; proposals: where they overlap, the one with the highest score."""
    scores: NDArray[np.float32]
    """`[K]` in 0..1: mean foreground probability times mean similarity of an object's embeddings to their mean. Task
    semantic: mean probability of a class where it is predicted; semantic_instance: mean probability of the object's
    class times that similarity; boundary: 1 - mean boundary probability of a region."""
    embedding: NDArray[np.float32]
    """`[D, h, w]` unit vectors before grouping, at the model's output stride."""
    classes: NDArray[np.int64] | None = None
    """Tasks semantic and semantic_instance: `[K]` class of each object."""
    semantic: NDArray[np.int64] | None = None
    """Tasks semantic and semantic_instance: `[H, W]` class of each pixel, 0 = background."""
    boundary: NDArray[np.float32] | None = None
    """Task boundary: `[H, W]` probability, the mean of `boundary_depths`."""
    boundary_depths: NDArray[np.float32] | None = None
    """Task boundary: `[L + 1, H, W]` probabilities of the L depths, finest first, and of their fusion."""
    proposals: tuple[dict[str, Any], ...] | None = None
    """Task proposals: `[K]` masks as COCO run-length codes, best score first; they may overlap."""
    embedding_rgb: NDArray[np.uint8] | None = None
    """Of an image in tiles, where it was asked for: `[h, w, 3]`, the embedding's first three principal components as
    red, green and blue; they are those of places spread over the image."""

    def masks(self) -> NDArray[np.bool_]:
        """`[K, H, W]`, one mask per object, in the order of `scores`."""
        if self.proposals is None:
            return self.labels[None] == np.arange(1, len(self.scores) + 1)[:, None, None]
        from pycocotools.mask import decode

        if not self.proposals:
            return np.zeros((0, *self.labels.shape), dtype=np.bool_)
        return np.asarray(decode(list(self.proposals)), dtype=np.bool_).transpose(2, 0, 1)
