"""Embeddings of your own model: recurrences within a tolerance (`recurrences.py`). Runs with
`--bench-embedding FILE ...`: `.npy` files of rows `[N, D]` or of a map `[D, H, W]`, such as
`numpy.save("trained.npy", rpe.load("runs/NAME").predict("image.png").embedding)`. At kappa 25 and 100, or
`--bench-kappa`.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from recurrences import NUM_STEPS, compare_with_one_step

from harness import Case


@pytest.mark.parametrize("mode", NUM_STEPS)
def test_embedding(embedding_file, mode, embedding_kappa, bench, device):
    values = torch.from_numpy(np.load(embedding_file)).to(device, torch.float32)
    if values.ndim not in (2, 3):
        raise pytest.UsageError(
            f"--bench-embedding {embedding_file}: must hold [N, D] or [D, H, W], got {list(values.shape)}"
        )
    rows = values if values.ndim == 2 else values.flatten(1).T
    rows = torch.nn.functional.normalize(rows, dim=1).contiguous()
    case = Case(embedding_file.stem, mode, *rows.shape, torch.float32, device, embedding_kappa)
    compare_with_one_step(bench, case, rows)
