"""Compiles a recipe: programs, digest of the sources, one run of ninja, the manifest beside a finished library.

`cpu.py` and `cuda.py` say what is compiled and with which flags. The same recipes serve the just-in-time build
(`cache.py`, `loader.py`) and the wheel: `setup.py` calls `build_ahead_of_time(extensions, folder)`, which leaves
each `<module><suffix>` and its manifest there. Importable without torch. It holds no lock and loads nothing.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

SUFFIXES = (".h", ".cpp", ".cuh", ".cu")
ERROR_LINES = 30
# The oldest major versions that compile Torch's headers.
OLDEST_GNU, OLDEST_CLANG = 11, 14
# Where Linux writes how many bytes a container may use, in its two generations of control groups.
MEMORY_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")

COMMON_FLAGS = ("-std=c++17", "-O3", "-fPIC", "-ffp-contract=off", "-fvisibility=hidden", "-Wall")
# Torch's headers need C++20 from 2.15 on, the kernels C++17. The kernels carry the work; headers compile faster at -O1.
TORCH_FLAGS = ("-std=c++20", "-O1")


class BuildError(RuntimeError):
    """The extension could not be built or loaded; the message holds the cause and the remedy."""


class Obstacle(Exception):
    """Why something cannot be built here: one sentence for the user."""


Manifest = Mapping[str, str | int]


@dataclass(frozen=True)
class Extension:
    """One compiled module. The functions raise nothing but BuildError and run no compilation."""

    module_name: str
    title: str  # what it is called in messages
    sources: tuple[str, ...]  # patterns in csrc of everything that its digest covers
    bytes_per_job: int  # memory of one compiler process
    obstacle: Callable[[], str | None]  # why it cannot be built here
    make_recipe: Callable[[Path | None], Recipe]
    describe: Callable[[], dict[str, str]]  # what would build it
    misfit: Callable[[Manifest], str | None] = lambda manifest: (
        None
    )  # why a library does not serve this machine

    @property
    def library_name(self) -> str:
        return f"{self.module_name}{extension_suffix()}"

    @property
    def manifest_name(self) -> str:
        return f"{self.module_name}.json"


@dataclass(frozen=True)
class Recipe:
    """Everything one build depends on. Equal digests mean interchangeable libraries."""

    extension: Extension
    csrc: Path
    compiler: tuple[str, ...]  # links, and compiles what is C++
    compilers: str  # names and versions, for messages
    objects: tuple[tuple[str, Path, tuple[str, ...]], ...]  # object name, source, command without them
    link_flags: tuple[str, ...]
    digest: str
    sources_digest: str
    torch_version: str
    remedy: str  # what to do when it does not compile
    facts: tuple[tuple[str, str], ...] = ()  # more for the manifest

    @property
    def library_name(self) -> str:
        return self.extension.library_name


def extension_suffix() -> str:
    """How a compiled module's file name ends for this Python."""
    return sysconfig.get_config_var("EXT_SUFFIX") or ".so"


def find_csrc() -> Path:
    """The sources: beside the package in a checkout (which has a setup.py), inside it in a wheel."""
    package = Path(__file__).resolve().parents[1]
    checkout = package.parent / "csrc"
    if (checkout / "torch").is_dir() and (package.parent / "setup.py").is_file():
        return checkout
    if (package / "csrc" / "torch").is_dir():
        return package / "csrc"
    raise BuildError(
        f"rpe_ops: the C++ sources are missing (looked beside and inside {package}); reinstall rpe_ops"
    )


def sources_of(extension: Extension, csrc: Path) -> list[Path]:
    """The sources and headers of one extension."""
    found = {path for pattern in extension.sources for path in csrc.glob(pattern) if path.suffix in SUFFIXES}
    return sorted(found)


def sources_digest(extension: Extension, csrc: Path) -> str:
    """Digest of names and contents of the extension's sources."""
    digest = hashlib.sha256()
    for path in sources_of(extension, csrc):
        for part in (path.relative_to(csrc).as_posix().encode(), path.read_bytes()):
            digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()


def digest_of(sources: str, *facts: object) -> str:
    """The recipe's digest: of the digest of its sources and of everything else that changes the library."""
    described = json.dumps([*facts, extension_suffix(), sys.platform])
    return hashlib.sha256(f"{sources} {described}".encode()).hexdigest()[:20]


def find_compiler() -> tuple[str, ...] | None:
    """The C++ compiler: CXX where it is set, else the platform's usual one."""
    usual = ("clang++", "c++") if sys.platform == "darwin" else ("g++", "clang++", "c++")
    named = shlex.split(os.environ.get("CXX", ""))
    for command in [named] if named else [[name] for name in usual]:
        path = shutil.which(command[0])
        if path:
            return (path, *command[1:])
    return None


def find_ninja() -> str | None:
    """Ninja from its Python package, else from PATH."""
    try:
        import ninja
    except ImportError:
        return shutil.which("ninja")
    path = shutil.which("ninja", path=str(ninja.BIN_DIR))
    return path or shutil.which("ninja")


def obstacle() -> str | None:
    """Why no C++ can be compiled here, or None. Runs nothing but the compiler's `--version`."""
    if sys.platform == "win32":
        return "the native kernels do not support Windows yet; the torch backend serves"
    compiler = find_compiler()
    if compiler is None:
        named = os.environ.get("CXX")
        wanted = f"CXX={named} is not a program on PATH" if named else "no C++ compiler on PATH"
        return f"{wanted}; install g++ or clang++ (or set CXX) to use the native kernels"
    if find_ninja() is None:
        return "ninja is missing; `pip install ninja`"
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    if not header.is_file():
        return f"{header} is missing; install the development files of this Python (python3-dev)"
    try:
        return too_old(version_of(compiler))
    except Obstacle as reason:
        return str(reason)


@functools.cache
def version_of(compiler: tuple[str, ...]) -> str:
    """The first line of the compiler's own words about its version; asked once per process."""
    try:
        done = subprocess.run(
            [*compiler, "--version"], capture_output=True, text=True, timeout=60, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise Obstacle(f"the C++ compiler {shlex.join(compiler)} does not run: {error}") from None
    return (done.stdout.splitlines() or ["unknown"])[0]


def too_old(version: str) -> str | None:
    """Why a compiler with these words about its version cannot serve; None where it can or is not known."""
    clang = re.search(r"clang version (\d+)", version)
    gnu = re.match(r"\S*(?:g\+\+|gcc|c\+\+)\S* \([^)]*\) (\d+)\.", version)
    found = clang or gnu
    if found is None or int(found[1]) >= (OLDEST_CLANG if clang else OLDEST_GNU):
        return None
    return (
        f"{version} is too old for PyTorch's headers; install g++ {OLDEST_GNU} or clang++ {OLDEST_CLANG} or newer and "
        "name it in CXX"
    )


def require(reason: str | None) -> None:
    """Raise the obstacle, if there is one, as the error that users see."""
    if reason is not None:
        raise BuildError(f"rpe_ops: {reason}")


def torch_flags(torch_root: Path, *more_includes: Path) -> tuple[str, ...]:
    """Flags of a file that includes Torch."""
    folders = (torch_root / "include", Path(sysconfig.get_paths()["include"]), *more_includes)
    return (*TORCH_FLAGS, *(word for folder in folders for word in ("-isystem", str(folder))))


def module_flags(module_name: str, **facts: str) -> tuple[str, ...]:
    """What the file with the Python module is told about its build: RPE_MODULE_NAME, and RPE_<FACT> as strings."""
    texts = (f'-DRPE_{name.upper()}="{value}"' for name, value in facts.items())
    return (f"-DRPE_MODULE_NAME={module_name}", *texts)


def compile_into(recipe: Recipe, folder: Path) -> Path:
    """Compile and link inside `folder`; returns the library. Raises BuildError with the compiler's own words."""
    ninja = find_ninja()
    if ninja is None:
        raise BuildError("rpe_ops: ninja is missing; `pip install ninja`")
    (folder / "build.ninja").write_text(ninja_text(recipe), encoding="utf-8")
    jobs = num_jobs(recipe.extension.bytes_per_job)
    command = [ninja, "-C", str(folder), "-j", str(jobs), recipe.library_name]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        output = done.stdout.decode(errors="replace")
        remedy = recipe.remedy
        if re.search(r"signal 9|Killed|cannot allocate memory|out of memory", output, re.IGNORECASE):
            remedy = f"the compiler ran out of memory with {jobs} at once; set MAX_JOBS=1, or free memory."
        raise BuildError(
            f"rpe_ops: {recipe.compilers} could not compile the {recipe.extension.title}:\n"
            f"{_compiler_words(output, recipe)}\nRemedy: {remedy}"
        )
    return folder / recipe.library_name


def ninja_text(recipe: Recipe) -> str:
    """The build file: one edge per object, one link. Builds start in an empty folder, so nothing can be out of date."""

    def escape(text: str) -> str:
        return text.replace("$", "$$").replace(" ", "$ ").replace(":", "$:")

    def words(command: Iterable[str]) -> str:
        return " ".join(shlex.quote(word) for word in command).replace("$", "$$")

    lines = [
        "rule compile",
        "  command = $compile -c $in -o $out",
        "rule link",
        f"  command = {words(recipe.compiler)} $in {words(recipe.link_flags)} -o $out",
    ]
    for name, source, command in recipe.objects:
        lines += [f"build {name}: compile {escape(str(source))}", f"  compile = {words(command)}"]
    lines.append(f"build {recipe.library_name}: link {' '.join(name for name, _, _ in recipe.objects)}")
    return "\n".join(lines) + "\n"


def num_jobs(bytes_per_job: int) -> int:
    """MAX_JOBS where it is set, else every CPU; never more than memory allows."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wanted = os.environ.get("MAX_JOBS", "")
    jobs = int(wanted) if wanted.isdigit() and int(wanted) > 0 else cpus
    memory = free_memory()
    return jobs if memory is None else max(1, min(jobs, memory // bytes_per_job))


def free_memory() -> int | None:
    """Bytes that new processes can have, within this container's limit; None where nobody says."""
    amounts = []
    with contextlib.suppress(OSError, ValueError, AttributeError):
        amounts.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    with contextlib.suppress(OSError):
        available = re.search(r"^MemAvailable:\s*(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
        amounts += [int(available[1]) * 1024] if available else []
    for limit in MEMORY_LIMITS:
        with contextlib.suppress(OSError, ValueError):  # the file says "max" where there is no limit
            amounts.append(int(Path(limit).read_text()))
    return min(amounts, default=None)


def _compiler_words(output: str, recipe: Recipe) -> str:
    """The end of the output, without ninja's progress and the command lines."""
    programs = {recipe.compiler[0], *(command[0] for _, _, command in recipe.objects)}
    noise = ("[", "FAILED:", "ninja:", *programs)
    lines = [line for line in output.splitlines() if line.strip() and not line.startswith(noise)]
    return "\n".join(lines[-ERROR_LINES:]) or output[-2000:]


def manifest_of(library: Path, recipe: Recipe) -> dict[str, str | int]:
    """What is written beside a finished library, and compared before it is loaded."""
    return {
        "sha256": hashlib.sha256(library.read_bytes()).hexdigest(),
        "size": library.stat().st_size,
        "digest": recipe.digest,
        "sources": recipe.sources_digest,
        "torch": recipe.torch_version,
        "compiler": recipe.compilers,
        "suffix": extension_suffix(),
        **dict(recipe.facts),
    }


def write_manifest(library: Path, recipe: Recipe) -> None:
    """Write the manifest beside a finished library."""
    text = json.dumps(manifest_of(library, recipe), indent=1) + "\n"
    (library.parent / recipe.extension.manifest_name).write_text(text, encoding="utf-8")


def verify(library: Path, extension: Extension) -> Manifest | None:
    """The manifest of a library that is complete and unchanged since it was built, else None."""
    try:
        manifest: Manifest = json.loads(
            (library.parent / extension.manifest_name).read_text(encoding="utf-8")
        )
        intact = (
            library.stat().st_size == manifest["size"]
            and hashlib.sha256(library.read_bytes()).hexdigest() == manifest["sha256"]
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return manifest if intact else None


def build_ahead_of_time(extensions: Iterable[Extension], folder: Path) -> None:
    """Compile for this Python, this torch and this kind of machine into `folder`, for a platform wheel."""
    recipes = [
        extension.make_recipe(None) for extension in extensions
    ]  # what is missing shows before minutes pass
    folder.mkdir(parents=True, exist_ok=True)
    for recipe in recipes:
        library = folder / recipe.library_name
        with tempfile.TemporaryDirectory(prefix="rpe_ops-") as temporary:
            shutil.copyfile(compile_into(recipe, Path(temporary)), library)
        write_manifest(library, recipe)
