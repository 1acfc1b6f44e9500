"""The operators under PyTorch's transformations: torch.func, torch.compile, autocast, checkpointing, opcheck. The eager
call is the truth here; what it computes is tested elsewhere. Derivatives of every order: `test_derivatives.py`.
"""

import shutil

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import numerics
import problems
import rpe_ops

IMAGES = problems.clustered(36, 4).reshape(3, 12, 4)
LABELS = problems.labels(36).reshape(3, 12)
MARGIN = problems.clear_margin(IMAGES)
SEEDS = problems.directions(3, 5, 4)
MASSES = problems.masses(36).reshape(3, 12)


@pytest.fixture(autouse=True)
def served_dtype(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The inputs above on the device and in the widest dtype of the test's backend."""
    if "backend" in request.fixturenames:
        request.getfixturevalue("backend")
        device = torch.get_default_device()
        for name in ("IMAGES", "SEEDS", "MASSES"):
            monkeypatch.setitem(globals(), name, globals()[name].to(device, problems.widest()))
        monkeypatch.setitem(globals(), "LABELS", LABELS.to(device))


def loss_of(rows: Tensor, label: Tensor, backend: str, **options) -> Tensor:
    return rpe_ops.pairwise_loss(rows, label, margin=MARGIN, backend=backend, **options)


def moved_of(rows: Tensor, backend: str, **options) -> Tensor:
    return rpe_ops.mean_shift(rows, **({"kappa": 9.0, "eta": 0.8, "num_steps": 2} | options), backend=backend)


def grad_of(function, *tensors: Tensor) -> tuple[Tensor, ...]:
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    output = function(*leaves)
    return torch.autograd.grad((output * problems.directions(*output.shape).to(output.dtype)).sum(), leaves)


# torch.func


def test_vmap_over_images(backend):
    loss = torch.func.vmap(lambda rows, label: loss_of(rows, label, backend))(IMAGES, LABELS)
    numerics.assert_same(loss, loss_of(IMAGES, LABELS, backend, reduction="none"))
    numerics.assert_same(
        torch.func.vmap(lambda rows: moved_of(rows, backend))(IMAGES), moved_of(IMAGES, backend)
    )
    seeded = torch.func.vmap(lambda rows, seeds, mass: moved_of(rows, backend, seeds=seeds, weight=mass))
    expected = moved_of(IMAGES, backend, seeds=SEEDS, weight=MASSES)
    numerics.assert_same(seeded(IMAGES, SEEDS, MASSES), expected)


def test_vmap_over_other_dimensions_and_shared_arguments(backend):
    crosswise = torch.func.vmap(lambda rows: loss_of(rows, LABELS[0], backend), in_dims=1)(
        IMAGES.movedim(0, 1)
    )
    expected = torch.stack([loss_of(rows, LABELS[0], backend) for rows in IMAGES])
    numerics.assert_same(crosswise, expected)
    shared = torch.func.vmap(lambda seeds: moved_of(IMAGES[0], backend, seeds=seeds))(SEEDS)
    numerics.assert_same(shared, torch.stack([moved_of(IMAGES[0], backend, seeds=seeds) for seeds in SEEDS]))
    labels = torch.func.vmap(lambda label: loss_of(IMAGES[0], label, backend))(LABELS)
    numerics.assert_same(labels, torch.stack([loss_of(IMAGES[0], label, backend) for label in LABELS]))


def test_vmap_over_kappa_and_eta(backend):
    kappas = torch.tensor([2.0, 9.0, 30.0], dtype=problems.widest())
    moved = torch.func.vmap(lambda kappa: moved_of(IMAGES[0], backend, kappa=kappa))(kappas)
    numerics.assert_same(moved, torch.stack([moved_of(IMAGES[0], backend, kappa=kappa) for kappa in kappas]))
    etas = torch.tensor([0.1, 0.5, 1.0], dtype=problems.widest())
    moved = torch.func.vmap(lambda eta: moved_of(IMAGES[0], backend, eta=eta))(etas)
    numerics.assert_same(moved, torch.stack([moved_of(IMAGES[0], backend, eta=eta) for eta in etas]))


def test_vmap_of_batches_and_of_vmap(backend):
    twice = torch.stack([IMAGES, IMAGES.flip(0)])
    labels = torch.stack([LABELS, LABELS.flip(0)])
    inner = torch.func.vmap(lambda rows, label: loss_of(rows, label, backend, reduction="none"))(
        twice, labels
    )
    each = loss_of(IMAGES, LABELS, backend, reduction="none")
    numerics.assert_same(inner, torch.stack([each, each.flip(0)]))
    nested = torch.func.vmap(torch.func.vmap(lambda rows, label: loss_of(rows, label, backend)))(
        twice, labels
    )
    numerics.assert_same(nested, inner)


def test_vmap_of_components(backend):
    threshold = problems.clear_margin(IMAGES, 0.9)
    label = torch.func.vmap(
        lambda rows: rpe_ops.connected_components(rows, threshold=threshold, backend=backend)
    )(IMAGES)
    assert torch.equal(label, rpe_ops.connected_components(IMAGES, threshold=threshold, backend=backend))


def test_grad_and_vmap_of_grad(backend):
    def loss(rows: Tensor, label: Tensor) -> Tensor:
        return loss_of(rows, label, backend) + moved_of(rows, backend).square()[:, 0].sum()

    expected = []
    for rows, label in zip(IMAGES, LABELS, strict=True):
        leaf = rows.clone().requires_grad_()
        expected.append(torch.autograd.grad(loss(leaf, label), leaf)[0])
    numerics.assert_same(torch.func.grad(loss)(IMAGES[0], LABELS[0]), expected[0])
    per_image = torch.func.vmap(torch.func.grad(loss))(IMAGES, LABELS)
    numerics.assert_same(per_image, torch.stack(expected))


@pytest.mark.parametrize("transform", [torch.func.jacrev, torch.autograd.functional.jacobian])
def test_jacobians(backend, transform):
    rows = IMAGES[0, :5, :3].contiguous()

    def moved(x: Tensor) -> Tensor:
        return moved_of(x, backend)

    expected = torch.zeros(5, 3, 5, 3, dtype=problems.widest())
    for row in range(5):
        for column in range(3):
            leaf = rows.clone().requires_grad_()
            (expected[row, column],) = torch.autograd.grad(moved(leaf)[row, column], leaf)
    jacobian = transform(moved)(rows) if transform is torch.func.jacrev else transform(moved, rows)
    numerics.assert_same(jacobian, expected)


# torch.compile


def objective(rows: Tensor, label: Tensor, backend: str) -> Tensor:
    moved = rpe_ops.mean_shift(rows, kappa=9.0, num_steps=2, backend=backend)
    loss = rpe_ops.pairwise_loss(rows, label, backend=backend, ignore_index=3)
    return loss + rpe_ops.pairwise_loss(moved, label, normalize=False, backend=backend)


@pytest.fixture
def fresh_dynamo():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def test_compiled_whole(backend, fresh_dynamo):
    compiled = torch.compile(objective, fullgraph=True, backend="aot_eager")
    for num_points in (12, 9):  # the second size may compile with a symbolic one
        rows, label = IMAGES[0, :num_points].float(), LABELS[0, :num_points]
        (expected,) = grad_of(lambda x, label=label: objective(x, label, backend), rows)
        (grad,) = grad_of(lambda x, label=label: compiled(x, label, backend), rows)
        numerics.assert_same(compiled(rows, label, backend), objective(rows, label, backend))
        numerics.assert_same(grad, expected)


def test_compiled_with_every_argument(backend, fresh_dynamo):
    batch = problems.ragged((5, 0, 7))

    def everything(rows, seeds, mass, kappa, offsets, seed_offsets):
        options = {"offsets": offsets, "seed_offsets": seed_offsets, "backend": backend}
        steps = rpe_ops.mean_shift(
            rows, seeds=seeds, weight=mass, kappa=kappa, num_steps=2, return_trajectory=True, **options
        )
        label = rpe_ops.connected_components(rows, threshold=0.9, offsets=offsets, backend=backend)
        loss = rpe_ops.pairwise_loss(
            rows, label, weight=mass.detach(), offsets=offsets, reduction="none", backend=backend
        )
        return torch.cat([steps[0].flatten(), steps[1].flatten(), loss])

    arguments = (problems.clustered(12, 4), problems.directions(4, 4, seed=3), problems.masses(12))
    arguments += (torch.tensor(9.0, dtype=problems.widest()), batch.offsets, torch.tensor([0, 1, 2, 4]))
    compiled = torch.compile(everything, fullgraph=True, backend="aot_eager")
    numerics.assert_same(compiled(*arguments), everything(*arguments))
    expected = grad_of(lambda *leaves: everything(*leaves, *arguments[4:]), *arguments[:4])
    grads = grad_of(lambda *leaves: compiled(*leaves, *arguments[4:]), *arguments[:4])
    for grad, right in zip(grads, expected, strict=True):
        numerics.assert_same(grad, right)


def test_compiled_modules(backend, fresh_dynamo):
    features = problems.directions(2, 4, 3, 5).float()
    label = torch.arange(30).reshape(2, 3, 5) % 4
    shift = rpe_ops.nn.MeanShift(9.0, num_steps=2, channel_dim=1, backend=backend)
    criterion = rpe_ops.nn.PairwiseLoss(channel_dim=1, backend=backend)

    def model(x: Tensor) -> Tensor:
        return criterion(shift(x), label)

    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    numerics.assert_same(compiled(features), model(features))


def test_compiled_by_inductor(fresh_dynamo):
    if not any(shutil.which(name) for name in ("g++", "clang++", "c++")):
        pytest.skip("inductor needs a C++ compiler")
    compiled = torch.compile(objective, fullgraph=True)
    rows, label = IMAGES[0].float(), LABELS[0]
    (expected,) = grad_of(lambda x: objective(x, label, "torch"), rows)
    (grad,) = grad_of(lambda x: compiled(x, label, "torch"), rows)
    numerics.assert_same(grad, expected)


# Ops


def test_opcheck(backend):
    ops = torch.ops.rpe_ops
    points = torch.nn.functional.normalize(IMAGES[0])
    offsets = torch.tensor([0, 5, 5, 12])
    order = torch.argsort(LABELS[0], stable=True)
    order = order[torch.argsort((order >= 5).long(), stable=True)]
    instance, weight = LABELS[0][order].diff(prepend=torch.tensor([-1])).ne(0).cumsum(0), MASSES[0]
    tests = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")

    def check(op, *arguments) -> None:
        torch.library.opcheck(op, arguments, test_utils=tests)

    half = False
    for with_gradient in (True, False):
        check(
            ops.pairwise_loss_forward,
            points,
            order,
            instance,
            weight,
            offsets,
            0.5,
            with_gradient,
            backend,
            half,
        )
    check(ops.pairwise_loss_curvature, points, order, instance, weight, offsets, 0.5, points.flip(0))
    check(ops.pairwise_loss_slope, points, points.flip(0), offsets)
    kappa, eta = torch.tensor(9.0, dtype=problems.widest()), torch.tensor(0.8, dtype=problems.widest())
    seeds, seed_offsets = torch.nn.functional.normalize(SEEDS[0]), torch.tensor([0, 2, 3, 5])
    blurring = (points, None, None, kappa, eta, offsets, None)
    seeded = (seeds, points, MASSES[0], kappa, eta, seed_offsets, offsets)
    for arguments, with_weight in ((blurring, False), (seeded, True), (seeded, False)):
        check(ops.mean_shift_forward, *arguments, backend, half, 0.0)
        moved, mean, log_density = ops.mean_shift_forward(*arguments, backend, half, 0.0)
        saved = (torch.ones_like(moved), *arguments, mean, log_density)
        check(ops.mean_shift_backward, *saved, with_weight, backend, half, 0.0)
        direction = (None if value is None else torch.ones_like(value) for value in arguments[:5])
        d_points, d_sources, d_weight, d_kappa, d_eta = direction
        along = (d_points, d_sources, d_weight if with_weight else None, d_kappa, d_eta)
        check(ops.mean_shift_tangent, *arguments, *along)
        check(ops.mean_shift_curvature, saved[0], *arguments, *along)
    check(ops.connected_components, points, offsets, 0.9, backend)


# Autocast and checkpointing


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_leaves_the_operators_in_float32(backend, dtype):
    rows, label = IMAGES[0].float(), LABELS[0]
    (expected,) = grad_of(lambda x: objective(x, label, backend), rows)
    leaf = rows.clone().requires_grad_()
    with torch.autocast(torch.get_default_device().type, dtype=dtype):
        loss = objective(leaf, label, backend)
        labels = rpe_ops.connected_components(rows, threshold=0.9, backend=backend)
    assert loss.dtype == torch.float32
    numerics.assert_same(loss, objective(rows, label, backend))
    (grad,) = torch.autograd.grad(loss * problems.directions(1).float()[0], leaf)
    numerics.assert_same(grad, expected, scale=float(expected.abs().max()))
    assert torch.equal(labels, rpe_ops.connected_components(rows, threshold=0.9, backend=backend))


def test_half_features_from_an_autocast_network(backend):
    network = torch.nn.Linear(4, 6)
    with torch.autocast(torch.get_default_device().type, dtype=torch.bfloat16):
        features = network(IMAGES.float())
        loss = rpe_ops.pairwise_loss(features, LABELS, backend=backend)
        moved = rpe_ops.mean_shift(features, kappa=9.0, backend=backend)
    assert features.dtype == torch.bfloat16
    assert loss.dtype == torch.float32 and moved.dtype == torch.bfloat16
    (loss + moved.float().sum()).backward()
    assert bool(network.weight.grad.isfinite().all()) and float(network.weight.grad.abs().max()) > 0.0


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing(backend, reentrant):
    plain, leaf = IMAGES[0].clone().requires_grad_(), IMAGES[0].clone().requires_grad_()
    objective(plain, LABELS[0], backend).backward()
    checkpoint(objective, leaf, LABELS[0], backend, use_reentrant=reentrant).backward()
    assert torch.equal(leaf.grad, plain.grad)


def test_no_grad_and_inference_mode(backend):
    expected = objective(IMAGES[0], LABELS[0], backend)
    leaf = IMAGES[0].clone().requires_grad_()
    with torch.no_grad():
        assert not objective(leaf, LABELS[0], backend).requires_grad
    with torch.inference_mode():
        numerics.assert_same(objective(leaf, LABELS[0], backend), expected)


def test_backward_twice_through_one_graph(backend):
    leaf = IMAGES[0].clone().requires_grad_()
    loss = objective(leaf, LABELS[0], backend)
    first = torch.autograd.grad(loss, leaf, retain_graph=True)[0]
    assert torch.equal(torch.autograd.grad(loss, leaf)[0], first)


def test_fake_inputs_have_the_right_shapes(backend):
    if backend == "cpu":
        pytest.skip("the C++ backend refuses tensors that are not on the CPU")
    with torch._subclasses.FakeTensorMode():
        rows = torch.empty(3, 12, 4, dtype=torch.float16)
        label = torch.empty(3, 12, dtype=torch.int64)
        assert rpe_ops.mean_shift(rows, kappa=9.0, backend=backend).shape == (3, 12, 4)
        assert rpe_ops.pairwise_loss(rows, label, reduction="none", backend=backend).dtype == torch.float32
        assert rpe_ops.connected_components(rows, threshold=0.9, backend=backend).shape == (3, 12)


OVER_ROWS = {
    "mean_shift": lambda rows, backend: moved_of(rows, backend),
    "seeds": lambda rows, backend: moved_of(rows, backend, seeds=rows[:3].flip(1)),
    "pairwise_loss": lambda rows, backend: loss_of(
        rows, torch.arange(rows.shape[0], device=rows.device) % 3, backend
    ),
    "connected_components": lambda rows, backend: rpe_ops.connected_components(
        rows, threshold=0.9, backend=backend
    ),
    "select_seeds": lambda rows, backend: rpe_ops.select_seeds(rows, 4, backend=backend),
    "assign_to_modes": lambda rows, backend: rpe_ops.assign_to_modes(
        rows, rows[:4], threshold=0.9, backend=backend
    ),
}


def test_tensors_on_the_meta_device_have_the_right_shapes():
    rows = torch.empty(12, 4, device="meta", requires_grad=True)
    shapes = {name: function(rows, "auto").shape for name, function in OVER_ROWS.items()}
    assert shapes["mean_shift"] == (12, 4) and shapes["seeds"] == (3, 4) and shapes["pairwise_loss"] == ()
    assert shapes["connected_components"] == shapes["assign_to_modes"] == (12,)
    assert shapes["select_seeds"] == (4,)
    (moved_of(rows, "auto").sum() + OVER_ROWS["pairwise_loss"](rows, "auto")).backward()
    assert rows.grad.shape == (12, 4)


@pytest.mark.parametrize("operator", OVER_ROWS)
def test_one_compiled_function_serves_every_shape(backend, operator):
    """D too, which kernels are chosen by: a trace with symbols for all sizes must make a number of it."""

    def function(rows: Tensor) -> Tensor:
        return OVER_ROWS[operator](rows, backend)

    torch._dynamo.reset()
    compiled = torch.compile(function, fullgraph=True, dynamic=True, backend="eager")
    for num_points, dim in ((12, 4), (17, 4), (12, 6)):
        rows = problems.clustered(num_points, dim).to(problems.widest())
        numerics.assert_same(compiled(rows).to(rows.dtype), function(rows).to(rows.dtype))
    torch._dynamo.reset()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_seeds_of_another_dtype_under_autocast(backend, dtype):
    """A layer's output beside a parameter, which stays float32."""
    points, seeds = IMAGES.float(), SEEDS.float().requires_grad_()
    with torch.autocast(points.device.type, dtype=dtype):
        moved = moved_of(points.to(dtype), backend, seeds=seeds)
        label = rpe_ops.assign_to_modes(points.to(dtype), seeds, threshold=0.9, backend=backend)
    assert moved.dtype == dtype
    numerics.assert_values(moved, moved_of(points, "reference", seeds=seeds).double(), scale=4.0)
    assert torch.autograd.grad(moved.float().sum(), seeds)[0].dtype == torch.float32
    assert label.shape == points.shape[:-1]
    with pytest.raises(TypeError, match="seeds must have the dtype of embedding"):
        moved_of(points.to(dtype), backend, seeds=seeds)
