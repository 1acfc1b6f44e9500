"""One element at a time of the arrays in a JSON file that may be larger than memory, each with its place in the file.

Python's own decoder reads each element from a sliding text buffer, so memory follows the largest element and not the
file, and a later read needs `json.loads` of a few bytes only. It knows nothing of what the elements mean.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from .sample import DataError

_CHUNK = 2**20
_SPACE = " \t\n\r"
_AFTER_VALUE = _SPACE + ",:]}"
_REMEDY = "the file is damaged or incomplete: copy or export it again"


class Element(NamedTuple):
    """One entry of an array at the top level of the file.

    Attributes:
        key: name of the array.
        offset: first byte of the element in the file.
        text: its bytes as Latin-1, one character a byte.
        value: the decoded element; characters outside ASCII are right in `decode()` only.
    """

    key: str
    offset: int
    text: str
    value: Any

    def decode(self) -> Any:
        """The element with its strings as UTF-8, bytes that are none replaced by U+FFFD."""
        return json.loads(self.text.encode("latin-1").decode("utf-8", errors="replace"))


def stream_arrays(path: Path) -> Iterator[Element]:
    """Every element of every array that is a value of the object a JSON file holds; other values are passed over.

    Raises:
        DataError: the file cannot be read, is no JSON object, or breaks off; names the byte.
    """
    try:
        with path.open("rb") as file:
            yield from _arrays(_Reader(file, path))
    except OSError as error:
        raise DataError(
            f"cannot be read ({error.strerror or error})",
            file=path,
            remedy="check that the file is there and readable",
        ) from error


def read_element(file: BinaryIO, path: Path, offset: int, length: int) -> Any:
    """Decode the element that `stream_arrays` found at `offset`.

    Raises:
        DataError: the file has changed since.
    """
    try:
        file.seek(offset)
        return json.loads(file.read(length).decode("utf-8", errors="replace"))
    except ValueError as error:
        raise DataError(
            f"has changed since it was opened (byte {offset})", file=path, remedy="open the data set again"
        ) from error


def _arrays(reader: _Reader) -> Iterator[Element]:
    reader.expect("{")
    while reader.peek() != "}":
        key = reader.value()[0]
        reader.expect(":")
        if reader.peek() == "[":
            reader.expect("[")
            while reader.peek() != "]":
                value, offset, text = reader.value()
                yield Element(str(key), offset, text, value)
                reader.separator("]")
            reader.expect("]")
        else:
            reader.value()
        reader.separator("}")
    reader.expect("}")


class _Reader:
    """A window of Latin-1 text that moves over a file."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file, self._path = file, path
        self._decoder = json.JSONDecoder()
        self._text = ""
        self._place = 0
        self._offset = 0
        self._ended = False
        self._refill(_CHUNK)
        if self._text.startswith("\xef\xbb\xbf"):
            self._place = 3

    def peek(self) -> str:
        """The next character that is no space; "" at the end of the file."""
        while True:
            while self._place < len(self._text) and self._text[self._place] in _SPACE:
                self._place += 1
            if self._place < len(self._text):
                return self._text[self._place]
            if self._ended:
                return ""
            self._refill(_CHUNK)

    def expect(self, character: str) -> None:
        """Pass over one character, which must be this one."""
        if self.peek() != character:
            raise self._error(self._place, f"expected {character!r}, found {self.peek() or 'the end'!r}")
        self._place += 1

    def separator(self, closing: str) -> None:
        """Pass over a comma unless `closing` comes next."""
        if self.peek() != closing:
            self.expect(",")

    def value(self) -> tuple[Any, int, str]:
        """The next value, its offset in the file and its text."""
        self.peek()
        size = _CHUNK
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._place)
            except (ValueError, RecursionError) as error:
                if self._ended:
                    place = error.pos if isinstance(error, json.JSONDecodeError) else self._place
                    raise self._error(place, getattr(error, "msg", str(error))) from error
            else:
                # A number may go on behind the end of the buffer, as in 1|23 or 1.|5.
                if self._ended or (end < len(self._text) and self._text[end] in _AFTER_VALUE):
                    start, self._place = self._place, end
                    return value, self._offset + start, self._text[start:end]
            self._refill(size)
            size *= 2

    def _refill(self, size: int) -> None:
        """Forget what has been passed and read on."""
        chunk = self._file.read(size)
        self._ended = not chunk
        self._offset += self._place
        self._text = self._text[self._place :] + chunk.decode("latin-1")
        self._place = 0

    def _error(self, place: int, reason: str) -> DataError:
        return DataError(
            f"is no valid JSON at byte {self._offset + place} ({reason})", file=self._path, remedy=_REMEDY
        )
