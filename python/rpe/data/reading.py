"""Files to arrays: images to float32 [3, H, W], label maps to integers [H, W], and every failure to a DataError.

All decoding of the package happens here, so that no codec's exception leaves without the name of the file.
Nothing here knows a folder layout.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from .sample import DataError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
LABEL_SUFFIXES = (".png", ".tif", ".tiff")
_TIFF_SUFFIXES = (".tif", ".tiff")


def read_image(path: Path) -> NDArray[np.float32]:
    """Read one image as float32 `[3, H, W]` in 0..1.

    Grey is repeated, an opacity channel dropped, 8-bit values are divided by 255, 16-bit values by 65535; float TIFF
    must lie in 0..1 already. Any EXIF orientation is left alone: label maps are drawn on the stored pixels.

    Raises:
        DataError: the file is missing, unreadable, truncated, empty, a stack, or of an unsupported kind.
    """
    pixels = _decode(path, as_label=False)
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3):
        raise DataError(
            f"expected a grey or colour image [H, W] or [H, W, 3], got an array {list(pixels.shape)}",
            file=path,
            remedy="save one plane per file; stacks and multi-channel images are not read, and a channel counts as "
            "opacity only where the file says so",
        )
    _require_pixels(path, pixels)
    scaled = _scale(path, np.ascontiguousarray(pixels.transpose(2, 0, 1)))  # [C, H, W]
    return scaled if scaled.shape[0] == 3 else np.repeat(scaled, 3, axis=0)


def read_label_map(path: Path) -> NDArray[np.int64]:
    """Read one label map as int64 `[H, W]`: 8- or 16-bit PNG (palette indices as they are) or an integer TIFF.

    Raises:
        DataError: the file is missing, unreadable, empty, a colour picture, or holds negative or fractional values.
    """
    values = _decode(path, as_label=True)
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[:, :, 0]
    if values.ndim != 2:
        raise DataError(
            f"a label map has one number per pixel, this file has the shape {list(values.shape)}",
            file=path,
            remedy="save instance numbers as a grey 16-bit PNG or integer TIFF, not as colours",
        )
    if values.dtype == np.bool_:
        values = values.astype(np.uint8)
    if not np.issubdtype(values.dtype, np.integer):
        raise DataError(
            f"a label map holds whole numbers, this file holds {values.dtype}",
            file=path,
            remedy="save it as uint16, e.g. tifffile.imwrite(path, label.astype('uint16'))",
        )
    _require_pixels(path, values)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > np.iinfo(np.int64).max:
        raise DataError(
            f"labels range from {low} to {high}; 0 is background and instances are positive",
            file=path,
            remedy="renumber the instances 1..K and write background as 0",
        )
    return values.astype(np.int64)


def read_mask(path: Path) -> tuple[tuple[int, int], tuple[int, int], NDArray[np.bool_]]:
    """Read one binary mask as `(height, width)`, `(top, left)` and the bool window `[h, w]` around its pixels above 0.

    Raises:
        DataError: the file is missing, unreadable or truncated.
    """
    try:
        with Image.open(path) as picture:
            grey = picture if picture.mode in ("L", "1", "P") else picture.convert("L")
            left, top, right, bottom = grey.getbbox() or (0, 0, 0, 0)
            window = np.asarray(grey.crop((left, top, right, bottom))) > 0
            return (picture.height, picture.width), (top, left), window
    except Exception as error:
        raise _unreadable(path, error) from error


def _decode(path: Path, *, as_label: bool) -> NDArray[np.generic]:
    """The stored array: [H, W] or [H, W, C]. Palettes become colours in images and stay indices in label maps; the
    opacity channel of an image is dropped."""
    try:
        if path.suffix.lower() in _TIFF_SUFFIXES:
            with tifffile.TiffFile(path) as tiff:
                series = tiff.series[0]
                pixels: NDArray[np.generic] = series.asarray()
                is_planar = series.axes.startswith("S") and pixels.ndim == 3
                has_opacity = not as_label and _has_opacity(series.keyframe.aspage())
            pixels = np.moveaxis(pixels, 0, 2) if is_planar else pixels
            return pixels[:, :, :-1] if has_opacity and pixels.ndim == 3 else pixels
        with Image.open(path) as picture:
            if not as_label and picture.mode not in (
                "L",
                "LA",
                "RGB",
                "RGBA",
                "I",
                "I;16",
                "I;16B",
                "I;16L",
                "F",
            ):
                return np.asarray(picture.convert("RGB"))
            pixels = np.asarray(picture)
            return pixels[:, :, :-1] if not as_label and picture.mode in ("LA", "RGBA") else pixels
    except Exception as error:
        raise _unreadable(path, error) from error


def _has_opacity(page: tifffile.TiffPage) -> bool:
    """Whether the last channel is opacity: marked so, or the only one beside red, green and blue."""
    extra = tuple(page.extrasamples)
    marked = (tifffile.EXTRASAMPLE.ASSOCALPHA, tifffile.EXTRASAMPLE.UNASSALPHA)
    return len(extra) == 1 and (extra[0] in marked or page.photometric == tifffile.PHOTOMETRIC.RGB)


def _unreadable(path: Path, error: Exception) -> DataError:
    if not path.exists():
        return DataError(
            "the file does not exist", file=path, remedy="restore it or take it out of the split list"
        )
    if isinstance(error, Image.DecompressionBombError):
        return DataError(
            f"is larger than Pillow opens without being told to ({error})",
            file=path,
            remedy="if it comes from a source you trust, save it as TIFF, which has no such limit",
        )
    known = error.strerror if isinstance(error, OSError) else None
    reason = known or str(error).replace(repr(str(path)), "it") or type(error).__name__
    return DataError(
        f"cannot be read as an image ({reason})",
        file=path,
        remedy="the file is damaged or of another kind: copy it again from the source, or convert it to PNG",
    )


def _require_pixels(path: Path, pixels: NDArray[np.generic]) -> None:
    if pixels.size == 0:
        raise DataError(
            f"the image is empty {list(pixels.shape[:2])}", file=path, remedy="remove it or export it again"
        )


def _scale(path: Path, pixels: NDArray[np.generic]) -> NDArray[np.float32]:
    """Stored values to 0..1."""
    if pixels.dtype == np.bool_:
        return pixels.astype(np.float32)
    if pixels.dtype == np.uint8:
        return pixels.astype(np.float32) / np.float32(255)
    low, high = float(pixels.min()), float(pixels.max())
    if np.issubdtype(pixels.dtype, np.integer) and low >= 0 and high <= 65535:
        return pixels.astype(np.float32) / np.float32(65535)
    if np.issubdtype(pixels.dtype, np.floating) and low >= 0 and high <= 1:
        return pixels.astype(np.float32)
    raise DataError(
        f"pixel values of type {pixels.dtype} from {low:g} to {high:g} have no known scale",
        file=path,
        remedy="save 8-bit or 16-bit integers, or floats in 0..1",
    )
