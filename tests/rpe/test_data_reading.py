"""Decoding of image and label files: every pixel type to one scale, and errors that name the file."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from rpe.data import DataError, read_image, read_label_map
from rpe.data.reading import read_mask

RAMP = np.array([[0, 51, 255], [102, 153, 204]], dtype=np.uint8)


def grey(value: np.ndarray) -> np.ndarray:
    return np.broadcast_to(value.astype(np.float32) / np.float32(255), (3, *value.shape))


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp", ".PNG"])
def test_grey_is_repeated(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"a{suffix}"
    Image.fromarray(RAMP).save(file)
    image = read_image(file)
    assert image.dtype == np.float32 and image.flags.c_contiguous
    np.testing.assert_array_equal(image, grey(RAMP))


@pytest.mark.parametrize("mode", ["LA", "RGBA", "P", "1", "CMYK"])
def test_modes(tmp_path: Path, mode: str) -> None:
    picture = Image.fromarray(np.where(RAMP > 100, 255, 0).astype(np.uint8)).convert(mode)
    if mode.endswith("A"):
        picture.putalpha(7)
    file = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    if mode == "CMYK":
        file = tmp_path / "a.jpg"
        picture.save(file, quality=100)
    else:
        picture.save(file)
    np.testing.assert_allclose(read_image(file), grey(np.where(RAMP > 100, 255, 0)), atol=0.1)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_are_scaled(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"a{suffix}"
    Image.fromarray(RAMP.astype(np.uint16) * 257).save(file)
    np.testing.assert_allclose(read_image(file), grey(RAMP), atol=1e-6)


@pytest.mark.parametrize(
    ("array", "options"),
    [
        (np.stack([RAMP, RAMP, RAMP], axis=2), {"photometric": "rgb"}),
        (np.stack([RAMP, RAMP, RAMP], axis=0), {"photometric": "rgb", "planarconfig": "separate"}),
        (RAMP.astype(np.float32) / 255, {}),
        (RAMP.astype(np.uint16) * 257, {"bigtiff": True}),
        (np.stack([RAMP, RAMP, RAMP, 0 * RAMP], axis=2), {"photometric": "rgb"}),
        (np.stack([RAMP, RAMP, RAMP, 0 * RAMP], axis=2), {"photometric": "rgb", "extrasamples": [0]}),
        (
            np.stack([RAMP, RAMP, RAMP, 0 * RAMP], axis=0),
            {"photometric": "rgb", "planarconfig": "separate", "extrasamples": ["assocalpha"]},
        ),
        (
            np.stack([RAMP, 0 * RAMP], axis=2),
            {"photometric": "minisblack", "planarconfig": "contig", "extrasamples": ["unassalpha"]},
        ),
    ],
)
def test_tiff_layouts(tmp_path: Path, array: np.ndarray, options: dict[str, object]) -> None:
    tifffile.imwrite(tmp_path / "a.tiff", array, **options)
    np.testing.assert_allclose(read_image(tmp_path / "a.tiff"), grey(RAMP), atol=1e-6)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.full((2, 2), 3.0, dtype=np.float32), "have no known scale"),
        (np.full((2, 2), -3, dtype=np.int16), "have no known scale"),
        (np.zeros((5, 8, 8), dtype=np.uint8), "expected a grey or colour image"),
        (np.zeros((0, 4), dtype=np.uint8), "empty|cannot be read"),
    ],
)
def test_unusable_tiff(tmp_path: Path, array: np.ndarray, message: str) -> None:
    file = tmp_path / "a.tif"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tifffile.imwrite(file, array)
    with pytest.raises(DataError, match=rf"a\.tif: .*({message}).*; "):
        read_image(file)


@pytest.mark.parametrize("channels, photometric", [(2, "minisblack"), (4, "minisblack"), (4, "separated")])
def test_channels_that_are_no_opacity_are_not_dropped(
    tmp_path: Path, channels: int, photometric: str
) -> None:
    """Stains of a microscope, or the black of a print."""
    file = tmp_path / "a.tif"
    array = np.stack([RAMP] * channels, axis=2)
    tifffile.imwrite(file, array, photometric=photometric, planarconfig="contig")
    with pytest.raises(DataError, match=rf"a\.tif: .*got an array \[2, 3, {channels}\].*; .*opacity"):
        read_image(file)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
@pytest.mark.parametrize("kept", [0.0, 0.4])
def test_truncated_file(tmp_path: Path, suffix: str, kept: float) -> None:
    file = tmp_path / f"a{suffix}"
    noise = np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)
    Image.fromarray(noise).save(file)
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * kept)])
    for read in (read_image, read_label_map):
        with pytest.raises(DataError, match=rf"a{suffix}: cannot be read as an image") as caught:
            read(file)
        assert caught.value.file == str(file) and caught.value.remedy


def test_missing_file(tmp_path: Path) -> None:
    for read in (read_image, read_label_map, read_mask):
        with pytest.raises(DataError, match=r"a\.png: the file does not exist"):
            read(tmp_path / "a.png")


def test_picture_that_is_too_large_to_decode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(RAMP).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1)
    with pytest.raises(DataError, match=r"a\.png: is larger than Pillow opens .*save it as TIFF"):
        read_image(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "a.tif", RAMP)
    assert read_image(tmp_path / "a.tif").shape == (3, *RAMP.shape)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_label_map_png(tmp_path: Path, dtype: type) -> None:
    label = np.array([[0, 200], [3, np.iinfo(dtype).max]], dtype=dtype)
    Image.fromarray(label).save(tmp_path / "a.png")
    read = read_label_map(tmp_path / "a.png")
    assert read.dtype == np.int64
    np.testing.assert_array_equal(read, label)


def test_palette_indices_are_the_labels(tmp_path: Path) -> None:
    picture = Image.fromarray(np.array([[0, 2], [1, 1]], dtype=np.uint8), mode=None).convert("P")
    picture.putdata([0, 2, 1, 1])
    picture.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    picture.save(tmp_path / "a.png")
    assert read_label_map(tmp_path / "a.png").tolist() == [[0, 2], [1, 1]]


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.uint32, np.int64])
def test_label_map_tiff(tmp_path: Path, dtype: type) -> None:
    label = np.array([[0, 5], [3, 100]], dtype=dtype)
    tifffile.imwrite(tmp_path / "a.tif", label, compression="zlib")
    np.testing.assert_array_equal(read_label_map(tmp_path / "a.tif"), label)


def test_mask_window(tmp_path: Path) -> None:
    mask = np.zeros((6, 9), dtype=np.uint8)
    mask[2:4, 5:8] = 255
    mask[3, 5] = 0
    for mode in ("L", "RGB", "1"):
        Image.fromarray(mask).convert(mode).save(tmp_path / "a.png")
        size, (top, left), window = read_mask(tmp_path / "a.png")
        assert size == (6, 9)
        assert (top, left) == (2, 5)
        np.testing.assert_array_equal(window, mask[2:4, 5:8] > 0)
    Image.fromarray(mask * 0).save(tmp_path / "a.png")
    assert read_mask(tmp_path / "a.png")[2].size == 0
