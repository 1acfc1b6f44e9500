"""Build steps that pyproject.toml cannot say.

The wheel is pure Python: it carries csrc and configs as package data and compiles nothing. With
RPE_OPS_AOT=1 (and --no-build-isolation, so that torch can be imported) the native extension is compiled too,
through the rpe_ops/backends/native/build.py that also compiles it at run time: no source list and no compiler
flag stands here.
"""

import importlib.util
import os
import shutil
import sys
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
AHEAD_OF_TIME = os.environ.get("RPE_OPS_AOT") == "1"
NATIVE_FOLDER = "rpe_ops/backends/native"
# Folder in a checkout -> folder inside the built packages.
DATA_FOLDERS = {"csrc": "rpe_ops/csrc", "configs": "rpe/configs"}


def load_native_build():
    """The native build module, loaded by its path: the package around it needs torch and is not imported."""
    spec = importlib.util.spec_from_file_location("rpe_ops_native_build", ROOT / NATIVE_FOLDER / "build.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


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
            load_native_build().build_ahead_of_time(Path(self.build_lib) / NATIVE_FOLDER)


class MaybeBinaryDistribution(Distribution):
    """Tags the wheel for one platform when it holds compiled code."""

    def has_ext_modules(self):
        return AHEAD_OF_TIME


setup(cmdclass={"build_py": BuildPackages}, distclass=MaybeBinaryDistribution)
