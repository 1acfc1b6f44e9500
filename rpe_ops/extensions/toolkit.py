"""Finds the CUDA toolkit: nvcc and the headers beside it, of the CUDA version that torch is built for.

Looked at in this order: CUDA_HOME or CUDA_PATH, which decide alone where they are set; nvcc on PATH; /usr/local/cuda*;
NVIDIA's pip packages. The CUDA runtime itself is the one that torch has loaded, so no library is looked for.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from . import architectures
from .build import Obstacle

VARIABLES = ("CUDA_HOME", "CUDA_PATH")
USUAL_FOLDER = Path("/usr/local")
# The first CUDA whose pip package has nvcc itself; those before it have only parts of it.
FIRST_PIP_NVCC = 13
# The headers, seen from the folder that has bin/nvcc: toolkits, conda, pip packages of CUDA 12.
HEADERS = ("include", "targets/*/include", "../cuda_runtime/include")


@dataclass(frozen=True)
class Toolkit:
    """One nvcc and what belongs to it."""

    nvcc: Path
    include: Path
    release: tuple[int, int]

    @property
    def version(self) -> str:
        return f"{self.release[0]}.{self.release[1]}"

    @property
    def capabilities(self) -> tuple[architectures.Capability, ...]:
        """The compute capabilities that it compiles for."""
        return architectures.known_to_nvcc(ask(self.nvcc, "--list-gpu-arch"))


def listed_architectures() -> str | None:
    """PyTorch's TORCH_CUDA_ARCH_LIST."""
    return os.environ.get("TORCH_CUDA_ARCH_LIST")


def nvcc_variables() -> dict[str, str]:
    """Flags that the environment adds to every call of nvcc, by nvcc's own rules."""
    names = ("NVCC_PREPEND_FLAGS", "NVCC_APPEND_FLAGS")
    return {name: os.environ[name] for name in names if name in os.environ}


def find(torch_cuda: str) -> Toolkit:
    """The toolkit that compiles for a torch built for CUDA `torch_cuda`, say "13.2".

    Raises:
        Obstacle: there is none; the reason names every place that was looked at.
    """
    major = int(torch_cuda.split(".")[0])
    remedy = f"install the CUDA toolkit {major} and name its folder in CUDA_HOME"
    if major >= FIRST_PIP_NVCC:
        remedy += f", or pip install 'cuda-toolkit[nvcc,cccl]=={torch_cuda}.*'"
    problems, others = [], []
    named = next((name for name in VARIABLES if os.environ.get(name)), None)
    if named is not None:
        remedy = (
            f"name in {named} the folder of a CUDA toolkit {major}, the one that holds bin/nvcc, or unset it"
        )
    for place, root in _places(major, named):
        if root is None:
            problems.append(place)
            continue
        try:
            toolkit = examine(root)
        except Obstacle as problem:
            problems.append(f"{place}: {problem}")
            continue
        if toolkit.release[0] == major:
            return toolkit
        others.append(f"{place}: {toolkit.nvcc} is of CUDA {toolkit.version}")
    if others:
        raise Obstacle(f"PyTorch is built for CUDA {torch_cuda}, but {'; '.join(others)}; {remedy}")
    raise Obstacle(f"no CUDA toolkit was found ({'; '.join(problems)}); {remedy}")


def _places(major: int, named: str | None) -> Iterator[tuple[str, Path | None]]:
    """Where a toolkit may be, in words, and its folder; None where there is nothing to examine."""
    if named is not None:
        yield f"{named}={os.environ[named]}", Path(os.environ[named]).expanduser()
        return
    yield " and ".join(VARIABLES) + " are not set", None
    program = shutil.which("nvcc")
    yield ("nvcc on PATH", root_of(Path(program))) if program else ("no nvcc on PATH", None)
    for folder in [USUAL_FOLDER / "cuda", *sorted(USUAL_FOLDER.glob(f"cuda-{major}*"), reverse=True)]:
        yield str(folder), folder
    for packages in _pip_packages():
        found = sorted(packages.glob("*/bin/nvcc"))
        for program_there in found:
            yield "NVIDIA's pip packages", program_there.parent.parent
        if not found:
            yield f"NVIDIA's pip packages in {packages} have no nvcc", None


def _pip_packages() -> list[Path]:
    """The folders `nvidia` of NVIDIA's pip packages, which torch brings along."""
    try:
        spec = importlib.util.find_spec("nvidia")
    except (ImportError, ValueError):
        return []
    return [Path(folder) for folder in (spec and spec.submodule_search_locations) or ()]


def root_of(program: Path) -> Path:
    """The toolkit's folder of an nvcc found on PATH, through links and through scripts that call another nvcc."""
    root = program.resolve().parent.parent
    if _headers(root) is None:
        try:
            found = re.search(r"^#\$ TOP=(.+)$", ask(program, "--dryrun", "-x", "cu", "-c", os.devnull), re.M)
        except Obstacle:
            return root
        if found:
            return Path(found[1].strip()).resolve()
    return root


def examine(root: Path) -> Toolkit:
    """The toolkit in this folder. Raises Obstacle where it is incomplete."""
    nvcc = root / "bin" / "nvcc"
    if not nvcc.is_file():
        raise Obstacle(f"{nvcc} does not exist")
    include = _headers(root)
    if include is None:
        raise Obstacle(f"{nvcc} has no cuda_runtime.h beside it")
    found = re.search(r"release (\d+)\.(\d+)", ask(nvcc, "--version"))
    if found is None:
        raise Obstacle(f"{nvcc} --version names no release")
    return Toolkit(nvcc, include, (int(found[1]), int(found[2])))


def _headers(root: Path) -> Path | None:
    for pattern in HEADERS:
        for header in root.glob(f"{pattern}/cuda_runtime.h"):
            return header.parent
    return None


@functools.cache
def ask(nvcc: Path, *arguments: str) -> str:
    """What nvcc answers, on both of its outputs; asked once per process."""
    try:
        done = subprocess.run(
            [str(nvcc), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            timeout=60,
            check=True,
            text=True,
            errors="replace",
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise Obstacle(f"{nvcc} does not run: {error}") from None
    return done.stdout
