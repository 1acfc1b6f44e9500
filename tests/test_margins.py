"""`kappa_from_margin` and `suggest_margin`: closed forms, known codes, and codes that this file builds and measures."""

import itertools
import math

import numpy as np
import pytest

import rpe_ops

TOLERANCE = 1e-4  # what the contract promises for every suggestion


def margin_of(cosine: float) -> float:
    return (1.0 + cosine) / 2.0


@pytest.mark.parametrize("margin, kappa", [(0.0, 9.0), (0.5, 36.0), (0.25, 16.0), (0.9, 900.0)])
def test_kappa_from_margin(margin, kappa):
    assert math.isclose(rpe_ops.kappa_from_margin(margin), kappa)


@pytest.mark.parametrize("margin", [1.0, 1.5, -0.1, math.nan, math.inf])
def test_kappa_from_a_margin_out_of_range(margin):
    with pytest.raises((TypeError, ValueError), match="kappa_from_margin: margin must be"):
        rpe_ops.kappa_from_margin(margin)


@pytest.mark.parametrize("margin", ["0.5", None, [0.5], True])
def test_kappa_from_something_else(margin):
    with pytest.raises(TypeError, match="kappa_from_margin: margin must be a number.*got"):
        rpe_ops.kappa_from_margin(margin)


@pytest.mark.parametrize("dim", [1, 2, 3, 8, 16, 64])
def test_up_to_dim_plus_one_instances_form_a_simplex(dim):
    for count in range(2, dim + 2):
        expected = margin_of(-1.0 / (count - 1))
        assert abs(rpe_ops.suggest_margin(count, dim) - expected) <= TOLERANCE


@pytest.mark.parametrize("dim", [2, 3, 4, 16])
def test_up_to_twice_dim_instances_stand_at_right_angles(dim):
    for count in range(dim + 2, 2 * dim + 1):
        assert abs(rpe_ops.suggest_margin(count, dim) - 0.5) <= TOLERANCE


@pytest.mark.parametrize("count", [3, 4, 5, 7, 12, 100])
def test_the_circle(count):
    expected = margin_of(math.cos(2.0 * math.pi / count))
    assert abs(rpe_ops.suggest_margin(count, 2) - expected) <= TOLERANCE


# Best known cosines of n points in three dimensions (Tammes; proven up to 14 and 24), independent of the package.
TAMMES = {
    7: math.cos(math.radians(77.8695421)),
    8: math.cos(math.radians(74.8584922)),
    9: 1.0 / 3.0,
    10: math.cos(math.radians(66.1468220)),
    11: 1.0 / math.sqrt(5.0),
    12: 1.0 / math.sqrt(5.0),
    13: math.cos(math.radians(57.1367031)),
    14: math.cos(math.radians(55.6705700)),
    18: math.cos(math.radians(49.556655)),
    21: math.cos(math.radians(45.613223)),
    24: math.cos(math.radians(43.6907671)),
    25: math.cos(math.radians(41.634461)),
    30: math.cos(math.radians(38.597116)),
}


@pytest.mark.parametrize("count, cosine", TAMMES.items())
def test_best_known_codes_on_the_sphere(count, cosine):
    assert abs(rpe_ops.suggest_margin(count, 3) - margin_of(cosine)) <= TOLERANCE


def test_the_24_cell_in_four_dimensions():
    axes = [[sign * (axis == index) for index in range(4)] for axis in range(4) for sign in (1.0, -1.0)]
    points = [*axes, *itertools.product((0.5, -0.5), repeat=4)]
    cosine = max(sum(a * b for a, b in zip(p, q, strict=True)) for p, q in itertools.combinations(points, 2))
    assert rpe_ops.suggest_margin(24, 4) <= margin_of(cosine) + TOLERANCE


def test_shortest_vectors_of_a_lattice():
    """Of D5: two entries of +-1."""
    places = itertools.product(itertools.combinations(range(5), 2), (1, -1), (1, -1))
    code = np.array([[a * (k == i) + b * (k == j) for k in range(5)] for (i, j), a, b in places]) / math.sqrt(
        2
    )
    assert len(code) == 40
    assert rpe_ops.suggest_margin(40, 5) <= margin_of(np.sort(code @ code.T)[:, -2].max()) + TOLERANCE


@pytest.mark.parametrize(
    "count, dim, margin", [(72, 6, 0.75), (126, 7, 0.75), (288, 16, 0.625), (4320, 16, 0.75)]
)
def test_codes_of_many_dimensions(count, dim, margin):
    assert abs(rpe_ops.suggest_margin(count, dim) - margin) <= TOLERANCE


def test_one_instance_needs_no_margin():
    for dim in (1, 3, 16):
        assert rpe_ops.suggest_margin(1, dim) == 0.0


@pytest.mark.parametrize("dim, largest", [(2, 60), (3, 24), (8, 16), (16, 32), (64, 128)])
def test_more_instances_never_allow_a_smaller_margin(dim, largest):
    margins = [rpe_ops.suggest_margin(count, dim) for count in range(2, largest + 1)]
    assert all(0.0 <= margin <= 1.0 for margin in margins)
    assert all(a <= b + TOLERANCE for a, b in itertools.pairwise(margins))


@pytest.mark.parametrize("count", [2, 5, 12, 24])
def test_more_dimensions_never_need_a_larger_margin(count):
    margins = [rpe_ops.suggest_margin(count, dim) for dim in (2, 3, 16, 64)]
    assert all(a + TOLERANCE >= b for a, b in itertools.pairwise(margins))


def test_a_code_that_is_packed_numerically():
    # 11 points in four dimensions, from Sloane's tables of spherical codes
    assert abs(rpe_ops.suggest_margin(11, 4) - margin_of(math.cos(math.radians(76.6791)))) <= TOLERANCE


def test_one_dimension_has_two_places():
    assert rpe_ops.suggest_margin(2, 1) == 0.0
    assert rpe_ops.suggest_margin(3, 1) == 1.0


@pytest.mark.parametrize("count, dim", [(0, 3), (-1, 3), (3, 0), (3, -2)])
def test_counts_below_one(count, dim):
    with pytest.raises(ValueError, match="suggest_margin: (num_instances|dim) must be .*got"):
        rpe_ops.suggest_margin(count, dim)


@pytest.mark.parametrize("count, dim", [(2.5, 3), ("3", 3), (3, None), (True, 3)])
def test_counts_that_are_no_integers(count, dim):
    with pytest.raises(TypeError, match="suggest_margin: (num_instances|dim) must be .*got"):
        rpe_ops.suggest_margin(count, dim)


def test_numbers_of_numpy_serve_as_well():
    assert rpe_ops.kappa_from_margin(np.float32(0.5)) == 36.0
    assert rpe_ops.suggest_margin(np.int64(3), np.int32(2)) == rpe_ops.suggest_margin(3, 2)
