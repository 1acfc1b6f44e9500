"""The authors' own embeddings, loop by loop: one step with eta = 1 and kappa = 25 maps loop t to loop t + 1.

Real data from the folder that RPE_TEST_DATA names; nothing of it is in the repository.
"""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

import rpe_ops

FILE = "main001_instSeg_v1_absEucMM_visualization_epoch-31.results.mat"
KAPPA = 25.0
# What single precision and the 1e-5 that their code adds to each norm leave. Their rows are taken as they are
# (normalize=False), and only directions are compared, because those 1e-5 make their rows a little too short.
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
    cells = [
        torch.as_tensor(cell, dtype=torch.float64, device="cpu")
        for cell in results["predInstanceMaskMat"].ravel()
    ]
    return [cell.permute(3, 0, 1, 2).reshape(cell.shape[3], -1, 3) for cell in cells]


@pytest.fixture(scope="module")
def instances(results: dict) -> Tensor:
    """Instance ids `[30, 4096]`, 0 for the background."""
    mask = torch.as_tensor(results["instanceMaskMat"].astype("int64"), device="cpu")
    mask = mask.permute(3, 0, 1, 2).reshape(mask.shape[3], 4096, -1)
    return mask[..., 0]


def step_error(loops: list[Tensor], first: int, image: int, **options) -> float:
    """How far the moved rows of loop `first` are from the directions of a later loop, `num_steps` further on."""
    rows = loops[first][image].to(torch.get_default_device(), torch.float32)
    moved = rpe_ops.mean_shift(rows, kappa=KAPPA, normalize=False, **options)
    later = loops[first + options.get("num_steps", 1)][image]
    return float((moved.double().cpu() - normalize(later, dim=1)).abs().max())


@pytest.mark.large
@pytest.mark.parametrize("image", IMAGES)
def test_each_loop_leads_to_the_next(backend, loops, image):
    for first in range(4):
        assert step_error(loops, first, image, backend=backend) < THEIR_ROUNDING


@pytest.mark.large
def test_four_loops_at_once(backend, loops):
    # what four steps left over, added up
    assert step_error(loops, 0, IMAGES[0], num_steps=4, backend=backend) < 4 * THEIR_ROUNDING


def test_bandwidth_is_the_inverse_root_of_kappa(loops):
    rows = loops[0][IMAGES[0]]
    assert torch.allclose(rpe_ops.mean_shift(rows, bandwidth=0.2), rpe_ops.mean_shift(rows, kappa=KAPPA))


def test_another_kappa_is_not_theirs(loops):
    moved = rpe_ops.mean_shift(loops[0][IMAGES[0]].float(), kappa=20.0)
    assert float((moved.double() - loops[1][IMAGES[0]]).abs().max()) > 100 * THEIR_ROUNDING


@pytest.mark.large
def test_components_of_the_last_loop_are_the_instances(backend, loops, instances):
    metrics = pytest.importorskip("sklearn.metrics")
    scores = []
    # every image where it is cheap
    chosen = range(1, loops[-1].shape[0]) if backend == "cpu" else IMAGES
    for image in chosen:
        rows = loops[-1][image].to(torch.get_default_device(), torch.float32)
        label = rpe_ops.connected_components(rows, threshold=0.9, backend=backend)
        scores.append(metrics.adjusted_rand_score(instances[image].numpy(), label.cpu().numpy()))
    assert sum(scores) / len(scores) > 0.95
