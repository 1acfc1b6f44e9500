"""Where the JSON files and the pictures of a COCO tree are.

Trees differ in the names of their folders only; whatever is not found is named together with where it was looked for.
"""

from __future__ import annotations

from pathlib import Path

from .coco_index import CocoIndex
from .sample import DataError
from .splits import existing_root

_PREFIX = "instances_"
_OTHER_KINDS = ("captions_", "person_keypoints_", "image_info_", "panoptic_", "stuff_")
_PROBED = 20
"""Images that are looked for in each folder before one is chosen."""


def find_jsons(root: str, split: str | None) -> tuple[list[Path], bool]:
    """The files of a split (all of them for None), and whether the split is one of a list of names instead.

    Raises:
        DataError: there is none, or the split fits several.
    """
    path = Path(root).expanduser()
    if path.is_file():
        return [path], True
    folder = existing_root(root, "coco")
    places = (folder / "annotations", folder)
    found = next((jsons for place in places if (jsons := sorted(place.glob(f"{_PREFIX}*.json")))), [])
    if not found:
        found = next((jsons for place in places if (jsons := _of_no_other_kind(place))), [])
    if not found:
        raise DataError(
            "there is no JSON in it and none in annotations/",
            file=folder,
            remedy="expected annotations/instances_<split>.json, or give the path of the JSON itself",
        )
    if split is None:
        return found, False
    names = {path: path.stem.removeprefix(_PREFIX) for path in found}
    fitting = [path for path in found if names[path] == split]
    fitting = fitting or [path for path in found if names[path].rstrip("0123456789") == split]
    if len(fitting) == 1:
        return fitting, False
    if not fitting and len(found) == 1:
        return found, True
    raise DataError(
        f"split {split!r} fits {len(fitting) or 'none'} of its JSON files",
        file=folder,
        remedy=f"use one of {', '.join(names.values())}",
    )


def base_folder(root: str) -> Path:
    """The folder of a tree whose root is itself or a JSON in it or in its annotations/."""
    path = Path(root).expanduser()
    if path.is_dir():
        return path
    return path.parent.parent if path.parent.name == "annotations" else path.parent


def find_images(index: CocoIndex, base: Path) -> Path:
    """The folder below `base` that holds most of the first images of an index.

    Raises:
        DataError: no folder holds any.
    """
    name = index.path.stem.removeprefix(_PREFIX)
    folders = [base / inside for inside in (name, f"images/{name}", "images", "JPEGImages", ".")]
    probed = [image.file_name for image in index.images[:_PROBED]]
    hits = [sum((folder / file_name).is_file() for file_name in probed) for folder in folders]
    if probed and not max(hits):
        raise DataError(
            f"its images are not found (the first is {probed[0]})",
            file=index.path,
            remedy=f"put them into {folders[0]} or {base / 'images'}",
        )
    return next(
        folder
        for folder, number in zip(folders, hits, strict=True)
        if number == max(hits) and folder.is_dir()
    )


def _of_no_other_kind(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.json") if not path.name.startswith(_OTHER_KINDS))
