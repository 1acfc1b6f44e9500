"""`rpe predict` on folders: which files are images, when results count as done, and that none are replaced unasked."""

import io
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

import rpe
from rpe.config import Config, DecodeConfig, ModelConfig
from rpe.data import DataError
from rpe.errors import UserError
from rpe.folder import Outcome, list_images, predict_files
from rpe.images import as_image
from rpe.predict import Predictor

CONFIG = Config(model=ModelConfig(channels=(8, 8), dim=4), decode=DecodeConfig(min_size=4))
QUIET = Console(file=io.StringIO(), width=140)
JOURNAL = "predict.jsonl"


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    torch.manual_seed(0)
    return Predictor(rpe.build_model(CONFIG), CONFIG)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of two images of one size."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number, name in enumerate(("a.png", "b.png")):
        save(folder / name, number)
    return folder


def save(path: Path, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def run(predictor: Predictor, images: Path, overwrite: bool = False) -> Outcome:
    out = images.parent / "out"
    return predict_files(predictor, list_images([images], out).files, out, overwrite=overwrite, console=QUIET)


def counts(outcome: Outcome) -> tuple[int, int, int]:
    return outcome.done, outcome.again, outcome.skipped


def test_results_that_still_hold_are_not_made_again(predictor: Predictor, images: Path) -> None:
    out = images.parent / "out"
    assert counts(run(predictor, images)) == (2, 0, 0)
    assert counts(run(predictor, images)) == (0, 0, 2)
    os.utime(images / "a.png", (1, 1))
    assert counts(run(predictor, images)) == (0, 0, 2), "the same content"
    moved = images.rename(images.parent / "moved")
    assert counts(run(predictor, moved)) == (0, 0, 2), "and elsewhere"
    (out / "b.overlay.png").unlink()
    assert counts(run(predictor, moved)) == (1, 1, 1), "a file of its results is gone"
    assert (out / "b.overlay.png").exists()
    status = (moved / "a.png").stat()
    content = (moved / "a.png").read_bytes()
    save(moved / "a.png", 7)
    (moved / "a.png").write_bytes((moved / "a.png").read_bytes()[: len(content)].ljust(len(content), b"\0"))
    os.utime(moved / "a.png", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (moved / "a.png").stat().st_size == status.st_size
    assert counts(run(predictor, moved)) == (1, 1, 1), "other content of the same size and time"


@pytest.mark.parametrize("change", ["weights", "decode", "grouping", "version"])
def test_results_of_another_origin_are_replaced_only_if_asked(
    change: str, predictor: Predictor, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(predictor, images)
    before = {path.name: path.read_bytes() for path in (images.parent / "out").iterdir()}
    config, model, told = predictor.config, predictor.model, ""
    if change == "weights":
        torch.manual_seed(1)
        model, told = rpe.build_model(CONFIG), "other weights"
    elif change == "decode":
        config = replace(config, decode=replace(config.decode, threshold=0.5))
        told = "decode.threshold was 0.9 and is 0.5"
    elif change == "grouping":
        config = replace(config, grouping=replace(config.grouping, eta=0.5))
        told = "grouping.eta was 1.0 and is 0.5"
    else:
        monkeypatch.setattr("rpe_ops.__version__", "99.0")
        told = "version was .* and is '99.0'"
    other = Predictor(model, config)
    with pytest.raises(UserError, match=rf"results of 2 of these images by another.*\({told}\).*--overwrite"):
        run(other, images)
    assert before == {path.name: path.read_bytes() for path in (images.parent / "out").iterdir()}
    assert counts(run(other, images, overwrite=True)) == (2, 2, 0)
    assert counts(run(other, images)) == (0, 0, 2)


def test_new_images_join_the_results_of_other_rules(predictor: Predictor, images: Path) -> None:
    """Nothing is replaced, so nothing is refused; the journal knows what each was made with."""
    run(predictor, images)
    more = images.parent / "more"
    more.mkdir()
    save(more / "c.png", 3)
    other = Predictor(predictor.model, replace(CONFIG, decode=replace(CONFIG.decode, threshold=0.5)))
    assert counts(run(other, more)) == (1, 0, 0)
    assert counts(run(predictor, images)) == (0, 0, 2) and counts(run(other, more)) == (0, 0, 1)
    lines = [json.loads(line) for line in (images.parent / "out" / JOURNAL).read_text().splitlines()]
    thresholds = {
        line["origin"]: line["made_with"]["decode"]["threshold"] for line in lines if "made_with" in line
    }
    assert [thresholds[line["origin"]] for line in lines if "result" in line] == [0.9, 0.9, 0.5]


def test_images_of_one_stem_have_results_of_their_own(predictor: Predictor, images: Path) -> None:
    out = images.parent / "out"
    save(images / "b.jpg", 5)
    assert counts(run(predictor, images)) == (3, 0, 0)
    labels = {path.name for path in out.glob("*.labels.png")}
    assert labels == {"a.labels.png", "b.png.labels.png", "b.jpg.labels.png"}
    save(images / "a.jpg", 6)  # beside one whose results have the stem
    before = (out / "a.labels.png").read_bytes()
    assert counts(run(predictor, images)) == (1, 0, 3)
    assert (out / "a.jpg.labels.png").exists() and (out / "a.labels.png").read_bytes() == before
    (images / "a.png").unlink()
    assert counts(run(predictor, images)) == (0, 0, 3)


def test_an_image_of_another_folder_replaces_nothing(predictor: Predictor, images: Path) -> None:
    run(predictor, images)
    other = images.parent / "other"
    other.mkdir()
    save(other / "a.png", 9)
    with pytest.raises(UserError, match=r"holds results of .*images/a\.png, which those of .*other/a\.png"):
        run(predictor, other)
    assert counts(run(predictor, other, overwrite=True)) == (1, 1, 0)
    with pytest.raises(UserError, match="several images are called 'a.png'"):
        predict_files(predictor, [images / "a.png", other / "a.png"], images.parent / "new", console=QUIET)


def test_results_that_were_begun_anew_and_cut_short_are_not_done(
    predictor: Predictor, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = images.parent / "out"
    run(predictor, images)
    other = Predictor(predictor.model, replace(CONFIG, decode=replace(CONFIG.decode, threshold=0.5)))
    with monkeypatch.context() as patch:
        patch.setattr("rpe.journal.Journal.end", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
        outcome = run(other, images, overwrite=True)
    assert outcome.done == 0 and set(outcome.failed.values()) == {"disk full"}
    assert counts(run(predictor, images)) == (2, 0, 0), "files of other rules lie there"
    text = (out / JOURNAL).read_text()
    (out / JOURNAL).write_text("no JSON\n" + text[:-9])
    assert counts(run(predictor, images)) == (1, 0, 1), "the line that was cut short"
    assert counts(run(predictor, images)) == (0, 0, 2)


def test_what_pillow_reads_is_read_and_the_rest_is_told(predictor: Predictor, images: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    suffixes = (".bmp", ".webp", ".jp2", ".ppm", ".tga", ".gif", ".jfif", ".TIF", ".pgm")
    for suffix in suffixes:
        picture = Image.fromarray(pixels)
        picture = picture.convert("L") if suffix == ".pgm" else picture
        options = {"format": "JPEG"} if suffix == ".jfif" else {}
        picture.save(images / f"x{suffix}", **options)
    for name in ("n.txt", "m.TXT", "k.csv", "README", ".hidden"):
        (images / name).touch()
    (images / "below").mkdir()
    listing = list_images([images, images / "a.png"], images.parent / "out")
    assert len(listing.files) == 2 + len(suffixes), "each once"
    told = listing.passed_over[images]
    assert sorted(told.split(", ")) == ["1 .csv", "1 folder", "1 without a suffix", "2 .txt"]
    outcome = predict_files(predictor, listing.files, images.parent / "out", console=QUIET)
    assert not outcome.failed and outcome.done == len(listing.files)
    lossless = as_image(images / "x.tga")
    for suffix in (".bmp", ".ppm", ".TIF"):
        torch.testing.assert_close(as_image(images / f"x{suffix}"), lossless)


def test_an_animation_is_no_image(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "green")]
    for suffix in (".gif", ".webp"):
        frames[0].save(tmp_path / f"x{suffix}", save_all=True, append_images=frames[1:])
        with pytest.raises(DataError, match=rf"x\{suffix}: is an animation of 3 frames"):
            as_image(tmp_path / f"x{suffix}")


def test_the_folder_of_the_images_is_not_that_of_the_results(images: Path) -> None:
    with pytest.raises(UserError, match="is the folder of the images too"):
        list_images([images], images.parent / "images")
    assert list_images([images / "a.png"], images).files == [images / "a.png"]
    shutil.rmtree(images)
    assert list_images([images], images).files == [images], "told when it is read"
