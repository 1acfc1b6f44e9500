"""Around seeded mean shift: where seeds start, and which mode each point belongs to in the end.

Like `functional.py` it validates, packs, calls the ops and shapes the results. Nothing here is differentiable: indices
and labels are integers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rpe_ops import dispatch, validate
from rpe_ops.autocast import without_autocast
from rpe_ops.autograd.seeding import farthest_points, nearest_rows
from rpe_ops.backends.images import image_of_rows
from rpe_ops.backends.rows import unit_rows, without_infinities
from rpe_ops.backends.seeding import FARTHEST
from rpe_ops.functional import connected_components
from rpe_ops.packing import Layout, layout_of, packed


def select_seeds(
    embedding: Tensor,
    num_seeds: int,
    *,
    first: str | int | Tensor = "farthest",
    offsets: Tensor | None = None,
    normalize: bool = True,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """Farthest-point seeding on the unit sphere: which points to start seeded mean shift from. Nothing is random.

    The first seed is the point farthest from the mean direction of its image, or the one that `first` names. Every
    further seed is the point whose nearest seed so far is farthest away (whose largest cosine with them is smallest),
    of equally far points the first. So a prefix of the result is the result for fewer seeds.

    Args:
        embedding: `[N, D]` one image, `[B, N, D]` a batch, or `[T, D]` packed with `offsets`; any floating dtype.
        num_seeds: M >= 1 seeds for each image.
        first: `"farthest"`: the point farthest from the mean direction, which does not depend on the order of the
            points. Or the number of a row within each image: one integer for all, or an integer tensor `[B]`.
        offsets: `[B+1]` integer row offsets of a packed ragged batch. Images are never mixed.
        normalize: divide each row by its length first. False: rows are taken as unit vectors.
        backend: `"auto"`, `"reference"`, `"torch"`, `"cpu"`, `"triton"` or `"cuda"`.

    Returns:
        int64 row numbers: `[M]` for `[N, D]`; `[B, M]`, counted within each image, for `[B, N, D]`; for a packed batch
        a pair of rows of the packed tensor and `seed_offsets [B+1]`, in which an image has M seeds, or none where it
        has no points. `embedding[indices]` are the seeds of one image and of a packed batch,
        `embedding.take_along_dim(indices[..., None], dim=-2)` those of `[B, N, D]`.

    Raises:
        TypeError, ValueError: an argument is wrong; the message names it and the remedy.
        RuntimeError: the chosen backend cannot run here.

    Notes:
        Where every point coincides with a seed (within the rounding of a cosine), the first seed is repeated: an image
        with fewer than M distinct points still has M seeds, and its modes are the same. Points with NaN or infinity
        are never chosen. Memory O(N D); all images advance together. Backend cpu looks only at points that can be the
        next seed; the others make M passes over all points in PyTorch. Backends may differ where two points are equally
        far within rounding.

    Reference:
        T. Gonzalez, "Clustering to minimize the maximum intercluster distance", Theoretical Computer Science 1985.

    Example:
        >>> import torch, rpe_ops
        >>> embedding = torch.nn.functional.normalize(torch.randn(500, 8), dim=1)
        >>> seeds = embedding[rpe_ops.select_seeds(embedding, 100)]
        >>> modes = rpe_ops.mean_shift(embedding, kappa=20.0, num_steps=10, seeds=seeds)
        >>> labels = rpe_ops.assign_to_modes(embedding, modes, threshold=0.95)
        >>> labels.shape
        torch.Size([500])
    """
    function = "select_seeds"
    validate.embedding_rows(function, embedding, offsets)
    num_seeds = validate.positive_count(
        function, "num_seeds", num_seeds, "give the number of seeds of one image"
    )
    validate.flag(function, "normalize", normalize)
    resolved = dispatch.resolve_for(function, backend, embedding)
    ragged = "images of different sizes; give [B, N, D] rows" if offsets is not None else None
    validate.can_be_captured(function, embedding, dispatch.waits_for_device(resolved) or ragged)
    with torch.no_grad(), without_autocast(embedding):
        layout = layout_of(embedding, offsets)
        if layout.points_per_image == 0 and layout.num_images:
            raise ValueError(
                f"{function}: embedding must have at least one point in each image, got "
                f"{validate.describe(embedding)}; leave such images out, or pack the batch with offsets"
            )
        first_rows = _first_rows(function, first, layout)
        rows = packed(embedding)
        index = farthest_points(
            unit_rows(rows) if normalize else rows,
            layout.offsets,
            num_seeds,
            first_rows,
            layout.points_per_image or 0,
            resolved,
        )
        if layout.points_per_image is not None:
            return index[0] if layout.unbatched else index
        inhabited = layout.offsets.diff() > 0
        seed_offsets = torch.nn.functional.pad((inhabited * num_seeds).cumsum(0), (1, 0))
        return (index + layout.offsets[:-1, None])[inhabited].flatten(), seed_offsets


def _first_rows(function: str, first: str | int | Tensor, layout: Layout) -> Tensor:
    """The first seed of each image `[B]`, `FARTHEST` where it has to be looked for."""
    offsets = layout.offsets
    if isinstance(first, str):
        validate.choice(function, "first", first, ("farthest",), " or a row number")
        return torch.full_like(offsets[1:], FARTHEST)
    validate.row_numbers(function, "first", first, offsets)
    return (
        torch.as_tensor(first, device=offsets.device).to(torch.int64).expand(layout.num_images).contiguous()
    )


def assign_to_modes(
    embedding: Tensor,
    modes: Tensor,
    *,
    threshold: float,
    offsets: Tensor | None = None,
    mode_offsets: Tensor | None = None,
    normalize: bool = True,
    backend: str = "auto",
) -> Tensor:
    """Hard labels of points from the modes that seeds have reached: each point takes the number of its nearest mode.

    Modes with a similarity s = (1 + cos) / 2 >= threshold are one: they are merged as connected components
    (`rpe_ops.connected_components`), in which a chain of near modes is one component.

    Args:
        embedding: `[N, D]` one image, `[B, N, D]` a batch, or `[T, D]` packed with `offsets`; any floating dtype.
        modes: rows `[M, D]`, `[B, M, D]`, or packed with `mode_offsets`: what `rpe_ops.mean_shift` made of the seeds.
            Of the embedding's dtype, under `torch.autocast` of any.
        threshold: similarity in [0, 1] from which two modes are one; 0.95 is usual in robotics.
        offsets, mode_offsets: `[B+1]` integer row offsets of packed ragged batches. Images are never mixed.
        normalize: divide each row by its length first. False: rows are taken as unit vectors.
        backend: `"auto"`, `"reference"`, `"torch"`, `"cpu"`, `"triton"` or `"cuda"`.

    Returns:
        int64 labels with the embedding's leading shape. They number the merged modes, 0..C-1 in each image in order of
        first appearance among its modes: `connected_components(modes, threshold=threshold)` gives the label of each
        mode. A merged mode that is nearest to no point leaves a gap. Of equally near modes the first is taken. -1 where
        there is no mode to take: a point with NaN or infinity, or an image without modes.

    Raises:
        TypeError, ValueError: an argument is wrong; the message names it and the remedy.
        RuntimeError: the chosen backend cannot run here.

    Example:
        >>> import torch, rpe_ops
        >>> points = torch.tensor([[1.0, 0.1], [0.1, 1.0], [1.0, -0.1]])
        >>> rpe_ops.assign_to_modes(points, torch.eye(2), threshold=0.95)
        tensor([0, 1, 0])
    """
    function = "assign_to_modes"
    validate.embedding_rows(function, embedding, offsets)
    validate.seeds(function, modes, embedding, mode_offsets, name="modes", offsets_name="mode_offsets")
    threshold = validate.unit_interval(function, "threshold", threshold)
    validate.flag(function, "normalize", normalize)
    resolved = dispatch.resolve_for(function, backend, embedding)
    packing = offsets is not None or mode_offsets is not None
    ragged = "images of different sizes; give [B, N, D] rows and [B, M, D] modes" if packing else None
    validate.can_be_captured(function, embedding, dispatch.waits_for_device(resolved) or ragged)
    with torch.no_grad(), without_autocast(embedding):
        layout, mode_layout = layout_of(embedding, offsets), layout_of(modes, mode_offsets)
        validate.same_images(
            function, layout.num_images, mode_layout.num_images, name="modes", offsets_name="mode_offsets"
        )
        merged = connected_components(
            modes, threshold=threshold, offsets=mode_offsets, normalize=normalize, backend=resolved
        ).flatten()
        points = packed(embedding)
        targets = packed(modes).to(points.dtype)
        if normalize:
            points, targets = unit_rows(points), unit_rows(targets)
        else:
            points, targets = without_infinities(points), without_infinities(targets)
        nearest = nearest_rows(
            points,
            targets,
            layout.offsets,
            mode_layout.offsets,
            resolved,
            layout.points_per_image or 0,
            mode_layout.points_per_image or 0,
        )
        if merged.shape[0]:
            start = mode_layout.offsets[image_of_rows(layout.offsets, points.shape[0])]
            nearest = torch.where(
                nearest < 0, nearest, merged[(start + nearest).clamp(0, merged.shape[0] - 1)]
            )
        return nearest.reshape(embedding.shape[:-1])
