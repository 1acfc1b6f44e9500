"""Tile lists: what they leave out stays within the tolerance, and kernels sum over exactly the pairs they keep.

The bound is that of `rpe_ops/backends/tile_bounds.py`; truth is every pair in float64.
"""

import pytest
import torch
from torch import Tensor

import numerics
import problems
from rpe_ops import backends
from rpe_ops.backends import tile_list
from rpe_ops.backends.tile_bounds import CHUNK, chunks_of
from rpe_ops.backends.tile_list import NearTiles, TileList, may_pay, near_tiles


@pytest.fixture(autouse=True)
def _lists_for_few_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tile_list, "TOO_FEW_PAIRS", 0)


def unit(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=1, keepdim=True)


def groups(dim: int, *lengths: int, spread: float = 0.2, seed: int = 0) -> Tensor:
    """One group after the other, as rows come in their spatial order."""
    parts = [
        problems.clustered(length, dim, clusters=1, spread=spread, seed=seed + number)
        for number, length in enumerate(lengths)
    ]
    return unit(torch.cat(parts)).float()


def uniform(dim: int) -> Tensor:
    return unit(problems.directions(700, dim)).float()


def tight(dim: int) -> Tensor:
    return groups(dim, 150, 3, 200, 90, 300, spread=0.05)


def wide(dim: int) -> Tensor:
    return groups(dim, 150, 120, 200, 90, 300, spread=0.6)


def mixed(dim: int) -> Tensor:
    return torch.cat([tight(dim)[:400], uniform(dim)[:300]])


def opposite(dim: int) -> Tensor:
    return torch.cat([tight(dim)[:350], -tight(dim)[:350]])


def of_many_lengths(dim: int) -> Tensor:
    """Rows that are not unit, as `normalize=False` lets through."""
    rows = tight(dim)
    return rows * torch.linspace(0.2, 1.5, rows.shape[0])[:, None]


KINDS = [uniform, tight, wide, mixed, opposite, of_many_lengths]


def kept_share(near: NearTiles) -> float:
    return near.num_kept() / near.num_pairs()


def ends(*lengths: int) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0)


def kept_pairs(near: NearTiles) -> Tensor:
    """Every pair of rows of a packed batch, `[M, T]`: whether it is kept."""
    points, sources = near.point_offsets.tolist(), near.source_offsets.tolist()
    kept = torch.zeros(points[-1], sources[-1], dtype=torch.bool)
    for image, keep in enumerate(near.keep):
        rows, columns = points[image : image + 2], sources[image : image + 2]
        pairs = keep.repeat_interleave(CHUNK, 0).repeat_interleave(CHUNK, 1)
        kept[slice(*rows), slice(*columns)] = pairs[: rows[1] - rows[0], : columns[1] - columns[0]]
    return kept


def lost_shares(points: Tensor, sources: Tensor, mass: Tensor | None, kappa: float, kept: Tensor) -> Tensor:
    """What each row misses of its density, in one image."""
    logit = kappa * (points.double() @ sources.double().T)
    probability = (logit if mass is None else logit + mass.double().log()).softmax(1)
    return (probability * ~kept).sum(1)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("dim", [3, 16, 64])
@pytest.mark.parametrize("kappa, tol", [(5.0, 3e-2), (25.0, 1e-3), (100.0, 1e-5), (1000.0, 1e-2), (1e4, 0.5)])
@pytest.mark.parametrize("given", ["points", "masses", "seeds", "seeds and masses"])
def test_no_density_loses_more_than_the_tolerance(kind, dim, kappa, tol, given):
    sources = kind(dim)
    seeds = groups(dim, 64, 70, 100, spread=0.3, seed=50) if "seeds" in given else None
    points = sources if seeds is None else seeds
    mass = problems.masses(sources.shape[0]).float() if "masses" in given else None
    if mass is not None:
        mass[::5], mass[100:170] = 0.0, 1e-3
    near = near_tiles(
        points,
        None if seeds is None else sources,
        None if mass is None else mass.log(),
        torch.tensor(kappa),
        ends(points.shape[0]),
        ends(sources.shape[0]),
        tol,
    )
    if near is None:
        return
    lost = lost_shares(points, sources, mass, kappa, kept_pairs(near))
    assert float(lost.max()) <= tol


@pytest.mark.parametrize("kappa, most", [(25.0, 0.5), (100.0, 0.45)])
def test_separate_groups_see_little_of_each_other(kappa, most):
    rows = tight(16)
    near = near_tiles(rows, None, None, torch.tensor(kappa), *[ends(rows.shape[0])] * 2, 1e-3)
    assert near is not None and kept_share(near) < most
    assert torch.equal(near.keep[0], near.keep[0].T)


def test_a_tolerance_of_zero_and_points_all_over_the_sphere_keep_everything():
    offsets = [ends(700)] * 2
    assert near_tiles(tight(16)[:700], None, None, torch.tensor(100.0), *offsets, 0.0) is None
    assert near_tiles(uniform(16), None, None, torch.tensor(25.0), *offsets, 1e-3) is None


def test_small_images_keep_all_pairs(monkeypatch):
    monkeypatch.setattr(tile_list, "TOO_FEW_PAIRS", 500**2)
    rows, offsets = torch.cat([tight(8), tight(8)[:300]]), ends(743, 300)
    near = near_tiles(rows, None, None, torch.tensor(100.0), offsets, offsets, 1e-3)
    assert near is not None
    assert not bool(near.keep[0].all()) and bool(near.keep[1].all())
    assert near_tiles(rows[743:], None, None, torch.tensor(100.0), *[ends(300)] * 2, 1e-3) is None


def test_a_nan_leaves_the_lists_of_other_images_alone():
    rows, offsets = torch.cat([tight(8), tight(8)]), ends(743, 743)
    expected = near_tiles(rows, None, None, torch.tensor(50.0), offsets, offsets, 1e-3)
    rows = rows.clone()
    rows[743 + 10, 2] = torch.nan
    near = near_tiles(rows, None, None, torch.tensor(50.0), offsets, offsets, 1e-3)
    assert near is not None and expected is not None
    assert torch.equal(near.keep[0], expected.keep[0])
    assert bool(near.keep[1].all())


def test_rows_of_zeros_see_everything():
    rows = tight(8).clone()
    rows[200] = 0.0
    near = near_tiles(rows, None, None, torch.tensor(50.0), *[ends(743)] * 2, 1e-2)
    assert near is not None
    chunk = 200 // CHUNK
    assert bool(near.keep[0][chunk].all()) and bool(near.keep[0][:, chunk].all())


def test_a_source_without_mass_is_kept_where_it_is_near():
    """Its derivative is asked for, although it weighs nothing."""
    rows, mass = tight(8), torch.ones(743)
    mass[:128] = 0.0
    offsets = [ends(743)] * 2
    near = near_tiles(rows, None, mass.log(), torch.tensor(50.0), *offsets, 1e-3)
    assert near is not None and bool(near.keep[0][:2, :2].all())
    assert not bool(near.keep[0][:, 0].all())


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("dim", [3, 64, 256])
def test_no_order_of_a_sum_changes_what_is_kept(kind, dim):
    """Products of rows with centres are exact in float32, and with operands of eleven bits, as TF32 has."""
    chunks = chunks_of(kind(dim), None)
    rows, center = chunks.rows.flatten(0, 1), chunks.center
    assert torch.equal((rows @ center.T).double(), rows.double() @ center.double().T)
    for values in (rows, center):
        eleven_bits = (values.frexp().mantissa * 2.0**11).round() * torch.exp2(values.frexp().exponent - 11.0)
        assert torch.equal(eleven_bits, values)


def listed(tiles: TileList) -> list[list[int]]:
    begin, columns = tiles.begin.tolist(), tiles.columns.tolist()
    assert tiles.begin.dtype == tiles.columns.dtype == tiles.before.dtype == torch.int32
    return [columns[first:last] for first, last in zip(begin[:-1], begin[1:], strict=True)]


def test_lists_hold_the_kept_chunks_of_either_side():
    keep = [torch.tensor([[1, 0, 1], [0, 0, 1]]).bool(), torch.ones(0, 2).bool(), torch.ones(1, 1).bool()]
    near = NearTiles(keep, ends(100, 0, 64), ends(130, 70, 1))
    assert listed(near.of_points()) == [[0, 128], [128], [200]]
    assert near.of_points().before.tolist() == [0, 2, 2, 3]
    assert listed(near.of_sources()) == [[0], [], [0, 64], [], [], [100]]
    assert near.of_sources().before.tolist() == [0, 3, 5, 6]


def test_both_backends_mean_the_same_chunks(repository):
    traits = (repository / "csrc" / "cuda" / "traits.cuh").read_text(encoding="utf-8")
    assert f"constexpr int kListChunk = {CHUNK};" in traits


def restricted_step(
    points: Tensor,
    sources: Tensor | None,
    mass: Tensor | None,
    kappa: Tensor,
    eta: Tensor,
    kept: Tensor,
) -> Tensor:
    """Moved points of a step over the kept pairs alone."""
    y = points if sources is None else sources
    cosine = points @ y.T
    kernel = torch.exp(kappa * (cosine - 1.0)) * kept.to(cosine.dtype)
    if mass is not None:
        kernel = kernel * mass
    mean = kernel @ y / kernel.sum(1, keepdim=True)
    return unit(eta * mean + (1.0 - eta) * points)


@pytest.mark.parametrize("backend", ["triton", "cuda"], indirect=True)
@pytest.mark.parametrize("half", [False, True], ids=["float32", "float16"])
@pytest.mark.parametrize("given", ["points", "masses", "seeds", "seeds and masses"])
def test_kernels_compute_the_kept_pairs_exactly(backend, half, given):
    """Values and gradients of a ragged batch are those of the step restricted to what the list keeps, in float64."""
    sources, offsets = groups(6, 70, 60, 75, 64, 30, 80), ends(205, 0, 174)
    inputs = {"points": sources}
    point_offsets = offsets
    if "seeds" in given:
        inputs = {"points": groups(6, 64, 30, 40, spread=0.3), "sources": sources}
        point_offsets = ends(94, 0, 40)
    if half:
        inputs = {name: rows.half().float() for name, rows in inputs.items()}
    if "masses" in given:
        inputs["mass"] = problems.masses(379).float()
        inputs["mass"][::7] = 0.0
    inputs |= {"kappa": torch.tensor(40.0), "eta": torch.tensor(0.8)}
    points, rows, mass = inputs["points"], inputs.get("sources"), inputs.get("mass")
    log_weight = None if mass is None else mass.log()
    near = near_tiles(points, rows, log_weight, inputs["kappa"], point_offsets, offsets, 1e-2)
    assert near is not None and kept_share(near) < 0.8, "the list must leave something out"

    operator = backends.operator_module(backend, "mean_shift")
    arguments = (points, rows, log_weight, inputs["kappa"], inputs["eta"], point_offsets, offsets)
    moved, mean, log_density = operator.forward(*arguments, half, 1e-2)
    upstream = problems.directions(*points.shape, seed=4).float()
    gradients = operator.backward(upstream, *arguments, mean, log_density, mass is not None, half, 1e-2)
    results = dict(zip(("points", "sources", "mass", "kappa", "eta"), gradients, strict=True))

    def truth(dtype: torch.dtype) -> tuple[Tensor, dict[str, Tensor]]:
        leaves = {name: value.to(dtype).requires_grad_() for name, value in inputs.items()}
        given = (leaves["points"], leaves.get("sources"), leaves.get("mass"), leaves["kappa"], leaves["eta"])
        result = restricted_step(*given, kept_pairs(near))
        grads = torch.autograd.grad((result * upstream.to(dtype)).sum(), list(leaves.values()))
        return result.detach(), dict(zip(leaves, grads, strict=True))

    dtype = torch.float16 if half else torch.float32
    exact, exact_gradients = truth(torch.float64)
    eager, eager_gradients = truth(dtype)
    numerics.assert_values(moved.to(dtype), exact, eager)
    # gradients are sums of terms as large as the upstream gradient, which nearly cancel
    sizes = dict.fromkeys(inputs, float(upstream.abs().max()))
    sizes["eta"] = 0.3 * float(upstream.norm())
    sizes["kappa"] = sizes["eta"] / 40.0**0.5
    for name, gradient in exact_gradients.items():
        result = results[name].to(dtype)
        numerics.assert_gradients(result, gradient, eager_gradients[name], scale=sizes[name])


@pytest.mark.parametrize("backend", ["triton", "cuda"], indirect=True)
@pytest.mark.parametrize("given", ["points", "masses", "seeds"])
@pytest.mark.parametrize("tol", [1e-4, 0.1])
def test_a_step_loses_no_more_than_its_tolerance(backend, given, tol):
    """What is missing of densities, and how far means move, with all that a step does about a tolerance."""
    rows, kappa = groups(8, 128, 64, 64, 64, spread=0.25), 30.0
    seeds = groups(8, 64, 60, spread=0.25) if given == "seeds" else None
    mass = problems.masses(rows.shape[0]).float() if given == "masses" else None
    points = rows if seeds is None else seeds
    offsets, point_offsets = ends(rows.shape[0]), ends(points.shape[0])
    log_weight = None if mass is None else mass.log()
    sources = None if seeds is None else rows
    scalars = (torch.tensor(kappa), torch.tensor(1.0))
    assert near_tiles(points, sources, log_weight, scalars[0], point_offsets, offsets, tol / 2) is not None
    _, mean, log_density = torch.ops.rpe_ops.mean_shift_forward(
        points,
        sources,
        mass,
        *scalars,
        point_offsets,
        None if seeds is None else offsets,
        backend,
        False,
        tol,
    )
    logit = kappa * (points.double() @ rows.double().T - 1.0) + (0.0 if mass is None else log_weight.double())
    rounding = 1e-4
    missing = 1.0 - torch.exp(log_density.double() - logit.logsumexp(1))
    assert -rounding < float(missing.min()) and float(missing.max()) <= tol + rounding
    moved = (mean.double() - logit.softmax(1) @ rows.double()).norm(dim=1)
    assert float(moved.max()) <= 2.0 * tol * (1.0 + 1.0 / kappa) + rounding


@pytest.mark.parametrize("backend", ["triton", "cuda"], indirect=True)
@pytest.mark.parametrize("dim", [40, 72, 130])
def test_wide_rows_walk_lists_too(backend, dim):
    """Both routes of a backward, with one kernel and with two, against every pair within the tolerance."""
    rows, offsets = groups(dim, 128, 64, 65), ends(257)
    operator = backends.operator_module(backend, "mean_shift")
    arguments = (rows, None, None, torch.tensor(60.0), torch.tensor(1.0), offsets, offsets)
    assert near_tiles(*arguments[:4], offsets, offsets, 1e-6) is not None
    upstream = problems.directions(*rows.shape, seed=4).float()
    found = []
    for tol in (0.0, 1e-6):
        moved, mean, log_density = operator.forward(*arguments, False, tol)
        gradients = operator.backward(upstream, *arguments, mean, log_density, False, False, tol)
        found.append((moved, gradients[0], gradients[3]))
    for within, every in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(within, every, rtol=1e-4, atol=1e-4 * float(every.abs().max()))


@pytest.mark.parametrize(
    "moving, sources, images, on_cpu, on_gpu",
    [
        (2_047, None, 1, False, False),
        (2_048, None, 1, True, False),
        (32_768, None, 1, True, False),
        (32_769, None, 1, True, True),
        (65_536, None, 2, True, False),
        (80_000, None, 2, True, True),
        (300, 307_200, 1, True, False),
        (300, 2_000, 1, False, False),
        (40_000, 307_200, 2, True, True),
        (40_000, 307_200, 8, True, False),
    ],
)
def test_a_choice_is_made_where_it_may_pay(monkeypatch, moving, sources, images, on_cpu, on_gpu):
    """By shapes alone, so that a tensor without storage stands for one on a GPU."""
    monkeypatch.undo()  # few pairs are few
    for device, expected in (("cpu", on_cpu), ("meta", on_gpu)):
        x = torch.empty(moving, 3, device=device)
        y = None if sources is None else torch.empty(sources, 3, device=device)
        assert may_pay(x, y, images) is expected
