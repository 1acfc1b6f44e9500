"""Recipe: hypersphere attention in a mask transformer: one mean-shift step as a layer with a learnable kappa and eta.

Pixel features attend to each other by one blurring step, object queries attend to the pixels as seeds, and the cosine
of a query and a pixel is the logit of the query's mask. Before: softmax attention over unit vectors with its N x N
weights in memory. After: `rpe_ops.mean_shift`. Both train the same small network on drawn discs from the same start.

    python examples/hypersphere_attention.py [--size 48] [--steps 8] [--device cuda]
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

import rpe_ops
from comparison import measure, recipe_parser, report


class HypersphereAttention(nn.Module):
    """Points `[B, M, D]` move towards the kernel mean of `sources [B, N, D]`, or of each other: one mean-shift step."""

    def __init__(self, kappa: float = 10.0, eta: float = 0.5) -> None:
        super().__init__()
        self.log_kappa = nn.Parameter(torch.tensor(kappa).log())
        self.eta = nn.Parameter(torch.tensor(eta))

    def forward(self, points: Tensor, sources: Tensor | None = None) -> Tensor:
        kappa = self.log_kappa.exp()
        if sources is None:
            return rpe_ops.mean_shift(points, kappa=kappa, eta=self.eta)
        return rpe_ops.mean_shift(sources, kappa=kappa, eta=self.eta, seeds=points)


class ExplicitAttention(HypersphereAttention):
    """The same with the attention weights `[B, M, N]` in memory."""

    def forward(self, points: Tensor, sources: Tensor | None = None) -> Tensor:
        x = F.normalize(points, dim=-1)
        y = x if sources is None else F.normalize(sources, dim=-1)
        mean = torch.softmax(self.log_kappa.exp() * (x @ y.mT), dim=-1) @ y
        return F.normalize(self.eta * mean + (1 - self.eta) * x, dim=-1)


class MaskTransformer(nn.Module):
    """Images `[B, 3, H, W]` to mask logits `[B, num_queries, H W]`."""

    def __init__(
        self, attention: type[HypersphereAttention], dim: int, num_queries: int, layers: int = 2
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, dim, 5, padding=2), nn.ReLU(), nn.Conv2d(dim, dim, 5, padding=2)
        )
        self.of_pixels = attention()
        self.of_queries = nn.ModuleList(attention() for _ in range(layers))
        self.updates = nn.ModuleList(nn.Linear(dim, dim) for _ in range(layers))
        self.queries = nn.Parameter(torch.randn(num_queries, dim))
        self.sharpness = nn.Parameter(torch.tensor(5.0))
        self.bias = nn.Parameter(torch.tensor(2.0))

    def forward(self, images: Tensor) -> Tensor:
        pixels = self.of_pixels(self.stem(images).flatten(2).mT)
        queries = self.queries.expand(len(images), -1, -1)
        for attention, update in zip(self.of_queries, self.updates, strict=True):
            queries = attention(queries, pixels)
            queries = queries + update(queries)
        return self.sharpness * (F.normalize(queries, dim=-1) @ pixels.mT) - self.bias


def set_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Mean cross-entropy of masks `[B, K, N]` and the queries that fit them best; the other queries learn emptiness."""
    losses = []
    for logit, mask in zip(logits, masks, strict=True):
        number = mask.shape[1]
        cost = (F.softplus(-logit) @ mask.T + F.softplus(logit) @ (1 - mask).T) / number
        rows, columns = linear_sum_assignment(cost.detach().cpu().numpy())
        target = torch.zeros_like(logit)
        target[rows] = mask[columns]
        losses.append(F.binary_cross_entropy_with_logits(logit, target))
    return torch.stack(losses).mean()


def discs(count: int, size: int, instances: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Images `[B, 3, size, size]` of discs in their own colours and the discs' masks `[B, instances, size^2]`."""
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    images = 0.1 * torch.randn(count, 3, size, size, generator=generator)
    masks = torch.zeros(count, instances, size, size)
    for image, mask in zip(images, masks, strict=True):
        for instance in range(instances):
            y, x = torch.rand(2, generator=generator) * size
            inside = (rows - y).square() + (columns - x).square() < (size / 5) ** 2
            image[:, inside] = torch.rand(3, 1, generator=generator)
            mask[:, inside] = 0.0  # the later disc hides the earlier
            mask[instance, inside] = 1.0
    return images, masks.flatten(2)


def train(
    network: MaskTransformer, images: Tensor, masks: Tensor, steps: int
) -> tuple[list[float], float, float]:
    """The loss before each step, and the learnt kappa and eta of the pixels' attention."""
    network = copy.deepcopy(network)
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
    losses = []
    for _ in range(steps):
        optimiser.zero_grad()
        loss = set_loss(network(images), masks)
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    return losses, float(network.of_pixels.log_kappa.detach().exp()), float(network.of_pixels.eta.detach())


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    parser = recipe_parser("Hypersphere attention with and without N x N weights.")
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--size", type=int, default=48, help="side in pixels; N is its square")
    parser.add_argument("--instances", type=int, default=4)
    parser.add_argument("--dim", type=int, default=32)
    parser.add_argument("--steps", type=int, default=8)
    chosen = parser.parse_args(arguments)
    torch.manual_seed(chosen.seed)
    generator = torch.Generator().manual_seed(chosen.seed)
    images, masks = discs(chosen.images, chosen.size, chosen.instances, generator)
    images, masks = images.to(chosen.device), masks.to(chosen.device)
    explicit = MaskTransformer(ExplicitAttention, chosen.dim, 2 * chosen.instances).to(chosen.device)
    fused = MaskTransformer(HypersphereAttention, chosen.dim, 2 * chosen.instances).to(chosen.device)
    fused.load_state_dict(explicit.state_dict())
    rpe_ops.warmup(chosen.dim, device=images.device)
    old = measure(lambda: train(explicit, images, masks, chosen.steps), images.device)
    new = measure(lambda: train(fused, images, masks, chosen.steps), images.device)
    (old_losses, old_kappa, old_eta), (new_losses, new_kappa, new_eta) = old.result, new.result
    agreement = {
        "largest difference of the losses, relative": max(
            abs(a - b) / a for a, b in zip(old_losses, new_losses, strict=True)
        ),
        "loss at the first step": new_losses[0],
        "loss at the last step": new_losses[-1],
        "learnt kappa, before": old_kappa,
        "learnt kappa, after": new_kappa,
        "learnt eta, before": old_eta,
        "learnt eta, after": new_eta,
    }
    title = (
        f"hypersphere attention: {chosen.images} images of N = {chosen.size**2:,} pixels, D = {chosen.dim}, "
        f"{chosen.steps} steps of training"
    )
    return report(title, old, new, agreement)


if __name__ == "__main__":
    main()
