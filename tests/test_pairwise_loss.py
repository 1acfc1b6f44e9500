"""`rpe_ops.pairwise_loss` on every backend: value, gradient, algebraic facts. Edges: `test_pairwise_loss_edges.py`.

Literal loops check the N x N formula in `naive.py`, which in float64 is the truth for every backend and dtype.
"""

import itertools

import pytest
import torch
from torch import Tensor

import naive
import numerics
import problems
import rpe_ops

MARGINS = (0.0, 0.3, 0.5, 1.0)


def run(embedding: Tensor, label: Tensor, **options) -> tuple[Tensor, Tensor]:
    """The loss and the gradient of its sum over images."""
    leaf = embedding.detach().clone().requires_grad_()
    loss = rpe_ops.pairwise_loss(leaf, label, **options)
    loss.sum().backward()
    return loss.detach(), leaf.grad


def run_naive(embedding: Tensor, label: Tensor, **options) -> tuple[Tensor, Tensor]:
    leaf = embedding.detach().clone().requires_grad_()
    loss = naive.pairwise_loss(leaf, label, **options)
    (grad,) = torch.autograd.grad(loss, leaf)
    return loss.detach(), grad


def term_sizes(label: Tensor, options: dict) -> tuple[float, float]:
    """Size of the terms of the loss, sum_ij w_i w_j / Z, and of a row of its gradient: what cancels may be as large."""
    ignored = options.get("ignore_index")
    w = naive.loss_weights(label, options.get("weight", "instance"), ignored, torch.float64)
    share = float(w.sum()) / naive.normalizer_of(w, label, options.get("normalizer", "points"), ignored)
    return share * float(w.sum()), share * float(w.max())


def check(embedding: Tensor, label: Tensor, backend: str, **options) -> None:
    """Loss and gradient of one image against float64, within the error of eager PyTorch."""
    loss, grad = run(embedding, label, backend=backend, **options)
    assert loss.dtype == (torch.float64 if embedding.dtype is torch.float64 else torch.float32)
    assert grad.dtype == embedding.dtype
    exact_loss, exact_grad = run_naive(embedding.double(), label, **options)
    half_products = backend in numerics.HALF_PRODUCTS
    eager_loss, eager_grad = run_naive(embedding, label, half_products=half_products, **options)
    value_scale, grad_scale = term_sizes(label, options)
    numerics.assert_values(loss, exact_loss, eager_loss, scale=value_scale)
    numerics.assert_gradients(grad, exact_grad, eager_grad, scale=grad_scale)


# Value


@pytest.mark.parametrize("normalizer", ["points", "weights", "none"])
@pytest.mark.parametrize("weight", ["instance", "uniform", "tensor"])
@pytest.mark.parametrize("ignore_index", [None, 2])
def test_value_is_the_published_sum(backend, weight, normalizer, ignore_index):
    embedding, label = problems.clustered(9, 3), problems.labels(9)
    embedding[4] = 0.0
    if weight == "tensor":
        weight = problems.masses(9)
        weight[3] = 0.0
    for margin in MARGINS:
        options = {"margin": margin, "normalizer": normalizer, "ignore_index": ignore_index}
        listed = weight if isinstance(weight, str) else weight.tolist()
        expected = naive.looped_pairwise_loss(embedding.tolist(), label.tolist(), weight=listed, **options)
        expected = torch.tensor(expected, dtype=torch.float64)
        numerics.assert_values(naive.pairwise_loss(embedding, label, weight=weight, **options), expected)
        numerics.assert_values(run(embedding, label, weight=weight, backend=backend, **options)[0], expected)


@pytest.mark.parametrize("dtype", problems.DTYPES)
@pytest.mark.parametrize("margin", MARGINS)
def test_dtypes_and_margins(backend, dtype, margin):
    embedding = problems.clustered(70, 6).to(dtype)
    if 0.0 < margin < 1.0:
        margin = problems.clear_margin(embedding, margin)
    check(embedding, problems.labels(70), backend, margin=margin)


# Gradient


@pytest.mark.float64
@pytest.mark.parametrize("normalizer", ["points", "weights"])
@pytest.mark.parametrize("weight", ["instance", "uniform", "tensor"])
def test_gradcheck(backend, weight, normalizer):
    embedding, label = problems.clustered(8, 3), problems.labels(8)
    margin = problems.clear_margin(embedding, 0.5)
    weight = problems.masses(8) if weight == "tensor" else weight
    options = {
        "margin": margin,
        "weight": weight,
        "normalizer": normalizer,
        "ignore_index": 3,
        "backend": backend,
    }

    def loss(rows: Tensor) -> Tensor:
        return rpe_ops.pairwise_loss(rows, label, **options)

    assert torch.autograd.gradcheck(loss, embedding.requires_grad_())


def test_upstream_gradient_scales_each_image(backend):
    batch = problems.ragged()
    upstream = problems.directions(7)
    leaf = batch.embedding.clone().requires_grad_()
    loss = rpe_ops.pairwise_loss(leaf, batch.label, offsets=batch.offsets, reduction="none", backend=backend)
    loss.backward(upstream)
    for image, rows in enumerate(batch.images()):
        if rows.stop > rows.start:
            expected = run_naive(batch.embedding[rows], batch.label[rows])[1]
            numerics.assert_gradients(leaf.grad[rows], upstream[image] * expected, scale=0.1)


def test_gradient_lies_in_the_tangent_plane(backend):
    embedding = problems.clustered(40, 5)
    _, grad = run(embedding, problems.labels(40), backend=backend)
    radial = (embedding * grad).sum(1)
    numerics.assert_values(radial, torch.zeros_like(radial), scale=float(grad.norm(dim=1).max()))


def test_at_the_margin_the_subgradient_is_zero(backend):
    embedding = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, -2.0]])
    loss, grad = run(embedding, torch.tensor([0, 1, 2]), margin=0.5, backend=backend)
    assert loss == 0.0
    assert torch.equal(grad, torch.zeros_like(grad))


def test_gradient_without_normalising_is_the_euclidean_one(backend):
    embedding = naive.unit_rows(problems.clustered(21, 4))
    check(
        embedding, problems.labels(21), backend, normalize=False, margin=problems.clear_margin(embedding, 0.4)
    )


# Algebraic facts


@pytest.mark.parametrize("weight", ["instance", "uniform"])
def test_permuting_points_permutes_the_gradient(backend, weight):
    embedding, label = problems.clustered(37, 4), problems.labels(37)
    order = problems.permutation(37, seed=1)
    loss, grad = run(embedding, label, weight=weight, backend=backend)
    permuted_loss, permuted_grad = run(embedding[order], label[order], weight=weight, backend=backend)
    numerics.assert_same(permuted_loss, loss)
    numerics.assert_same(permuted_grad, grad[order])


def test_rotating_points_rotates_the_gradient(backend):
    embedding, label, turn = problems.clustered(37, 5), problems.labels(37), problems.rotation(5)
    margin = problems.clear_margin(embedding)
    loss, grad = run(embedding, label, margin=margin, backend=backend)
    turned_loss, turned_grad = run(embedding @ turn, label, margin=margin, backend=backend)
    numerics.assert_same(turned_loss, loss)
    numerics.assert_same(turned_grad, grad @ turn)


def test_scaling_points_scales_the_gradient_back(backend):
    embedding, label = problems.clustered(37, 5), problems.labels(37)
    scale = 10.0 ** problems.directions(37, 1)
    loss, grad = run(embedding, label, backend=backend)
    scaled_loss, scaled_grad = run(embedding * scale, label, backend=backend)
    numerics.assert_same(scaled_loss, loss)
    numerics.assert_same(scaled_grad * scale, grad)


@pytest.mark.parametrize("values", [[3, 2, 1, 0], [-(2**63), 2**63 - 1, 0, -1], [7, 100, 65_536, 2**40]])
def test_relabelling_changes_nothing(backend, values):
    embedding, label = problems.clustered(37, 4), problems.labels(37)
    loss, grad = run(embedding, label, backend=backend)
    other_loss, other_grad = run(embedding, torch.tensor(values)[label], backend=backend)
    numerics.assert_same(other_loss, loss)
    numerics.assert_same(other_grad, grad)


@pytest.mark.parametrize("dtype", problems.DTYPES)
def test_perfect_clusters_have_zero_loss(backend, dtype):
    label = problems.labels(40, instances=5, wrong=1.0)
    loss, grad = run(torch.eye(6, dtype=dtype)[label], label, margin=0.5, backend=backend)
    numerics.assert_values(loss, torch.zeros((), dtype=torch.float64), scale=25 / 40)
    numerics.assert_values(grad, torch.zeros(40, 6, dtype=torch.float64), scale=5 / 40)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_ragged_images_are_independent(backend, dtype):
    batch = problems.ragged()
    embedding = batch.embedding.to(dtype)
    options = {"margin": problems.clear_margin(embedding), "ignore_index": 1, "backend": backend}
    loss, grad = run(embedding, batch.label, offsets=batch.offsets, reduction="none", **options)
    assert loss.shape == (7,)
    for image, rows in enumerate(batch.images()):
        alone_loss, alone_grad = run(embedding[rows], batch.label[rows], **options)
        numerics.assert_same(loss[image], alone_loss, scale=1.0)
        numerics.assert_same(grad[rows], alone_grad, scale=0.1)


@pytest.mark.parametrize("normalizer", ["points", "weights", "none"])
def test_weights_of_one_image_do_not_touch_another(backend, normalizer):
    batch, weight = problems.ragged((6, 9, 5)), problems.masses(20)
    weight[:6] *= 1e15
    options = {"normalizer": normalizer, "backend": backend}
    loss, grad = run(
        batch.embedding, batch.label, weight=weight, offsets=batch.offsets, reduction="none", **options
    )
    for image, rows in enumerate(batch.images()):
        alone, alone_grad = run(batch.embedding[rows], batch.label[rows], weight=weight[rows], **options)
        numerics.assert_same(loss[image], alone)
        numerics.assert_same(grad[rows], alone_grad)


def test_batch_of_images_in_any_order(backend):
    embedding = problems.clustered(60, 4).reshape(3, 20, 4)
    label = problems.labels(60).reshape(3, 20)
    loss, grad = run(embedding, label, reduction="none", backend=backend)
    for image in range(3):
        alone_loss, alone_grad = run(embedding[image], label[image], backend=backend)
        numerics.assert_same(loss[image], alone_loss)
        numerics.assert_same(grad[image], alone_grad)
    turned_loss, turned_grad = run(embedding.flip(0), label.flip(0), reduction="none", backend=backend)
    numerics.assert_same(turned_loss, loss.flip(0))
    numerics.assert_same(turned_grad, grad.flip(0))


def test_reductions(backend):
    embedding, label = problems.clustered(60, 4).reshape(3, 20, 4), problems.labels(60).reshape(3, 20)
    each, each_grad = run(embedding, label, reduction="none", backend=backend)
    total, total_grad = run(embedding, label, reduction="sum", backend=backend)
    mean, mean_grad = run(embedding, label, reduction="mean", backend=backend)
    assert (each.shape, total.shape, mean.shape) == ((3,), (), ())
    numerics.assert_same(total, each.sum())
    numerics.assert_same(mean, each.mean())
    numerics.assert_same(total_grad, each_grad)
    numerics.assert_same(mean_grad, each_grad / 3)
    for reduction in ("sum", "mean", "none"):
        loss, _ = run(embedding[0], label[0], reduction=reduction, backend=backend)
        assert loss.shape == ()
        numerics.assert_same(loss, each[0])


def test_weight_two_is_the_same_as_two_points(backend):
    embedding, label = problems.clustered(21, 4), problems.labels(21)
    weight = problems.masses(21)
    doubled = torch.tensor([2, 7, 20])
    heavier = weight.index_fill(0, doubled, 0.0).index_add(0, doubled, 2.0 * weight[doubled])
    loss, grad = run(embedding, label, weight=heavier, normalizer="weights", backend=backend)
    twice = torch.cat([torch.arange(21), doubled])
    twice_loss, twice_grad = run(
        embedding[twice], label[twice], weight=weight[twice], normalizer="weights", backend=backend
    )
    numerics.assert_same(twice_loss, loss)
    numerics.assert_same(twice_grad[:21].index_add(0, doubled, twice_grad[21:]), grad)


def test_instance_weights_forget_the_size_of_instances(backend):
    embedding, label = problems.clustered(30, 4), problems.labels(30)
    larger = torch.cat([torch.arange(30), torch.arange(30)[label == 1], torch.arange(30)[label == 1]])
    loss, _ = run(embedding, label, normalizer="weights", backend=backend)
    larger_loss, _ = run(embedding[larger], label[larger], normalizer="weights", backend=backend)
    numerics.assert_same(larger_loss, loss)


def test_named_weights_equal_the_tensors_they_stand_for(backend):
    embedding, label = problems.clustered(30, 4), problems.labels(30)
    count = (label[:, None] == label[None, :]).sum(1)
    for name, tensor in (("instance", 1.0 / count.double()), ("uniform", torch.ones(30).double())):
        for normalizer in ("points", "weights", "none"):
            loss, grad = run(embedding, label, weight=name, normalizer=normalizer, backend=backend)
            options = {"weight": tensor, "normalizer": normalizer, "backend": backend}
            tensor_loss, tensor_grad = run(embedding, label, **options)
            numerics.assert_same(tensor_loss, loss)
            numerics.assert_same(tensor_grad, grad)


def test_ignored_points_might_as_well_be_absent(backend):
    embedding, label = problems.clustered(40, 4), problems.labels(40)
    kept = label != 2
    for weight, normalizer in itertools.product(("instance", "uniform"), ("points", "weights", "none")):
        options = {"weight": weight, "normalizer": normalizer, "backend": backend}
        loss, grad = run(embedding, label, ignore_index=2, **options)
        kept_loss, kept_grad = run(embedding[kept], label[kept], **options)
        numerics.assert_same(loss, kept_loss)
        numerics.assert_same(grad[kept], kept_grad)
        assert torch.equal(grad[~kept], torch.zeros_like(grad[~kept]))
