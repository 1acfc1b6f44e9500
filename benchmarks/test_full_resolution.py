"""A 512 x 512 image of 40 objects, every pixel: recurrences within a tolerance (`recurrences.py`). Runs with
`--bench-full-resolution`, for an hour on two cores.
"""

from __future__ import annotations

import pytest
import torch
from recurrences import KAPPAS, NUM_STEPS, compare_with_one_step

from harness import Case
from inputs import scene

NUM_POINTS = 512 * 512


@pytest.mark.parametrize("mode", NUM_STEPS)
@pytest.mark.parametrize("scene_kappa", KAPPAS)
@pytest.mark.parametrize("dim", [16, 64])
def test_full_resolution(mode, dim, scene_kappa, bench, device):
    case = Case("scene", mode, NUM_POINTS, dim, torch.float32, device, scene_kappa)
    compare_with_one_step(bench, case, scene(case))
