"""`rpe_ops.mean_shift` on every backend: value, gradient, algebraic facts. Edges: `test_mean_shift_edges.py`.

Literal loops check the N x N formula in `naive.py`, which in float64 is the truth for every backend and dtype.
"""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import naive
import numerics
import problems
import rpe_ops

Tensors = dict[str, Tensor]


def run(
    function: Callable[..., Tensor], tensors: Tensors, upstream: Tensor, **options
) -> tuple[Tensor, Tensors]:
    """Output of `function(embedding, ...)` and the gradients of sum(output * upstream) in all `tensors`."""
    leaves = {name: tensor.detach().clone().requires_grad_() for name, tensor in tensors.items()}
    arguments = dict(leaves)
    moved = function(arguments.pop("embedding"), **arguments, **options)
    grads = torch.autograd.grad((moved * upstream.to(moved.dtype)).sum(), list(leaves.values()))
    return moved.detach(), dict(zip(leaves, grads, strict=True))


def check(tensors: Tensors, backend: str, **options) -> None:
    """Value and all gradients of one image against float64, within the error of eager PyTorch."""
    embedding = tensors["embedding"]
    upstream = problems.directions(*tensors.get("seeds", embedding).shape).to(embedding.dtype)
    wide = {name: tensor.double() for name, tensor in tensors.items()}
    exact, exact_grads = run(naive.mean_shift, wide, upstream.double(), **options)
    half_products = backend in numerics.HALF_PRODUCTS
    eager, eager_grads = run(naive.mean_shift, tensors, upstream, half_products=half_products, **options)
    result, grads = run(rpe_ops.mean_shift, tensors, upstream, backend=backend, **options)
    assert result.dtype == embedding.dtype
    numerics.assert_values(result, exact, eager)
    # gradients are sums of terms as large as the upstream gradient, which cancel where points have converged
    sizes = dict.fromkeys(tensors, float(upstream.abs().max()))
    sizes["eta"] = 0.3 * float(upstream.norm())
    sizes["kappa"] = sizes["eta"] / float(options.get("kappa", tensors.get("kappa", 1.0))) ** 0.5
    for name, exact_grad in exact_grads.items():
        assert grads[name].dtype == tensors[name].dtype
        numerics.assert_gradients(grads[name], exact_grad, eager_grads[name], scale=sizes[name])


def inputs(num_points: int, dim: int, *, num_seeds: int = 0, masses: bool = False, seed: int = 0) -> Tensors:
    """Points, and optionally seeds near and far from them, and masses."""
    tensors = {"embedding": problems.clustered(num_points, dim, seed=seed)}
    if num_seeds:
        tensors["seeds"] = problems.directions(num_seeds, dim, seed=seed + 1)
    if masses:
        tensors["weight"] = problems.masses(num_points, seed=seed)
    return tensors


def scalars(kappa: float, eta: float, dtype: torch.dtype | None = None) -> Tensors:
    dtype = dtype or problems.widest()
    return {"kappa": torch.tensor(kappa, dtype=dtype), "eta": torch.tensor(eta, dtype=dtype)}


KINDS = {"blurring": {}, "seeds": {"num_seeds": 7}, "masses": {"masses": True}}
KINDS["seeds and masses"] = {"num_seeds": 7, "masses": True}
kinds = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())


# Value


@kinds
@pytest.mark.parametrize("kappa, eta", [(5.0, 1.0), (25.0, 0.4), (100.0, 1.5), (1e-3, 1.0)])
def test_value_is_the_published_step(backend, kind, kappa, eta):
    tensors = inputs(9, 3, **kind)
    points = naive.unit_rows(tensors["embedding"]).tolist()
    seeds = naive.unit_rows(tensors["seeds"]).tolist() if "seeds" in tensors else points
    mass = tensors.get("weight", torch.ones(9)).tolist()
    expected = torch.tensor(
        naive.looped_mean_shift_step(seeds, points, mass, kappa, eta), dtype=torch.float64
    )
    numerics.assert_values(naive.mean_shift(**tensors, kappa=kappa, eta=eta), expected)
    numerics.assert_values(rpe_ops.mean_shift(**tensors, kappa=kappa, eta=eta, backend=backend), expected)


@kinds
@pytest.mark.parametrize("dtype", problems.DTYPES)
@pytest.mark.parametrize("kappa", [1e-3, 1.0, 20.0, 100.0, 1e4])
def test_dtypes_and_kappas(backend, kind, dtype, kappa):
    tensors = {name: tensor.to(dtype) for name, tensor in inputs(40, 6, **kind).items()}
    check(tensors, backend, kappa=kappa)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0, 1.7])
@pytest.mark.parametrize("num_steps", [1, 2, 5])
def test_steps_of_every_size(backend, eta, num_steps):
    tensors = inputs(40, 6) | scalars(20.0, eta, torch.float32)
    tensors["embedding"] = tensors["embedding"].float()
    check(tensors, backend, num_steps=num_steps)


def test_one_step_is_softmax_attention(backend):
    points = naive.unit_rows(problems.clustered(50, 8))
    attended = F.scaled_dot_product_attention(points, points, points, scale=30.0)
    numerics.assert_same(rpe_ops.mean_shift(points, kappa=30.0, backend=backend), F.normalize(attended))


# Gradient


@pytest.mark.float64
@kinds
def test_gradcheck(backend, kind):
    tensors = inputs(6, 3, **kind) | scalars(4.0, 0.8)
    leaves = [tensor.requires_grad_() for tensor in tensors.values()]

    def moved(*values: Tensor) -> Tensor:
        return rpe_ops.mean_shift(**dict(zip(tensors, values, strict=True)), num_steps=2, backend=backend)

    assert torch.autograd.gradcheck(moved, leaves)


@kinds
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_gradients_of_all_inputs(backend, kind, dtype):
    tensors = inputs(33, 5, **kind) | scalars(15.0, 0.7)
    check({name: tensor.to(dtype) for name, tensor in tensors.items()}, backend, num_steps=3)


def test_gradient_of_bandwidth(backend):
    embedding, upstream = problems.clustered(20, 4), problems.directions(20, 4)
    kappa = {"embedding": embedding, "kappa": torch.tensor(16.0, dtype=problems.widest())}
    bandwidth = {"embedding": embedding, "bandwidth": torch.tensor(0.25, dtype=problems.widest())}
    moved, grads = run(rpe_ops.mean_shift, kappa, upstream, backend=backend)
    same, same_grads = run(rpe_ops.mean_shift, bandwidth, upstream, backend=backend)
    numerics.assert_same(same, moved)
    numerics.assert_same(same_grads["embedding"], grads["embedding"])
    numerics.assert_same(same_grads["bandwidth"], grads["kappa"] * -2.0 / 0.25**3)


def test_gradient_of_a_mass_that_is_zero(backend):
    tensors = inputs(20, 4, num_seeds=6, masses=True)
    tensors["weight"][[2, 11]] = 0.0
    check(tensors, backend, kappa=10.0)


def test_only_what_requires_grad_gets_a_gradient(backend):
    tensors = inputs(12, 3, num_seeds=5, masses=True) | scalars(10.0, 0.9)
    upstream = problems.directions(5, 3)
    _, expected = run(rpe_ops.mean_shift, tensors, upstream, num_steps=2, backend=backend)
    for name in tensors:
        leaf = tensors[name].clone().requires_grad_()
        moved = rpe_ops.mean_shift(**(tensors | {name: leaf}), num_steps=2, backend=backend)
        (grad,) = torch.autograd.grad((moved * upstream).sum(), leaf)
        numerics.assert_same(grad, expected[name])


def test_gradient_through_a_trajectory(backend):
    embedding, upstream = problems.clustered(15, 4), problems.directions(3, 15, 4)

    def summed(function: Callable[[Tensor], list[Tensor]]) -> Tensor:
        leaf = embedding.clone().requires_grad_()
        total = sum((step * g).sum() for step, g in zip(function(leaf), upstream, strict=True))
        return torch.autograd.grad(total, leaf)[0]

    expected = summed(lambda rows: [naive.mean_shift(rows, kappa=9.0, num_steps=n) for n in (1, 2, 3)])
    options = {"kappa": 9.0, "num_steps": 3, "return_trajectory": True, "backend": backend}
    numerics.assert_gradients(summed(lambda rows: rpe_ops.mean_shift(rows, **options)), expected)


# Algebraic facts


@kinds
def test_permuting_points_permutes_the_result(backend, kind):
    tensors, order = inputs(37, 4, **kind), problems.permutation(37, seed=1)
    permuted = {name: tensor if name == "seeds" else tensor[order] for name, tensor in tensors.items()}
    upstream = problems.directions(*tensors.get("seeds", tensors["embedding"]).shape)
    follows = slice(None) if "seeds" in tensors else order
    moved, grads = run(rpe_ops.mean_shift, tensors, upstream, kappa=20.0, num_steps=2, backend=backend)
    other, other_grads = run(
        rpe_ops.mean_shift, permuted, upstream[follows], kappa=20.0, num_steps=2, backend=backend
    )
    numerics.assert_same(other, moved[follows])
    for name, grad in other_grads.items():
        numerics.assert_same(grad, grads[name] if name == "seeds" else grads[name][order])


@kinds
def test_rotating_points_rotates_the_result(backend, kind):
    tensors, turn = inputs(37, 5, **kind), problems.rotation(5)
    turned = {name: tensor if name == "weight" else tensor @ turn for name, tensor in tensors.items()}
    upstream = problems.directions(*tensors.get("seeds", tensors["embedding"]).shape)
    moved, grads = run(rpe_ops.mean_shift, tensors, upstream, kappa=20.0, num_steps=2, backend=backend)
    other, other_grads = run(
        rpe_ops.mean_shift, turned, upstream @ turn, kappa=20.0, num_steps=2, backend=backend
    )
    numerics.assert_same(other, moved @ turn)
    for name, grad in other_grads.items():
        numerics.assert_same(grad, grads[name] if name == "weight" else grads[name] @ turn)


def test_eta_zero_normalises_only(backend):
    tensors = inputs(30, 4, num_seeds=8)
    for moving, options in (("embedding", {}), ("seeds", {"seeds": tensors["seeds"]})):
        expected = F.normalize(tensors[moving])
        options |= {"kappa": 20.0, "backend": backend}
        numerics.assert_same(
            rpe_ops.mean_shift(tensors["embedding"], eta=0.0, num_steps=3, **options), expected
        )
        numerics.assert_same(rpe_ops.mean_shift(tensors["embedding"], num_steps=0, **options), expected)


@pytest.mark.parametrize("normalize", [True, False])
def test_no_step_leaves_no_infinity(normalize):
    rows = torch.tensor([[math.inf, 0.5], [0.6, 0.8]])
    moved = rpe_ops.mean_shift(rows, kappa=2.0, num_steps=0, normalize=normalize)
    assert bool(moved[0].isnan().all())
    numerics.assert_same(moved[1], rows[1])


def test_a_trajectory_is_the_steps_one_by_one(backend):
    rows = problems.clustered(30, 4)
    options = {"kappa": 20.0, "eta": 0.8, "backend": backend}
    trajectory = rpe_ops.mean_shift(rows, num_steps=4, return_trajectory=True, **options)
    assert len(trajectory) == 4
    moved = rows
    for count, step in enumerate(trajectory, start=1):
        moved = rpe_ops.mean_shift(moved, **options)
        numerics.assert_same(step, moved)
        numerics.assert_same(step, rpe_ops.mean_shift(rows, num_steps=count, **options))
    assert rpe_ops.mean_shift(rows, num_steps=0, return_trajectory=True, **options) == []


def test_all_points_as_seeds_is_one_blurring_step(backend):
    rows, upstream = problems.clustered(30, 4), problems.directions(30, 4)
    moved, grads = run(rpe_ops.mean_shift, {"embedding": rows}, upstream, kappa=20.0, backend=backend)
    both = {"embedding": rows, "seeds": rows}
    seeded, seeded_grads = run(rpe_ops.mean_shift, both, upstream, kappa=20.0, backend=backend)
    numerics.assert_same(seeded, moved)
    numerics.assert_same(seeded_grads["embedding"] + seeded_grads["seeds"], grads["embedding"])


@pytest.mark.parametrize("num_seeds", [0, 6])
def test_mass_two_is_the_same_as_two_points(backend, num_seeds):
    tensors = inputs(20, 4, num_seeds=num_seeds, masses=True)
    heavier, twice = dict(tensors), dict(tensors)
    heavier["weight"] = tensors["weight"].clone().index_fill(0, torch.tensor([3]), 2.0)
    twice["weight"] = torch.cat([heavier["weight"].index_fill(0, torch.tensor([3]), 1.0), torch.ones(1)])
    twice["embedding"] = torch.cat([tensors["embedding"], tensors["embedding"][3:4]])
    moved = rpe_ops.mean_shift(**heavier, kappa=9.0, num_steps=3, backend=backend)
    same = rpe_ops.mean_shift(**twice, kappa=9.0, num_steps=3, backend=backend)
    numerics.assert_same(same[: moved.shape[0]], moved)


@kinds
def test_scaling_masses_or_points_changes_nothing(backend, kind):
    tensors = inputs(20, 4, **kind)
    scaled = {name: 3.5 * tensor for name, tensor in tensors.items()}
    moved = rpe_ops.mean_shift(**tensors, kappa=9.0, num_steps=2, backend=backend)
    numerics.assert_same(rpe_ops.mean_shift(**scaled, kappa=9.0, num_steps=2, backend=backend), moved)


@pytest.mark.parametrize("num_seeds", [0, 6])
def test_mass_zero_is_the_same_as_no_point(backend, num_seeds):
    tensors = inputs(20, 4, num_seeds=num_seeds, masses=True)
    kept = torch.arange(20) % 3 != 0
    without = {name: tensor if name == "seeds" else tensor[kept] for name, tensor in tensors.items()}
    tensors["weight"] = torch.where(kept, tensors["weight"], 0.0)
    moved = rpe_ops.mean_shift(**tensors, kappa=9.0, num_steps=2, backend=backend)
    expected = rpe_ops.mean_shift(**without, kappa=9.0, num_steps=2, backend=backend)
    numerics.assert_same(moved if num_seeds else moved[kept], expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("with_seeds", [False, True])
def test_ragged_images_are_independent(backend, dtype, with_seeds):
    batch, seeds = problems.ragged(), problems.ragged((3, 0, 2, 4, 0, 9, 0), seed=5)
    tensors = {"embedding": batch.embedding.to(dtype), "weight": problems.masses(56).to(dtype)}
    options = {"kappa": 20.0, "num_steps": 2, "backend": backend}
    shapes, images = {"offsets": batch.offsets}, {name: batch.images() for name in tensors}
    if with_seeds:
        tensors["seeds"], shapes["seed_offsets"] = seeds.embedding.to(dtype), seeds.offsets
        images["seeds"] = seeds.images()
    moving = images["seeds" if with_seeds else "embedding"]
    upstream = problems.directions(moving[-1].stop, 4).to(dtype)
    moved, grads = run(rpe_ops.mean_shift, tensors, upstream, **shapes, **options)
    for image, rows in enumerate(moving):
        alone = {name: tensor[images[name][image]] for name, tensor in tensors.items()}
        expected, expected_grads = run(rpe_ops.mean_shift, alone, upstream[rows], **options)
        numerics.assert_same(moved[rows], expected)
        for name, grad in expected_grads.items():
            numerics.assert_same(grads[name][images[name][image]], grad, scale=0.1)


def test_batch_of_images_in_any_order(backend):
    rows = problems.clustered(60, 4).reshape(3, 20, 4)
    seeds = problems.directions(3, 5, 4)
    for extra in ({}, {"seeds": seeds}):
        options = {"kappa": 20.0, "num_steps": 2, "backend": backend}
        moved = rpe_ops.mean_shift(rows, **extra, **options)
        for image in range(3):
            one = {name: value[image] for name, value in extra.items()}
            numerics.assert_same(moved[image], rpe_ops.mean_shift(rows[image], **one, **options))
        turned = {name: value.flip(0) for name, value in extra.items()}
        numerics.assert_same(rpe_ops.mean_shift(rows.flip(0), **turned, **options), moved.flip(0))


def test_tight_clusters_contract_by_the_square_of_their_spread(backend):
    angle = torch.tensor([-0.02, -0.01, 0.0, 0.01, 0.02], dtype=problems.widest())
    rows = torch.stack([angle.cos(), angle.sin()], 1)
    kappa, spread = 400.0, float(angle.square().mean())
    moved = rpe_ops.mean_shift(rows, kappa=kappa, backend=backend)
    ratio = float(torch.atan2(moved[:, 1], moved[:, 0])[-1] / angle[-1])
    predicted = spread / (spread + 1.0 / kappa)
    assert abs(ratio / predicted - 1.0) < 0.1
