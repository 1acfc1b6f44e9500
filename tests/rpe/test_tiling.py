"""Large images: objects across every seam are those of the whole image, and thousands of objects take seconds. What
each task makes of tiles is `test_tiling_tasks.py`."""

import time

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from skimage.measure import label as planar_components
from torch import nn

from rpe import RPE, Config, Predictor, RecurrentGrouping, build_model
from rpe import predict as predict_module
from rpe.config import DecodeConfig, ModelConfig
from rpe.export import coco_objects
from rpe.joining import TileJoiner
from rpe.predict import Prediction
from rpe.stitching import _most_central, stitch
from rpe.tiling import SEAM, tile_sizes, tiles
from rpe.windows import Packed
from seams import PALETTE, STRIDE, blob_picture, same_partition, seam_picture


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


@pytest.mark.parametrize(("height", "width"), [(300, 331), (200, 64), (262, 400)])
@pytest.mark.parametrize("window", [0, 7, 8])
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
    np.testing.assert_allclose(np.sort(tiled.scores), np.sort(whole.scores), atol=1e-5)
    np.testing.assert_allclose(tiled.embedding, whole.embedding, atol=1e-6)
    assert predictor.predict(image, keep_embedding=False).embedding.size == 0


def test_tiles_stay_small_whatever_the_windows_are() -> None:
    """The windows' grid goes on from tile to tile: no common multiple of their side and the network's stride."""
    for window in range(400):
        core, margin = tile_sizes(1024, 128, 128, 2 * window)
        assert core == 1024 and 0 <= margin - (128 + 2 * window + SEAM) < 128
        assert margin % 128 == 0, "views begin where the network may be shifted to"


@pytest.mark.parametrize("window", [6, 7])
def test_a_part_of_an_image_has_the_windows_of_the_whole(window: int) -> None:
    height, width = 40, 50
    place = np.arange(height * width).reshape(height, width)

    def windows(top: int, left: int) -> tuple[set[frozenset[int]], np.ndarray]:
        """Those of the part that begins at a place, by the numbers of their cells in the whole; and which of the four
        grids each cell is taken from."""
        numbers, found = place[top:, left:], set()

        def note(packed: Packed) -> torch.Tensor:
            for cells in torch.tensor_split(packed.cell, packed.offsets[1:-1]):
                found.add(frozenset(numbers.reshape(-1)[cells.numpy()].tolist()))
            return torch.zeros(len(packed.cell), dtype=torch.int64)

        stitch(torch.ones(numbers.shape, dtype=torch.bool), window, note, (top, left))
        return found, _most_central(*numbers.shape, window, (top, left)).reshape(numbers.shape)

    all_windows, all_grids = windows(0, 0)
    for top, left in ((6, 0), (9, 13), (13, 18)):
        found, grids = windows(top, left)
        whole_ones = {cells for cells in found if len(cells) == window**2}
        assert len(whole_ones) > 30 and whole_ones <= all_windows
        np.testing.assert_array_equal(grids, all_grids[top:, left:])


@pytest.mark.parametrize("window", [0, 8])
def test_the_largest_cluster_is_left_out_with_all_its_parts(
    window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rings over black: some lie in one tile, some across seams, and what they enclose is background too."""
    image = torch.zeros(3, 260, 330)
    for number, (row, column) in enumerate(np.ndindex(11, 13)):
        top, left = 4 + 22 * row, 6 + 24 * column
        ring = image[:, top : top + 18, left : left + 20]
        ring[:] = PALETTE[number % 7, :, None, None]
        ring[:, 4:14, 4:16] = 0
    rings = image.sum(dim=0).numpy() > 0
    predictor = colour_predictor(window, background="largest")
    whole = predictor.predict(image)
    monkeypatch.setattr(predict_module, "_TILE", 64)
    monkeypatch.setattr(predict_module, "_CONTEXT", 4)
    assert len(predictor._parts(260, 330)) >= 20
    tiled = predictor.predict(image)
    assert len(tiled.scores) == len(whole.scores) == 11 * 13
    assert same_partition(tiled.labels, whole.labels)
    np.testing.assert_array_equal(tiled.labels > 0, rings)


def test_parts_of_a_cluster_that_reach_no_seam_go_with_it() -> None:
    """Two tiles: of one cluster, the parts along the seam are more than the one large object of the right tile."""
    joiner, (left, right) = TileJoiner(40, 128), tiles(40, 128, 64, 20)
    picture = np.zeros((40, 128), dtype=np.int64)
    picture[:8, 40:90], picture[30:, 4:20], picture[30:, 110:126], picture[12:28, 100:120] = 1, 2, 3, 4
    cluster = np.array([-1, 7, 7, 7, 5])
    for tile in (left, right):
        seen = picture[tile.view]
        present = np.unique(seen[seen > 0])
        dense = np.searchsorted(present, seen) + 1
        joiner.add(tile, np.where(seen > 0, dense, 0), np.ones((len(present), 1)), cluster[present])
    number, _ = joiner.join(0, without_largest=True)
    np.testing.assert_array_equal(number[joiner.labels], picture == 4)


@pytest.mark.parametrize("scale", [1.4, 2, 5])
def test_touching_objects_of_any_shape_are_those_of_the_whole_image(
    scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a tile sees but the tip of an object: what seems too small there is not given to its neighbour."""
    predictor = colour_predictor()
    images = [blob_picture(100, 116, scale, seed) for seed in range(6)]
    wholes = [predictor.predict(image) for image in images]
    monkeypatch.setattr(predict_module, "_TILE", 32)
    monkeypatch.setattr(predict_module, "_CONTEXT", 4)
    assert len(predictor._parts(100, 116)) == 16
    for image, whole in zip(images, wholes, strict=True):
        tiled = predictor.predict(image)
        assert len(tiled.scores) == len(whole.scores) > 5
        assert same_partition(tiled.labels, whole.labels)


def test_a_part_without_core_pixels_joins_nothing() -> None:
    """The left tile sees one object beyond the seam where the right one, whose place it is, sees two."""
    left, right = tiles(40, 128, 64, 20)
    joiner, picture = TileJoiner(40, 128), np.zeros((40, 128), dtype=np.int64)
    picture[4:12, 66:76], picture[4:12, 76:86] = 1, 2
    joiner.add(left, *_numbered(np.minimum(picture, 1)[left.view]))
    joiner.add(right, *_numbered(picture[right.view]))
    labels, sums = joiner.finish(0)
    assert same_partition(labels, picture) and len(sums) == 2


@pytest.mark.parametrize("turned", [False, True])
def test_objects_that_touch_along_a_corner_alone_are_one(turned: bool) -> None:
    """Where four tiles meet: the two others see the object too, and none of it is theirs."""
    picture = np.zeros((128, 128), dtype=np.int64)
    picture[56:64, 56:64] = picture[64:70, 64:70] = 1
    picture[20:24, 20:24], picture[100:104, 100:104] = 2, 3
    picture = picture[:, ::-1] if turned else picture
    joiner = TileJoiner(128, 128)
    parts = tiles(128, 128, 64, 20)
    assert len(parts) == 4
    for tile in parts:
        labels, place = np.unique(picture[tile.view], return_inverse=True)
        count = len(labels) - 1
        joiner.add(tile, place.reshape(tile.size), np.ones((count, 1)), np.arange(count))
    labels, sums = joiner.finish(0)
    assert same_partition(labels, picture) and len(sums) == 3


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
    labels, sums = joiner.finish(0)
    assert same_partition(labels, picture) and len(sums) == 3
    labels, sums = TileJoiner(3, 3).finish(0)
    assert not labels.any() and len(sums) == 0


def _numbered(seen: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    objects = planar_components(seen, background=0, connectivity=1)
    return objects, np.ones((int(objects.max()), 1)), np.arange(int(objects.max()))


def test_small_remains_are_removed_and_numbers_follow_the_rows() -> None:
    joiner = TileJoiner(8, 8)
    labels = np.zeros((8, 8), dtype=np.int64)
    labels[6:, :] = 1
    labels[0, :2] = 2
    labels[3, 3] = 3
    joiner.add(tiles(8, 8, 8, SEAM)[0], labels, np.array([[9.0, 2], [5.0, 3], [1.0, 4]]), np.arange(3))
    joined, sums = joiner.finish(2)
    np.testing.assert_array_equal(sums, [[5, 3], [9, 2]])
    assert joined[0, 0] == 1 and joined[7, 7] == 2 and joined[3, 3] == 0


@pytest.mark.parametrize("size", [(9, 100), (100, 5), (3, 3)])
def test_strips_lower_than_the_square_of_the_stride(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    settings = ModelConfig(backbone="resnet_fpn", channels=(8, 8, 8, 8), output_stride=8, atrous_stride=8)
    decode = DecodeConfig(min_size=1, foreground_threshold=0.0)
    config = Config(model=settings, decode=decode)
    found = Predictor(build_model(config), config).predict(torch.rand(3, *size))
    assert found.labels.shape == size and found.labels.all()


def test_a_batch_is_its_images_one_by_one() -> None:
    predictor = colour_predictor()
    images = [seam_picture(40, 60, 32), seam_picture(40, 60, 48), seam_picture(31, 33, 32)]
    together = predictor.predict_batch(images)
    for image, found in zip(images, together, strict=True):
        alone = predictor.predict(image)
        np.testing.assert_array_equal(found.labels, alone.labels)
        np.testing.assert_array_equal(found.embedding, alone.embedding)
    assert predictor.predict_batch([]) == []


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
