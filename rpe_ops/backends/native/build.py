"""What the native extension is compiled from and how: sources by folder rule, flags, digest, one run of ninja.

The same recipe serves the just-in-time build (`cache.py`, `loader.py`) and the wheel: `setup.py` loads this file by its
path and calls `build_ahead_of_time(folder)`, which leaves `_native<suffix>` and its manifest `_native.json` there.
Importable without torch and without the package around it; torch is asked only when a recipe is made. It holds no lock,
knows no cache and loads nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

MODULE_NAME = "_native"
MANIFEST_NAME = f"{MODULE_NAME}.json"
SUFFIXES = (".h", ".cpp")
# One compiler process on a file that includes Torch needs about this much memory.
BYTES_PER_JOB = 1 << 30
ERROR_LINES = 30

COMMON_FLAGS = ("-std=c++17", "-O3", "-fPIC", "-ffp-contract=off", "-fvisibility=hidden", "-Wall")
# Torch's headers need C++20 from 2.15 on, the kernels C++17. The kernels carry the work; headers compile faster at -O1.
TORCH_FLAGS = ("-std=c++20", "-O1")
# Every csrc/cpu/*.cpp is compiled once per variant; the binary chooses at run time.
SIMD_FLAGS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "x86_64": {
        "portable": (),
        "avx2": ("-mavx2", "-mfma"),
        "avx512": ("-mavx2", "-mfma", "-mavx512f", "-mavx512dq", "-mavx512vl", "-mavx512bw"),
    },
    # Multiply-adds of the portable code become single instructions, everywhere alike.
    "aarch64": {"portable": ("-ffp-contract=fast",)},
    "other": {"portable": ()},
}


class BuildError(RuntimeError):
    """The extension could not be built or loaded; the message holds the cause and the remedy."""


@dataclass(frozen=True)
class Recipe:
    """Everything one build depends on. Equal digests mean interchangeable libraries."""

    csrc: Path
    compiler: tuple[str, ...]
    compiler_version: str
    objects: tuple[tuple[str, Path, tuple[str, ...]], ...]  # object name, source, flags
    link_flags: tuple[str, ...]
    digest: str
    sources_digest: str
    torch_version: str

    @property
    def library_name(self) -> str:
        return f"{MODULE_NAME}{extension_suffix()}"


def extension_suffix() -> str:
    """How a compiled module's file name ends for this Python."""
    return sysconfig.get_config_var("EXT_SUFFIX") or ".so"


def find_csrc() -> Path:
    """The sources: beside the package in a checkout (which has a setup.py), inside it in a wheel."""
    package = Path(__file__).resolve().parents[2]
    checkout = package.parent / "csrc"
    if (checkout / "torch").is_dir() and (package.parent / "setup.py").is_file():
        return checkout
    if (package / "csrc" / "torch").is_dir():
        return package / "csrc"
    raise BuildError(
        f"rpe_ops: the C++ sources are missing (looked beside and inside {package}); reinstall rpe_ops"
    )


def sources_digest(csrc: Path) -> str:
    """Digest of names and contents of all sources."""
    digest = hashlib.sha256()
    for path in sorted(path for path in csrc.rglob("*") if path.suffix in SUFFIXES):
        for part in (path.relative_to(csrc).as_posix().encode(), path.read_bytes()):
            digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()


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
    """Why nothing can be compiled here, or None. Looks for programs and files, runs none."""
    if sys.platform == "win32":
        return "the native kernels do not support Windows yet; the torch backend serves"
    if find_compiler() is None:
        named = os.environ.get("CXX")
        wanted = f"CXX={named} is not a program on PATH" if named else "no C++ compiler on PATH"
        return f"{wanted}; install g++ or clang++ (or set CXX) to use the native kernels"
    if find_ninja() is None:
        return "ninja is missing; `pip install ninja`"
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    if not header.is_file():
        return f"{header} is missing; install the development files of this Python (python3-dev)"
    return None


def version_of(compiler: Sequence[str]) -> str:
    """The first line of the compiler's own words about its version."""
    try:
        done = subprocess.run(
            [*compiler, "--version"], capture_output=True, text=True, timeout=60, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise BuildError(f"rpe_ops: the C++ compiler {shlex.join(compiler)} does not run: {error}") from None
    return (done.stdout.splitlines() or ["unknown"])[0]


def make_recipe(csrc: Path | None = None, extra_flags: Iterable[str] = ()) -> Recipe:
    """The recipe for this Python, this torch and this machine. Raises BuildError where it cannot be made."""
    reason = obstacle()
    if reason is not None:
        raise BuildError(f"rpe_ops: {reason}")
    import torch

    csrc = csrc or find_csrc()
    compiler = find_compiler()
    assert compiler is not None
    compiler_version = version_of(compiler)
    torch_root = Path(torch.__file__).resolve().parent
    abi = f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"
    base = (*COMMON_FLAGS, abi, *extra_flags)
    openmp = _openmp_flags(torch_root)
    simd = SIMD_FLAGS.get(
        {"amd64": "x86_64", "arm64": "aarch64"}.get(_machine(), _machine()), SIMD_FLAGS["other"]
    )
    system = ("-undefined", "dynamic_lookup") if sys.platform == "darwin" else ("-Wl,--no-as-needed",)
    libraries = ("-ltorch_python", "-ltorch", "-ltorch_cpu", "-lc10")

    described = json.dumps(
        [
            base,
            TORCH_FLAGS,
            openmp,
            simd,
            system,
            libraries,
            torch.__version__,
            extension_suffix(),
            compiler_version,
            sys.platform,
            _machine(),
            MODULE_NAME,
        ]
    )
    sources = sources_digest(csrc)
    digest = hashlib.sha256(f"{sources} {described}".encode()).hexdigest()[:20]
    objects: list[tuple[str, Path, tuple[str, ...]]] = []
    for source in sorted((csrc / "cpu").glob("*.cpp")):
        for variant, flags in simd.items():
            objects.append(
                (f"cpu_{source.stem}_{variant}.o", source, (*base, *flags, f"-DRPE_SIMD={variant}"))
            )
    for source in sorted((csrc / "launch").glob("*.cpp")):
        objects.append((f"launch_{source.stem}.o", source, base))
    includes = (
        *("-isystem", str(torch_root / "include")),
        *("-isystem", sysconfig.get_paths()["include"]),
    )
    facts = {
        "RPE_MODULE_NAME": MODULE_NAME,
        "RPE_BUILD_DIGEST": f'"{digest}"',
        "RPE_TORCH_VERSION": f'"{torch.__version__}"',
        "RPE_BUILD_FLAGS": f'"{" ".join(base)}"',
    }
    for source in sorted((csrc / "torch").glob("*.cpp")):
        flags = (*base, *TORCH_FLAGS, *openmp, *includes)
        if source.stem == "module":
            flags += tuple(f"-D{name}={value}" for name, value in facts.items())
        objects.append((f"torch_{source.stem}.o", source, flags))
    link_flags = (
        "-shared",
        *system,
        f"-L{torch_root / 'lib'}",
        *libraries,
        *(openmp if sys.platform != "darwin" else ()),
    )
    return Recipe(
        csrc, compiler, compiler_version, tuple(objects), link_flags, digest, sources, str(torch.__version__)
    )


def _machine() -> str:
    return platform.machine().lower()


def _openmp_flags(torch_root: Path) -> tuple[str, ...]:
    """at::parallel_for is serial without OpenMP. On Linux the library that torch has loaded serves us too."""
    if sys.platform != "darwin":
        return ("-fopenmp",)
    return ("-Xpreprocessor", "-fopenmp") if (torch_root / "include" / "omp.h").is_file() else ()


def compile_into(recipe: Recipe, folder: Path) -> Path:
    """Compile and link inside `folder`; returns the library. Raises BuildError with the compiler's own words."""
    ninja = find_ninja()
    if ninja is None:
        raise BuildError("rpe_ops: ninja is missing; `pip install ninja`")
    (folder / "build.ninja").write_text(ninja_text(recipe), encoding="utf-8")
    command = [ninja, "-C", str(folder), "-j", str(num_jobs()), recipe.library_name]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        raise BuildError(
            f"rpe_ops: {recipe.compiler_version} could not compile the native kernels:\n"
            f"{_compiler_words(done.stdout.decode(errors='replace'), recipe)}\n"
            "Remedy: name another compiler in CXX (g++ 11, clang++ 14 or newer), or use backend='torch'."
        )
    return folder / recipe.library_name


def ninja_text(recipe: Recipe) -> str:
    """The build file: one edge per object, one link."""

    def escape(text: str) -> str:
        return text.replace("$", "$$").replace(" ", "$ ").replace(":", "$:")

    def words(flags: Iterable[str]) -> str:
        return " ".join(shlex.quote(flag) for flag in flags).replace("$", "$$")

    compiler = words(recipe.compiler)
    lines = [
        "rule compile",
        f"  command = {compiler} -MMD -MF $out.d $flags -c $in -o $out",
        "  depfile = $out.d",
        "rule link",
        f"  command = {compiler} $in {words(recipe.link_flags)} -o $out",
    ]
    for name, source, flags in recipe.objects:
        lines += [f"build {name}: compile {escape(str(source))}", f"  flags = {words(flags)}"]
    lines.append(f"build {recipe.library_name}: link {' '.join(name for name, _, _ in recipe.objects)}")
    return "\n".join(lines) + "\n"


def num_jobs() -> int:
    """MAX_JOBS where it is set, else every CPU; never more than memory allows."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wanted = os.environ.get("MAX_JOBS", "")
    jobs = int(wanted) if wanted.isdigit() and int(wanted) > 0 else cpus
    try:
        memory = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return jobs
    return max(1, min(jobs, memory // BYTES_PER_JOB))


def _compiler_words(output: str, recipe: Recipe) -> str:
    """The end of the output, without ninja's progress and the command lines."""
    noise = ("[", "FAILED:", "ninja:", recipe.compiler[0])
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
        "compiler": recipe.compiler_version,
        "suffix": extension_suffix(),
    }


def verify(library: Path) -> dict[str, str | int] | None:
    """The manifest of a library that is complete and unchanged since it was built, else None."""
    try:
        manifest: dict[str, str | int] = json.loads(
            (library.parent / MANIFEST_NAME).read_text(encoding="utf-8")
        )
        intact = (
            library.stat().st_size == manifest["size"]
            and hashlib.sha256(library.read_bytes()).hexdigest() == manifest["sha256"]
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return manifest if intact else None


def build_ahead_of_time(folder: Path) -> Path:
    """Compile for this Python, this torch and this kind of machine into `folder`, for a platform wheel."""
    recipe = make_recipe()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="rpe_ops-") as temporary:
        built = compile_into(recipe, Path(temporary))
        library = folder / recipe.library_name
        shutil.copyfile(built, library)
    (folder / MANIFEST_NAME).write_text(
        json.dumps(manifest_of(library, recipe), indent=1) + "\n", encoding="utf-8"
    )
    return library
