"""Forward mode and second derivatives of both operators, in every way PyTorch takes them, and refusals beyond them.

First derivatives in reverse are tested with each operator; here they and differences of finite steps are the truth.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

import numerics
import problems
import rpe_ops

Leaves = tuple[Tensor, ...]
KINDS = ("loss", "loss of unit rows", "blurring", "seeds", "masses", "seeds and masses")
kinds = pytest.mark.parametrize("kind", KINDS)


def function_of(kind: str, backend: str, num_points: int = 5) -> tuple[Callable[..., Tensor], Leaves]:
    """One operator in one of its forms, and a tensor for each argument that it is differentiable in."""
    rows = problems.clustered(num_points, 3)
    if kind.startswith("loss"):
        label, margin = problems.labels(num_points), problems.clear_margin(rows)
        options = {"margin": margin, "normalize": kind == "loss", "backend": backend}
        return lambda x: rpe_ops.pairwise_loss(x, label, **options), (rows,)
    scalars = [torch.tensor(value, dtype=problems.widest()) for value in (3.0, 0.7)]
    tensors = {"embedding": rows, "kappa": scalars[0], "eta": scalars[1]}
    if "seeds" in kind:
        tensors["seeds"] = problems.directions(2, 3)
    if "masses" in kind:
        tensors["weight"] = problems.masses(num_points)

    def moved(*values: Tensor) -> Tensor:
        arguments = dict(zip(tensors, values, strict=True))
        return rpe_ops.mean_shift(**arguments, num_steps=2, backend=backend)

    return moved, tuple(tensors.values())


def scalar_of(kind: str, backend: str) -> tuple[Callable[[Tensor], Tensor], Tensor, Tensor]:
    """A scalar function of the embedding alone, the embedding, and a direction."""
    function, (rows, *rest) = function_of(kind, backend)
    shape = function(rows, *rest).shape
    upstream = problems.directions(*shape, seed=1) if shape else torch.ones((), dtype=problems.widest())
    return lambda x: (function(x, *rest) * upstream).sum(), rows, problems.directions(*rows.shape, seed=2)


def hessian_by_rows(function: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
    """`[N D, N D]` by reverse over reverse, one entry of the gradient at a time."""
    leaf = rows.clone().requires_grad_()
    (grad,) = torch.autograd.grad(function(leaf), leaf, create_graph=True)
    entries = [torch.autograd.grad(entry, leaf, retain_graph=True)[0].flatten() for entry in grad.flatten()]
    return torch.stack(entries)


# Forward mode


@pytest.mark.float64
@kinds
def test_forward_mode_is_the_difference_of_finite_steps(backend, kind):
    function, tensors = function_of(kind, backend)
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    options = {"check_forward_ad": True, "check_batched_grad": True, "check_batched_forward_grad": True}
    assert torch.autograd.gradcheck(function, leaves, **options)


@kinds
def test_forward_mode_agrees_with_reverse(backend, kind):
    function, rows, direction = scalar_of(kind, backend)
    grad = torch.func.grad(function)(rows)
    expected = (grad * direction).sum()
    scale = float(grad.norm() * direction.norm())
    numerics.assert_same(torch.func.jvp(function, (rows,), (direction,))[1], expected, scale=scale)
    numerics.assert_same(torch.func.jacfwd(function)(rows), grad)
    with forward_ad.dual_level():
        dual = function(forward_ad.make_dual(rows, direction))
        numerics.assert_same(forward_ad.unpack_dual(dual).tangent, expected, scale=scale)
    both = torch.func.vmap(lambda v: torch.func.jvp(function, (rows,), (v,))[1])(
        torch.stack([direction, rows])
    )
    numerics.assert_same(both[0], expected, scale=scale)


def test_forward_mode_of_ragged_images(backend):
    batch = problems.ragged((4, 0, 3))
    tangents = problems.directions(7, 4)
    margin = problems.clear_margin(batch.embedding)

    def losses(rows: Tensor) -> Tensor:
        options = {"offsets": batch.offsets, "margin": margin, "reduction": "none", "backend": backend}
        return rpe_ops.pairwise_loss(rows, batch.label, **options)

    def moved(rows: Tensor) -> Tensor:
        return rpe_ops.mean_shift(rows, kappa=5.0, offsets=batch.offsets, backend=backend)

    for function in (losses, moved):
        expected = torch.func.jacrev(function)(batch.embedding).flatten(-2) @ tangents.flatten()
        numerics.assert_same(torch.func.jvp(function, (batch.embedding,), (tangents,))[1], expected)


def test_compiled_code_does_not_drop_forward_mode(backend):
    function, rows, direction = scalar_of("blurring", backend)
    expected = torch.func.jvp(function, (rows,), (direction,))[1]

    def inside(x: Tensor) -> Tensor:
        return torch.func.jvp(function, (x,), (direction,))[1]

    torch._dynamo.reset()
    numerics.assert_same(torch.compile(inside, backend="aot_eager")(rows), expected)
    torch._dynamo.reset()
    with pytest.raises(Exception, match="cannot trace forward mode"):
        torch.compile(inside, backend="aot_eager", fullgraph=True)(rows)
    torch._dynamo.reset()


# Second derivatives


@pytest.mark.float64
@kinds
def test_second_derivatives_are_differences_of_finite_steps(backend, kind):
    function, tensors = function_of(kind, backend, num_points=4)
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    assert torch.autograd.gradgradcheck(function, leaves, check_batched_grad=True)
    options = {"check_fwd_over_rev": True, "check_rev_over_rev": False, "check_undefined_grad": False}
    options |= {"fast_mode": True}
    assert torch.autograd.gradgradcheck(function, leaves, **options)


@kinds
def test_hessians_of_every_make(backend, kind):
    function, rows, direction = scalar_of(kind, backend)
    expected = hessian_by_rows(function, rows)
    numerics.assert_same(expected.T, expected)
    shape = (rows.numel(), rows.numel())
    for hessian in (torch.func.hessian(function), torch.func.jacrev(torch.func.grad(function))):
        numerics.assert_same(hessian(rows).reshape(shape), expected)
    stacked = torch.func.vmap(torch.func.hessian(function))(torch.stack([rows, rows.flip(0)]))
    numerics.assert_same(stacked[0].reshape(shape), expected)
    numerics.assert_same(torch.autograd.functional.hessian(function, rows).reshape(shape), expected)


@kinds
def test_products_of_the_hessian_with_a_direction(backend, kind):
    function, rows, direction = scalar_of(kind, backend)
    gradient = torch.func.grad(function)
    expected = (hessian_by_rows(function, rows) @ direction.flatten()).reshape(rows.shape)
    numerics.assert_same(torch.func.jvp(gradient, (rows,), (direction,))[1], expected)
    numerics.assert_same(torch.func.grad(lambda x: (gradient(x) * direction).sum())(rows), expected)
    numerics.assert_same(torch.func.vjp(gradient, rows)[1](direction)[0], expected)


@pytest.mark.float64
def test_second_derivative_through_a_training_objective(backend):
    rows, label = problems.clustered(5, 3), problems.labels(5)
    margin = problems.clear_margin(rows)

    def objective(x: Tensor) -> Tensor:
        moved = rpe_ops.mean_shift(x, kappa=9.0, eta=0.8, num_steps=2, backend=backend)
        options = {"margin": margin, "backend": backend}
        return rpe_ops.pairwise_loss(x, label, **options) + rpe_ops.pairwise_loss(moved, label, **options)

    assert torch.autograd.gradgradcheck(objective, rows.requires_grad_())


@pytest.mark.float64
def test_second_derivative_where_masses_are_zero(backend):
    rows, mass = problems.clustered(5, 3), problems.masses(5)
    mass[[1, 3]] = 0.0
    function = _step_of(backend)
    leaves = [rows.requires_grad_()]
    assert torch.autograd.gradgradcheck(lambda x: function(x, mass), leaves)
    empty = torch.zeros(5, dtype=problems.widest())
    assert torch.autograd.gradgradcheck(lambda x: function(x, empty), leaves)
    # a mass of zero may only grow: towards it from above, the gradient has a limit
    just_above = mass.clamp(min=1e-12).requires_grad_()
    at_zero = mass.clone().requires_grad_()
    for_each = []
    for leaf in (at_zero, just_above):
        (grad,) = torch.autograd.grad(function(rows, leaf)[:, 0].sum(), leaf, create_graph=True)
        for_each.append(torch.autograd.grad(grad.square().sum(), (rows, leaf)))
    for zero, near in zip(*for_each, strict=True):
        assert torch.allclose(zero, near, rtol=1e-5, atol=1e-6)


def _step_of(backend: str) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda rows, mass: rpe_ops.mean_shift(rows, kappa=3.0, eta=0.7, weight=mass, backend=backend)


@kinds
def test_a_gradient_penalty_reaches_the_input_of_half_types(backend, kind):
    function, rows, _ = scalar_of(kind, backend)
    for dtype in (torch.float16, torch.float32):
        leaf = rows.to(dtype).requires_grad_()
        (grad,) = torch.autograd.grad(_in_dtype(function, kind, leaf, backend), leaf, create_graph=True)
        (second,) = torch.autograd.grad(grad.square().sum(), leaf)
        assert second.dtype == dtype and float(second.abs().max()) > 0.0


def _in_dtype(function: Callable[[Tensor], Tensor], kind: str, leaf: Tensor, backend: str) -> Tensor:
    if kind.startswith("loss"):
        return function(leaf)
    return rpe_ops.mean_shift(leaf, kappa=3.0, backend=backend)[:, 0].float().sum()


def test_second_derivatives_at_the_edges_are_finite(backend):
    rows = problems.clustered(6, 3).float()
    rows[2] = 0.0
    for kappa in (1e-3, 1e4, 1e12):
        leaf = rows.clone().requires_grad_()
        moved = rpe_ops.mean_shift(leaf, kappa=kappa, backend=backend)
        (grad,) = torch.autograd.grad(moved[:, 0].sum(), leaf, create_graph=True)
        (second,) = torch.autograd.grad(grad.sum(), leaf)
        assert bool(second.isfinite().all()), f"kappa {kappa}"
    empty = torch.zeros(0, 3, requires_grad=True)
    (grad,) = torch.autograd.grad(
        rpe_ops.mean_shift(empty, kappa=3.0, backend=backend).sum(), empty, create_graph=True
    )
    assert torch.autograd.grad(grad.sum(), empty)[0].shape == (0, 3)


# Refusals


@kinds
def test_other_derivatives_are_refused_in_clear_words(backend, kind):
    function, rows, direction = scalar_of(kind, backend)

    def along(x: Tensor) -> Tensor:
        return torch.func.jvp(function, (x,), (direction,))[1]

    def product(x: Tensor) -> Tensor:
        return (torch.func.grad(function)(x) * direction).sum()

    third = torch.func.grad(lambda x: torch.func.grad(product)(x).sum())
    for transform in (third, torch.func.grad(along), lambda x: torch.func.jvp(along, (x,), (direction,))):
        with pytest.raises(NotImplementedError, match="rpe_ops: this derivative is not implemented"):
            transform(rows)
    leaf = rows.clone().requires_grad_()
    (first,) = torch.autograd.grad(function(leaf), leaf, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), leaf, create_graph=True)
    with pytest.raises(NotImplementedError, match="rpe_ops: this derivative is not implemented"):
        torch.autograd.grad(second.square().sum(), leaf)
