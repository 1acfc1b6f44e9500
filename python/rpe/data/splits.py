"""Split lists: ROOT/<split>.txt, one image name per line, blank lines and lines that start with # left out.

Used by every format that is a tree of files. It must not touch images.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .sample import DataError, Problem


def existing_root(root: str, format_name: str) -> Path:
    """The root folder as a Path.

    Raises:
        DataError: it does not exist or is no folder.
    """
    path = Path(root).expanduser()
    if not root or not path.is_dir():
        raise DataError(
            "no such folder" if root else "no folder given",
            file=root or None,
            remedy=f"give the data's folder as {format_name}:/path/to/folder",
        )
    return path


def select_split(root: Path, split: str | None, known: Sequence[str]) -> tuple[list[str], list[Problem]]:
    """The names of one split, in the order of its list, and what is wrong with the list.

    Names that are not in `known` or stand twice are left out and reported.

    Raises:
        DataError: a split is asked for and its list is missing, unreadable or empty.
    """
    if split is None:
        return list(known), []
    return read_split(root / f"{split}.txt", split, known)


def read_split(path: Path, split: str, known: Sequence[str]) -> tuple[list[str], list[Problem]]:
    """As `select_split`, from the list at `path`."""
    if not path.is_file():
        raise DataError(
            f"split {split!r} was asked for and its list is not there",
            file=path,
            remedy="write one image name per line into it, or ask for no split to use every image "
            "(in training --data.train-split '' or --data.test-split '', the latter for no evaluation)",
        )
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"cannot be read ({error})", file=path, remedy="save the list as UTF-8 text"
        ) from error
    known_names = set(known)
    names: dict[str, None] = {}
    problems = []
    for number, line in enumerate(lines, start=1):
        name = line.strip()
        if not name or name.startswith("#"):
            continue
        if name in names:
            problems.append(
                Problem(str(path), f"line {number}: {name} stands twice", "remove one of the two lines")
            )
        elif name not in known_names:
            problems.append(
                Problem(
                    str(path),
                    f"line {number}: there is no image named {name}",
                    "correct the name or remove the line",
                )
            )
        else:
            names[name] = None
    if not names and not problems:
        raise DataError("the split list is empty", file=path, remedy="write one image name per line")
    return list(names), problems
