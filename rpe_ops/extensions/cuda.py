"""The extension of backend "cuda": csrc/cuda compiled by nvcc, csrc/torch/cuda above it by the C++ compiler.

It makes a recipe and compiles nothing: `build.py` does that. `toolkit.py` finds nvcc, `architectures.py` says for which
GPUs; torch is asked only when a recipe is made or an obstacle is looked for.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from . import architectures, build, toolkit

NVCC_FLAGS = ("-std=c++17", "-O3", "-lineinfo", "--threads=1", "-Xcompiler=-fPIC,-fvisibility=hidden")
# Programs that run the compiler named after them; nvcc wants that compiler.
LAUNCHERS = ("ccache", "sccache", "distcc", "icecc")


@dataclass(frozen=True)
class Plan:
    """What a build would use."""

    toolkit: toolkit.Toolkit
    torch_cuda: str
    architectures: tuple[str, ...]


def plan() -> Plan:
    """What a build would use here. Runs nothing but questions to the compilers; raises Obstacle."""
    import torch

    if torch.version.cuda is None:
        raise build.Obstacle("this PyTorch is built without CUDA")
    found = toolkit.find(torch.version.cuda)
    chosen = architectures.choose(toolkit.listed_architectures(), visible_gpus(), found.capabilities)
    return Plan(found, torch.version.cuda, chosen)


def visible_gpus() -> list[architectures.Capability]:
    """Compute capabilities of the GPUs that PyTorch sees, the current one first."""
    import torch

    if not torch.cuda.is_available():
        return []
    current = torch.cuda.current_device()
    others = (index for index in range(torch.cuda.device_count()) if index != current)
    return [torch.cuda.get_device_capability(index) for index in (current, *others)]


def obstacle() -> str | None:
    """Why it cannot be built here for the GPU that is here, or None."""
    try:
        chosen = plan().architectures
    except build.Obstacle as reason:
        return str(reason)
    gpus = visible_gpus()
    if gpus and not architectures.covers(chosen, gpus[0]):
        gpu = architectures.text(gpus[0])
        return (
            f"TORCH_CUDA_ARCH_LIST={toolkit.listed_architectures()} leaves out this GPU, which has compute capability "
            f"{gpu}; add {gpu} to it, or unset it"
        )
    return build.obstacle()


def make_recipe(csrc: Path | None = None) -> build.Recipe:
    """The recipe for this Python, this torch, this toolkit and the architectures asked for. Raises BuildError."""
    try:
        planned = plan()
    except build.Obstacle as reason:
        raise build.BuildError(f"rpe_ops: {reason}") from None
    build.require(build.obstacle())
    import torch

    csrc = csrc or build.find_csrc()
    compiler = build.find_compiler()
    assert compiler is not None
    compiler_version = build.version_of(compiler)
    torch_root = Path(torch.__file__).resolve().parent
    abi = f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"
    include = planned.toolkit.include
    libraries = ("-ltorch_cuda", "-lc10_cuda", "-ltorch_python", "-ltorch", "-ltorch_cpu", "-lc10")
    gencode = architectures.nvcc_flags(planned.architectures)

    sources = build.sources_digest(EXTENSION, csrc)
    digest = build.digest_of(
        sources,
        build.COMMON_FLAGS,
        build.TORCH_FLAGS,
        NVCC_FLAGS,
        gencode,
        toolkit.nvcc_variables(),
        toolkit.ask(planned.toolkit.nvcc, "--version"),
        libraries,
        abi,
        torch.__version__,
        planned.torch_cuda,
        compiler_version,
        EXTENSION.module_name,
    )
    facts = {"cuda": planned.torch_cuda, "nvcc": planned.toolkit.version}
    facts["architectures"] = " ".join(planned.architectures)
    told = build.module_flags(
        EXTENSION.module_name,
        build_digest=digest,
        torch_version=torch.__version__,
        build_flags=" ".join((*NVCC_FLAGS, *gencode)),
        build_architectures=facts["architectures"],
    )
    system_headers = () if include == Path("/usr/include") else (include,)
    nvcc = (
        str(planned.toolkit.nvcc),
        *NVCC_FLAGS,
        *host_flags(compiler),
        *gencode,
        *(f"-isystem={folder}" for folder in system_headers),
    )
    glue = (*compiler, *build.COMMON_FLAGS, abi, *build.torch_flags(torch_root, *system_headers))
    objects: list[tuple[str, Path, tuple[str, ...]]] = [
        (f"cuda_{source.stem}.o", source, nvcc) for source in sorted((csrc / "cuda").glob("*.cu"))
    ]
    for source in sorted((csrc / "torch" / "cuda").glob("*.cpp")):
        command = (*glue, *told) if source.stem == "module" else glue
        objects.append((f"torch_{source.stem}.o", source, command))
    return build.Recipe(
        extension=EXTENSION,
        csrc=csrc,
        compiler=compiler,
        compilers=f"nvcc {facts['nvcc']} and {compiler_version} for compute capability {facts['architectures']}",
        objects=tuple(objects),
        # The CUDA runtime comes with libc10_cuda: it is the one that torch uses.
        link_flags=("-shared", "-Wl,--no-as-needed", f"-L{torch_root / 'lib'}", *libraries),
        digest=digest,
        sources_digest=sources,
        torch_version=str(torch.__version__),
        remedy=f"name in CXX a compiler that {planned.toolkit.nvcc} supports, or in CUDA_HOME another CUDA toolkit for "
        f"PyTorch's CUDA {planned.torch_cuda}; or use backend='torch'.",
        facts=tuple(facts.items()),
    )


def host_flags(compiler: tuple[str, ...]) -> tuple[str, ...]:
    """How nvcc is told the C++ compiler: the program itself without a launcher before it, then its flags."""
    launched = len(compiler) > 1 and Path(compiler[0]).name in LAUNCHERS
    program, *flags = compiler[1:] if launched else compiler
    return (f"-ccbin={shutil.which(program) or program}", *(f"-Xcompiler={flag}" for flag in flags))


def misfit(manifest: build.Manifest) -> str | None:
    """Why a built library does not serve this torch and this GPU, or None."""
    import torch

    if manifest.get("cuda") != torch.version.cuda:
        return f"is for CUDA {manifest.get('cuda')}, this PyTorch is for {torch.version.cuda}"
    built_for = str(manifest.get("architectures", ""))
    gpus = visible_gpus()
    if gpus and not architectures.covers(built_for.split(), gpus[0]):
        return f"is for compute capability {built_for}, this GPU has {architectures.text(gpus[0])}"
    return None


def describe() -> dict[str, str]:
    """The compilers and architectures that a build would use."""
    try:
        planned = plan()
    except build.Obstacle as reason:
        return {"nvcc": f"none: {reason}"}
    return {
        "compiler": " ".join(build.find_compiler() or ("none",)),
        "nvcc": f"{planned.toolkit.version} ({planned.toolkit.nvcc})",
        "architectures": " ".join(planned.architectures),
    }


EXTENSION = build.Extension(
    module_name="_native_cuda",
    title="CUDA kernels",
    sources=("math/**/*", "launch/*.h", "cuda/**/*", "torch/cuda/**/*"),
    bytes_per_job=2
    << 30,  # nvcc on a file of templates: three times what the largest takes for one architecture
    obstacle=obstacle,
    make_recipe=make_recipe,
    describe=describe,
    misfit=misfit,
)
