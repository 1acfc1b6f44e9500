"""`rpe_ops.mean_shift` at its edges, and its determinism; the ordinary case: `test_mean_shift.py`."""

import math

import pytest
import torch
from test_mean_shift import check, inputs, kinds, run, scalars
from torch import Tensor
from torch.nn import functional as F

import numerics
import problems
import rpe_ops


def lengths(rows: Tensor) -> Tensor:
    return rows.double().norm(dim=-1)


def assert_unit(rows: Tensor) -> None:
    """Finite rows of length one; a length shares the floor of the rows' dtype."""
    assert bool(rows.isfinite().all())
    numerics.assert_values(lengths(rows).to(rows.dtype), torch.ones(rows.shape[:-1]).double())


# Sizes


@pytest.mark.parametrize("num_points", problems.SIZES)
def test_every_size(backend, num_points, poisoned_memory):
    check(
        {"embedding": problems.clustered(num_points, 5).float()} | scalars(20.0, 0.8, torch.float32), backend
    )


@pytest.mark.parametrize("num_seeds", [1, 7, 17, 33, 65])
@pytest.mark.parametrize("num_points", [1, 16, 31, 65, 130])
def test_every_size_of_seeds(backend, num_seeds, num_points, poisoned_memory):
    tensors = inputs(num_points, 4, num_seeds=num_seeds, masses=True)
    check({name: tensor.float() for name, tensor in tensors.items()}, backend, kappa=5.0)


@pytest.mark.parametrize("dim", problems.DIMS)
@pytest.mark.parametrize("num_seeds", [0, 35])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_every_dim(backend, dim, num_seeds, dtype, poisoned_memory):
    tensors = inputs(67, dim, num_seeds=num_seeds)
    check({name: tensor.to(dtype) for name, tensor in tensors.items()}, backend, kappa=10.0)


@pytest.mark.parametrize("shape", [(0, 3), (0, 5, 3), (2, 0, 3), (0, 0, 3)])
@pytest.mark.parametrize("num_steps", [0, 2])
def test_no_points(backend, shape, num_steps):
    tensors = {"embedding": torch.zeros(shape)} | scalars(10.0, 1.0, torch.float32)
    moved, grads = run(
        rpe_ops.mean_shift, tensors | {"weight": torch.zeros(shape[:-1])}, torch.zeros(shape), backend=backend
    )
    assert moved.shape == shape and grads["embedding"].shape == shape
    assert grads["kappa"] == 0.0 and grads["eta"] == 0.0


def test_no_seeds(backend):
    tensors = {"embedding": problems.clustered(5, 3), "seeds": torch.zeros(0, 3, dtype=problems.widest())}
    moved, grads = run(rpe_ops.mean_shift, tensors, torch.zeros(0, 3), kappa=10.0, backend=backend)
    assert moved.shape == (0, 3)
    assert torch.equal(grads["embedding"], torch.zeros(5, 3, dtype=problems.widest()))


def test_seeds_without_points_stay(backend):
    tensors = {"embedding": torch.zeros(0, 3), "seeds": problems.directions(4, 3).float()}
    moved, grads = run(rpe_ops.mean_shift, tensors, torch.ones(4, 3), kappa=10.0, eta=0.7, backend=backend)
    numerics.assert_values(moved, F.normalize(tensors["seeds"].double()))
    leaf = tensors["seeds"].double().requires_grad_()
    F.normalize(leaf).sum().backward()
    numerics.assert_gradients(grads["seeds"], leaf.grad)


def test_seeds_of_an_image_without_points_stay(backend):
    seeds = problems.directions(6, 3)
    options = {"offsets": torch.tensor([0, 5, 5, 9]), "seed_offsets": torch.tensor([0, 2, 4, 6])}
    moved = rpe_ops.mean_shift(problems.clustered(9, 3), seeds=seeds, kappa=10.0, backend=backend, **options)
    numerics.assert_same(moved[2:4], F.normalize(seeds[2:4]))
    assert float((moved - F.normalize(seeds)).abs().amax(1)[[0, 1, 4, 5]].min()) > 1e-3


# Kappa


@kinds
@pytest.mark.parametrize(
    "dtype, kappa",
    [
        (torch.float16, 1e4),
        (torch.bfloat16, 1e4),
        (torch.float16, 1e5),
        (torch.float16, 1e6),
        (torch.float16, 1e38),
        (torch.bfloat16, 1e38),
        (torch.float32, 1e-30),
        (torch.float32, 1e6),
        (torch.float32, 1e30),
        (torch.float32, 1e38),
        (torch.float32, 3.4e38),
        (torch.float64, 1e12),
        (torch.float64, 1e300),
    ],
)
def test_finite_for_every_kappa(backend, kind, dtype, kappa):
    for eta in (1.0, 0.5):
        tensors = inputs(20, 3, **kind) | scalars(kappa, eta)
        tensors = {name: value if name == "kappa" else value.to(dtype) for name, value in tensors.items()}
        upstream = torch.ones_like(tensors.get("seeds", tensors["embedding"]))
        moved, _ = run(rpe_ops.mean_shift, tensors, upstream, num_steps=3, backend=backend)
        assert_unit(moved)


@pytest.mark.parametrize("kappa, spread", [(1e3, 0.1), (1e4, 3e-3)])
@pytest.mark.parametrize("masses", [False, True])
def test_rounded_lengths_of_unit_rows_decide_nothing(backend, kappa, spread, masses):
    """A row's length as a float16 number errs by 2e-4, which such a kappa would make a factor between neighbours."""
    if backend not in numerics.HALF_PRODUCTS:
        pytest.skip("takes float16 rows as they are")
    centres = F.normalize(problems.directions(4, 3).float())[torch.arange(60) % 4]
    rows = F.normalize(centres + spread * problems.directions(60, 3, seed=1).float()).half()
    tensors = {"embedding": rows} | ({"weight": torch.ones(60).half()} if masses else {})
    wide = {name: tensor.double() for name, tensor in tensors.items()} | {
        "embedding": F.normalize(rows.double())
    }
    upstream = F.normalize(problems.directions(60, 3, seed=2))
    options = {"kappa": kappa, "eta": 0.9, "normalize": False}
    exact, exact_grads = run(rpe_ops.mean_shift, wide, upstream.double(), backend="reference", **options)
    moved, grads = run(rpe_ops.mean_shift, tensors, upstream, backend=backend, **options)
    numerics.assert_values(moved, exact)
    # as a whole: slopes are as steep as kappa, and what is left of small ones is rounding
    numerics.assert_values(grads["embedding"], exact_grads["embedding"])


@pytest.mark.parametrize("dtype, kappa", [(torch.float32, 1e38), (torch.float64, 1e300)])
def test_at_infinite_kappa_the_nearest_point_wins(backend, dtype, kappa):
    tensors = {name: value.to(dtype) for name, value in inputs(20, 5, num_seeds=9).items()}
    points = F.normalize(tensors["embedding"])
    blurred = rpe_ops.mean_shift(tensors["embedding"], kappa=kappa, num_steps=3, backend=backend)
    numerics.assert_values(blurred, F.normalize(tensors["embedding"].double()))
    nearest = (F.normalize(tensors["seeds"]) @ points.T).argmax(1)
    moved = rpe_ops.mean_shift(**tensors, kappa=kappa, backend=backend)
    numerics.assert_values(moved, F.normalize(tensors["embedding"].double())[nearest])


@pytest.mark.parametrize("dtype", problems.DTYPES)
@pytest.mark.parametrize("kappa", [100.0, 1e4, 1e30])
def test_seeds_opposite_to_all_points(backend, dtype, kappa):
    points = torch.tensor([[1.0, 0.0, 0.0], [0.98, 0.199, 0.0], [0.98, -0.199, 0.0]], dtype=dtype)
    tensors = {"embedding": points, "seeds": -points[:1] + torch.tensor([0.0, 0.01, 0.0], dtype=dtype)}
    moved, grads = run(rpe_ops.mean_shift, tensors, torch.ones(1, 3), kappa=kappa, backend=backend)
    assert_unit(moved)
    assert bool(grads["seeds"].isfinite().all()) and bool(grads["embedding"].isfinite().all())
    if kappa > 1e3:
        numerics.assert_values(moved[0], F.normalize(points.double())[1])


@pytest.mark.parametrize("kappa", [1e2, 1e4, 1e8, 1e30])
@pytest.mark.parametrize("copies", [1, 3, 70])
def test_equally_near_points_share_the_mass_however_far_they_are(backend, kappa, copies):
    tensors = {"embedding": torch.tensor([[0.0, 1.0]] * copies), "seeds": torch.tensor([[1.0, 0.0]])}
    moved = rpe_ops.mean_shift(**tensors, kappa=kappa, eta=0.5, backend=backend)
    numerics.assert_values(moved, F.normalize(torch.ones(1, 2).double()))


def test_a_point_that_cancels_with_its_mean_becomes_zero(backend):
    tensors = {"embedding": torch.tensor([[1.0, 0.0]]), "seeds": torch.tensor([[-1.0, 0.0], [0.0, 1.0]])}
    moved, grads = run(rpe_ops.mean_shift, tensors, torch.ones(2, 2), kappa=10.0, eta=0.5, backend=backend)
    assert torch.equal(moved[0], torch.zeros(2))
    assert torch.equal(grads["seeds"][0], torch.zeros(2))
    assert bool(grads["embedding"].isfinite().all()) and bool(grads["seeds"].isfinite().all())
    numerics.assert_values(lengths(moved)[1:].float(), torch.ones(1).double())


def test_kappa_beyond_float32_is_refused_or_exact(backend):
    rows = problems.clustered(10, 3).float()
    too_large = (
        {"kappa": 1e39},
        {"kappa": torch.tensor(1e39, dtype=torch.float64, device="cpu")},
        {"bandwidth": 1e-25},
    )
    for concentration in too_large:
        with pytest.raises(ValueError, match="mean_shift: (kappa|bandwidth) must .*float32"):
            rpe_ops.mean_shift(rows, backend=backend, **concentration)
        if problems.widest() is torch.float64:
            assert_unit(rpe_ops.mean_shift(rows.double(), backend=backend, **concentration))


# Values


def test_equal_points_stay_together(backend):
    rows = torch.tensor([[1.0, 2.0, 3.0]]).repeat(33, 1)
    moved, grads = run(
        rpe_ops.mean_shift, {"embedding": rows}, torch.ones(33, 3), kappa=50.0, backend=backend
    )
    numerics.assert_values(moved, F.normalize(rows.double()))
    assert bool(grads["embedding"].isfinite().all())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_zero_rows(backend, dtype):
    for kind in ({}, {"num_seeds": 6}):
        tensors = inputs(20, 4, **kind)
        tensors["embedding"][[0, 9]] = 0.0
        if kind:
            tensors["seeds"][2] = 0.0
        tensors = {name: tensor.to(dtype) for name, tensor in tensors.items()}
        check(tensors, backend, kappa=10.0, eta=0.8, num_steps=2)
        upstream = torch.ones_like(tensors.get("seeds", tensors["embedding"]))
        _, grads = run(rpe_ops.mean_shift, tensors, upstream, kappa=10.0, backend=backend)
        assert torch.equal(grads["embedding"][[0, 9]], torch.zeros(2, 4, dtype=dtype))
        if kind:
            assert torch.equal(grads["seeds"][2], torch.zeros(4, dtype=dtype))


@pytest.mark.parametrize("num_seeds", [0, 5])
def test_without_any_mass_everything_stays(backend, num_seeds):
    tensors = inputs(12, 3, num_seeds=num_seeds)
    tensors["weight"] = torch.zeros(12, dtype=problems.widest())
    moving = tensors.get("seeds", tensors["embedding"])
    upstream = problems.directions(*moving.shape)
    moved, grads = run(
        rpe_ops.mean_shift, tensors, upstream, kappa=10.0, eta=0.6, num_steps=2, backend=backend
    )
    numerics.assert_same(moved, F.normalize(moving))
    leaf = moving.clone().requires_grad_()
    (F.normalize(leaf) * upstream).sum().backward()
    numerics.assert_same(grads["seeds" if num_seeds else "embedding"], leaf.grad)
    assert all(bool(grad.isfinite().all()) for grad in grads.values())


def test_one_mass_draws_everything_to_its_point(backend):
    tensors = inputs(12, 3)
    tensors["weight"] = torch.zeros(12, dtype=problems.widest()).index_fill(0, torch.tensor([5]), 2.0)
    moved = rpe_ops.mean_shift(**tensors, kappa=10.0, backend=backend)
    numerics.assert_same(moved, F.normalize(tensors["embedding"])[5].expand(12, 3))


def test_masses_of_zero_far_from_all_that_have_one_get_finite_gradients(backend):
    """Rows 0 and 1 keep their places; without its mass the third would take none of them but its own."""
    weight = torch.tensor([1.0, 1.0, 0.0], requires_grad=True)
    moved = rpe_ops.mean_shift(torch.eye(3), kappa=100.0, weight=weight, backend=backend)
    (of_near,) = torch.autograd.grad(moved[:2, 0].sum(), weight, retain_graph=True)
    assert float(of_near.abs().max()) < 1e-6
    (of_all,) = torch.autograd.grad(moved[:, 2].sum(), weight)
    assert bool(of_all.isfinite().all()) and float(of_all[2]) > 1e12


@pytest.mark.parametrize("bandwidth", [1e-19, 1e-10, 1e10])
def test_bandwidths_of_extreme_size_get_finite_gradients(backend, bandwidth):
    leaf = torch.tensor(bandwidth, requires_grad=True)
    points = problems.directions(6, 3, seed=2).float()
    rpe_ops.mean_shift(points, bandwidth=leaf, backend=backend).sum().backward()
    assert abs(float(leaf.grad)) < 1e-6


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_masses_of_extreme_size(backend, scale):
    tensors = {name: value.float() for name, value in inputs(12, 3, masses=True).items()}
    moved = rpe_ops.mean_shift(**tensors, kappa=10.0, backend=backend)
    tensors["weight"] = tensors["weight"] * scale
    numerics.assert_same(rpe_ops.mean_shift(**tensors, kappa=10.0, backend=backend), moved)


@kinds
@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_upstream_gradients_of_extreme_size(backend, kind, size):
    """A gradient is linear in them; their squares are no float32 numbers."""
    tensors = {name: value.float() for name, value in inputs(20, 5, **kind).items()} | scalars(9.0, 0.7)
    upstream = problems.directions(*tensors.get("seeds", tensors["embedding"]).shape, seed=8).float()
    _, expected = run(rpe_ops.mean_shift, tensors, upstream, num_steps=2, backend=backend)
    _, found = run(rpe_ops.mean_shift, tensors, upstream * size, num_steps=2, backend=backend)
    for name, gradient in expected.items():
        atol = 1e-4 * float(gradient.abs().max())
        torch.testing.assert_close(found[name] / size, gradient, rtol=1e-4, atol=atol)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("with_seeds", [False, True])
def test_nonfinite_input_stays_in_its_image(backend, value, with_seeds):
    batch = problems.ragged((6, 9, 0, 5))
    tensors, shapes = {"embedding": batch.embedding}, {"offsets": batch.offsets}
    bad = slice(6, 15)
    if with_seeds:
        tensors["seeds"], shapes["seed_offsets"] = problems.directions(12, 4), torch.tensor([0, 3, 6, 9, 12])
        bad = slice(3, 6)
    upstream = torch.ones_like(tensors["seeds" if with_seeds else "embedding"])
    options = shapes | {"kappa": 10.0, "num_steps": 2, "backend": backend}
    expected, expected_grads = run(rpe_ops.mean_shift, tensors, upstream, **options)
    spoilt = tensors | {"embedding": batch.embedding.clone()}
    spoilt["embedding"][8, 2] = value
    moved, grads = run(rpe_ops.mean_shift, spoilt, upstream, **options)
    good = torch.ones(moved.shape[0], dtype=torch.bool)
    good[bad] = False
    assert bool(moved[bad].isnan().all())
    numerics.assert_same(moved[good], expected[good])
    for name, first, last in (("embedding", 6, 15), ("seeds", 3, 6)):
        if name in grads:
            rest = torch.ones(grads[name].shape[0], dtype=torch.bool)
            rest[first:last] = False
            assert bool(grads[name][first:last].isnan().all())
            numerics.assert_same(grads[name][rest], expected_grads[name][rest])


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nonfinite_seeds_stay_in_their_image(backend, value):
    seeds = problems.directions(3, 4, 5)
    seeds[1, 2, 0] = value
    tensors = {"embedding": problems.clustered(30, 5).reshape(3, 10, 5), "seeds": seeds}
    moved, grads = run(rpe_ops.mean_shift, tensors, torch.ones(3, 4, 5), kappa=10.0, backend=backend)
    assert bool(moved[1, 2].isnan().all()) and bool(moved[[0, 2]].isfinite().all())
    for grad in grads.values():
        assert bool(grad[[0, 2]].isfinite().all()) and bool(grad[1].isnan().any())


def test_trajectory_and_num_steps_zero_with_nonfinite_input(backend):
    rows = problems.clustered(8, 3).reshape(2, 4, 3)
    rows[1, 0, 0] = math.nan
    for moved in rpe_ops.mean_shift(rows, kappa=9.0, num_steps=3, return_trajectory=True, backend=backend):
        assert bool(moved[1].isnan().all()) and bool(moved[0].isfinite().all())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_at_the_ends_of_their_range(backend, dtype):
    limits = torch.finfo(dtype)
    unit = F.normalize(problems.clustered(20, 4))
    for size in (limits.max / 2, limits.tiny * 16):
        rows = (unit * size).to(dtype)
        moved, grads = run(
            rpe_ops.mean_shift, {"embedding": rows}, torch.ones(20, 4), kappa=20.0, backend=backend
        )
        numerics.assert_values(moved, rpe_ops.mean_shift(rows.double(), kappa=20.0, backend="reference"))
        assert moved.dtype == dtype and grads["embedding"].dtype == dtype


# Memory layouts


def test_strided_inputs(backend):
    rows, seeds, weight = problems.clustered(24, 6), problems.directions(5, 6), problems.masses(24)
    wide = torch.zeros(24, 13, dtype=problems.widest())
    wide[:, 1:13:2] = rows
    views = {
        "transposed": rows.T.contiguous().T,
        "strided columns": wide[:, 1:13:2],
        "strided rows": rows.repeat_interleave(2, dim=0)[::2],
        "offset": torch.cat([rows[:1], rows])[1:],
    }
    for name, view in views.items():
        others = {"seeds": seeds.T.contiguous().T, "weight": torch.stack([weight, weight], 1)[:, 1]}
        for extra in ({}, others):
            same = {key: value.contiguous() for key, value in extra.items()}
            leaf, contiguous = view.detach().requires_grad_(), rows.clone().requires_grad_()
            moved = rpe_ops.mean_shift(leaf, kappa=9.0, num_steps=2, backend=backend, **extra)
            expected = rpe_ops.mean_shift(contiguous, kappa=9.0, num_steps=2, backend=backend, **same)
            upstream = problems.directions(6, moved.shape[0]).T
            assert torch.equal(moved, expected), name
            (grad,) = torch.autograd.grad(moved, leaf, upstream)
            assert torch.equal(grad, torch.autograd.grad(expected, contiguous, upstream.contiguous())[0]), (
                name
            )


def test_expanded_inputs_and_upstream(backend):
    rows = problems.clustered(12, 3)
    leaf = rows.clone().requires_grad_()
    moved = rpe_ops.mean_shift(leaf.expand(3, 12, 3), kappa=9.0, backend=backend)
    moved.backward(torch.ones(1, 1, 1, dtype=problems.widest()).expand(3, 12, 3))
    expected, grads = run(
        rpe_ops.mean_shift, {"embedding": rows}, torch.ones(12, 3), kappa=9.0, backend=backend
    )
    numerics.assert_same(moved.detach(), expected.expand(3, 12, 3))
    numerics.assert_same(leaf.grad, 3 * grads["embedding"])


def test_inputs_are_left_as_they_were_and_outputs_are_fresh(backend):
    tensors = inputs(12, 3, num_seeds=4, masses=True)
    tensors["embedding"] = F.normalize(tensors["embedding"])
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    for num_steps in (0, 1):
        moved = rpe_ops.mean_shift(
            tensors["embedding"], kappa=9.0, num_steps=num_steps, normalize=False, backend=backend
        )
        moved.add_(1.0)
        run(rpe_ops.mean_shift, tensors, torch.ones(4, 3), kappa=9.0, normalize=False, backend=backend)
        assert all(torch.equal(tensor, before[name]) for name, tensor in tensors.items())


# Determinism


@kinds
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_equal_inputs_give_equal_bits(backend, kind, dtype):
    tensors = inputs(257, 17, **kind) | scalars(20.0, 0.9)
    tensors = {name: tensor.to(dtype) for name, tensor in tensors.items()}
    upstream = problems.directions(*tensors.get("seeds", tensors["embedding"]).shape)
    moved, grads = run(rpe_ops.mean_shift, tensors, upstream, num_steps=2, backend=backend)
    again, grads_again = run(rpe_ops.mean_shift, tensors, upstream, num_steps=2, backend=backend)
    assert torch.equal(moved, again)
    assert all(torch.equal(grads[name], grads_again[name]) for name in grads)


@kinds
def test_threads_do_not_change_the_bits_of_cpu(backend, kind, restored_threads):
    if backend != "cpu":
        pytest.skip("PyTorch's own matrix products may depend on the number of threads")
    tensors = {
        name: tensor.float() for name, tensor in (inputs(1_111, 17, **kind) | scalars(20.0, 0.9)).items()
    }
    upstream = problems.directions(*tensors.get("seeds", tensors["embedding"]).shape)
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        moved, grads = run(rpe_ops.mean_shift, tensors, upstream, num_steps=2, backend=backend)
        results.append([moved, *grads.values()])
    assert all(map(torch.equal, *results))
