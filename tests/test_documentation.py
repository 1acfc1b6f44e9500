"""What the documentation shows is true: examples run, README's code gives what it says, links lead somewhere."""

import doctest
import importlib
import importlib.util
import json
import os
import pkgutil
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

import rpe_ops

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCS = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))
PAGES = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/results/README.md", *DOCS]
MODULES = sorted(
    f"rpe_ops.{module.name}" for module in pkgutil.iter_modules(rpe_ops.__path__) if not module.ispkg
)


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name):
    torch.manual_seed(0)
    failed, _ = doctest.testmod(importlib.import_module(name))
    assert failed == 0


@pytest.mark.parametrize("name", ["pairwise_loss", "mean_shift", "connected_components"])
def test_every_operator_has_an_example(name):
    assert ">>>" in getattr(rpe_ops, name).__doc__


class Block(NamedTuple):
    """A fenced block of code, and what the comment above it asks for."""

    language: str
    code: str
    line: int
    not_run: str
    """Why it cannot run here; empty where it can."""
    needs: str


def blocks(page: str) -> list[Block]:
    """Fenced blocks of a page in order. `<!-- not run: REASON -->` above one: it is compiled only;
    `<!-- with: ... -->`: it runs with a model's checkpoint beside it."""
    text = (ROOT / page).read_text(encoding="utf-8")
    pattern = r"(?:^<!-- (not run|with): ([^\n]+) -->\n)?^```(\w*)\n(.*?)^```$"
    found = []
    for match in re.finditer(pattern, text, flags=re.MULTILINE | re.DOTALL):
        ask, words, language, code = match.groups()
        line = text[: match.start(4)].count("\n")
        needs = words if ask == "with" else ""
        found.append(Block(language, code, line, words if ask == "not run" else "", needs))
    return found


def python_names(page: str) -> dict[str, Any]:
    """What a page's first block may use without defining it: the README goes straight to the point."""
    if page != "README.md":
        return {}
    generator = torch.Generator().manual_seed(0)
    return {
        "torch": torch,
        "F": torch.nn.functional,
        "rpe_ops": rpe_ops,
        "embedding": torch.randn(200, 8, generator=generator),
        "label": torch.randint(5, (200,), generator=generator),
    }


def add_model(folder: Path, names: dict[str, Any]) -> None:
    """A checkpoint of an untrained network and an image."""
    rpe = pytest.importorskip("rpe", reason="the model package needs the extra [train]")
    image = importlib.import_module("PIL.Image")
    config = rpe.load_config(ROOT / "configs" / "synthetic.toml")
    names["checkpoint"] = folder / "model.pt"
    save = importlib.import_module("rpe.checkpoint").save_checkpoint
    save(names["checkpoint"], config, rpe.build_model(config).state_dict())
    image.effect_noise((48, 40), 64).save(folder / "image.png")


def run_shell(code: str, folder: Path, *options: str) -> None:
    """Runs shell lines in `folder` with this interpreter as `python` and this package's command as `rpe`."""
    programs = folder / "programs"
    programs.mkdir(exist_ok=True)
    for name, module in (("python", ""), ("rpe", "-m rpe")):
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" {module} "$@"\n')
        program.chmod(0o755)
    environment = {**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["sh", "-e", *options, "-c", code], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("page", ["README.md", *DOCS])
def test_code_blocks_run(page, tmp_path, monkeypatch, one_thread):
    """Every block of a page, the Python ones one after the other in one namespace."""
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names = python_names(page)
    for block in blocks(page):
        assert block.language in {"python", "bash", "bibtex"}, f"{page}:{block.line}: {block.language!r}"
        if block.needs:
            add_model(tmp_path, names)
        if block.language == "python":
            # the line numbers of the page in a traceback
            source = "\n" * block.line + block.code
            code = compile(source, page, "exec", dont_inherit=True)
            if not block.not_run:
                exec(code, names)
        elif block.language == "bash":
            run_shell(block.code, tmp_path, *(["-n"] if block.not_run else []))


@pytest.mark.parametrize("page", ["README.md", *DOCS])
def test_commands_exist(page, tmp_path):
    """Also in blocks that are not run: subcommands of rpe, scripts, extras."""
    text = (ROOT / page).read_text(encoding="utf-8")
    shell = "\n".join([block.code for block in blocks(page) if block.language == "bash"])
    commands = set(re.findall(r"^rpe ([a-z-]+)", shell, flags=re.MULTILINE)) | set(
        re.findall(r"`rpe ([a-z-]+)", text)
    )
    if commands:
        cli = pytest.importorskip("rpe.cli", reason="the model package needs the extra [train]")
        assert commands <= set(cli.app)
        for line in re.findall(r"^rpe (.+)$", shell, flags=re.MULTILINE) + re.findall(
            r"`rpe ([a-z]+ [^`]+)`", text
        ):
            parse(cli.app, line, tmp_path)
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for extra in re.findall(r"pip install '[.]\[(\w+)\]'", text):
        assert re.search(rf"^{extra} = \[", project, flags=re.MULTILINE), extra
    for script in re.findall(r"python ((?:examples|docs|benchmarks)/[\w/]+\.py)", text):
        assert (ROOT / script).is_file(), script


def parse(app, line, folder):
    """Arguments of `rpe` in the words of a page, where CONFIG is any config, CHECKPOINT any model; nothing runs."""
    if "CHECKPOINT" in line and not (folder / "model.pt").exists():
        add_model(folder, {})
    line = line.replace("CONFIG", "configs/synthetic.toml").replace("configs/", f"{ROOT}/configs/")
    line = line.replace("CHECKPOINT", f"{folder}/model.pt")
    words = shlex.split(line, comments=True)
    app.parse_args(words, exit_on_error=False, print_error=False)


@pytest.mark.parametrize(
    "result", sorted((ROOT / "benchmarks" / "results" / "training").rglob("*.json")), ids=str
)
def test_results_of_training_name_a_command_that_exists(result, tmp_path):
    cli = pytest.importorskip("rpe.cli", reason="the model package needs the extra [train]")
    commands = json.loads(result.read_text(encoding="utf-8"))["environment"]["command"].split("; ")
    for command in commands:
        assert command.startswith("rpe ")
        parse(cli.app, command.removeprefix("rpe "), tmp_path)


def test_before_and_after_agree():
    before, after = [block.code for block in blocks("README.md") if block.language == "python"][:2]
    names = python_names("README.md")
    exec(before, names)
    by_hand = names.pop("loss")
    exec(after, names)
    assert float(names["loss"]) == pytest.approx(float(by_hand), rel=1e-5)
    assert names["labels"].shape == (200,)


def test_readme_lists_the_public_names():
    public = set(rpe_ops.__all__) - {"__version__", "nn"} | {"nn.PairwiseLoss", "nn.MeanShift"}
    missing = [name for name in public if not re.search(rf"`{re.escape(name)}[(`]", README)]
    assert not missing


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    path = ROOT / page
    targets = re.findall(r"\]\(([^)#:]+)\)", path.read_text(encoding="utf-8"))
    broken = [target for target in targets if not (path.parent / target).exists()]
    assert not broken


def test_the_api_reference_lists_the_public_names():
    pages = "\n".join(
        (ROOT / page).read_text(encoding="utf-8") for page in DOCS if page.startswith("docs/api")
    )
    listed = set(re.findall(r"^::: (\S+)", pages, flags=re.MULTILINE))
    public = set(rpe_ops.__all__) - {"__version__", "nn", "MeanShift"} | {"nn.PairwiseLoss", "nn.MeanShift"}
    assert {f"rpe_ops.{name}" for name in public} | {"rpe_ops.estimator.MeanShift"} <= listed
    rpe = pytest.importorskip("rpe", reason="the model package needs the extra [train]")
    assert {f"rpe.{name}" for name in rpe.__all__} <= listed


def test_tables_show_what_the_package_says():
    command = [sys.executable, "docs/generate.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(not importlib.util.find_spec("mkdocs"), reason="mkdocs is not installed: extra [docs]")
def test_the_site_builds_without_warnings(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    # the theme announces its successor on every start, which is no warning about these pages
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr
    page = (tmp_path / "api" / "operators" / "index.html").read_text(encoding="utf-8")
    assert 'id="rpe_ops.mean_shift"' in page and "num_steps" in page
    modules = (tmp_path / "api" / "modules" / "index.html").read_text(encoding="utf-8")
    assert 'id="rpe_ops.nn.MeanShift"' in modules and "_OverRows" not in modules
