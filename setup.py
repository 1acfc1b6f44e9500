"""Build steps that pyproject.toml cannot say.

The wheel is pure Python: it carries csrc and configs as package data and compiles nothing. With RPE_OPS_AOT=1 the
CPU extension is compiled too, with RPE_OPS_AOT=cuda both extensions are (each with --no-build-isolation, so that
torch can be imported), through the rpe_ops/extensions that also compile them at run time: no source list and no
compiler flag stands here.
"""

import importlib
import importlib.util
import os
import shutil
import sys
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
EXTENSIONS_FOLDER = "rpe_ops/extensions"
# Value of RPE_OPS_AOT -> modules of rpe_ops/extensions to compile.
CHOICES = {"": (), "0": (), "1": ("cpu",), "cuda": ("cpu", "cuda")}
CHOSEN = os.environ.get("RPE_OPS_AOT", "")
if CHOSEN not in CHOICES:
    raise SystemExit(f"RPE_OPS_AOT={CHOSEN} is not known; 1 compiles the CPU extension, cuda both extensions")
AHEAD_OF_TIME = CHOICES[CHOSEN]
# Folder in a checkout -> folder inside the built packages.
DATA_FOLDERS = {"csrc": "rpe_ops/csrc", "configs": "rpe/configs"}


def load_extensions():
    """rpe_ops/extensions as a package of its own: the package around it needs torch and is not imported."""
    folder = ROOT / EXTENSIONS_FOLDER
    spec = importlib.util.spec_from_file_location(
        "rpe_ops_extensions", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    return spec.name


def compile_extensions(folder):
    """Compile what was chosen into `folder`; an error is the builder's own words and no traceback."""
    package = load_extensions()
    build = importlib.import_module(f"{package}.build")
    extensions = [importlib.import_module(f"{package}.{name}").EXTENSION for name in AHEAD_OF_TIME]
    try:
        build.build_ahead_of_time(extensions, folder)
    except build.BuildError as error:
        raise SystemExit(str(error)) from None


class BuildPackages(build_py):
    """Copies the data folders into the build tree, which starts empty so that no deleted module survives."""

    def run(self):
        if self.editable_mode:
            super().run()
            return
        shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()
        for source, target in DATA_FOLDERS.items():
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, Path(self.build_lib) / target, dirs_exist_ok=True)
        if AHEAD_OF_TIME:
            compile_extensions(Path(self.build_lib) / EXTENSIONS_FOLDER)


class MaybeBinaryDistribution(Distribution):
    """Tags the wheel for one platform when it holds compiled code."""

    def has_ext_modules(self):
        return bool(AHEAD_OF_TIME)


setup(cmdclass={"build_py": BuildPackages}, distclass=MaybeBinaryDistribution)
