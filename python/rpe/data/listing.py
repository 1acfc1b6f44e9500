"""The files of one kind in a folder, by name; whatever else lies there is told and not passed over in silence.

Used by formats whose folders hold one kind of file each. Nothing here opens a file.
"""

from __future__ import annotations

from pathlib import Path

from .sample import Problem

_OF_THE_SYSTEM = ("thumbs.db", "desktop.ini")


def list_files(folder: Path, suffix: str) -> tuple[dict[str, Path], list[Problem]]:
    """Files with a suffix, by their names without it, in order; and a problem for every other entry.

    Hidden entries and those that file managers leave behind are no data. A folder that is missing is empty.
    """
    files: dict[str, Path] = {}
    problems = []
    for entry in sorted(folder.iterdir()) if folder.is_dir() else []:
        if entry.name.startswith(".") or entry.name.lower() in _OF_THE_SYSTEM:
            continue
        if entry.suffix.lower() != suffix:
            problems.append(
                Problem(str(entry), f"not a {suffix} file, not read", "convert it or move it away")
            )
        elif entry.stem in files:
            problems.append(
                Problem(
                    str(entry), f"has the same stem as {files[entry.stem].name}", "keep one of the two files"
                )
            )
        else:
            files[entry.stem] = entry
    return files, problems
