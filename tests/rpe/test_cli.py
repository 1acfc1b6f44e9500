"""The command line end to end on a tiny synthetic run, and its answers to mistakes: one message, no traceback."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pytest
import torch
from PIL import Image

from rpe import cli

Capture: TypeAlias = "pytest.CaptureFixture[str]"

CONFIG = """
[data]
root = "synthetic:num_images=4,size=32,instances=3"
crop = 32
[model]
channels = [8, 8]
dim = 4
[objective]
window = 0
[training]
steps = 50
batch_size = 2
log_every = 2
"""


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of `rpe train` in a process of its own, with overrides on the command line."""
    folder = tmp_path_factory.mktemp("run")
    config = folder / "tiny.toml"
    config.write_text(CONFIG)
    arguments = ["--training.steps", "4", "--model.channels", "8", "16", "--output", str(folder / "out")]
    process = subprocess.run(
        [sys.executable, "-m", "rpe", "train", str(config), *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        timeout=300,
    )
    assert process.returncode == 0, process.stderr
    assert "step 4/4" in process.stdout and "AP@0.5" in process.stdout
    return folder / "out"


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Exit status of `rpe ARGUMENTS`."""
    monkeypatch.setattr(sys, "argv", ["rpe", *arguments])
    monkeypatch.setenv("COLUMNS", "500")
    try:
        cli.main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_train_leaves_weights_numbers_and_a_report(run_folder: Path) -> None:
    import rpe

    config = rpe.load(run_folder / "model.pt").config
    assert config.model.channels == (8, 16) and config.training.steps == 4 and config.model.dim == 4
    facts = json.loads((run_folder / "evaluation.json").read_text())
    assert facts["metrics"]["overall"]["images"] == 4
    assert facts["metrics"]["by_shape"]["32x32"]["images"] == 4
    assert facts["curves"]["total"]["steps"] == [2, 4]
    page = (run_folder / "evaluation.html").read_text()
    assert "data:image/png;base64," in page and "http" not in page.split("</style>")[-1].replace("xmlns", "")


def test_evaluate(run_folder: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    data = "synthetic:num_images=2,size=32,instances=3"
    arguments = ("--data", data, "--split", "val", "--out", str(tmp_path))
    assert call(monkeypatch, "evaluate", str(run_folder / "model.pt"), *arguments) == 0
    assert "AP@0.5" in capsys.readouterr().out
    assert (tmp_path / "evaluation.html").exists() and (tmp_path / "evaluation.json").exists()


def numbers(folder: Path) -> dict:
    facts: dict = json.loads((folder / "evaluation.json").read_text())
    return facts


def test_decoding_rules_are_those_of_the_command_line(
    run_folder: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over those of the checkpoint, which stay where none is given; the file does not change."""
    import rpe

    checkpoint = tmp_path / "model.pt"
    content = torch.load(run_folder / "model.pt", weights_only=True)
    content["config"]["decode"] |= {"min_size": 3, "threshold": 0.7, "core_threshold": 0.6, "kappas": [4.0]}
    torch.save(content, checkpoint)
    before = checkpoint.read_bytes()
    data, rules = ("--data", "synthetic:num_images=2,size=32"), ("--decode.foreground-threshold", "0.0")
    more = ("--decode.core-threshold", "none", "--decode.empty-kappas", "--decode.num-steps", "2")
    more += ("--decode.tol", "0.1", "--decode.no-connected", "--decode.min-size", "1025")
    assert call(monkeypatch, "evaluate", str(checkpoint), *data, "--out", str(tmp_path / "own")) == 0
    assert (
        call(monkeypatch, "evaluate", str(checkpoint), *data, *rules, *more, "--out", str(tmp_path / "new"))
        == 0
    )
    own, used = (numbers(tmp_path / name)["config"]["decode"] for name in ("own", "new"))
    assert own == content["config"]["decode"] | {"tol": None} and own["min_size"] == 3
    changed = {"foreground_threshold": 0.0, "core_threshold": None, "kappas": [], "num_steps": 2, "tol": 0.1}
    assert used == own | changed | {"connected": False, "min_size": 1025}
    assert numbers(tmp_path / "new")["made_with"]["decode"] == used
    predicted = [numbers(tmp_path / name)["metrics"]["overall"]["predicted"] for name in ("own", "new")]
    assert predicted[0] > predicted[1] == 0
    assert checkpoint.read_bytes() == before

    Image.fromarray(np.arange(1800, dtype=np.uint8).reshape(20, 30, 3)).save(tmp_path / "a.png")
    for name, options in (("all", rules), ("none", ("--decode.min-size", "601"))):
        out = ("--out", str(tmp_path / name))
        assert call(monkeypatch, "predict", str(checkpoint), str(tmp_path / "a.png"), *out, *options) == 0
        count = len(json.loads((tmp_path / name / "a.objects.json").read_text()))
        assert (count > 0) == (name == "all")
    capsys.readouterr()
    with pytest.raises(rpe.UserError, match="unknown key 'decode.treshold'; did you mean 'decode.threshold'"):
        rpe.load(checkpoint, decode={"treshold": 0.5})


def test_no_evaluation_replaces_another_unasked(
    run_folder: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Data of one name in two places, other rules, other weights and other splits each have a folder of their own;
    the same evaluation takes its own again, and says so."""
    roots = [run_folder / where / "nuclei" for where in ("one", "other")]
    for value, root in enumerate(roots):
        for kind in ("images", "labels"):
            (root / kind).mkdir(parents=True)
            Image.fromarray(np.full((32, 32), 9 * value + 1, dtype=np.uint8)).save(root / kind / "x.png")
    first, second = (f"labels:{root}" for root in roots)
    other = run_folder / "changed.pt"
    content = torch.load(run_folder / "model.pt", weights_only=True)
    content["model"]["embedding_head.bias"] += 1
    torch.save(content, other)

    def evaluated(*arguments: str) -> Path:
        assert call(monkeypatch, "evaluate", *arguments) == 0
        told = capsys.readouterr().out
        folder = Path(told.split("numbers: ")[1].splitlines()[0]).parent
        assert ("replaces the same evaluation" in told) == (folder in seen), told
        seen.append(folder)
        return folder

    seen: list[Path] = []
    model = str(run_folder / "model.pt")
    base = evaluated(model, "--data", first)
    assert base == run_folder / "evaluations" / "labels-nuclei-all"
    assert evaluated(model, "--data", second).name == "labels-nuclei-all-2"
    assert evaluated(str(other), "--data", first).name == "labels-nuclei-all-3"
    assert (
        evaluated(model, "--data", first, "--decode.threshold", "0.5").name
        == "labels-nuclei-all-threshold=0.5"
    )
    assert evaluated(model, "--data", first) == base and evaluated(model, "--data", second) == seen[1]
    assert numbers(base)["made_with"]["data"] == first and numbers(seen[1])["made_with"]["data"] == second

    into = ("--out", str(base))
    before = (base / "evaluation.json").read_bytes()
    assert call(monkeypatch, "evaluate", model, "--data", first, *into, "--decode.threshold", "0.5") == 1
    told = capsys.readouterr().err
    assert "decode.threshold was 0.9 and is 0.5" in told and "--overwrite" in told
    assert (base / "evaluation.json").read_bytes() == before
    command = (model, "--data", first, *into, "--decode.threshold", "0.5", "--overwrite")
    assert call(monkeypatch, "evaluate", *command) == 0
    assert "replaces another evaluation" in capsys.readouterr().out
    assert numbers(base)["config"]["decode"]["threshold"] == 0.5


def test_predict_goes_on_where_it_was_and_past_bad_files(
    run_folder: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = tmp_path / "images", tmp_path / "out"
    folder.mkdir()
    for name in ("a", "b", "d"):
        Image.fromarray(np.arange(1800, dtype=np.uint8).reshape(20, 30, 3)).save(folder / f"{name}.png")
    (folder / "c.png").write_bytes(b"no picture")
    missing = str(tmp_path / "missing.png")
    (folder / "notes.txt").write_text("no picture, and none is meant")
    command = (
        "predict",
        str(run_folder / "checkpoint.pt"),
        str(folder),
        "--out",
        str(out),
        "--batch-size",
        "2",
    )
    assert call(monkeypatch, *command[:2], missing, *command[2:]) == 1
    told = capsys.readouterr().out
    assert told.count("objects ->") == 3
    summary = told[told.index("3 images, 2 failed:") :].splitlines()
    assert len(summary) == 3 and "c.png" in summary[2] and "Traceback" not in told
    assert missing in summary[1] and "does not exist" in summary[1]
    assert f"passed over in {folder}: 1 .txt" in told
    roles = ("labels.png", "overlay.png", "embedding.png", "objects.json")
    wanted = sorted([f"{name}.{role}" for name in "abd" for role in roles] + ["predict.jsonl"])
    assert sorted(path.name for path in out.iterdir()) == wanted

    journal = out / "predict.jsonl"  # as a kill amid its last line leaves it
    journal.write_text(journal.read_text()[:-9])
    times = {path.name: path.stat().st_mtime_ns for path in out.iterdir() if path.name[0] in "ab"}
    Image.fromarray(np.arange(1800, dtype=np.uint8).reshape(20, 30, 3)).save(folder / "c.png")
    assert call(monkeypatch, *command) == 0
    told = capsys.readouterr().out
    assert times == {path.name: path.stat().st_mtime_ns for path in out.iterdir() if path.name[0] in "ab"}
    assert "2 images, 2 done before" in told and told.count("objects ->") == 2
    assert call(monkeypatch, *command, "--decode.min-size", "5") == 1
    assert "--overwrite" in capsys.readouterr().err
    assert call(monkeypatch, *command, "--decode.min-size", "5", "--overwrite") == 0
    assert "4 images (4 again)" in capsys.readouterr().out


def test_images_of_one_name_and_empty_folders_are_told(
    run_folder: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").mkdir()
    command = ("predict", str(run_folder / "model.pt"), "--out", str(tmp_path / "out"))
    assert call(monkeypatch, *command, str(tmp_path / "a")) == 1
    assert "no image in this folder; expected one of" in capsys.readouterr().err
    (tmp_path / "a" / "notes.TXT").touch()
    assert call(monkeypatch, *command, str(tmp_path / "a")) == 1
    assert "no image in this folder (1 .txt passed over)" in capsys.readouterr().err
    Image.new("RGB", (30, 20)).save(tmp_path / "one.png")
    assert call(monkeypatch, *command, str(tmp_path / "one.png"), "--batch-size", "0") == 1
    assert "--batch-size must be 1 or more, got 0" in capsys.readouterr().err
    if not torch.cuda.is_available():
        assert call(monkeypatch, *command, str(tmp_path / "one.png"), "--device", "cuda") == 1
        assert "device 'cuda' cannot be used here" in capsys.readouterr().err
    assert call(monkeypatch, *command, str(tmp_path / "one.png"), "--device", "gpu") == 1
    assert "device 'gpu' cannot be used here" in capsys.readouterr().err
    (tmp_path / "a" / "x.png").touch()
    assert call(monkeypatch, *command, str(tmp_path / "a"), str(tmp_path / "x.png")) == 1
    assert "several images are called 'x.png'" in capsys.readouterr().err


def test_info_and_check_data(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    assert call(monkeypatch, "info") == 0
    out = capsys.readouterr().out
    assert "unet" in out and "dsb2018" in out and "torch" in out
    assert call(monkeypatch, "check-data", "synthetic:num_images=2,size=16") == 0


def test_demo_in_small(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    from rpe import demo

    for name in ("_TRAIN_IMAGES", "_VALIDATION_IMAGES", "_TEST_IMAGES"):
        monkeypatch.setattr(demo, name, 4)
    for _ in range(2):
        assert call(monkeypatch, "demo", "--out", str(tmp_path), "--steps", "3") == 0
    assert "threshold" in capsys.readouterr().out
    facts = json.loads((tmp_path / "demo.json").read_text())
    assert list(facts["metrics"]) == ["T = 0", "T = 1", "T = 3", "T = 5"]
    assert len(list(tmp_path.glob("test-*.png"))) >= 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "none.toml"], ["none.toml", "no such config file"]),
        (["train", "CONFIG", "--training.step", "3"], ["--training.step", "Did you mean --training.steps"]),
        (["train", "CONFIG", "--model.norm", "layer"], ["layer", "batch"]),
        (["train", "CONFIG", "--data.root", "dsb2019:x"], ["dsb2018"]),
        (["train", "CONFIG", "--data.root", "dsb2018:/nowhere"], ["/nowhere"]),
        (["train", "WRONG"], ["wrong.toml", "unknown key 'training.step'", "did you mean 'training.steps'"]),
        (["evaluate", "none.pt", "--data", "synthetic:"], ["none.pt", "no such checkpoint"]),
        (["evaluate", "CONFIG", "--data", "synthetic:"], ["tiny.toml", "not a checkpoint"]),
        (["predict", "MODEL", "none.png", "--out", "OUT"], ["none.png"]),
        (["predict", "MODEL", "CONFIG", "--out", "OUT"], ["tiny.toml"]),
        (["predict", "MODEL", "--out", "OUT"], ["no image given"]),
        (["predict", "MODEL", "WRONG", "--out", "CONFIG"], ["tiny.toml: ", "choose another folder"]),
        (["train", "CONFIG", "--output", "CONFIG"], ["tiny.toml", "choose another folder"]),
        (
            ["evaluate", "MODEL", "--data", "synthetic:", "--decode.treshold", "1"],
            ["Did you mean --decode.threshold"],
        ),
        (
            ["evaluate", "MODEL", "--data", "synthetic:", "--decode.threshold", "2"],
            ["decode.threshold must be between"],
        ),
        (["predict", "MODEL", "CONFIG", "--out", "OUT", "--decode.min-sice", "1"], ["--decode.min-sice"]),
        (["predict", "MODEL", "CONFIG", "--out", "OUT", "--decode.background", "hed"], ["hed", "largest"]),
        (["check-data", "what:ever"], ["what:ever"]),
        (["trian"], ["trian", "train"]),
        (
            ["experiment", "pier", "--seeds", "1"],
            ["'pier' is not one of margin, size", "did you mean 'peer'"],
        ),
        (["train", "CONFIG", "--model.atrous-stride", "8"], ["model.atrous_stride", "'unet'", "resnet_fpn"]),
        (
            ["train", "CONFIG", "--training.precision", "fp16"],
            ["training.precision", "needs a GPU", "'bf16'"],
        ),
    ],
)
def test_mistakes_are_told_without_a_traceback(
    arguments: list[str],
    words: list[str],
    run_folder: Path,
    tmp_path: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config, wrong = tmp_path / "tiny.toml", tmp_path / "wrong.toml"
    config.write_text(CONFIG)
    wrong.write_text("[training]\nstep = 3\n")
    names = {
        "CONFIG": str(config),
        "WRONG": str(wrong),
        "MODEL": str(run_folder / "model.pt"),
        "OUT": str(tmp_path / "out"),
    }
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, *(names.get(word, word) for word in arguments)) != 0
    captured = capsys.readouterr()
    told = captured.err + captured.out
    assert "Traceback" not in told
    for word in words:
        assert word in told
