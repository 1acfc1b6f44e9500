"""Ops and autograd of one mean-shift step; the recurrence over steps is in `functional.py`.

Formula numbers are those of `backends/reference/mean_shift.py`.
"""

# No `from __future__ import annotations`: torch.library reads the schemas from the signatures.
from typing import Any

import torch
from torch import Tensor

from rpe_ops import backends
from rpe_ops.autocast import without_autocast
from rpe_ops.autograd.common import (
    Folded,
    add_poison,
    has_forward_mode,
    last_derivative,
    map_in_turn,
    poisoned_images,
)
from rpe_ops.autograd.mean_shift_curvature import mean_shift_curvature, mean_shift_tangent
from rpe_ops.backends.collapse import Collapsed, collapse


@torch.library.custom_op("rpe_ops::mean_shift_forward", mutates_args=())
def mean_shift_forward(
    points: Tensor,
    sources: Tensor | None,
    weight: Tensor | None,
    kappa: Tensor,
    eta: Tensor,
    point_offsets: Tensor,
    source_offsets: Tensor | None,
    backend: str,
    half: bool,
    tol: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Moved points Z `[M, D]`, means M `[M, D]` and log densities L `[M]`.

    When blurring, `sources` and `source_offsets` are None: the points and their offsets serve. Half of `tol` goes to
    centroids in the place of collapsed sources, half to what the backend leaves out.
    """
    with without_autocast(points):
        forward = backends.operator_module(backend, "mean_shift").forward
        columns = point_offsets if source_offsets is None else source_offsets
        poison = poisoned_images(points if sources is None else sources, columns)
        collapsed = _collapsed(points if sources is None else sources, weight, columns, kappa, tol, backend)
        if collapsed is not None:
            sources, weight, columns = collapsed.rows, collapsed.mass, collapsed.offsets
        log_weight = None if weight is None else weight.log()
        outputs = forward(points, sources, log_weight, kappa, eta, point_offsets, columns, half, tol / 2)
        moved, mean, log_density = (add_poison(rows, point_offsets, poison) for rows in outputs)
        return moved, mean, log_density


def _collapsed(
    sources: Tensor, weight: Tensor | None, offsets: Tensor, kappa: Tensor, tol: float, backend: str
) -> Collapsed | None:
    """What a step sums over in place of its sources; both directions of a step find the same."""
    if tol == 0.0 or backend == "reference":
        return None
    return collapse(sources, weight, offsets, kappa, tol / 2)


@mean_shift_forward.register_fake
def _(
    points: Tensor,
    sources: Tensor | None,
    weight: Tensor | None,
    kappa: Tensor,
    eta: Tensor,
    point_offsets: Tensor,
    source_offsets: Tensor | None,
    backend: str,
    half: bool,
    tol: float,
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(points), torch.empty_like(points), points.new_empty(points.shape[0])


@torch.library.custom_op("rpe_ops::mean_shift_backward", mutates_args=())
def mean_shift_backward(
    grad_moved: Tensor,
    points: Tensor,
    sources: Tensor | None,
    weight: Tensor | None,
    kappa: Tensor,
    eta: Tensor,
    point_offsets: Tensor,
    source_offsets: Tensor | None,
    mean: Tensor,
    log_density: Tensor,
    with_grad_weight: bool,
    backend: str,
    half: bool,
    tol: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of points, sources (empty when blurring), weight (empty unless asked for), kappa and eta."""
    with without_autocast(points):
        backward = backends.operator_module(backend, "mean_shift").backward
        columns = point_offsets if source_offsets is None else source_offsets
        partners = points if sources is None else sources
        collapsed = _collapsed(partners, weight, columns, kappa, tol, backend)
        if collapsed is None:
            rows, masses, row_offsets = sources, weight, columns
        else:
            rows, masses, row_offsets = collapsed.rows, collapsed.mass, collapsed.offsets
        inputs = (grad_moved.contiguous(), points, rows, None if masses is None else masses.log())
        shared = (kappa, eta, point_offsets, row_offsets, mean, log_density)
        grad_points, grad_sources, grad_weight, grad_kappa, grad_eta = backward(
            *inputs, *shared, with_grad_weight, half, tol / 2
        )
        if collapsed is not None:
            grad_sources, grad_weight = collapsed.gradients(partners, weight, grad_sources, grad_weight)
        if collapsed is not None and sources is None:
            grad_points, grad_sources = grad_points + grad_sources, grad_sources[:0]
        poison = poisoned_images(partners, columns)
        return (
            add_poison(grad_points, point_offsets, poison),
            # not what a backend cut out of a larger tensor: forward mode cannot take a view
            points.new_empty(0, points.shape[1])
            if sources is None
            else add_poison(grad_sources, columns, poison),
            add_poison(grad_weight, columns, poison),
            grad_kappa,
            grad_eta,
        )


@mean_shift_backward.register_fake
def _(
    grad_moved: Tensor,
    points: Tensor,
    sources: Tensor | None,
    weight: Tensor | None,
    kappa: Tensor,
    eta: Tensor,
    point_offsets: Tensor,
    source_offsets: Tensor | None,
    mean: Tensor,
    log_density: Tensor,
    with_grad_weight: bool,
    backend: str,
    half: bool,
    tol: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    partners = points if sources is None else sources
    return (
        torch.empty_like(points),
        torch.empty_like(points[:0] if sources is None else sources),
        points.new_empty(partners.shape[0] if with_grad_weight else 0),
        torch.empty_like(kappa),
        torch.empty_like(eta),
    )


@torch.library.register_vmap("rpe_ops::mean_shift_forward")
def _(info: Any, in_dims: Any, *args: Any) -> Any:
    if in_dims[3] is not None or in_dims[4] is not None:  # one kappa or eta per element
        return map_in_turn(mean_shift_forward, info.batch_size, in_dims, args)
    fold = Folded(info.batch_size)
    outputs = mean_shift_forward(*_fold_inputs(fold, in_dims, args), *args[7:])
    return tuple(fold.unfold(output) for output in outputs), (0, 0, 0)


@torch.library.register_vmap("rpe_ops::mean_shift_backward")
def _(info: Any, in_dims: Any, *args: Any) -> Any:
    # kappa and eta get one gradient per element, so the elements cannot share one call
    return map_in_turn(mean_shift_backward, info.batch_size, in_dims, args)


def _fold_inputs(fold: Folded, in_dims: Any, args: Any) -> list[Any]:
    """The first seven arguments of `mean_shift_forward` for all elements of a vmap at once."""
    points, sources, weight, kappa, eta, point_offsets, source_offsets = args[:7]
    rows = fold.rows(points, in_dims[0])
    source_rows = None if sources is None else fold.rows(sources, in_dims[1])
    stride = rows.shape[0] // fold.batch_size
    source_stride = stride if source_rows is None else source_rows.shape[0] // fold.batch_size
    return [
        rows,
        source_rows,
        None if weight is None else fold.rows(weight, in_dims[2]),
        kappa,
        eta,
        fold.offsets(point_offsets, in_dims[5], stride),
        None if source_offsets is None else fold.offsets(source_offsets, in_dims[6], source_stride),
    ]


def mean_shift_step(*inputs: Any) -> Tensor:
    """Moved rows `[M, D]`; arguments as for `mean_shift_forward`. Differentiable in points, sources, weight, kappa and
    eta: twice in reverse, once forward, and once each."""
    step = DualMeanShiftStep if has_forward_mode() else MeanShiftStep
    moved: Tensor = step.apply(*inputs)[0]
    return moved


class MeanShiftStep(torch.autograd.Function):
    """Moved rows (and M, L, not differentiable) and their gradients."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        points: Tensor,
        sources: Tensor | None,
        weight: Tensor | None,
        kappa: Tensor,
        eta: Tensor,
        point_offsets: Tensor,
        source_offsets: Tensor | None,
        backend: str,
        half: bool,
        tol: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        return mean_shift_forward(
            points, sources, weight, kappa, eta, point_offsets, source_offsets, backend, half, tol
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
        *tensors, ctx.backend, ctx.half, ctx.tol = inputs
        _, mean, log_density = output
        ctx.mark_non_differentiable(mean, log_density)
        ctx.save_for_backward(*tensors, mean, log_density)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Any, ...]:
        needs_weight = ctx.needs_input_grad[2]
        saved = ctx.saved_tensors  # once: checkpointing hands them out a single time
        sources = saved[1]
        gradient = DualMeanShiftStepGradient if has_forward_mode() else MeanShiftStepGradient
        grads = gradient.apply(grad_outputs[0], *saved, needs_weight, ctx.backend, ctx.half, ctx.tol)
        grad_points, grad_sources, grad_weight, grad_kappa, grad_eta = grads
        return (
            grad_points,
            None if sources is None else grad_sources,
            grad_weight if needs_weight else None,
            grad_kappa,
            grad_eta,
            *(None,) * 5,
        )


# for the op alone, as torch.export leaves it in a program that is trained later
mean_shift_forward.register_autograd(MeanShiftStep.backward, setup_context=MeanShiftStep.setup_context)


class DualMeanShiftStep(MeanShiftStep):
    """The same with forward mode."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
        MeanShiftStep.setup_context(ctx, inputs, output)
        ctx.save_for_forward(*inputs[:7])

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> tuple[Any, ...]:
        inputs = ctx.saved_tensors[:7]
        return last_derivative(mean_shift_tangent, *inputs, *_directions(inputs, tangents)), None, None


class MeanShiftStepGradient(torch.autograd.Function):
    """The backward as a function of its own, so that it has a derivative (recomputed in blocked PyTorch)."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        grad_moved: Tensor,
        points: Tensor,
        sources: Tensor | None,
        weight: Tensor | None,
        kappa: Tensor,
        eta: Tensor,
        point_offsets: Tensor,
        source_offsets: Tensor | None,
        mean: Tensor,
        log_density: Tensor,
        with_grad_weight: bool,
        backend: str,
        half: bool,
        tol: float,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        inputs = (grad_moved, points, sources, weight, kappa, eta, point_offsets, source_offsets)
        return mean_shift_backward(*inputs, mean, log_density, with_grad_weight, backend, half, tol)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.save_for_backward(*inputs[:10])
        ctx.options = inputs[10:]

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Any, ...]:
        inputs = ctx.saved_tensors[:8]
        sources, weight = inputs[2:4]
        d_points, d_sources, d_weight, d_kappa, d_eta = grad_outputs
        outer = last_derivative(
            mean_shift_curvature,
            *inputs,
            d_points,
            None if sources is None else d_sources,
            d_weight if ctx.options[0] else None,
            d_kappa,
            d_eta,
        )
        grad_grad_moved, grad_points, grad_sources, grad_weight, grad_kappa, grad_eta = outer
        return (
            grad_grad_moved,
            grad_points,
            None if sources is None else grad_sources,
            None if weight is None else grad_weight,
            grad_kappa,
            grad_eta,
            *(None,) * 8,
        )


class DualMeanShiftStepGradient(MeanShiftStepGradient):
    """The same with forward mode: the gradient is linear in `grad_moved`."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        MeanShiftStepGradient.setup_context(ctx, inputs, output)
        ctx.save_for_forward(*inputs[:10])

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> tuple[Any, ...]:
        saved = ctx.saved_tensors
        inputs, with_grad_weight = saved[1:8], ctx.options[0]
        directions = _directions(inputs, tangents[1:])
        _, *along = last_derivative(mean_shift_curvature, saved[0], *inputs, *directions)
        if not with_grad_weight:
            along[2] = along[2][:0]
        if tangents[0] is None:
            return tuple(along)
        linear = last_derivative(mean_shift_backward, tangents[0], *saved[1:], *ctx.options)
        return tuple(a + b for a, b in zip(along, linear, strict=True))


def _directions(inputs: Any, tangents: Any) -> list[Tensor | None]:
    """The direction in points, sources, weight, kappa and eta; zeros for what has no tangent."""
    return [
        None if value is None else torch.zeros_like(value) if tangent is None else tangent
        for value, tangent in zip(inputs[:5], tangents[:5], strict=True)
    ]
