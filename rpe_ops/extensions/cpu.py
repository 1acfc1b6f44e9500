"""The extension of backend "cpu": csrc/math, csrc/launch, csrc/cpu once per SIMD variant, and csrc/torch above them.

It makes a recipe and compiles nothing: `build.py` does that. Torch is asked only when a recipe is made.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from . import build

# Every csrc/cpu/*.cpp is compiled once per variant; the binary chooses at run time.
SIMD_FLAGS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "x86_64": {
        "portable": (),
        "avx2": ("-mavx2", "-mfma"),
        "avx512": ("-mavx2", "-mfma", "-mavx512f", "-mavx512dq", "-mavx512vl", "-mavx512bw", "-mavx512bf16"),
    },
    # Multiply-adds of the portable code become single instructions, everywhere alike.
    "aarch64": {"portable": ("-ffp-contract=fast",)},
    "other": {"portable": ()},
}


def make_recipe(csrc: Path | None = None, extra_flags: Iterable[str] = ()) -> build.Recipe:
    """The recipe for this Python, this torch and this machine. Raises BuildError where it cannot be made."""
    build.require(build.obstacle())
    import torch

    csrc = csrc or build.find_csrc()
    compiler = build.find_compiler()
    assert compiler is not None
    compiler_version = build.version_of(compiler)
    torch_root = Path(torch.__file__).resolve().parent
    abi = f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"
    base = (*build.COMMON_FLAGS, abi, *extra_flags)
    openmp = _openmp_flags(torch_root)
    machine = platform.machine().lower()
    simd = SIMD_FLAGS.get({"amd64": "x86_64", "arm64": "aarch64"}.get(machine, machine), SIMD_FLAGS["other"])
    system = ("-undefined", "dynamic_lookup") if sys.platform == "darwin" else ("-Wl,--no-as-needed",)
    libraries = ("-ltorch_python", "-ltorch", "-ltorch_cpu", "-lc10")

    sources = build.sources_digest(EXTENSION, csrc)
    digest = build.digest_of(
        sources,
        base,
        build.TORCH_FLAGS,
        openmp,
        simd,
        system,
        libraries,
        torch.__version__,
        compiler_version,
        machine,
        EXTENSION.module_name,
    )
    facts = {"build_digest": digest, "torch_version": torch.__version__, "build_flags": " ".join(base)}
    objects: list[tuple[str, Path, tuple[str, ...]]] = []
    for source in sorted((csrc / "cpu").glob("*.cpp")):
        for variant, flags in simd.items():
            command = (*compiler, *base, *flags, f"-DRPE_SIMD={variant}")
            objects.append((f"cpu_{source.stem}_{variant}.o", source, command))
    for source in sorted((csrc / "launch").glob("*.cpp")):
        objects.append((f"launch_{source.stem}.o", source, (*compiler, *base)))
    for source in sorted((csrc / "torch").glob("*.cpp")):
        command = (*compiler, *base, *build.torch_flags(torch_root), *openmp)
        if source.stem == "module":
            command += build.module_flags(EXTENSION.module_name, **facts)
        objects.append((f"torch_{source.stem}.o", source, command))
    return build.Recipe(
        extension=EXTENSION,
        csrc=csrc,
        compiler=compiler,
        compilers=compiler_version,
        objects=tuple(objects),
        link_flags=(
            "-shared",
            *system,
            f"-L{torch_root / 'lib'}",
            *libraries,
            *(openmp if sys.platform != "darwin" else ()),
        ),
        digest=digest,
        sources_digest=sources,
        torch_version=str(torch.__version__),
        remedy=f"name another compiler in CXX (g++ {build.OLDEST_GNU}, clang++ {build.OLDEST_CLANG} or newer), or use "
        "backend='torch'.",
    )


def _openmp_flags(torch_root: Path) -> tuple[str, ...]:
    """at::parallel_for is serial without OpenMP. On Linux the library that torch has loaded serves us too."""
    if sys.platform != "darwin":
        return ("-fopenmp",)
    return ("-Xpreprocessor", "-fopenmp") if (torch_root / "include" / "omp.h").is_file() else ()


def describe() -> dict[str, str]:
    """The compiler that a build would use."""
    return {"compiler": " ".join(build.find_compiler() or ("none needed",))}


EXTENSION = build.Extension(
    module_name="_native",
    title="native kernels",
    sources=("math/**/*", "launch/**/*", "cpu/**/*", "torch/*"),
    bytes_per_job=1 << 30,  # a file that includes Torch
    obstacle=build.obstacle,
    make_recipe=make_recipe,
    describe=describe,
)
