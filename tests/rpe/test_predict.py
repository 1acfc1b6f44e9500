"""Prediction: kinds of images, tiles without seams, preprocessing, result files."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from torch import nn

import rpe
from rpe import predict as predict_module
from rpe.config import Config, DecodeConfig, ModelConfig
from rpe.data import DataError
from rpe.data.reading import read_label_map
from rpe.errors import UserError
from rpe.export import write_prediction
from rpe.predict import Prediction, Predictor, as_image
from rpe.preprocess import preprocess
from rpe.tiling import samples

SETTINGS = Config(
    model=ModelConfig(channels=(8, 8), dim=4, position_periods=(11.0,), rotation_periods=(13.0,)),
    decode=DecodeConfig(window=16, min_size=4, foreground_threshold=0.45),
)


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    torch.manual_seed(0)
    return Predictor(rpe.build_model(SETTINGS), SETTINGS)


def picture(height: int = 37, width: int = 50) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_files_arrays_and_tensors_mean_the_same(tmp_path: Path, predictor: Predictor) -> None:
    pixels = picture()
    path = tmp_path / "a.png"
    Image.fromarray(pixels).save(path)
    tensor = torch.from_numpy(pixels).permute(2, 0, 1) / 255
    results = [predictor.predict(image) for image in (path, str(path), pixels, tensor)]
    for result in results:
        assert result.labels.shape == (37, 50) and result.labels.dtype == np.int32
        assert result.embedding.shape == (4, 19, 25)
        np.testing.assert_array_equal(result.labels, results[0].labels)
        masks = result.masks()
        assert masks.shape == (len(result.scores), 37, 50) and masks.dtype == np.bool_
        np.testing.assert_array_equal(masks.any(0), result.labels > 0)
        assert result.labels.max(initial=0) == len(result.scores)


def test_grey_and_16_bit_arrays() -> None:
    grey = np.array([[0, 255], [51, 0]], dtype=np.uint8)
    image = as_image(grey)
    assert image.shape == (3, 2, 2) and image[2, 1, 0] == pytest.approx(0.2)
    torch.testing.assert_close(as_image(grey.astype(np.uint16) * 257), image)
    torch.testing.assert_close(as_image(grey / 255.0), image)


@pytest.mark.parametrize(
    "image", [np.zeros((2, 3, 4, 5)), np.zeros((5, 5, 2)), torch.zeros(5, 5), torch.zeros(3, 5, 5).int()]
)
def test_what_is_no_image_is_named(image: object) -> None:
    with pytest.raises(UserError, match="predict: a"):
        as_image(image)  # type: ignore[arg-type]


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"a\.png"):
        as_image(path)


def test_tiles_leave_no_seam(monkeypatch: pytest.MonkeyPatch, predictor: Predictor) -> None:
    image = torch.rand(3, 70, 293, generator=torch.Generator().manual_seed(1))
    whole = predictor.embed(image)
    monkeypatch.setattr(predict_module, "_TILE", 32)
    monkeypatch.setattr(predict_module, "_CONTEXT", 16)
    assert len(predictor._parts(70, 293)) > 3
    tiled = predictor.embed(image)
    torch.testing.assert_close(tiled.embedding, whole.embedding, atol=1e-4, rtol=0)
    assert tiled.foreground is not None and whole.foreground is not None
    torch.testing.assert_close(tiled.foreground, whole.foreground, atol=1e-4, rtol=0)


def test_preprocessing_stretches_and_inverts() -> None:
    settings = ModelConfig(normalize="percentile", invert_bright=True)
    dim = 0.1 + 0.05 * torch.rand(3, 30, 30, generator=torch.Generator().manual_seed(0)) ** 3
    stretched = preprocess(dim, settings)
    assert stretched.min() == 0 and stretched.max() == 1
    torch.testing.assert_close(preprocess(1 - dim, replace(settings, normalize="none")), dim)
    assert torch.equal(preprocess(dim, ModelConfig()), dim)
    flat = preprocess(torch.full((3, 4, 4), 0.3), settings)
    assert bool(flat.isfinite().all())


def test_result_files(tmp_path: Path) -> None:
    pytest.importorskip("rpe.report")
    labels = np.zeros((9, 12), dtype=np.int32)
    labels[1:4, 2:6], labels[5:8, 1:3] = 1, 2
    embedding = np.random.default_rng(0).standard_normal((4, 5, 6)).astype(np.float32)
    prediction = Prediction(labels, np.array([0.9, 0.5], dtype=np.float32), embedding)
    files = write_prediction(tmp_path / "out", "x", torch.rand(3, 9, 12), prediction)
    with Image.open(files["labels"]) as stored:
        assert stored.mode.startswith("I")
        np.testing.assert_array_equal(np.asarray(stored), labels)
    for role in ("overlay", "embedding"):
        with Image.open(files[role]) as stored:
            assert stored.size == (12, 9) and stored.mode == "RGB"
    painted = np.random.default_rng(1).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    tiled = replace(prediction, embedding=np.zeros((4, 0, 0), dtype=np.float32), embedding_rgb=painted)
    with Image.open(write_prediction(tmp_path, "tiled", torch.rand(3, 9, 12), tiled)["embedding"]) as stored:
        assert stored.size == (12, 9)
        assert set(map(tuple, np.asarray(stored).reshape(-1, 3))) == set(map(tuple, painted.reshape(-1, 3)))
    objects = json.loads(files["objects"].read_text())
    assert [entry["score"] for entry in objects] == [0.9, 0.5]
    assert objects[0]["bbox"] == [2, 1, 4, 3] and objects[0]["area"] == 12
    code = {**objects[1]["segmentation"], "counts": objects[1]["segmentation"]["counts"].encode()}
    np.testing.assert_array_equal(coco_mask.decode(code), labels == 2)


def test_large_embeddings_are_painted_in_the_same_colours_in_every_tile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A model without context: equal pixels have equal embeddings wherever they lie, and so have equal colours."""
    backbone = nn.Conv2d(3, 6, 1)
    model = rpe.RPE(backbone, dim=5)
    predictor = Predictor(model, Config())
    values = torch.rand(8, 3, generator=torch.Generator().manual_seed(0))
    number = torch.randint(8, (90, 131), generator=torch.Generator().manual_seed(1))
    image = values[number].permute(2, 0, 1).contiguous()
    assert predictor.predict(image, paint_embedding=True).embedding_rgb is None, "it is kept whole"
    monkeypatch.setattr(predict_module, "_TILE", 48)
    monkeypatch.setattr(predict_module, "_CONTEXT", 4)
    monkeypatch.setattr(predict_module, "_SAMPLE", 32)
    assert len(predictor._parts(90, 131)) >= 4
    found = predictor.predict(image, keep_embedding=False, paint_embedding=True)
    assert found.embedding.size == 0 and found.embedding_rgb is not None
    assert found.embedding_rgb.shape == (90, 131, 3) and found.embedding_rgb.dtype == np.uint8
    colours = np.stack([np.unique(found.embedding_rgb[number == k], axis=0) for k in range(8)])
    assert colours.shape == (8, 1, 3), "one colour each"
    assert len(np.unique(colours, axis=0)) == 8
    assert predictor.predict(image, keep_embedding=False).embedding_rgb is None


def test_samples_are_spread_from_border_to_border() -> None:
    places = samples(5000, 300, 256, 6, 16)
    rows, columns = (
        sorted({tile.rows.start for tile in places}),
        sorted({tile.columns.start for tile in places}),
    )
    assert rows[0] == 0 and rows[-1] == (5000 - 256) // 16 * 16 and len(rows) == 5 and columns == [0, 32]
    assert all(tile.size == (256, 256) and tile.view == tile.core for tile in places)
    assert [tile.size for tile in samples(40, 30, 256, 6, 16)] == [(40, 30)]


def test_more_labels_than_16_bits_hold(tmp_path: Path) -> None:
    labels = np.arange(256 * 257, dtype=np.int32).reshape(256, 257)
    scores, embedding = np.ones(256 * 257 - 1, dtype=np.float32), np.zeros((2, 0, 0), dtype=np.float32)
    (tmp_path / "x.labels.png").touch()
    files = write_prediction(tmp_path, "x", torch.rand(3, 256, 257), Prediction(labels, scores, embedding))
    assert [path.name for path in tmp_path.glob("x.labels.*")] == ["x.labels.tif"], (
        "none of another prediction"
    )
    np.testing.assert_array_equal(read_label_map(files["labels"]), labels)
    with Image.open(files["labels"]) as stored:
        np.testing.assert_array_equal(np.asarray(stored), labels)
    objects = json.loads(files["objects"].read_text())
    assert len(objects) == 256 * 257 - 1 and objects[-1]["bbox"] == [256, 255, 1, 1]
