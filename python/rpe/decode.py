"""From embeddings to label maps: background, recurrent grouping, hard clusters, planar components and sizes.

Clusters come from `rpe_ops.connected_components` over converged points. Everything here is one image at
inference time and without gradients; what the objects mean is not its business.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from skimage.measure import label as planar_components
from skimage.segmentation import expand_labels, watershed
from torch import Tensor

import rpe_ops

from .config import DecodeConfig
from .grouping import RecurrentGrouping
from .model import has_core, stride_of
from .objects import object_means, object_scores, object_sums
from .stitching import stitch
from .tiling import whole
from .windows import Packed, pack

_REPAIR_DISTANCE = 3
"""Pixels over which a removed fragment's place is given to the object beside it."""
_CORE_THRESHOLD = 0.5
"""Where none is set: probability from which a pixel lies inside an object."""
_CORE_SHARE = 0.25
"""Cores below this share of the smallest object's pixels are no objects."""
Region: TypeAlias = "tuple[slice, slice]"
_EVERYWHERE = (slice(None), slice(None))


@dataclass(frozen=True, eq=False)
class Segmentation:
    """Objects of one image."""

    labels: NDArray[np.int32]
    """`[H, W]`, 0 = background, objects 1..K without gaps."""
    scores: NDArray[np.float32]
    """`[K]` in 0..1: mean foreground probability times mean similarity of the embeddings to their mean."""
    clusters: NDArray[np.int64]
    """`[K]` the cluster that each object is a part of; for `decode.background = "largest"`, with which nothing is left
    out here: how large a cluster is shows when all tiles are joined (`joining.py`)."""
    probability: Tensor
    """`[H, W]` of belonging to an object."""


@torch.no_grad()
def decode(
    embedding: Tensor,
    foreground: Tensor | None,
    size: tuple[int, int],
    grouping: RecurrentGrouping,
    config: DecodeConfig,
    origin: tuple[int, int] = (0, 0),
    known: Region = _EVERYWHERE,
) -> Segmentation:
    """Group the embedding of one image into objects.

    Args:
        embedding: `[D, h, w]` unit vectors.
        foreground: `[1, h, w]` logits, with a core head `[2, h, w]`; None for a model without the head.
        size: (H, W) of the image in pixels.
        grouping: moves the points; `config.num_steps` and `config.tol` take the place of its own.
        config: thresholds and rules.
        origin: row and column, in cells, at which a part of a larger image begins there: windows lie on one grid.
        known: rows and columns of that part outside of which objects may be cut off: those that leave it are kept,
            however small they look.

    Returns:
        Label map and one score per object.
    """
    stride = stride_of(embedding, size)
    probability, mask = _grouped_pixels(foreground, size, config, embedding.device)
    cells = _covering(mask, stride)  # [h, w]
    clusters = _cluster(embedding, cells, grouping, config, origin)  # [h, w], 0 = none
    labels = clusters.repeat_interleave(stride, 0).repeat_interleave(stride, 1)[: size[0], : size[1]]
    pixels = torch.where(mask, labels, 0).cpu().numpy()
    if not mask.equal(probability > config.foreground_threshold):
        pixels = grow(pixels, probability.cpu().numpy(), config, known)
    objects, parts_of = clean(pixels, config, known)
    sums = object_sums(objects, embedding, probability[None], stride, whole(*size))
    confidence, centre = object_means(sums, 1)
    return Segmentation(objects, object_scores(confidence[:, 0], centre), parts_of, probability)


@torch.no_grad()
def trajectory(
    embedding: Tensor,
    foreground: Tensor | None,
    size: tuple[int, int],
    grouping: RecurrentGrouping,
    config: DecodeConfig,
) -> list[Tensor]:
    """The embedding `[D, h, w]` before grouping and after each step, NaN where the background is: what
    pictures show.

    Arguments as for `decode`; windows are those of one grid.
    """
    stride = stride_of(embedding, size)
    _, mask = _grouped_pixels(foreground, size, config, embedding.device)
    cells = _covering(mask, stride)
    packed = pack(cells[None], config.window)
    maps = []
    for points in _moved(embedding, packed, grouping, config):
        filled = torch.full((cells.numel(), points.shape[1]), torch.nan, device=points.device)
        filled[packed.cell] = points
        maps.append(filled.T.reshape(embedding.shape))
    return maps


def foreground_probability(foreground: Tensor | None, size: tuple[int, int], config: DecodeConfig) -> Tensor:
    """`[H, W]` probability of belonging to an object; all ones where the head is not asked."""
    if config.background != "head":
        return torch.ones(size)
    if foreground is None:
        raise ValueError(
            "decode.background is 'head' but the model has no foreground head; use 'largest' or 'none'"
        )
    return enlarged(foreground[:1], size)[0].sigmoid()


def _grouped_pixels(
    foreground: Tensor | None, size: tuple[int, int], config: DecodeConfig, device: torch.device
) -> tuple[Tensor, Tensor]:
    """`[H, W]` probability of belonging to an object, and bool: pixels whose embedding says to which."""
    probability = core = foreground_probability(foreground, size, config).to(device)
    threshold = config.core_threshold
    if config.background == "head" and foreground is not None and has_core(foreground):
        core = enlarged(foreground[1:], size)[0].sigmoid().to(device)
        threshold = _CORE_THRESHOLD if threshold is None else threshold
    return probability, (probability > config.foreground_threshold) & (core > (threshold or 0.0))


def enlarged(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """`[C, h, w]` at the network's stride to `[C, H, W]`, bilinearly."""
    # By the stride, not to the size: where the stride does not divide the size, the last cell reaches beyond the image.
    stride = float(stride_of(maps, size))
    larger = F.interpolate(maps[None], scale_factor=stride, mode="bilinear", align_corners=False)
    return larger[0, :, : size[0], : size[1]]


def _cluster(
    embedding: Tensor,
    cells: Tensor,
    grouping: RecurrentGrouping,
    config: DecodeConfig,
    origin: tuple[int, int],
) -> Tensor:
    """Cluster numbers `[h, w]` of the cells in the mask, 0 elsewhere."""
    if config.window > 0:
        return stitch(
            cells, config.window, lambda part: _hard_labels(embedding, part, grouping, config), origin
        )
    packed = pack(cells[None])
    clusters = torch.zeros_like(cells, dtype=torch.int64)
    clusters.view(-1)[packed.cell] = _hard_labels(embedding, packed, grouping, config) + 1
    return clusters


def _hard_labels(
    embedding: Tensor, packed: Packed, grouping: RecurrentGrouping, config: DecodeConfig
) -> Tensor:
    """`[T]` cluster of each packed point, numbered from 0 within its window."""
    points = _moved(embedding, packed, grouping, config)[-1]
    return rpe_ops.connected_components(
        points, threshold=config.threshold, offsets=packed.offsets, backend=grouping.backend
    )


def _moved(
    embedding: Tensor, packed: Packed, grouping: RecurrentGrouping, config: DecodeConfig
) -> list[Tensor]:
    """Packed points `[T, D]` before grouping and after each step."""
    rules = {} if config.tol is None else {"tol": config.tol}  # a grouping of one's own need not know it
    moved: list[Tensor] = grouping(packed.rows(embedding[None]), packed.offsets, config.num_steps, **rules)
    return moved


def _covering(mask: Tensor, stride: int) -> Tensor:
    """`[h, w]` cells in which any pixel of `[H, W]` is set."""
    if stride == 1:
        return mask
    height, width = mask.shape
    padded = F.pad(mask[None, None].float(), (0, -width % stride, 0, -height % stride))
    return F.max_pool2d(padded, stride)[0, 0] > 0


def grow(
    cores: NDArray[np.integer],
    probability: NDArray[np.floating],
    config: DecodeConfig,
    known: Region = _EVERYWHERE,
) -> NDArray[np.integer]:
    """Objects `[H, W]` from their cores: each grows, in the order of falling probability, over the foreground. A part
    of the foreground without any core is an object of its own."""
    if config.connected:
        cores = planar_components(cores, background=0, connectivity=1)
    kept = np.bincount(cores.reshape(-1)) >= config.min_size * _CORE_SHARE
    kept[_leaving(cores, known)] = True
    cores = np.where(kept[cores], cores, 0)
    foreground = probability > config.foreground_threshold
    parts = planar_components(foreground, connectivity=1)
    alone = np.ones(parts.max() + 1, dtype=bool)
    alone[np.append(np.unique(parts[cores > 0]), 0)] = False
    markers = np.where(alone[parts], parts + cores.max(), cores)
    return np.asarray(watershed(-probability, markers, mask=foreground))


def clean(
    pixels: NDArray[np.integer], config: DecodeConfig, known: Region = _EVERYWHERE
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Cut clusters `[H, W]` in the plane, drop objects below the minimum size, close the holes they leave, number the
    rest: label map, and the cluster `[K]` of each object. How large those are that leave what is known shows when all
    tiles are joined."""
    objects = planar_components(pixels, background=0, connectivity=1) if config.connected else pixels
    sizes = np.bincount(objects.reshape(-1))
    cluster = np.zeros(len(sizes), dtype=np.int64)
    cluster[objects] = pixels
    too_small = sizes < config.min_size
    too_small[_leaving(objects, known)] = False
    too_small[0] = False
    if too_small.any():
        fragments = too_small[objects]
        objects = np.where(fragments, 0, objects)
        objects = np.where(fragments, expand_labels(objects, _REPAIR_DISTANCE), objects)
    kept, dense = np.unique(objects, return_inverse=True)
    labels = dense.reshape(objects.shape).astype(np.int32)
    return (labels, cluster[kept[1:]]) if kept[0] == 0 else (labels + 1, cluster[kept])


def _leaving(labels: NDArray[np.integer], known: Region) -> NDArray[np.integer]:
    """Labels of `[H, W]` with pixels outside a region."""
    outside = np.ones(labels.shape, dtype=bool)
    outside[known] = False
    return np.unique(labels[outside])
