"""`mean_shift` with a tolerance: what a step leaves out stays within it, and gradients are those of what was computed.

The bounds are those that `rpe_ops.mean_shift` and `rpe_ops/backends` state and derive; truth is every pair in float64.
"""

import functools
import math

import pytest
import torch
from torch import Tensor

import naive
import problems
import rpe_ops
from rpe_ops.backends import tile_list
from rpe_ops.backends.collapse import collapse
from rpe_ops.backends.spatial_order import spatial_order
from rpe_ops.backends.tile_list import SMALLEST

NUM_POINTS = SMALLEST + 100


def unit(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=1, keepdim=True)


def uniform(dim: int) -> Tensor:
    return unit(problems.directions(NUM_POINTS, dim))


def clustered(dim: int) -> Tensor:
    return unit(problems.clustered(NUM_POINTS, dim, clusters=12, spread=0.15))


def collapsed(dim: int) -> Tensor:
    return unit(problems.clustered(NUM_POINTS, dim, clusters=5, spread=1e-5))


def one_wide_cluster(dim: int) -> Tensor:
    """Half of the points all over the sphere, the rest in tight groups."""
    half = NUM_POINTS // 2
    return torch.cat([unit(problems.directions(half, dim)), collapsed(dim)[half:]])


def duplicated(dim: int) -> Tensor:
    return unit(problems.directions(40, dim))[torch.arange(NUM_POINTS) % 40]


def antipodal(dim: int) -> Tensor:
    rows = unit(problems.clustered(NUM_POINTS // 2, dim, clusters=3, spread=0.05))
    return torch.cat([rows, -rows])


def all_equal(dim: int) -> Tensor:
    return unit(problems.directions(1, dim)).expand(NUM_POINTS, dim)


@pytest.fixture(autouse=True)
def _enough_speed(request: pytest.FixtureRequest) -> None:
    name = request.node.callspec.params.get("backend") if hasattr(request.node, "callspec") else None
    if name in ("triton", "cuda") and not torch.cuda.is_available():
        pytest.skip(f"backend {name}: too many pairs to run without a GPU")


@pytest.fixture(autouse=True)
def _lists_for_few_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU, lists of tiles that are made for far more points alone; small problems are in `test_tile_list.py`."""
    monkeypatch.setattr(tile_list, "TOO_FEW_PAIRS", 0)


KINDS = [uniform, clustered, collapsed, one_wide_cluster, duplicated, antipodal, all_equal]


def one_step(
    points: Tensor, kappa: float, tol: float, backend: str, **given: Tensor
) -> tuple[Tensor, Tensor]:
    """Means and log densities of one step in the order that `mean_shift` would put the points in, and back."""
    offsets = torch.tensor([0, points.shape[0]])
    order = spatial_order(points, offsets, points.new_tensor(0.9))
    weight = given.get("weight")
    seeds = given.get("seeds")
    rows = points[order]
    mass = None if weight is None else weight[order]
    moving, sources, ends = (rows, None, None) if seeds is None else (seeds, rows, offsets)
    scalars = (points.new_tensor(kappa), points.new_tensor(1.0))
    _, mean, log_density = torch.ops.rpe_ops.mean_shift_forward(
        moving, sources, mass, *scalars, torch.tensor([0, moving.shape[0]]), ends, backend, False, tol
    )
    place = order.argsort() if seeds is None else slice(None)
    return mean[place], log_density[place]


def exact_step(
    points: Tensor, kappa: float, weight: Tensor | None, seeds: Tensor | None
) -> tuple[Tensor, Tensor]:
    x = points.double()
    z = x if seeds is None else seeds.double()
    logit = kappa * (z @ x.T - 1.0) + (0.0 if weight is None else weight.double().log())
    return logit.softmax(1) @ x, logit.logsumexp(1)


def assert_within(points: Tensor, kappa: float, tol: float, backend: str, **given: Tensor) -> None:
    mean, log_density = one_step(points, kappa, tol, backend, **given)
    exact_mean, exact_density = exact_step(points, kappa, given.get("weight"), given.get("seeds"))
    rounding = 2e-6 * (1.0 + kappa)
    left_out = 1.0 - torch.exp(log_density.double() - exact_density)
    assert float(left_out.max()) <= tol + rounding, "more of a density is missing than the tolerance"
    assert float(left_out.min()) >= -rounding, "a density can only shrink"
    moved = (mean.double() - exact_mean).norm(dim=1).max()
    assert float(moved) <= 2.0 * tol * (1.0 + 1.0 / kappa) + rounding, "a mean moved too far"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("dim", [3, 16, 64])
@pytest.mark.parametrize("kappa, tol", [(5.0, 1e-2), (25.0, 1e-3), (100.0, 1e-3), (1000.0, 1e-2)])
def test_what_is_left_out_stays_within_the_tolerance(backend, kind, dim, kappa, tol):
    assert_within(kind(dim).float(), kappa, tol, backend)


@pytest.mark.parametrize("kind", [clustered, one_wide_cluster, antipodal], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("given", ["masses", "seeds", "seeds and masses"])
@pytest.mark.parametrize("kappa", [25.0, 300.0])
def test_masses_and_seeds_stay_within_the_tolerance(backend, kind, given, kappa):
    points = kind(8).float()
    extra = {}
    if "masses" in given:
        extra["weight"] = problems.masses(NUM_POINTS).float()
        extra["weight"][::7] = 0.0
    if "seeds" in given:
        extra["seeds"] = unit(problems.directions(60, 8)).float()
    assert_within(points, kappa, 1e-3, backend, **extra)


@pytest.mark.parametrize("num_steps", [1, 4])
@pytest.mark.parametrize("kind", [clustered, one_wide_cluster], ids=lambda kind: kind.__name__)
def test_rows_come_back_where_the_caller_had_them(backend, kind, num_steps):
    points = kind(16).float()
    options = {"kappa": 40.0, "num_steps": num_steps, "return_trajectory": True}
    exact = rpe_ops.mean_shift(points, **options, backend=backend)
    moved = rpe_ops.mean_shift(points, tol=1e-4, **options, backend=backend)
    for step, (one, other) in enumerate(zip(moved, exact, strict=True)):
        # a step moves what an earlier one left out by at most a small factor in tight clusters
        assert float((one - other).norm(dim=1).max()) < 1e-3 * 4**step


@pytest.mark.float64
@pytest.mark.parametrize("given", ["points", "masses", "seeds"])
@pytest.mark.parametrize("kind", [clustered, collapsed], ids=lambda kind: kind.__name__)
def test_gradients_are_those_of_the_function_computed(backend, kind, given):
    """Central differences in float64, along one direction in every input at once."""
    tensors = {"embedding": kind(3), "kappa": torch.tensor(60.0), "eta": torch.tensor(0.7)}
    if given == "masses":
        tensors["weight"] = problems.masses(NUM_POINTS)
    if given == "seeds":
        tensors["seeds"] = unit(problems.directions(50, 3))
    tensors = {name: tensor.double() for name, tensor in tensors.items()}
    along = {name: problems.directions(*tensor.shape, seed=3) * 0.1 for name, tensor in tensors.items()}
    along["kappa"], along["eta"] = torch.tensor(1.0).double(), torch.tensor(0.1).double()
    upstream = problems.directions(*tensors.get("seeds", tensors["embedding"]).shape, seed=4)

    def value(distance: float, leaves: dict[str, Tensor] | None = None) -> Tensor:
        moved = leaves or {name: tensor + distance * along[name] for name, tensor in tensors.items()}
        result = rpe_ops.mean_shift(tol=1e-2, num_steps=2, backend=backend, **moved)
        return (result * upstream).sum()

    leaves = {name: tensor.clone().requires_grad_() for name, tensor in tensors.items()}
    grads = torch.autograd.grad(value(0.0, leaves), list(leaves.values()))
    slope = sum(float((grad * along[name]).sum()) for name, grad in zip(leaves, grads, strict=True))
    step = 1e-6
    difference = float(value(step) - value(-step)) / (2 * step)
    assert math.isclose(slope, difference, rel_tol=1e-4, abs_tol=1e-4 * float(upstream.norm()))


def test_forward_mode_is_that_of_the_exact_step(one_thread):
    reason = rpe_ops.available_backends("cpu")["cpu"]
    if reason:
        pytest.skip(f"backend cpu, which leaves tiles out: {reason}")
    points = one_wide_cluster(8).double()
    direction = problems.directions(NUM_POINTS, 8).double().flip(0)

    def along(tol: float) -> tuple[Tensor, Tensor]:
        step = functools.partial(rpe_ops.mean_shift, kappa=25.0, tol=tol, backend="cpu")
        return torch.func.jvp(step, (points,), (direction,))

    (moved, tangent), (within, tangent_within) = along(0.0), along(0.3)
    assert float((within - moved).abs().max()) > 1e-4  # what was computed has left something out
    torch.testing.assert_close(tangent_within, tangent, rtol=0, atol=1e-12)


def test_equal_inputs_give_equal_bits_for_any_number_of_threads(backend):
    points = clustered(16).float()
    options = {"kappa": 30.0, "num_steps": 3, "tol": 1e-3, "backend": backend}
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 2):
            torch.set_num_threads(count)
            leaf = points.clone().requires_grad_()
            moved = rpe_ops.mean_shift(leaf, **options)
            (gradient,) = torch.autograd.grad(moved[:, 0].sum(), leaf)
            results.append((moved.detach(), gradient))
    finally:
        torch.set_num_threads(threads)
    for moved, gradient in results[1:]:
        assert torch.equal(moved, results[0][0])
        assert torch.equal(gradient, results[0][1])


def test_images_stay_apart(backend):
    """A batch is its images one by one, each within the tolerance; NaN stays in its image."""
    images = [
        torch.cat([clustered(8), clustered(8)]).float(),
        one_wide_cluster(8).float()[:700],
        uniform(8).float()[:0],
        torch.cat([collapsed(8), collapsed(8)]).float(),
    ]
    assert sum(map(len, images)) >= SMALLEST * len(images)
    images[1][5, 2] = torch.nan
    offsets = torch.tensor([0, *(image.shape[0] for image in images)]).cumsum(0)
    moved = rpe_ops.mean_shift(torch.cat(images), kappa=50.0, tol=1e-3, offsets=offsets, backend=backend)
    parts = moved.split([image.shape[0] for image in images])
    assert parts[1].isnan().all()
    for part, image in ((parts[0], images[0]), (parts[3], images[3])):
        exact = naive.mean_shift(image.double(), kappa=50.0)
        assert float((part - exact).norm(dim=1).max()) < 5e-3


@pytest.mark.parametrize("kind", [collapsed, all_equal], ids=lambda kind: kind.__name__)
def test_collapsed_points_become_few_sources(kind):
    points = kind(16).repeat(3, 1)
    offsets = torch.tensor([0, 900, 900, 3 * NUM_POINTS])
    rows = points[spatial_order(points, offsets, points.new_tensor(0.9))]
    runs = collapse(rows, None, offsets, torch.tensor(25.0), 1e-3)
    assert runs is not None
    assert runs.rows.shape[0] * 4 <= len(points)
    counts = torch.stack([part.sum() for part in runs.mass.split(runs.offsets.diff().tolist())])
    assert counts.tolist() == [900.0, 0.0, 3 * NUM_POINTS - 900.0]
    assert float((rows - runs.rows[runs.run]).norm(dim=1).max()) < 0.1 / 25.0


def test_spread_points_do_not_collapse():
    offsets = torch.tensor([0, NUM_POINTS])
    assert collapse(uniform(16), None, offsets, torch.tensor(25.0), 1e-3) is None


def test_the_order_keeps_images_and_brings_neighbours_together():
    points = clustered(16).repeat(2, 1)
    offsets = torch.tensor([0, 500, len(points)])
    order = spatial_order(points, offsets, points.new_tensor(0.5))
    assert torch.equal(order.sort().values, torch.arange(len(points)))
    assert bool((order[:500] < 500).all())
    jumps = (points[order][1:] - points[order][:-1]).norm(dim=1).mean()
    assert float(jumps) < 0.5 * float((points[1:] - points[:-1]).norm(dim=1).mean())


@pytest.mark.parametrize("offsets", [[0], [0, 0], [0, 0, 0]])
def test_no_points_have_an_order(offsets):
    assert spatial_order(torch.zeros(0, 3), torch.tensor(offsets), torch.tensor(0.3)).shape == (0,)


def test_points_all_over_the_sphere_stay_where_they_are():
    offsets = torch.tensor([0, NUM_POINTS])
    order = spatial_order(uniform(16), offsets, torch.tensor(0.3))
    assert torch.equal(order, torch.arange(NUM_POINTS))


@pytest.mark.parametrize("kind, all_pairs", [(uniform, True), (clustered, False), (antipodal, False)])
@pytest.mark.parametrize("with_gradient", [False, True], ids=["forward", "backward"])
def test_bounds_are_asked_for_where_they_leave_something_out(kind, all_pairs, with_gradient):
    if (reason := rpe_ops.available_backends("cpu")["cpu"]) is not None:
        pytest.skip(f"no native kernels: {reason}")
    points = kind(16).float()

    def step(tol: float) -> Tensor:
        rows = points.clone().requires_grad_()
        moved = rpe_ops.mean_shift(rows, kappa=40.0, tol=tol, normalize=False, backend="cpu")
        if not with_gradient:
            return moved.detach()
        return torch.autograd.grad(moved, rows, points.roll(1, 0))[0]

    assert torch.equal(step(0.2), step(0.0)) is all_pairs


def test_compiles_as_one_graph(backend):
    points = clustered(8).float()

    def step(rows: Tensor) -> Tensor:
        return rpe_ops.mean_shift(rows, kappa=30.0, tol=1e-3, num_steps=2, backend=backend)

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(points), step(points))
