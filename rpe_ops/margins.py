"""Choosing margin and kappa: the margin rule, and how many instances fit on a sphere at which margin.

`suggest_margin` looks the best spherical code up (closed forms, then a table with sources) and packs one numerically
where nobody has published a formula. Nothing here touches the operators.
"""

from __future__ import annotations

import functools
import math
import numbers

from rpe_ops.spherical_codes import packed_cosine, shannon_wyner_cosine

# Largest number of points for which a code is packed numerically; beyond it a guaranteed bound answers at once.
MAX_PACKED_POINTS = 256

# Cosine of the smallest angle of the best known code of `n` points in `dim` dimensions, where no closed form below
# holds. Three dimensions: Schuette and van der Waerden 1951 (7 to 9), Danzer 1986 (10, 11), Musin and
# Tarasov 2012, 2015 (13, 14), others as collected in N. J. A. Sloane's tables of spherical codes. Larger dimensions:
# sharp configurations of Cohn and Kumar 2007, table 1; (4, 10) Bachoc and Vallentin 2009; (4, 24) Musin 2008; shortest
# vectors of D5, E6, E7 and the Barnes-Wall lattice, Conway and Sloane 1999, chapter 1; (16, 288) nine mutually unbiased
# bases, Calderbank, Cameron, Kantor and Seidel 1997.
BEST_KNOWN_COSINES: dict[int, dict[int, float]] = {
    3: {
        7: 0.210138,
        8: 0.261204,
        9: 1 / 3,
        10: 0.404406,
        11: 1 / math.sqrt(5),
        12: 1 / math.sqrt(5),  # icosahedron
        13: 0.542636,
        14: 0.563950,
        15: 0.592606,
        16: 0.612295,
        17: 0.628094,
        18: 0.648696,
        19: 0.673117,
        20: 0.676477,
        21: 0.699498,
        22: 0.710306,
        23: 0.722847,
        24: 0.723078,  # snub cube
        25: 0.747399,
        26: 0.754278,
        27: 0.758389,
        28: 0.773230,
        29: 0.780281,
        30: 0.781552,
        31: 0.791119,
        32: 0.793617,
    },
    4: {10: 1 / 6, 24: 1 / 2, 120: (1 + math.sqrt(5)) / 4},
    5: {16: 1 / 5, 40: 1 / 2},
    6: {27: 1 / 4, 72: 1 / 2},
    7: {56: 1 / 3, 126: 1 / 2},
    8: {240: 1 / 2},
    16: {288: 1 / 4, 4320: 1 / 2},
    21: {112: 1 / 9, 162: 1 / 7},
    22: {100: 1 / 11, 275: 1 / 6, 891: 1 / 4},
    23: {552: 1 / 5, 4600: 1 / 3},
    24: {196560: 1 / 2},
}


def kappa_from_margin(margin: float) -> float:
    """The vMF concentration that fits a margin: 1 / bandwidth = 3 / (1 - margin), so kappa = 9 / (1 - margin)^2.

    Args:
        margin: similarity in [0, 1).

    Returns:
        kappa > 0; 36 for margin 0.5.

    Raises:
        TypeError, ValueError: margin is not a number in [0, 1).

    Example:
        >>> import rpe_ops
        >>> rpe_ops.kappa_from_margin(0.5)
        36.0
    """
    if isinstance(margin, bool) or not isinstance(margin, numbers.Real):
        raise TypeError(
            f"kappa_from_margin: margin must be a number in [0, 1), got {margin!r}; give a Python float"
        )
    if not 0.0 <= margin < 1.0:
        raise ValueError(
            f"kappa_from_margin: margin must be in [0, 1), got {margin!r}; at 1 no finite kappa separates instances"
        )
    return 9.0 / (1.0 - float(margin)) ** 2


def suggest_margin(num_instances: int, dim: int) -> float:
    """The smallest margin at which `num_instances` can still reach zero loss in `dim` dimensions.

    Zero loss needs one direction per instance with all pairwise cosines at most 2 margin - 1, so the margin is
    (1 + c) / 2 for the cosine c of the best spherical code:

        n <= dim + 1           the simplex, c = -1 / (n - 1)
        dim + 2 <= n <= 2 dim  orthogonal axes and their opposites, c = 0 (Rankin's orthoplex bound)
        dim = 2                the regular polygon, c = cos(2 pi / n)
        else                   the best code known (`BEST_KNOWN_COSINES`, with sources), or one packed numerically here

    Args:
        num_instances: n >= 1, a background that is not ignored included.
        dim: D >= 1, the embedding's dimension.

    Returns:
        The margin in [0, 1]. Smaller margins separate instances more strongly but cannot all be met. Packed codes
        (up to 256 points, a few seconds at most, cached) are within about 1e-4 of the best known for small n; for more
        points the value is that of a code guaranteed to exist (Shannon 1959, Wyner 1965), slightly too large.

    Raises:
        TypeError, ValueError: an argument is not a positive integer.

    Example:
        >>> import rpe_ops
        >>> rpe_ops.suggest_margin(10, 16)  # a simplex: below a right angle
        0.4444444444444444
        >>> rpe_ops.suggest_margin(20, 16)  # the safe choice of the paper
        0.5
    """
    for name, value in (("num_instances", num_instances), ("dim", dim)):
        if isinstance(value, bool) or not isinstance(value, numbers.Integral):
            raise TypeError(f"suggest_margin: {name} must be an integer, got {value!r}; give a whole number")
        if value < 1:
            raise ValueError(
                f"suggest_margin: {name} must be at least 1, got {value}; give a positive number"
            )
    return (1.0 + _best_cosine(int(num_instances), int(dim))) / 2.0


@functools.cache
def _best_cosine(num_points: int, dim: int) -> float:
    """The smallest possible largest cosine between `num_points` unit vectors, as far as it is known."""
    if num_points == 1:
        return -1.0
    if num_points <= dim + 1:
        return -1.0 / (num_points - 1)
    if num_points <= 2 * dim:
        return 0.0
    if dim == 1:
        return 1.0
    if dim == 2:
        return math.cos(2.0 * math.pi / num_points)
    known = BEST_KNOWN_COSINES.get(dim, {})
    if num_points in known:
        return known[num_points]
    # dropping points of a larger code, or embedding one of fewer dimensions, gives a code as good
    candidates = [
        cosine
        for code_dim, codes in BEST_KNOWN_COSINES.items()
        for size, cosine in codes.items()
        if code_dim <= dim and size >= num_points
    ]
    if num_points <= MAX_PACKED_POINTS:
        candidates.append(packed_cosine(num_points, dim))
    else:
        candidates.append(shannon_wyner_cosine(num_points, dim))
    return min(candidates)
