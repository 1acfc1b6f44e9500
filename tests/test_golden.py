"""The authors' own embeddings, loop by loop: one step with eta = 1 and kappa = 25 maps loop t to loop t + 1.

Real data from the folder that RPE_TEST_DATA names; nothing of it is in the repository.
"""

from pathlib import Path

import pytest
import torch
from torch import Tensor

import rpe_ops

FILE = "main001_instSeg_v1_absEucMM_visualization_epoch-31.results.mat"
KAPPA = 25.0
# Their code adds 1e-5 to each norm and stores single precision; what is left after it on unit vectors.
THEIR_ROUNDING = 3e-5
IMAGES = (1, 7, 19)  # image 0 is nearly blank and proves nothing


@pytest.fixture(scope="module")
def results(test_data: Path) -> dict:
    io = pytest.importorskip("scipy.io", reason="scipy reads the authors' file")
    if not (test_data / FILE).is_file():
        pytest.skip(f"{FILE} is not in RPE_TEST_DATA")
    return io.loadmat(test_data / FILE)


@pytest.fixture(scope="module")
def loops(results: dict) -> list[Tensor]:
    """Unit embeddings `[30, 4096, 3]` after loops 1 to 5."""
    cells = [torch.as_tensor(cell, dtype=torch.float64) for cell in results["predInstanceMaskMat"].ravel()]
    return [cell.permute(3, 0, 1, 2).reshape(cell.shape[3], -1, 3) for cell in cells]


@pytest.fixture(scope="module")
def instances(results: dict) -> Tensor:
    """Instance ids `[30, 4096]`, 0 for the background."""
    mask = torch.as_tensor(results["instanceMaskMat"].astype("int64"))
    mask = mask.permute(3, 0, 1, 2).reshape(mask.shape[3], 4096, -1)
    return mask[..., 0]


@pytest.mark.parametrize("image", IMAGES)
def test_each_loop_leads_to_the_next(backend, loops, image):
    for before, after in zip(loops[:-1], loops[1:], strict=True):
        moved = rpe_ops.mean_shift(before[image].float(), kappa=KAPPA, backend=backend)
        assert float((moved.double() - after[image]).abs().max()) < THEIR_ROUNDING


def test_five_loops_at_once(backend, loops):
    last = rpe_ops.mean_shift(loops[0][IMAGES[0]].float(), kappa=KAPPA, num_steps=4, backend=backend)
    # a step on converging points does not amplify what the steps before it left over by more than their number
    assert float((last.double() - loops[-1][IMAGES[0]]).abs().max()) < 4 * THEIR_ROUNDING


def test_bandwidth_is_the_inverse_root_of_kappa(loops):
    rows = loops[0][IMAGES[0]]
    assert torch.allclose(rpe_ops.mean_shift(rows, bandwidth=0.2), rpe_ops.mean_shift(rows, kappa=KAPPA))


def test_another_kappa_is_not_theirs(loops):
    moved = rpe_ops.mean_shift(loops[0][IMAGES[0]].float(), kappa=20.0)
    assert float((moved.double() - loops[1][IMAGES[0]]).abs().max()) > 100 * THEIR_ROUNDING


def test_components_of_the_last_loop_are_the_instances(backend, loops, instances):
    metrics = pytest.importorskip("sklearn.metrics")
    scores = []
    chosen = range(1, loops[-1].shape[0]) if backend != "reference" else IMAGES
    for image in chosen:
        label = rpe_ops.connected_components(loops[-1][image].float(), threshold=0.9, backend=backend)
        scores.append(metrics.adjusted_rand_score(instances[image].numpy(), label.numpy()))
    assert sum(scores) / len(scores) > 0.95
