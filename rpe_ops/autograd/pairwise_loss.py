"""Ops and autograd of the pairwise loss: one loss per image, without normaliser, and its derivatives.

The forward op computes the gradient in the same pass when it will be needed; the backward is then one scale per image.
Formula numbers are those of `backends/reference/pairwise_loss.py`.
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
    poisoned_images,
)
from rpe_ops.backends.blocked.pairwise_loss import slope_product
from rpe_ops.backends.images import image_of_rows, segment_sums


@torch.library.custom_op("rpe_ops::pairwise_loss_forward", mutates_args=())
def pairwise_loss_forward(
    points: Tensor,
    order: Tensor,
    instance: Tensor,
    weight: Tensor,
    offsets: Tensor,
    margin: float,
    with_gradient: bool,
    backend: str,
    half: bool,
) -> tuple[Tensor, Tensor]:
    """Loss `[B]` and gradient `[T, D]` (empty unless `with_gradient`).

    `order [T]` sorts the rows by (image, instance); `instance [T]` and `weight [T]` are given in that order.
    """
    with without_autocast(points):
        forward = backends.operator_module(backend, "pairwise_loss").forward
        loss, sorted_grad = forward(points[order], instance, weight, offsets, margin, with_gradient, half)
        poison = poisoned_images(points, offsets)
        grad = torch.empty_like(sorted_grad)
        if with_gradient:
            grad[order] = add_poison(sorted_grad, offsets, poison)
        return (loss if poison is None else loss + poison), grad


@pairwise_loss_forward.register_fake
def _(
    points: Tensor,
    order: Tensor,
    instance: Tensor,
    weight: Tensor,
    offsets: Tensor,
    margin: float,
    with_gradient: bool,
    backend: str,
    half: bool,
) -> tuple[Tensor, Tensor]:
    grad = torch.empty_like(points if with_gradient else points[:0])
    return points.new_empty(offsets.shape[0] - 1), grad


@torch.library.register_vmap("rpe_ops::pairwise_loss_forward")
def _(
    info: Any,
    in_dims: Any,
    points: Tensor,
    order: Tensor,
    instance: Tensor,
    weight: Tensor,
    offsets: Tensor,
    *rest: Any,
) -> Any:
    fold = Folded(info.batch_size)
    points = fold.front(points, in_dims[0])
    num_rows = points.shape[1]
    loss, grad = pairwise_loss_forward(
        points.flatten(0, 1).contiguous(),
        fold.indices(order, in_dims[1], num_rows),
        fold.indices(instance, in_dims[2], num_rows),
        fold.rows(weight, in_dims[3]),
        fold.offsets(offsets, in_dims[4], num_rows),
        *rest,
    )
    return (fold.unfold(loss), fold.unfold(grad)), (0, 0)


@torch.library.custom_op("rpe_ops::pairwise_loss_curvature", mutates_args=())
def pairwise_loss_curvature(
    points: Tensor,
    order: Tensor,
    instance: Tensor,
    weight: Tensor,
    offsets: Tensor,
    margin: float,
    direction: Tensor,
) -> Tensor:
    """(6): the second derivative of each image's loss applied to `direction [T, D]`, in blocked PyTorch."""
    with without_autocast(points):
        product = torch.empty_like(points)
        product[order] = slope_product(points[order], instance, weight, offsets, margin, direction[order])
        return product


@pairwise_loss_curvature.register_fake
def _(
    points: Tensor,
    order: Tensor,
    instance: Tensor,
    weight: Tensor,
    offsets: Tensor,
    margin: float,
    direction: Tensor,
) -> Tensor:
    return torch.empty_like(points)


@torch.library.register_vmap("rpe_ops::pairwise_loss_curvature")
def _(
    info: Any,
    in_dims: Any,
    points: Tensor,
    order: Tensor,
    instance: Tensor,
    weight: Tensor,
    offsets: Tensor,
    margin: float,
    direction: Tensor,
) -> Any:
    fold = Folded(info.batch_size)
    rows = fold.rows(points, in_dims[0])
    num_rows = rows.shape[0] // info.batch_size
    product = pairwise_loss_curvature(
        rows,
        fold.indices(order, in_dims[1], num_rows),
        fold.indices(instance, in_dims[2], num_rows),
        fold.rows(weight, in_dims[3]),
        fold.offsets(offsets, in_dims[4], num_rows),
        margin,
        fold.rows(direction, in_dims[6]),
    )
    return fold.unfold(product), 0


@torch.library.custom_op("rpe_ops::pairwise_loss_slope", mutates_args=())
def pairwise_loss_slope(grad: Tensor, direction: Tensor, offsets: Tensor) -> Tensor:
    """The derivative `[B]` of each image's loss along `direction [T, D]`, from its gradient `[T, D]`."""
    return segment_sums((direction * grad).sum(1), offsets)


@pairwise_loss_slope.register_fake
def _(grad: Tensor, direction: Tensor, offsets: Tensor) -> Tensor:
    return grad.new_empty(offsets.shape[0] - 1)


@torch.library.register_vmap("rpe_ops::pairwise_loss_slope")
def _(info: Any, in_dims: Any, grad: Tensor, direction: Tensor, offsets: Tensor) -> Any:
    fold = Folded(info.batch_size)
    rows, along = fold.rows(grad, in_dims[0]), fold.rows(direction, in_dims[1])
    folded = fold.offsets(offsets, in_dims[2], rows.shape[0] // info.batch_size)
    return fold.unfold(pairwise_loss_slope(rows, along, folded)), 0


def image_losses(*inputs: Any) -> Tensor:
    """Loss `[B]` of packed unit rows; arguments as for `pairwise_loss_forward`. Differentiable in points: twice in
    reverse, once forward, and once each."""
    function = DualPairwiseLoss if has_forward_mode() else PairwiseLoss
    loss: Tensor = function.apply(*inputs)[0]
    return loss


class PairwiseLoss(torch.autograd.Function):
    """Loss `[B]` (and its gradient, not differentiable) and the derivatives of the loss."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        points: Tensor,
        order: Tensor,
        instance: Tensor,
        weight: Tensor,
        offsets: Tensor,
        margin: float,
        with_gradient: bool,
        backend: str,
        half: bool,
    ) -> tuple[Tensor, Tensor]:
        return pairwise_loss_forward(
            points, order, instance, weight, offsets, margin, with_gradient, backend, half
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        points, order, instance, weight, offsets, margin, with_gradient, backend, half = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(points, order, instance, weight, offsets, output[1])
        ctx.margin, ctx.with_gradient, ctx.backend, ctx.half = margin, with_gradient, backend, half

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Any, ...]:
        gradient = DualPairwiseLossGradient if has_forward_mode() else PairwiseLossGradient
        saved, grad = _saved_with_gradient(ctx)
        return gradient.apply(grad_outputs[0], *saved, grad, ctx.margin), *(None,) * 8


# for the op alone, as torch.export leaves it in a program that is trained later
pairwise_loss_forward.register_autograd(PairwiseLoss.backward, setup_context=PairwiseLoss.setup_context)


def _saved_with_gradient(ctx: Any) -> tuple[tuple[Tensor, ...], Tensor]:
    """What `PairwiseLoss` saved, and the gradient, computed where the forward left it out."""
    *saved, grad = ctx.saved_tensors
    if not ctx.with_gradient:
        arguments = (*saved, ctx.margin, True, ctx.backend, ctx.half)
        grad = last_derivative(pairwise_loss_forward, *arguments)[1]
    return tuple(saved), grad


class DualPairwiseLoss(PairwiseLoss):
    """The same with forward mode."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        PairwiseLoss.setup_context(ctx, inputs, output)
        ctx.save_for_forward(*inputs[:5], output[1])

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> tuple[Tensor, None]:
        saved, grad = _saved_with_gradient(ctx)
        return last_derivative(pairwise_loss_slope, grad, tangents[0], saved[4]), None


class PairwiseLossGradient(torch.autograd.Function):
    """The backward as a function of its own, so that it has a derivative: one scale per image of a known gradient."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        grad_loss: Tensor,
        points: Tensor,
        order: Tensor,
        instance: Tensor,
        weight: Tensor,
        offsets: Tensor,
        grad: Tensor,
        margin: float,
    ) -> Tensor:
        return grad * _per_row(grad_loss, offsets, grad.shape[0])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *tensors, ctx.margin = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Any, ...]:
        grad_loss, points, order, instance, weight, offsets, grad = ctx.saved_tensors
        direction = grad_outputs[0]
        grad_grad_loss = last_derivative(pairwise_loss_slope, grad, direction, offsets)
        scaled = direction * _per_row(grad_loss, offsets, grad.shape[0])
        inputs = (points, order, instance, weight, offsets, ctx.margin, scaled)
        grad_points = last_derivative(pairwise_loss_curvature, *inputs)
        return grad_grad_loss, grad_points, *(None,) * 6


class DualPairwiseLossGradient(PairwiseLossGradient):
    """The same with forward mode: the gradient is linear in `grad_loss`."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        PairwiseLossGradient.setup_context(ctx, inputs, output)
        ctx.save_for_forward(*inputs[:7])

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        grad_loss, *inputs, grad = ctx.saved_tensors
        offsets = inputs[4]
        tangent = torch.zeros_like(grad)
        if tangents[0] is not None:
            tangent = tangent + grad * _per_row(tangents[0], offsets, grad.shape[0])
        if tangents[1] is not None:
            product = last_derivative(pairwise_loss_curvature, *inputs, ctx.margin, tangents[1])
            tangent = tangent + product * _per_row(grad_loss, offsets, grad.shape[0])
        return tangent


def _per_row(per_image: Tensor, offsets: Tensor, num_rows: int) -> Tensor:
    """`[B]` values of the images as a column `[T, 1]` beside their rows."""
    if per_image.shape[0] == 1:
        return per_image[:, None]
    return per_image[image_of_rows(offsets, num_rows)][:, None]
