"""Boundary scores against cases worked out by hand: who matches whom, and what is counted for which annotator."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from rpe.metrics import boundary_scores, count_boundaries, match_boundaries

SIZE = (40, 40)
PIXEL = 1.2 / float(np.hypot(*SIZE))
"""A distance that lets neighbours match, and no one further away."""


def column(*places: int) -> np.ndarray:
    """Vertical lines of 40 pixels."""
    mask = np.zeros(SIZE, dtype=np.bool_)
    mask[:, list(places)] = True
    return mask


class TestMatching:
    def test_a_shifted_line_matches_and_a_second_one_finds_no_partner(self) -> None:
        matched, found = match_boundaries(column(10), column(11), max_distance=PIXEL)
        assert matched.sum() == found.sum() == 40
        matched, found = match_boundaries(column(10, 12), column(11), max_distance=PIXEL)
        assert matched.sum() == found.sum() == 40 and found[:, 11].all()
        matched, found = match_boundaries(column(10), column(12), max_distance=PIXEL)
        assert not matched.any() and not found.any()

    def test_the_default_distance_is_that_of_the_benchmark(self) -> None:
        """0.0075 of the diagonal of a 321 x 481 image is 4.34 pixels."""
        one, other = np.zeros((2, 321, 481), dtype=np.bool_)
        one[100, 100] = other[104, 101] = True  # 4.12 away
        one[200, 200] = other[204, 202] = True  # 4.47 away
        assert match_boundaries(one, other)[0].sum() == 1

    @pytest.mark.parametrize("seed", range(4))
    def test_the_number_of_pairs_is_the_largest(self, seed: int) -> None:
        random = np.random.default_rng(seed)
        one, other = random.random((2, 6, 6)) < 0.15
        here, there = np.argwhere(one)[:6], np.argwhere(other)[:6]
        one, other = np.zeros((2, 6, 6), dtype=np.bool_)
        one[tuple(here.T)] = other[tuple(there.T)] = True
        near = np.hypot(*(here[:, None] - there[None]).transpose(2, 0, 1)) <= 2.1
        if len(here) > len(there):
            near = near.T
        best = max(
            sum(near[i, j] for i, j in enumerate(order))
            for order in itertools.permutations(range(near.shape[1]), near.shape[0])
        )
        matched, found = match_boundaries(one, other, max_distance=2.1 / float(np.hypot(6, 6)))
        assert matched.sum() == found.sum() == best

    def test_nothing(self) -> None:
        nothing = column()
        assert not match_boundaries(nothing, column(3))[0].any()
        assert not match_boundaries(column(3), nothing)[1].any()


class TestScores:
    def test_all_annotators_count_for_recall_and_any_of_them_for_precision(self) -> None:
        """One predicted line was drawn by both annotators, one of whom drew another: 40 of 120 are missed. The second
        predicted line is in nobody's map."""
        probability = np.where(column(10, 30), 0.8, 0.0)
        counts = count_boundaries(
            probability, [column(10), column(11, 20)], num_thresholds=9, max_distance=PIXEL
        )
        assert counts.truth.tolist() == [120] * 9
        assert counts.matched_truth.tolist() == [80] * 8 + [0]
        assert counts.matched_predicted.tolist() == [40] * 8 + [0]
        assert counts.predicted.tolist() == [80] * 8 + [0]
        scores = boundary_scores([counts])
        recall, precision = 2 / 3, 1 / 2
        f = 2 * recall * precision / (recall + precision)
        assert scores["ods"] == pytest.approx(f) and scores["ois"] == pytest.approx(f)
        assert (scores["ods_recall"], scores["ods_precision"]) == pytest.approx((recall, precision))

    def test_thick_lines_are_thinned(self) -> None:
        probability = np.where(column(9, 10, 11), 0.5, 0.0)
        counts = count_boundaries(probability, [column(10)], num_thresholds=3, max_distance=PIXEL)
        assert counts.predicted[0] <= 40 and boundary_scores([counts])["ods"] > 0.9

    def test_ods_has_one_threshold_and_ois_one_for_each_image(self) -> None:
        """The true line has probability 0.8 in one image and 0.3 in the other, where the cut at 0.2 keeps it; there a
        false one has 0.2 in the first."""
        strong = np.where(column(10), 0.8, np.where(column(30), 0.4, 0.0))
        weak = np.where(column(10), 0.3, 0.0)
        counts = [
            count_boundaries(image, [column(10)], num_thresholds=9, max_distance=PIXEL)
            for image in (strong, weak)
        ]
        scores = boundary_scores(counts)
        assert scores["ois"] == pytest.approx(1.0)
        # Cut at 0.1..0.3: 80 of 120 right, all found; from 0.5 on: all right, half found.
        assert scores["ods"] == pytest.approx(2 * (2 / 3) / (1 + 2 / 3))
        assert 0.1 <= scores["ods_threshold"] <= 0.3
        curve = scores["curve"]
        np.testing.assert_allclose(curve["recall"], [1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.5, 0])
        np.testing.assert_allclose(curve["precision"], [2 / 3, 2 / 3, 2 / 3, 0.5, 1, 1, 1, 1, 0])

    def test_area_under_the_curve(self) -> None:
        """Recall 0.5 at every cut that keeps anything, 0 beyond: from (0, 0) to (0.5, 1), nothing further on."""
        counts = count_boundaries(np.where(column(10), 0.5, 0.0), [column(10, 20)], num_thresholds=9)
        assert boundary_scores([counts])["ap"] == pytest.approx(0.01 * sum(k / 50 for k in range(51)))

    def test_perfect_and_empty(self) -> None:
        truth = column(10, 20)
        scores = boundary_scores([count_boundaries(truth.astype(float), [truth], num_thresholds=5)])
        assert (scores["ods"], scores["ois"]) == (1.0, 1.0)
        nothing = boundary_scores([count_boundaries(np.zeros(SIZE), [truth], num_thresholds=5)])
        assert (nothing["ods"], nothing["ois"], nothing["ap"]) == (0.0, 0.0, 0.0)
        assert boundary_scores([])["ods"] is None

    def test_illegal_input(self) -> None:
        with pytest.raises(ValueError, match=r"at least one annotator of size \[40, 40\], got \[\]"):
            count_boundaries(np.zeros(SIZE), [])
        with pytest.raises(ValueError, match=r"got \[\[3, 3\]\]"):
            count_boundaries(np.zeros(SIZE), [np.zeros((3, 3), dtype=np.bool_)])
