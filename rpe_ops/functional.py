"""The public operators: names, defaults, documentation, reductions, and the recurrence over steps.

Each function validates, resolves the backend, packs its input into rows, calls the operator's `autograd.Function`, and
gives the result its shape. Nothing pairwise happens here.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rpe_ops import dispatch, validate
from rpe_ops.autocast import without_autocast
from rpe_ops.autograd.connected_components import connected_components as connected_components_op
from rpe_ops.autograd.mean_shift import mean_shift_step
from rpe_ops.autograd.pairwise_loss import image_losses
from rpe_ops.backends.rows import cosine_rounding, unit_rows, without_infinities
from rpe_ops.backends.spatial_order import spatial_order
from rpe_ops.backends.tile_list import may_pay
from rpe_ops.instances import SortedInstances, image_sums, instance_weights, sort_instances
from rpe_ops.packing import compute_dtype, layout_of, packed


def pairwise_loss(
    embedding: Tensor,
    label: Tensor,
    *,
    margin: float = 0.5,
    weight: str | Tensor = "instance",
    normalizer: str = "points",
    reduction: str = "sum",
    ignore_index: int | None = None,
    offsets: Tensor | None = None,
    normalize: bool = True,
    backend: str = "auto",
) -> Tensor:
    r"""Margin-hinge loss over all ordered pairs of points of each image, in O(N D) memory.

    With s_ij = (1 + cos(x_i, x_j)) / 2 in [0, 1], image k contributes

        l_k = 1 / Z_k  sum_{i,j} w_i w_j ( 1{y_i = y_j} (1 - s_ij) + 1{y_i != y_j} [s_ij - margin]_+ )

    Args:
        embedding: `[N, D]` one image, `[B, N, D]` a batch, or `[T, D]` packed with `offsets`; float16, bfloat16,
            float32 or float64, any strides.
        label: instance ids with the embedding's leading shape; any integer dtype, any values. A background is an
            instance like any other unless it is ignored.
        margin: similarity in [0, 1] that points of different instances may have for free (0.5: a right angle).
        weight: `"instance"`: w_i = 1 / (points of its instance in its image); `"uniform"`: w_i = 1; or a non-negative
            tensor shaped like `label` that does not require grad.
        normalizer: Z_k: `"points"` the number of points that take part (the published equation); `"weights"`
            (sum_i w_i)^2, which is the squared number of instances for instance weights; `"none"` 1.
        reduction: over images: `"sum"`, `"mean"` or `"none"` (`[B]`). One unbatched image gives a 0-d tensor always.
        ignore_index: points with this label take no part in sums, counts or gradient.
        offsets: `[B+1]` integer row offsets of a packed ragged batch. Images are never mixed.
        normalize: divide each row by its length first. A zero row stays zero, has s = 1/2 with every point and gets a
            zero gradient. False: rows are taken as unit vectors.
        backend: `"auto"`, `"reference"`, `"torch"`, `"cpu"`, `"triton"` or `"cuda"`.

    Returns:
        The loss, float32 (float64 for float64 input). Its gradient has the embedding's dtype. Forward mode and second
        derivatives work (reverse or forward over reverse); what is not implemented beyond them raises.

    Raises:
        TypeError, ValueError: an argument is wrong; the message names it and the remedy.
        RuntimeError: the chosen backend cannot run here.

    Notes:
        The diagonal i = j is included, each unordered pair counts twice. At s = margin exactly the subgradient is 0.
        An image with no point, one instance, or only ignored points is legal. NaN or infinity in an image makes that
        image's loss and gradient NaN. The gradients are the exact derivatives of the equation above, which the
        authors' released code does not compute.

    Reference:
        S. Kong and C. Fowlkes, "Recurrent Pixel Embedding for Instance Grouping", CVPR 2018.

    Example:
        >>> import torch, rpe_ops
        >>> embedding = torch.randn(2, 100, 8, requires_grad=True)
        >>> label = torch.randint(0, 5, (2, 100))
        >>> rpe_ops.pairwise_loss(embedding, label, margin=0.5).backward()
    """
    function = "pairwise_loss"
    validate.embedding_rows(function, embedding, offsets)
    validate.labels(function, label, embedding)
    margin = validate.unit_interval(function, "margin", margin)
    if isinstance(weight, Tensor) or not isinstance(weight, str):
        validate.weights(function, weight, embedding, compute_dtype(embedding.dtype), may_require_grad=False)
    else:
        validate.choice(function, "weight", weight, ("instance", "uniform"), " or a tensor shaped like label")
    validate.choice(function, "normalizer", normalizer, ("points", "weights", "none"))
    validate.choice(function, "reduction", reduction, ("sum", "mean", "none"))
    ignore_index = validate.optional_integer(function, "ignore_index", ignore_index)
    validate.flag(function, "normalize", normalize)
    resolved = dispatch.resolve_for(function, backend, embedding)
    validate.can_be_captured(function, embedding, dispatch.waits_for_device(resolved))
    half = dispatch.half_operands(resolved, embedding.device.type, embedding.dtype)

    with without_autocast(embedding):
        layout = layout_of(embedding, offsets)
        rows = packed(embedding)
        instances = sort_instances(label.reshape(-1), layout.offsets, ignore_index)
        sorted_weight = _loss_weights(weight, instances, compute_dtype(embedding.dtype))
        if normalizer == "weights" and isinstance(weight, Tensor):  # others are between 0 and 1
            sorted_weight = _without_scale(sorted_weight)
        if ignore_index is not None:
            taking_part = torch.empty_like(instances.taking_part).scatter(
                0, instances.order, instances.taking_part
            )
            rows = torch.where(taking_part[:, None], rows, 0.0)
        points = unit_rows(rows) if normalize else rows
        wants_gradient = embedding.requires_grad and torch.is_grad_enabled()
        loss = image_losses(
            points,
            instances.order,
            instances.instance,
            sorted_weight,
            layout.offsets,
            margin if margin < 1.0 else _NO_HINGE,
            wants_gradient,
            resolved,
            half,
        )
        if normalize:
            loss = loss + (-loss.detach()).clamp_min(
                0
            )  # what rounding took below 0 is 0; the gradient is kept
        if normalizer != "none":
            counted = instances.taking_part if normalizer == "points" else sorted_weight
            total = image_sums(counted, layout)
            total = total if normalizer == "points" else total.square()
            loss = loss / torch.where(total == 0, torch.ones_like(total), total).to(loss.dtype)
        if layout.unbatched:
            return loss.reshape(())
        if reduction == "none":
            return loss
        return loss.sum() / (max(layout.num_images, 1) if reduction == "mean" else 1)


def _without_scale(weight: Tensor) -> Tensor:
    """Weights `[T]` over their largest, where their scale does not count: their squares neither overflow nor vanish."""
    if weight.shape[0] == 0:
        return weight
    largest = weight.amax()
    return weight / torch.where(largest == 0, torch.ones_like(largest), largest)


# No similarity exceeds a margin of 1, though a product of rounded rows may.
_NO_HINGE = 2.0


def _loss_weights(weight: str | Tensor, instances: SortedInstances, dtype: torch.dtype) -> Tensor:
    """w_i `[T]` in sorted order, 0 for ignored points."""
    if isinstance(weight, Tensor):
        return torch.where(instances.taking_part, weight.reshape(-1)[instances.order].to(dtype), 0.0)
    if weight == "uniform":
        return instances.taking_part.to(dtype)
    return instance_weights(instances, dtype)


def mean_shift(
    embedding: Tensor,
    *,
    kappa: float | Tensor | None = None,
    bandwidth: float | Tensor | None = None,
    eta: float | Tensor = 1.0,
    num_steps: int = 1,
    seeds: Tensor | None = None,
    seed_offsets: Tensor | None = None,
    weight: Tensor | None = None,
    tol: float = 0.0,
    offsets: Tensor | None = None,
    normalize: bool = True,
    return_trajectory: bool = False,
    backend: str = "auto",
) -> Tensor | list[Tensor]:
    r"""Recurrent von Mises-Fisher mean shift on the unit sphere, differentiable, in O(N D) memory.

    One step moves every point x_i towards the kernel-weighted mean of the points of its image:

        p_ij = m_j exp(kappa x_i.x_j) / sum_j' m_j' exp(kappa x_i.x_j')        M_i = sum_j p_ij x_j
        x_i <- normalise( eta M_i + (1 - eta) x_i )

    and the kernel is computed again from the moved points in the next step. With eta = 1 a step is softmax
    self-attention with Q = K = V = X and scale kappa, then a row normalisation.

    Args:
        embedding: `[N, D]` one image, `[B, N, D]` a batch, or `[T, D]` packed with `offsets`; float16, bfloat16,
            float32 or float64, any strides.
        kappa: concentration > 0 of the kernel, a float or a 0-d tensor that may require grad. Exactly one of `kappa`
            and `bandwidth`.
        bandwidth: the same as kappa = 1 / bandwidth^2.
        eta: step size >= 0, a float or a 0-d tensor that may require grad. 1: Gaussian blurring mean shift; 0: points
            stay; above 1 over-relaxes.
        num_steps: recurrent steps; 0 normalises only.
        seeds: None: every point moves (blurring). Else rows `[M, D]`, `[B, M, D]`, or packed with `seed_offsets`: only
            these move and climb the density of the fixed `embedding`; gradients reach both. Of the embedding's dtype,
            under `torch.autocast` of any.
        seed_offsets: `[B+1]` integer row offsets of packed seeds.
        weight: non-negative masses m_j of the embedding's points, shaped like it without D; may require grad.
        tol: largest share of a point's kernel mass that a step may leave out, in [0, 1); 0 computes every pair.
        offsets: `[B+1]` integer row offsets of a packed ragged batch. Images are never mixed.
        normalize: divide each row by its length first (a zero row stays zero). False: rows are taken as unit vectors.
        return_trajectory: return the list of the `num_steps` results, one after each step.
        backend: `"auto"`, `"reference"`, `"torch"`, `"cpu"`, `"triton"` or `"cuda"`.

    Returns:
        Moved rows with the shape of `seeds` if given, else of `embedding`, in the embedding's dtype and of unit length;
        or a list of `num_steps` of them. Forward mode and second derivatives (reverse or forward over reverse) work,
        recomputed in PyTorch; what is not implemented beyond them raises.

    Raises:
        TypeError, ValueError: an argument is wrong; the message names it and the remedy.
        RuntimeError: the chosen backend cannot run here.

    Notes:
        With tol > 0, and 2,048 points or more in an image on average (on a GPU more than 2^30 pairs, those of 32,768
        points), the points are put in an order that makes tiles tight, tiles too far apart to matter are left out
        (backends cpu, triton and cuda), and runs of points that have collapsed are summed as one centroid (every
        backend but reference). The guarantee: let d_i = sum_j m_j exp(kappa (x_i.x_j - 1)), L_i <= d_i a lower bound
        and T the mass of the image. On a CPU a tile is left out for row i only if an upper bound of each of its kernel
        values is at most tol/2 L_i / T, on a GPU only while upper bounds of what all such tiles weigh sum to at most
        tol/2 L_i (derived in `backends/tile_bounds.py`): all that is left out weighs at most tol/2 d_i. A centroid
        changes a density by at most the share tol/2 (derived in `backends/collapse.py`). The density falls by at most
        tol d_i, and dropping a share e of the weights of unit vectors moves their mean by at most 2 e:
        |M_i' - M_i| <= 2 tol (1 + 1/kappa). What is left out is decided from the points alone, in the backward as in
        the forward, and gradients are exact for what was computed; forward mode and second derivatives are those of
        the exact step. On a GPU the choice waits for the device, which a graph cannot capture.

        Finite for every kappa that float32 can hold. A point whose image has no mass stays where it is. Should the mean
        and the point cancel exactly, the row becomes zero and gets no gradient. Useful kappas: 100 and 25 (the
        authors), 20 (robotics), `rpe_ops.kappa_from_margin(margin)`.

    Reference:
        S. Kong and C. Fowlkes, "Recurrent Pixel Embedding for Instance Grouping", CVPR 2018.

    Example:
        >>> import torch, rpe_ops
        >>> moved = rpe_ops.mean_shift(torch.randn(100, 8), kappa=20.0, num_steps=5)
        >>> moved.shape
        torch.Size([100, 8])
    """
    function = "mean_shift"
    validate.embedding_rows(function, embedding, offsets)
    validate.optional_seeds(function, seeds, embedding, seed_offsets)
    validate.concentration(function, kappa, bandwidth, compute_dtype(embedding.dtype))
    validate.scalar(function, "eta", eta, lowest=0.0, dtype=compute_dtype(embedding.dtype))
    for name, value in (("kappa", kappa), ("bandwidth", bandwidth), ("eta", eta)):
        validate.stays_in_capture(function, name, value, embedding)
    num_steps = validate.step_count(function, num_steps)
    validate.tolerance(function, tol)
    validate.flag(function, "normalize", normalize)
    validate.flag(function, "return_trajectory", return_trajectory)
    if weight is not None:
        validate.weights(function, weight, embedding, compute_dtype(embedding.dtype), may_require_grad=True)
    resolved = dispatch.resolve_for(function, backend, embedding)
    validate.can_be_captured(function, embedding, dispatch.waits_for_device(resolved))
    half = dispatch.half_operands(resolved, embedding.device.type, embedding.dtype)

    with without_autocast(embedding):
        layout = layout_of(embedding, offsets)
        points = unit_rows(packed(embedding)) if normalize else packed(embedding)
        moving, offsets_of_moving, sources, shape = points, layout.offsets, None, embedding.shape
        source_offsets = None
        if seeds is not None:
            seed_layout = layout_of(seeds, seed_offsets)
            validate.same_images(function, layout.num_images, seed_layout.num_images)
            offsets_of_moving, sources, shape = seed_layout.offsets, points, seeds.shape
            source_offsets = layout.offsets
            rows = packed(seeds).to(points.dtype)
            moving = unit_rows(rows) if normalize else rows
        mass = None if weight is None else weight.reshape(-1).to(points.dtype)
        concentration = (
            _scalar(kappa, points) if bandwidth is None else _scalar(bandwidth, points).reciprocal().square()
        )
        step_size = _scalar(eta, points)
        if tol > 0.0 and not may_pay(moving, sources, layout.num_images):
            tol = 0.0  # images so small cost less than the choice
        if tol > 0.0:
            choosing = "a tolerance, which chooses what to leave out; give tol=0.0"
            validate.can_be_captured(function, embedding, choosing)
            far = 1.0 + math.log(max(tol, 1e-30)) / concentration.detach()
        trajectory = []
        place = None  # where each row is now, once they have been put in an order that makes tiles tight
        for step in range(num_steps):
            if tol > 0.0 and step < _ORDERED_STEPS:
                order = spatial_order(moving.detach(), offsets_of_moving, far)
                moving = moving[order]
                place = order.argsort() if place is None else order.argsort()[place]
                if sources is not None and step == 0:
                    source_order = spatial_order(sources.detach(), layout.offsets, far)
                    sources = sources[source_order]
                if mass is not None and (sources is None or step == 0):
                    mass = mass[order if sources is None else source_order]
            moving = mean_shift_step(
                moving,
                sources,
                mass,
                concentration,
                step_size,
                offsets_of_moving,
                source_offsets,
                resolved,
                half,
                tol,
            )
            if return_trajectory:
                trajectory.append(_in_place(moving, place).reshape(shape).to(embedding.dtype))
        if return_trajectory:
            return trajectory
        if num_steps == 0:  # a step looks after infinities itself
            moving = without_infinities(moving)
        return _in_place(moving, place).reshape(shape).to(embedding.dtype)


# Clusters tighten within the first steps; later ones keep the order.
_ORDERED_STEPS = 3


def _in_place(rows: Tensor, place: Tensor | None) -> Tensor:
    """Rows where the caller had them."""
    return rows if place is None else rows[place]


def _scalar(value: float | Tensor | None, like: Tensor) -> Tensor:
    """A 0-d tensor with the dtype and device of `like`; keeps the graph of a tensor."""
    if isinstance(value, Tensor):
        return value.to(device=like.device, dtype=like.dtype)
    return torch.full((), float(value or 0.0), dtype=like.dtype, device=like.device)


def connected_components(
    embedding: Tensor,
    *,
    threshold: float,
    offsets: Tensor | None = None,
    normalize: bool = True,
    backend: str = "auto",
) -> Tensor:
    """Hard labels: connected components of the graph with an edge where s_ij = (1 + cos(x_i, x_j)) / 2 >= threshold.

    Args:
        embedding: `[N, D]` one image, `[B, N, D]` a batch, or `[T, D]` packed with `offsets`; any floating dtype.
        threshold: similarity in [0, 1]. After converged mean shift, (1 + margin) / 2 separates the modes. Equal rows
            are joined at 1 too (not zero rows, which have s = 1/2): products of rows round, so that every threshold
            above 1 - (D + 2) eps / 2 means that value, with the eps of the dtype computed in (float64 for float64, else
            float32). At 0 all are joined.
        offsets: `[B+1]` integer row offsets of a packed ragged batch. Images are never mixed.
        normalize: divide each row by its length first. False: rows are taken as unit vectors.
        backend: `"auto"`, `"reference"`, `"torch"`, `"cpu"`, `"triton"` or `"cuda"`.

    Returns:
        int64 labels with the embedding's leading shape, 0..C-1 in each image in order of first appearance. Exact and
        deterministic; the order of the points changes nothing but the numbering. Never N x N in memory.

    Raises:
        TypeError, ValueError: an argument is wrong; the message names it and the remedy.
        RuntimeError: the chosen backend cannot run here.

    Notes:
        A point with NaN or infinity is joined to nothing.

    Example:
        >>> import torch, rpe_ops
        >>> rpe_ops.connected_components(torch.eye(3)[[0, 0, 2]], threshold=0.9)
        tensor([0, 0, 1])
    """
    function = "connected_components"
    validate.embedding_rows(function, embedding, offsets)
    threshold = validate.unit_interval(function, "threshold", threshold)
    validate.flag(function, "normalize", normalize)
    resolved = dispatch.resolve_for(function, backend, embedding)
    validate.can_be_captured(function, embedding, dispatch.waits_for_device(resolved))
    with without_autocast(embedding):
        layout = layout_of(embedding, offsets)
        rows = packed(embedding.detach())
        points = unit_rows(rows) if normalize else without_infinities(rows)
        # equal rows are joined at a threshold of 1 too, and opposite ones at 0, whatever their products round to
        attainable = min(threshold, 1.0 - cosine_rounding(points) / 2.0)
        attainable = attainable if threshold > 0.0 else -1.0
        labels: Tensor = connected_components_op(points, layout.offsets, attainable, resolved)
        return labels.reshape(embedding.shape[:-1])
