"""Twenty training steps: the loss curve of every backend follows that of the reference, and the loss goes down."""

import pytest
import torch
from torch import Tensor, nn

import problems
import rpe_ops

NUM_STEPS = 20
# Rounding grows along a trajectory of updates; a wrong gradient parts the curves by more than this within a few steps.
RELATIVE_DRIFT = {torch.float64: 1e-8, torch.float32: 2e-3}


def images(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Two small images of noisy discs on a background, `[2, 3, 12, 12]` and `[2, 12, 12]`."""
    grid = torch.arange(12.0)
    row, column = torch.meshgrid(grid, grid, indexing="ij")
    label = torch.zeros(2, 12, 12, dtype=torch.int64)
    for image, centres in enumerate([[(3, 3), (8, 8)], [(3, 8), (8, 3), (9, 9)]]):
        for number, (r, c) in enumerate(centres, start=1):
            label[image][(row - r) ** 2 + (column - c) ** 2 < 6.5] = number
    colour = problems.directions(4, 3)[label].movedim(-1, 1)
    return (colour + 0.3 * problems.directions(2, 3, 12, 12, seed=1)).to(dtype), label


def curve(backend: str, dtype: torch.dtype) -> list[float]:
    """Losses of the published objective: the loss on the embedding and after every mean-shift step."""
    pixels, label = images(dtype)
    torch.manual_seed(0)
    with torch.device("cpu"):  # one generator for every backend
        network = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.Tanh(), nn.Conv2d(16, 6, 1)).to(dtype)
    network = network.to(pixels.device)
    kappa = nn.Parameter(torch.tensor(8.0, dtype=dtype))
    shift = rpe_ops.nn.MeanShift(kappa, num_steps=3, return_trajectory=True, channel_dim=1, backend=backend)
    criterion = rpe_ops.nn.PairwiseLoss(
        channel_dim=1, reduction="mean", normalizer="weights", backend=backend
    )
    optimizer = torch.optim.Adam([*network.parameters(), kappa], lr=0.02)
    losses = []
    for _ in range(NUM_STEPS):
        embedding = network(pixels)
        loss = sum((criterion(step, label) for step in shift(embedding)), criterion(embedding, label))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.fixture(scope="module")
def reference_curves(one_thread: None) -> dict[torch.dtype, list[float]]:
    return {dtype: curve("reference", dtype) for dtype in RELATIVE_DRIFT}


@pytest.mark.large
@pytest.mark.parametrize("dtype", RELATIVE_DRIFT)
def test_curves_follow_the_reference(backend, dtype, reference_curves):
    expected = reference_curves[dtype]
    assert expected[-1] < 0.8 * expected[0], "the objective is not learned at all"
    for step, (loss, right) in enumerate(zip(curve(backend, dtype), expected, strict=True)):
        assert abs(loss - right) <= RELATIVE_DRIFT[dtype] * abs(right), (
            f"step {step}: {loss} instead of {right}"
        )
