"""The journal of a folder of results, `predict.jsonl`: which image each set of files is of, and what it was made with.

Lines are only ever added, and later ones count: first an origin (`origin.py`) under a short name, then for each image
whose files are all written its path, the digest of its content, that name and the files. Results count as done where
all of that still holds. What is predicted and written is `folder.py`'s business.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .errors import UserError
from .origin import differences

_NAME = "predict.jsonl"
_CHUNK = 2**20
"""Bytes of an image that are digested at once."""


class _Entry(NamedTuple):
    """Results in the folder."""

    image: Path
    digest: str
    origin: str
    files: tuple[Path, ...]

    def is_whole(self) -> bool:
        """Whether all files are there."""
        return bool(self.files) and all(file.is_file() for file in self.files)


class Journal:
    """What a folder of results holds.

    Args:
        folder: created where it is not there.
        origin: of the results to come.
    """

    def __init__(self, folder: Path, origin: Mapping[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self._path = folder, folder / _NAME
        self._origin: dict[str, Any] = json.loads(json.dumps(origin))
        self._name = hashlib.sha256(json.dumps(self._origin, sort_keys=True).encode()).hexdigest()[:16]
        self._origins: dict[str, dict[str, Any]] = {}
        self._entries: dict[str, _Entry] = {}
        self._read()

    def names(self, files: Sequence[Path], *, overwrite: bool) -> dict[Path, str]:
        """What the results of each file are called: its stem; its whole name where another image has the stem.

        Args:
            files: different ones.
            overwrite: take names from images of earlier calls, and replace results of another origin.

        Raises:
            UserError: results of another image, or of these by another model or other rules, would be replaced.
        """
        found: dict[Path, str] = {}
        stems = Counter(file.stem for file in files)
        for file in files:
            own = [name for name in (file.stem, file.name) if self._is_of(name, file)]
            free = [file.stem, file.name] if stems[file.stem] == 1 else [file.name]
            if not overwrite:
                free = self._free_names(free, file)
            left = [name for name in own + free if name not in found.values()]
            if not left:
                raise UserError(
                    f"rpe predict: several images are called {file.name!r}; their results would overwrite each "
                    "other: rename one, or give them folders of results of their own"
                )
            found[file] = left[0]
        if not overwrite:
            self._refuse_other_origins(found.values())
        return found

    def is_done(self, name: str, digest: str) -> bool:
        """Whether the results of that name are of this image content and this origin, and all there."""
        entry = self._entries.get(name)
        return (
            entry is not None
            and entry.origin == self._name
            and digest == entry.digest != ""
            and entry.is_whole()
        )

    def begin(self, name: str) -> bool:
        """Remove what is there under a name before it is written anew; whether there was anything."""
        entry = self._entries.pop(name, None)
        if entry is None:
            return False
        self._write({"result": name, "files": []})
        for file in entry.files:
            file.unlink(missing_ok=True)
        return True

    def end(self, name: str, image: Path, digest: str, files: Iterable[Path]) -> None:
        """Note results whose files are all written."""
        if self._name not in self._origins:
            self._write({"origin": self._name, "made_with": self._origin})
            self._origins[self._name] = self._origin
        written = sorted(file.name for file in files)
        line = {"result": name, "image": str(image.resolve()), "sha256": digest, "origin": self._name}
        self._write({**line, "files": written})
        paths = tuple(self.folder / file for file in written)
        self._entries[name] = _Entry(image.resolve(), digest, self._name, paths)

    def _read(self) -> None:
        if not self._path.exists():
            return
        text = self._path.read_text(encoding="utf-8", errors="replace")
        for line in text.splitlines():
            try:
                self._take(json.loads(line))
            except (ValueError, KeyError, TypeError):
                continue  # a kill may have cut a line short: its image is done again
        if text and not text.endswith("\n"):
            with open(self._path, "a", encoding="utf-8") as journal:
                journal.write("\n")

    def _take(self, line: dict[str, Any]) -> None:
        """One line."""
        if "made_with" in line:
            self._origins[line["origin"]] = dict(line["made_with"])
        elif line["files"]:
            files = tuple(self.folder / Path(name).name for name in line["files"])
            self._entries[line["result"]] = _Entry(Path(line["image"]), line["sha256"], line["origin"], files)
        else:
            self._entries.pop(line["result"], None)

    def _write(self, line: Mapping[str, Any]) -> None:
        with open(self._path, "a", encoding="utf-8") as journal:
            journal.write(json.dumps(line) + "\n")

    def _is_of(self, name: str, file: Path) -> bool:
        entry = self._entries.get(name)
        return entry is not None and entry.image == file.resolve()

    def _free_names(self, names: list[str], file: Path) -> list[str]:
        """Those that no other image has which is still there: one that has moved keeps its results."""
        entries = {name: entry for name in names if (entry := self._entries.get(name)) and entry.is_whole()}
        rivals = {name: entry.image for name, entry in entries.items() if entry.image.exists()}
        rivals = {name: image for name, image in rivals.items() if image != file.resolve()}
        same = [image for image in rivals.values() if image.name == file.name]
        if same or len(rivals) == len(names):
            raise UserError(
                f"{self.folder}: holds results of {(same or list(rivals.values()))[0]}, which those of {file} would "
                "replace; choose another --out, or add --overwrite to replace them"
            )
        return [name for name in names if name not in rivals]

    def _refuse_other_origins(self, names: Iterable[str]) -> None:
        """Raise where results are there that another model, other rules or another version made."""
        entries = [self._entries[name] for name in names if name in self._entries]
        other = [entry for entry in entries if entry.origin != self._name and entry.is_whole()]
        if other:
            changes = differences(self._origins.get(other[0].origin, {}), self._origin)
            raise UserError(
                f"{self.folder}: holds results of {len(other)} of these images by another model, other rules or "
                f"another version ({changes}); choose another --out, or add --overwrite to replace them"
            )


def digest_of(file: Path) -> str:
    """SHA-256 of a file's content; empty where it cannot be read."""
    digest = hashlib.sha256()
    try:
        with open(file, "rb") as content:
            while chunk := content.read(_CHUNK):
                digest.update(chunk)
    except OSError:
        return ""
    return digest.hexdigest()
