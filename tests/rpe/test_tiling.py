"""Large images: objects across every seam are those of the whole image, memory is that of a tile, and thousands of
objects take seconds."""

import os
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from skimage.measure import label as planar_components
from torch import nn

from rpe import RPE, Config, Predictor, RecurrentGrouping
from rpe import predict as predict_module
from rpe.config import DecodeConfig, ModelConfig
from rpe.export import coco_objects
from rpe.predict import Prediction
from rpe.tiling import SEAM, TileJoiner, tiles

STRIDE = 2


class Colours(nn.Module):
    """A backbone without weights or context: the colours of 2 x 2 pixels."""

    out_channels, output_stride, total_stride = 3, STRIDE, STRIDE

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return nn.functional.avg_pool2d(image, STRIDE, ceil_mode=True)


def colour_predictor(window: int = 0, background: str = "head") -> Predictor:
    """Embeds a pixel as its colour around grey: pure colours are 90 degrees or more apart; black is background."""
    decode = DecodeConfig(window=window, min_size=6, threshold=0.9, background=background)  # type: ignore[arg-type]
    model = RPE(Colours(), dim=3, grouping=RecurrentGrouping(num_steps=1, kappa=20.0))
    assert model.foreground_head is not None and model.embedding_head is not None
    with torch.no_grad():
        model.embedding_head.weight.copy_(2 * torch.eye(3)[:, :, None, None])
        model.embedding_head.bias.fill_(-1)
        model.foreground_head.weight.fill_(20.0)
        model.foreground_head.bias.fill_(-10.0)
    return Predictor(model, Config(model=ModelConfig(dim=3), decode=decode))


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
    pixels = np.repeat(np.repeat(colour, 2, 0), 2, 1)[:height, :width]
    return torch.cat([torch.zeros(1, 3), PALETTE])[torch.from_numpy(pixels)].permute(2, 0, 1).contiguous()


def same_partition(one: np.ndarray, other: np.ndarray) -> bool:
    """Equal up to the numbering, background included."""
    pairs = np.unique(np.stack([one.reshape(-1), other.reshape(-1)]), axis=1)
    return np.array_equal(one > 0, other > 0) and len(np.unique(pairs[0])) == pairs.shape[1] == len(
        np.unique(pairs[1])
    )


@pytest.mark.parametrize(("height", "width"), [(300, 331), (200, 64), (262, 400)])
@pytest.mark.parametrize("window", [0, 8])
def test_objects_across_every_seam_are_those_of_the_whole_image(
    height: int, width: int, window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = colour_predictor(window)
    image = seam_picture(height, width, 64)
    whole = predictor.predict(image)
    monkeypatch.setattr(predict_module, "_TILE", 64)
    monkeypatch.setattr(predict_module, "_CONTEXT", 4)
    tiled = predictor.predict(image)
    parts = predictor._parts(height, width)
    assert len(parts) >= 4
    for tile in parts:  # nothing here is true by chance: objects do cross every seam
        for seam, axis in ((tile.rows.start, 0), (tile.columns.start, 1)):
            if seam:
                before, after = whole.labels.take(seam - 1, axis), whole.labels.take(seam, axis)
                assert len(np.unique(before[(before == after) & (before > 0)])) >= 3, (tile, axis)
    assert same_partition(tiled.labels, whole.labels)
    assert len(tiled.scores) == len(whole.scores) > 20 * (height > 200)
    np.testing.assert_array_equal(np.unique(tiled.labels), np.arange(len(tiled.scores) + 1))
    np.testing.assert_allclose(np.sort(tiled.scores), np.sort(whole.scores), atol=0.02)
    np.testing.assert_allclose(tiled.embedding, whole.embedding, atol=1e-6)
    assert predictor.predict(image, keep_embedding=False).embedding.size == 0


def test_the_largest_cluster_is_found_over_all_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    image = seam_picture(200, 260, 64)
    monkeypatch.setattr(predict_module, "_TILE", 64)
    monkeypatch.setattr(predict_module, "_CONTEXT", 4)
    found = colour_predictor(background="largest").predict(image)
    none = colour_predictor(background="none").predict(image)
    sizes = np.bincount(none.labels.reshape(-1))[1:]
    assert (found.labels == 0).sum() == sizes.max() and len(found.scores) == len(none.scores) - 1


def test_joining_follows_agreement_not_touch() -> None:
    """Two tiles; the right one sees one object where the left one sees two arms, and another one that only touches."""
    joiner = TileJoiner(40, 128)
    left, right = tiles(40, 128, 64, 20)[0], tiles(40, 128, 64, 20)[1]
    assert len(tiles(40, 128, 64, 20)) == 2
    picture = np.zeros((40, 128), dtype=np.int64)
    picture[4:8, 30:100] = picture[20:24, 30:100] = picture[4:24, 96:100] = 1  # arms that meet at column 96
    picture[30:34, 40:64], picture[30:34, 64:90] = 2, 3
    for tile in (left, right):
        seen = picture[tile.view]
        joiner.add(tile, *_numbered(seen))
    labels, scores = joiner.finish(0)
    assert same_partition(labels, picture) and len(scores) == 3
    labels, scores = TileJoiner(3, 3).finish(0)
    assert not labels.any() and scores.shape == (0,)


def _numbered(seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    objects = planar_components(seen, background=0, connectivity=1)
    return objects, np.full(int(objects.max()), 0.5)


def test_small_remains_are_removed_and_numbers_follow_the_rows() -> None:
    joiner = TileJoiner(8, 8)
    labels = np.zeros((8, 8), dtype=np.int64)
    labels[6:, :] = 1
    labels[0, :2] = 2
    labels[3, 3] = 3
    joiner.add(tiles(8, 8, 8, SEAM)[0], labels, np.array([0.9, 0.5, 0.1]))
    joined, scores = joiner.finish(2)
    np.testing.assert_allclose(scores, [0.5, 0.9])
    assert joined[0, 0] == 1 and joined[7, 7] == 2 and joined[3, 3] == 0


def test_a_batch_is_its_images_one_by_one() -> None:
    predictor = colour_predictor()
    images = [seam_picture(40, 60, 32), seam_picture(40, 60, 48), seam_picture(31, 33, 32)]
    together = predictor.predict_batch(images)
    for image, found in zip(images, together, strict=True):
        alone = predictor.predict(image)
        np.testing.assert_array_equal(found.labels, alone.labels)
        np.testing.assert_array_equal(found.embedding, alone.embedding)
    assert predictor.predict_batch([]) == []


PEAK = """
import resource, sys
import numpy as np
sys.path.insert(0, sys.argv[1])
from test_tiling import colour_predictor
from rpe import predict
predict._TILE, predict._CONTEXT = 128, 4
import torch
torch.set_num_threads(1)
height = int(sys.argv[2])
random = np.random.default_rng(0)
image = np.kron(random.integers(0, 2, (height // 8, 64, 3), dtype=np.uint8) * 255, np.ones((8, 8, 1), dtype=np.uint8))
found = colour_predictor(window=8).predict(image, keep_embedding=False)
print(len(found.scores), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_image_but_for_image_and_labels() -> None:
    """512 columns, and 512 against 4,096 rows: what each more pixel costs at the peak."""
    objects, peak = [], []
    for height in (512, 4096):
        command = [sys.executable, "-c", PEAK, os.path.dirname(__file__), str(height)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        count, kilobytes = done.stdout.split()
        objects.append(int(count))
        peak.append(int(kilobytes) * 1024)
    assert objects[1] > 7 * objects[0] > 3_500, "thousands of objects"
    each = (peak[1] - peak[0]) / (512 * (4096 - 512))
    # The array is 3 bytes, its tensor 12 (twice while it is made), labels 4; maps of the whole image would be 24 more.
    assert each < 36, f"{each:.1f} bytes a pixel"


def test_thousands_of_objects_are_written_in_seconds() -> None:
    side, size = 1600, 20
    place = np.arange(side) // size
    labels = (1 + place[:, None] * (side // size) + place[None]).astype(np.int32)
    labels[::size], labels[:, ::size] = 0, 0
    prediction = Prediction(
        labels, np.full(6400, 0.5, dtype=np.float32), np.zeros((2, 0, 0), dtype=np.float32)
    )
    start = time.perf_counter()
    objects = coco_objects("x", prediction)
    assert time.perf_counter() - start < 20
    assert len(objects) == 6400
    for index in (0, 79, 3000, 6399):
        code = {**objects[index]["segmentation"], "counts": objects[index]["segmentation"]["counts"].encode()}
        np.testing.assert_array_equal(coco_mask.decode(code), labels == index + 1)
        assert objects[index]["area"] == 361


def test_run_lengths_of_ragged_objects() -> None:
    random = np.random.default_rng(1)
    for _ in range(20):
        labels = random.integers(0, 3, (random.integers(1, 9), random.integers(1, 9))).astype(np.int32)
        values = np.unique(labels[labels > 0])
        labels = np.where(labels > 0, np.searchsorted(values, labels) + 1, 0).astype(np.int32)
        scores = np.zeros(len(values), dtype=np.float32)
        for entry in coco_objects("x", Prediction(labels, scores, np.zeros((2, 0, 0), dtype=np.float32))):
            code = {**entry["segmentation"], "counts": entry["segmentation"]["counts"].encode()}
            np.testing.assert_array_equal(coco_mask.decode(code), labels == entry["id"])
