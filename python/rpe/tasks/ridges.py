"""Ridges of a probability map: non-maximum suppression across the boundary, as edge detectors do before scoring.

A boundary that a network draws several pixels wide becomes its crest line, whatever the threshold it is cut at.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates
from skimage.feature import hessian_matrix

_SCALE = 2.0
"""Standard deviation in pixels of the smoothing under which the direction of a boundary is measured."""
_TOLERANCE = 0.99
"""A pixel stays that reaches this share of its neighbours across the boundary, so that flat crests are not lost."""
_ROWS = 512
"""Rows that are thinned at once: what that takes is many times the map."""
_BEYOND = 16
"""Rows beyond those that a result may depend on: the smoothing reaches four standard deviations, the derivatives two
pixels, the comparison one."""


def ridges(probability: NDArray[np.floating]) -> NDArray[np.float32]:
    """`[H, W]` in 0..1 where it is as large as one pixel away on both sides, 0 elsewhere.

    Across the boundary is the direction of the strongest downward curvature, the eigenvector of the Hessian's smallest
    eigenvalue.
    """
    values = np.asarray(probability, dtype=np.float32)
    if min(values.shape) < 2:
        return values
    thin = np.empty_like(values)
    for start in range(0, len(values), _ROWS):
        first = max(0, start - _BEYOND)
        part = _thinned(values[first : start + _ROWS + _BEYOND])
        thin[start : start + _ROWS] = part[start - first : start - first + _ROWS]
    return thin


def _thinned(values: NDArray[np.float32]) -> NDArray[np.float32]:
    rows, mixed, columns = hessian_matrix(values, sigma=_SCALE, use_gaussian_derivatives=False, order="rc")
    angle = 0.5 * np.arctan2(2 * mixed, rows - columns) + np.pi / 2
    step = np.stack([np.cos(angle), np.sin(angle)])
    place = np.indices(values.shape, dtype=np.float64)
    beside = [map_coordinates(values, place + side * step, order=1, mode="nearest") for side in (1, -1)]
    return np.where(values >= _TOLERANCE * np.maximum(*beside), values, 0).astype(np.float32)
