"""What users install: the wheel's contents and metadata, an import that costs nothing, life without a compiler.

The wheel is built from a copy of the sources with torch and numpy hidden, and run with the sources out of sight.
Needs no network: setuptools is in the `test` extra and its hooks are called directly.
"""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "rpe_ops" / "version.py").read_text(encoding="utf-8"))[1]
PACKAGED = ("rpe_ops", "python", "csrc", "configs")
PACKAGED_FILES = (
    "pyproject.toml",
    "setup.py",
    "MANIFEST.in",
    "README.md",
    "LICENSE",
    "CHANGELOG.md",
    "CMakeLists.txt",
)
NOT_SOURCES = shutil.ignore_patterns("__pycache__", "*.pyc", "*.so", "*.egg-info", "build")

BUILD = """
import sys
for module in ("torch", "numpy"):
    sys.modules[module] = None
from setuptools import build_meta
print(getattr(build_meta, sys.argv[1])(sys.argv[2]))
"""


def run_python(code: str, *arguments: str, cwd: Path, **environment: str) -> str:
    """Runs `code` in a fresh interpreter that sees neither PYTHONPATH nor the checkout, and returns its output."""
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "RPE_OPS_"))
    }
    command = [sys.executable, "-W", "always", "-c", code, *arguments]
    done = subprocess.run(command, cwd=cwd, env={**inherited, **environment}, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="session")
def source_copy(tmp_path_factory) -> Path:
    copy = tmp_path_factory.mktemp("sources")
    for folder in PACKAGED:
        if (ROOT / folder).is_dir():
            shutil.copytree(ROOT / folder, copy / folder, ignore=NOT_SOURCES)
    for file in PACKAGED_FILES:
        if (ROOT / file).is_file():
            shutil.copy(ROOT / file, copy)
    return copy


@pytest.fixture(scope="session")
def wheel(source_copy, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("wheel")
    run_python(BUILD, "build_wheel", str(output), cwd=source_copy)
    (built,) = output.iterdir()
    return built


@pytest.fixture(scope="session")
def site(wheel, tmp_path_factory) -> Path:
    """A folder that holds nothing but the unpacked wheel."""
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def metadata_of(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return Parser().parsestr(archive.read(name).decode("utf-8"))


def test_wheel_is_pure_python(wheel):
    assert wheel.name == f"rpe_ops-{VERSION}-py3-none-any.whl"


def test_wheel_holds_packages_sources_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    expected = {str(path.relative_to(ROOT)) for path in (ROOT / "rpe_ops").rglob("*.py")} | {
        "rpe_ops/py.typed"
    }
    expected |= {str(path.relative_to(ROOT / "python")) for path in (ROOT / "python").rglob("*.py")}
    expected |= {"rpe/py.typed"}
    for folder, target in (("csrc", "rpe_ops/csrc"), ("configs", "rpe/configs")):
        files = (path for path in (ROOT / folder).rglob("*") if path.is_file())
        expected |= {f"{target}/{path.relative_to(ROOT / folder)}" for path in files}
    assert names == {name.replace(os.sep, "/") for name in expected}


def test_metadata(wheel):
    metadata = metadata_of(wheel)
    assert metadata["Name"] == "rpe-ops"
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Requires-Python"] == ">=3.10"
    assert set(metadata.get_all("Provides-Extra")) == {"train", "test", "bench", "docs", "timm", "dev"}
    requirements = [line.partition(";")[0].strip() for line in metadata.get_all("Requires-Dist")]
    core = [line for line in metadata.get_all("Requires-Dist") if "extra ==" not in line]
    assert {re.split(r"[<>=!~ \[]", line)[0] for line in core} == {"torch", "numpy", "ninja", "pybind11"}
    pinned = [line for line in requirements if re.search(r"<|==|~=", line)]
    assert not pinned, f"no upper pins: {pinned}"


def test_sdist_builds_the_same_wheel(source_copy, wheel, tmp_path):
    run_python(BUILD, "build_sdist", str(tmp_path), cwd=source_copy)
    (archive,) = tmp_path.iterdir()
    shutil.unpack_archive(archive, tmp_path / "unpacked")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    output = tmp_path / "wheel"
    output.mkdir()
    run_python(BUILD, "build_wheel", str(output), cwd=unpacked)
    (again,) = output.iterdir()
    with zipfile.ZipFile(wheel) as one, zipfile.ZipFile(again) as other:
        assert sorted(one.namelist()) == sorted(other.namelist())


def test_a_deleted_module_does_not_survive_in_the_next_wheel(source_copy, tmp_path):
    copy = tmp_path / "sources"
    shutil.copytree(source_copy, copy)
    module = copy / "rpe_ops" / "stale_module.py"
    for name, present in (("first", True), ("second", False)):
        if present:
            module.write_text("")
        else:
            module.unlink()
        (tmp_path / name).mkdir()
        run_python(BUILD, "build_wheel", str(tmp_path / name), cwd=copy)
        (built,) = (tmp_path / name).iterdir()
        with zipfile.ZipFile(built) as archive:
            assert ("rpe_ops/stale_module.py" in archive.namelist()) == present


USE = """
import sys
sys.path.insert(0, sys.argv[1])
import torch
import rpe_ops
assert rpe_ops.__file__.startswith(sys.argv[1]), rpe_ops.__file__
embedding = torch.randn(64, 8, requires_grad=True)
loss = rpe_ops.pairwise_loss(embedding, torch.arange(64) % 4, backend="torch")
loss.backward()
moved = rpe_ops.mean_shift(embedding.detach(), kappa=10.0, num_steps=2, backend="torch")
assert embedding.grad.isfinite().all() and moved.isfinite().all()
"""


def test_wheel_runs_with_the_sources_out_of_sight(site, tmp_path):
    run_python(USE, str(site), cwd=tmp_path, RPE_OPS_CACHE_DIR=str(tmp_path / "cache"))


IMPORT = """
import sys
sys.path.insert(0, sys.argv[1])
import torch
before = set(sys.modules)
import rpe_ops
heavy = {"triton", "pybind11", "scipy", "matplotlib", "rpe", "torch.utils.cpp_extension", "subprocess"}
loaded = sorted(heavy & (set(sys.modules) - before))
assert not loaded, loaded
assert not torch.cuda.is_initialized()
"""


def test_import_is_silent_and_builds_nothing(site, tmp_path):
    cache = tmp_path / "cache"
    assert run_python(IMPORT, str(site), cwd=tmp_path, RPE_OPS_CACHE_DIR=str(cache)) == ""
    assert not cache.exists()


WITHOUT_EXTRAS = """
import sys
sys.path.insert(0, sys.argv[1])
sys.modules["PIL"] = None  # as if it were not installed
try:
    import rpe
except ModuleNotFoundError as error:
    print(error)
"""


def test_the_model_package_names_its_extra(site, tmp_path):
    message = run_python(WITHOUT_EXTRAS, str(site), cwd=tmp_path)
    assert "pip install 'rpe-ops[train]'" in message and "PIL" in message


WITHOUT_COMPILER = """
import sys
import warnings
sys.path.insert(0, sys.argv[1])
import torch
import rpe_ops
embedding, label = torch.randn(300, 8), torch.arange(300) % 5
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(2):
        loss = rpe_ops.pairwise_loss(embedding, label)
        moved = rpe_ops.mean_shift(embedding, kappa=10.0)
assert len(caught) == 1, [str(warning.message) for warning in caught]
print(caught[0].message)
reasons = rpe_ops.available_backends("cpu")
assert reasons["torch"] is None and reasons["cpu"], reasons
assert torch.equal(loss, rpe_ops.pairwise_loss(embedding, label, backend="torch"))
assert torch.equal(moved, rpe_ops.mean_shift(embedding, kappa=10.0, backend="torch"))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="an empty PATH does not hide the compiler of Windows")
def test_without_a_compiler_another_backend_serves_after_one_warning(site, tmp_path):
    environment = {"PATH": str(tmp_path), "CC": "", "CXX": "", "RPE_OPS_CACHE_DIR": str(tmp_path / "cache")}
    warning = run_python(WITHOUT_COMPILER, str(site), cwd=tmp_path, **environment)
    assert "compiler" in warning


def test_versions_agree():
    import rpe_ops

    assert rpe_ops.__version__ == VERSION
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## [{VERSION}]" in changelog


def test_console_script_exists():
    module, _, function = PROJECT["scripts"]["rpe"].partition(":")
    assert callable(getattr(pytest.importorskip(module), function))
