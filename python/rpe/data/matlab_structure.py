"""One variable of a MATLAB 5 file as bytes that scipy may be given: unpacked, cut out, and its structure checked.

scipy's reader trusts the tags of a file: one damaged byte can take the process down or make it allocate without end.
Every element of the format is a tag (type, number of bytes) and data padded to eight bytes; here each tag must be known
and fit into the element around it. Values are left to scipy. Layout: "MAT-File Format" (MathWorks), chapter 1.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator

_HEADER = 128
_BYTES, _INT32, _UINT32, _MATRIX, _COMPRESSED = 1, 5, 6, 14, 15
_NUMBERS = frozenset({1, 2, 3, 4, 5, 6, 7, 9, 12, 13})
_TEXT = _NUMBERS | {16, 17, 18}
_CELL, _STRUCT, _CHAR = 1, 2, 4
_COMPLEX = 0x0800
_NUMERIC_CLASSES = range(6, 16)

Part = tuple[int, memoryview]


def extract_variable(content: bytes, name: str) -> bytes | None:
    """The file with the one variable alone, not compressed; None where it holds no variable of this name.

    Raises:
        NotImplementedError: a MATLAB 7.3 file.
        ValueError: no MATLAB 5 file, or damaged; says how.
    """
    order = {b"IM": "<", b"MI": ">"}.get(content[126:128])
    if order is None:
        raise ValueError("it does not begin like one")
    if struct.unpack(order + "H", content[124:126])[0] != 0x0100:
        raise NotImplementedError("MATLAB 7.3")
    for kind, data in _parts(memoryview(content)[_HEADER:], order):
        if kind == _COMPRESSED:
            data = memoryview(_unpack(data))
            kind, data = next(_parts(data, order), (kind, data))
        if kind == _MATRIX and len(data) and _name(data, order) == name:
            _check_matrix(data, order)
            return content[:_HEADER] + struct.pack(order + "II", _MATRIX, len(data)) + bytes(data)
    return None


def _unpack(data: memoryview) -> bytes:
    try:
        return zlib.decompress(data)
    except zlib.error as error:
        raise ValueError(f"its compressed data are damaged: {error}") from error


def _parts(data: memoryview, order: str) -> Iterator[Part]:
    """Type and data of every element in a row."""
    place = 0
    while place < len(data):
        if len(data) - place < 8:
            raise ValueError("it breaks off within a tag")
        kind, size = struct.unpack(order + "II", data[place : place + 8])
        if kind >> 16:
            # Up to four bytes may stand inside the tag, their number in its upper half.
            size, kind = kind >> 16, kind & 0xFFFF
            start, following = place + 4, place + 8
            if size > 4:
                raise ValueError(f"it has a short element of {size} bytes")
        else:
            start = place + 8
            following = start + size if kind == _COMPRESSED else start + size + -size % 8
        if start + size > len(data):
            raise ValueError(f"an element of {size} bytes breaks off after {len(data) - start}")
        yield kind, data[start : start + size]
        place = following


def _name(data: memoryview, order: str) -> str:
    """Name of a matrix, from its third element."""
    for number, (kind, part) in enumerate(_parts(data, order)):
        if number == 2 and kind == _BYTES:
            return bytes(part).decode("latin-1")
    return ""


def _check_matrix(data: memoryview, order: str) -> None:
    """Raise ValueError unless the elements of a matrix are those of its class and size."""
    if not len(data):
        return
    parts = list(_parts(data, order))
    if [kind for kind, _ in parts[:3]] != [_UINT32, _INT32, _BYTES] or len(parts[0][1]) != 8:
        raise ValueError("a variable in it lacks its flags, size or name")
    flags = struct.unpack(order + "I", parts[0][1][:4])[0]
    array_class = flags & 0xFF
    sizes = _integers(parts[1][1], order)
    if len(sizes) < 2 or min(sizes) < 0:
        raise ValueError(f"a variable in it has the size {list(sizes)}")
    count, rest = math.prod(sizes), parts[3:]
    if array_class in _NUMERIC_CLASSES or array_class == _CHAR:
        allowed = _TEXT if array_class == _CHAR else _NUMBERS
        # A second part is the imaginary one.
        if len(rest) != (2 if flags & _COMPLEX else 1) or any(kind not in allowed for kind, _ in rest):
            raise ValueError("an array in it has no values of a known type")
        if count > 8 * len(rest[0][1]):
            raise ValueError(f"an array in it is said to have {count} values and has {len(rest[0][1])} bytes")
        return
    if array_class == _STRUCT:
        count *= _num_fields(rest[:2], order)
        rest = rest[2:]
    elif array_class != _CELL:
        raise ValueError(f"it holds a variable of class {array_class}, not numbers, text, cells or structs")
    if len(rest) != count or any(kind != _MATRIX for kind, _ in rest):
        raise ValueError(f"a cell or struct in it should have {count} entries and has {len(rest)}")
    for _, part in rest:
        _check_matrix(part, order)


def _num_fields(parts: list[Part], order: str) -> int:
    """Number of fields of a struct, from the length of a name and all the names."""
    if [kind for kind, _ in parts] != [_INT32, _BYTES]:
        raise ValueError("a struct in it has no field names")
    lengths = _integers(parts[0][1], order)
    if len(lengths) != 1 or lengths[0] < 1 or len(parts[1][1]) % lengths[0]:
        raise ValueError("the field names of a struct in it are damaged")
    return len(parts[1][1]) // lengths[0]


def _integers(data: memoryview, order: str) -> tuple[int, ...]:
    """The 32-bit numbers of an element."""
    if len(data) % 4:
        raise ValueError(f"it has {len(data)} bytes in place of 32-bit numbers")
    return struct.unpack(f"{order}{len(data) // 4}i", data)
