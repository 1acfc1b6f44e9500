"""Recipe: the pairwise loss as a metric-learning loss on batches [N, D] of anything, with all pairs and no mining.

Before: the loss over all ordered pairs written with N x N matrices, as metric-learning code usually computes it. After:
one call. Both train the same small network on handwritten digits (scikit-learn's own 8 x 8 images, each seen in several
noisy copies) from the same start, and the digits that training never saw are retrieved by nearest neighbour.

    python examples/metric_learning.py [--copies 2] [--steps 30] [--dim 16] [--margin 0.5] [--device cuda]
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

import rpe_ops
from comparison import measure, recipe_parser, report


def before(embedding: Tensor, label: Tensor, margin: float) -> Tensor:
    """Mean over ordered pairs of classes, all points of a class with equal weight; several tensors `[N, N]`."""
    x = F.normalize(embedding, dim=1)
    similarity = (1 + x @ x.T) / 2
    same = label[:, None] == label[None, :]
    weight = 1 / torch.bincount(label)[label]
    pair = torch.where(same, 1 - similarity, (similarity - margin).relu())
    return (weight[:, None] * weight * pair).sum() / weight.sum().square()


def after(embedding: Tensor, label: Tensor, margin: float) -> Tensor:
    """The same number and the same gradient."""
    return rpe_ops.pairwise_loss(embedding, label, margin=margin, normalizer="weights")


class Digits(NamedTuple):
    """`[N, 64]` images in 0..1 and `[N]` digits, to train on and to find."""

    images: Tensor
    labels: Tensor
    unseen_images: Tensor
    unseen_labels: Tensor


def digits(copies: int, generator: torch.Generator) -> Digits:
    data = load_digits()
    images, labels = torch.tensor(data.data / 16.0, dtype=torch.float32), torch.tensor(data.target)
    order = torch.randperm(len(images), generator=generator)
    images, labels = images[order], labels[order]
    unseen = len(images) // 5
    seen = images[unseen:].repeat(copies, 1)
    seen = seen + 0.1 * torch.randn(seen.shape, generator=generator)
    return Digits(seen, labels[unseen:].repeat(copies), images[:unseen], labels[:unseen])


def train(
    network: nn.Module,
    data: Digits,
    loss_of: Callable[[Tensor, Tensor, float], Tensor],
    margin: float,
    steps: int,
) -> tuple[list[float], float]:
    """The loss before each step, and the share of unseen digits whose nearest training image is the same digit."""
    network = copy.deepcopy(network)
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
    losses = []
    for _ in range(steps):
        optimiser.zero_grad()
        loss = loss_of(network(data.images), data.labels, margin)
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    with torch.no_grad():
        known = F.normalize(network(data.images), dim=1)
        found = data.labels[(F.normalize(network(data.unseen_images), dim=1) @ known.T).argmax(1)]
    return losses, float((found == data.unseen_labels).float().mean())


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    parser = recipe_parser("A metric-learning loss over all pairs of a batch.")
    parser.add_argument("--copies", type=int, default=2, help="noisy copies of each training image")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--dim", type=int, default=16)
    parser.add_argument("--margin", type=float, default=0.5)
    chosen = parser.parse_args(arguments)
    torch.manual_seed(chosen.seed)
    generator = torch.Generator().manual_seed(chosen.seed)
    data = Digits(*(tensor.to(chosen.device) for tensor in digits(chosen.copies, generator)))
    network = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, chosen.dim)).to(chosen.device)
    rpe_ops.warmup(chosen.dim, device=chosen.device)
    old = measure(lambda: train(network, data, before, chosen.margin, chosen.steps), chosen.device)
    new = measure(lambda: train(network, data, after, chosen.margin, chosen.steps), chosen.device)
    (old_losses, old_recall), (new_losses, new_recall) = old.result, new.result
    agreement = {
        "largest difference of the losses, relative": max(
            abs(a - b) / a for a, b in zip(old_losses, new_losses, strict=True)
        ),
        "loss at the last step, after": new_losses[-1],
        "recall at 1 on unseen digits, before": old_recall,
        "recall at 1 on unseen digits, after": new_recall,
    }
    title = f"metric learning: N = {len(data.images):,}, D = {chosen.dim}, {chosen.steps} steps of training"
    return report(title, old, new, agreement)


if __name__ == "__main__":
    main()
