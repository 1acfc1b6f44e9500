"""Recipe: grouping the embeddings of an existing cell-segmentation network.

Such networks end in an embedding [D, H, W] and a foreground map, and hand the foreground's rows to scikit-learn's
MeanShift. `rpe_ops.MeanShift` has the same habits: `fit_predict`, `labels_`, `cluster_centers_`, numpy in and out.
The difference is the space: it compares directions, so embeddings trained with Euclidean distances are lifted onto the
sphere by one more coordinate first.

    python examples/cell_embeddings.py [--size 80] [--cells 25] [--device cuda]
    python examples/cell_embeddings.py --embedding E.npy --foreground F.npy      [D, H, W] floats and [H, W] booleans
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.cluster import MeanShift
from sklearn.metrics import adjusted_rand_score

import rpe_ops
from comparison import measure, recipe_parser, report

Array = NDArray[np.float32]


def on_sphere(rows: Array, bandwidth: float) -> tuple[Array, float]:
    """Euclidean embeddings `[N, D]` as unit vectors `[N, D + 1]`, and the kappa of a kernel as wide as `bandwidth`.

    The sphere of radius R touches the data's centre: x goes to (x, R) / |(x, R)|, distances shrink by R where |x| is
    far below R. R is four times the largest |x|, so that they shrink alike within 6 %, and kappa = (R / bandwidth)^2.
    """
    centred = rows - rows.mean(0)
    radius = 4.0 * float(np.linalg.norm(centred, axis=1).max())
    lifted = np.concatenate([centred, np.full((len(rows), 1), radius, dtype=rows.dtype)], axis=1)
    return lifted, (radius / bandwidth) ** 2


def before(rows: Array, bandwidth: float) -> NDArray[np.int64]:
    """scikit-learn's mean shift: a flat kernel, seeds on a grid, k-d trees on one core."""
    return MeanShift(bandwidth=bandwidth, bin_seeding=True).fit_predict(rows)


def after(rows: Array, bandwidth: float, device: str = "cpu") -> NDArray[np.int64]:
    """Every point moves, with a smooth kernel; half the flat kernel's radius is about as wide."""
    sigma = bandwidth / 2.0
    lifted, kappa = on_sphere(rows, sigma)
    # points that end within one sigma of each other are one cell: 1 - s = (sigma / R)^2 / 4
    threshold = 1.0 - 1.0 / (4.0 * kappa)
    return rpe_ops.MeanShift(kappa, num_steps=10, threshold=threshold, device=device).fit_predict(lifted)


def network_output(
    size: int, cells: int, dim: int, generator: np.random.Generator
) -> tuple[Array, NDArray, NDArray]:
    """What a trained network gives for an image of round cells: embedding `[D, H, W]`, foreground and truth `[H, W]`.

    Embeddings of a cell scatter around its own place in a cube, which is at least one unit from the others'.
    """
    rows, columns = np.mgrid[:size, :size]
    truth = np.zeros((size, size), dtype=np.int64)
    places: list[Array] = []
    for cell in range(1, cells + 1):
        y, x = generator.random(2) * size
        radius = size / np.sqrt(cells) * generator.uniform(0.35, 0.6)
        truth[(rows - y) ** 2 + (columns - x) ** 2 < radius**2] = cell
        place = generator.uniform(-2, 2, dim)
        while places and min(np.linalg.norm(place - other) for other in places) < 1.0:
            place = generator.uniform(-2, 2, dim)
        places.append(place)
    centres = np.concatenate([np.zeros((1, dim)), places])
    noise = generator.normal(scale=0.1, size=(size, size, dim))
    return (centres[truth] + noise).astype(np.float32).transpose(2, 0, 1), truth > 0, truth


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    parser = recipe_parser(
        "scikit-learn's MeanShift and rpe_ops.MeanShift on embeddings of cells; --device is the latter's."
    )
    parser.add_argument("--size", type=int, default=80, help="side of the generated image in pixels")
    parser.add_argument("--cells", type=int, default=25)
    parser.add_argument("--dim", type=int, default=6)
    parser.add_argument("--bandwidth", type=float, default=0.5, help="of scikit-learn's MeanShift")
    parser.add_argument("--embedding", type=Path, help="a network's own embedding, [D, H, W] in an .npy file")
    parser.add_argument("--foreground", type=Path, help="its foreground, [H, W] booleans in an .npy file")
    chosen = parser.parse_args(arguments)
    truth = None
    if chosen.embedding and chosen.foreground:
        embedding, foreground = np.load(chosen.embedding), np.load(chosen.foreground).astype(bool)
        if embedding.ndim != 3 or foreground.shape != embedding.shape[1:]:
            parser.error(
                f"{chosen.embedding} must hold [D, H, W] and {chosen.foreground} [H, W], "
                f"got {list(embedding.shape)} and {list(foreground.shape)}"
            )
        if not foreground.any():
            parser.error(f"{chosen.foreground} has no pixel that is true: there is nothing to group")
    elif chosen.embedding or chosen.foreground:
        parser.error("--embedding and --foreground go together")
    else:
        generator = np.random.default_rng(chosen.seed)
        embedding, foreground, truth = network_output(chosen.size, chosen.cells, chosen.dim, generator)
    rows = np.ascontiguousarray(embedding[:, foreground].T, dtype=np.float32)  # [N, D]
    rpe_ops.warmup(rows.shape[1] + 1, device=chosen.device)
    old = measure(lambda: before(rows, chosen.bandwidth), torch.device("cpu"))
    new = measure(lambda: after(rows, chosen.bandwidth, str(chosen.device)), chosen.device)
    agreement = {
        "agreement of the labels, adjusted Rand index": adjusted_rand_score(old.result, new.result),
        "number of cells, before": len(np.unique(old.result)),
        "number of cells, after": len(np.unique(new.result)),
    }
    if truth is not None:
        visible = truth[foreground]
        agreement["number of cells that are visible"] = len(np.unique(visible))
        agreement["before against the truth, adjusted Rand index"] = adjusted_rand_score(visible, old.result)
        agreement["after against the truth, adjusted Rand index"] = adjusted_rand_score(visible, new.result)
    title = f"cell embeddings: N = {len(rows):,} foreground pixels, D = {rows.shape[1]}"
    return report(title, old, new, agreement)


if __name__ == "__main__":
    main()
