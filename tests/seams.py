"""Pictures whose objects cross the seams of tiles, and how label maps of them are compared."""

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

STRIDE = 2
"""Side in pixels of the squares of one colour that pictures are made of."""
PALETTE = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, 0, 1], [0, 1, 1], [1, 1, 1.0]])


def seam_picture(height: int, width: int, core: int) -> torch.Tensor:
    """Stripes, arms that meet far away, rings around corners and specks, in cells of 2 x 2 pixels, over black."""
    random = np.random.default_rng(0)
    colour = np.zeros((-(-height // 2), -(-width // 2)), dtype=np.int64)
    half = core // 2
    colour[3:-3, 4:8] = 1  # a comb: its arms meet in the leftmost tiles alone
    for row in range(6, colour.shape[0] - 6, 12):
        colour[row : row + 3, 4:-3] = 1
        colour[row + 4 : row + 7, 12:-3] = 2 + row % 5  # touching nothing, across every vertical seam
    for column in range(14, colour.shape[1] - 6, 14):  # across every horizontal seam, cutting the stripes
        colour[:, column : column + 4] = 0
        colour[2:-2, column + 1 : column + 3] = 2 + column % 5
    colour[2:-2, -5:-1] = 0
    colour[2:-2, -4:-2] = 6
    for row in range(half, colour.shape[0], half):  # two that touch along a corner of the tiles
        for column in range(half, colour.shape[1], half):
            colour[row - 5 : row + 6, column - 5 : column + 6] = 0
            colour[row - 4 : row, column - 4 : column + 5] = 3
            colour[row : row + 5, column - 4 : column + 5] = 4
    speck = random.integers(0, [[colour.shape[0] - 1], [colour.shape[1] - 1]], (2, 200))
    colour[speck[0], speck[1]] = 5
    pixels = np.repeat(np.repeat(colour, STRIDE, 0), STRIDE, 1)[:height, :width]
    return torch.cat([torch.zeros(1, 3), PALETTE])[torch.from_numpy(pixels)].permute(2, 0, 1).contiguous()


def blob_picture(height: int, width: int, scale: float, seed: int) -> torch.Tensor:
    """Ragged regions that touch, some black, about `scale` cells of 2 x 2 pixels wide; many are only a few pixels."""
    random = np.random.default_rng(seed)
    size = (-(-height // STRIDE), -(-width // STRIDE))
    middle = random.random((max(4, int(size[0] * size[1] / scale**2)), 2)) * size
    place = np.stack(np.mgrid[: size[0], : size[1]], axis=-1).astype(np.float64)
    place += 1.5 * scale * gaussian_filter(random.standard_normal(place.shape), (2, 2, 0))
    region = np.square(place[:, :, None] - middle).sum(axis=-1).argmin(axis=-1)
    colour = random.integers(0, 8, len(middle)) * (random.random(len(middle)) < 0.8)
    pixels = np.repeat(np.repeat(colour[region], STRIDE, 0), STRIDE, 1)[:height, :width]
    return torch.cat([torch.zeros(1, 3), PALETTE])[torch.from_numpy(pixels)].permute(2, 0, 1).contiguous()


def same_partition(one: np.ndarray, other: np.ndarray) -> bool:
    """Equal up to the numbering, background included."""
    pairs = np.unique(np.stack([one.reshape(-1), other.reshape(-1)]), axis=1)
    return np.array_equal(one > 0, other > 0) and len(np.unique(pairs[0])) == pairs.shape[1] == len(
        np.unique(pairs[1])
    )
