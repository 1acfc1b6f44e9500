"""MATLAB files of segmentation benchmarks: structs and cells to arrays, and every failure to a DataError.

Nothing here knows which benchmark; `bsds500.py` and `sbd.py` say which fields they want.
"""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import io

from .matlab_structure import extract_variable
from .sample import DataError


def read_structs(path: Path, variable: str) -> list[Any]:
    """The structs in a variable, which is one struct or a cell or an array of them.

    Raises:
        DataError: the file is missing, damaged, or has no such variable of structs.
    """
    try:
        content = extract_variable(path.read_bytes(), variable)
        found = None if content is None else io.loadmat(BytesIO(content))[variable]
    except NotImplementedError as error:
        raise DataError(
            "is a MATLAB 7.3 file, which is not read", file=path, remedy="save it with `save -v7`"
        ) from error
    except FileNotFoundError as error:
        raise DataError(
            "the file does not exist", file=path, remedy="restore it or take it out of the split list"
        ) from error
    except Exception as error:
        raise DataError(
            f"cannot be read as a MATLAB file ({error or type(error).__name__})",
            file=path,
            remedy="the file is damaged or of another kind: copy it again from the source",
        ) from error
    structs: list[Any] = []
    if isinstance(found, np.ndarray) and found.dtype.names:
        structs = list(found.ravel())
    elif isinstance(found, np.ndarray) and found.dtype == object:
        structs = [cell.ravel()[0] for cell in found.ravel() if _is_struct(cell)]
        structs = structs if len(structs) == found.size else []
    if not structs:
        raise DataError(
            f"has no struct {variable!r}", file=path, remedy="copy the file again from the benchmark"
        )
    return structs


def label_field(path: Path, struct: Any, name: str) -> NDArray[np.int64]:
    """A field that is a map of whole numbers from 0 up, as int64 `[H, W]`.

    Raises:
        DataError: the struct has no such field, or it holds something else.
    """
    values = _field(path, struct, name)
    if values.ndim != 2 or values.dtype.kind not in "buif" or not values.size:
        raise DataError(
            f"field {name!r} is no map [H, W] of numbers but {values.dtype} {list(values.shape)}",
            file=path,
            remedy="copy the file again from the benchmark",
        )
    is_fractional = values.dtype.kind == "f" and (values != np.floor(values)).any()
    if is_fractional or not np.isfinite(values.max()) or values.min() < 0:
        raise DataError(
            f"field {name!r} holds numbers that are no labels (whole, from 0 up)",
            file=path,
            remedy="copy the file again from the benchmark",
        )
    return values.astype(np.int64)


def _field(path: Path, struct: Any, name: str) -> NDArray[Any]:
    if name not in (struct.dtype.names or ()):
        raise DataError(
            f"the struct has no field {name!r}", file=path, remedy="copy the file again from the benchmark"
        )
    values = struct[name]
    if values.dtype == object and values.size == 1:
        values = np.asarray(values.ravel()[0])
    if hasattr(values, "toarray"):
        values = values.toarray()
    return np.asarray(values)


def _is_struct(cell: Any) -> bool:
    return isinstance(cell, np.ndarray) and bool(cell.dtype.names) and cell.size == 1
