"""GPU backends without a GPU, on CPU tensors and far slower.

Backend "cuda": csrc/cuda compiled as host C++ over the emulated device of tests/cpp/simt, with the same kernels,
drivers, operators and Python as on a GPU: `pytest --emulate-cuda`.
Backend "triton": Triton's own interpreter, `TRITON_INTERPRET=1 pytest`.
"""

from __future__ import annotations

import platform
from pathlib import Path

import torch

from rpe_ops import backends
from rpe_ops.extensions import build, cuda
from rpe_ops.extensions.loader import Loader

SIMT = Path(__file__).resolve().parent / "cpp" / "simt"
# Kernels are compiled for the emulated device alone: their pragmas and what only a GPU needs are no concern of g++.
FLAGS = ("-Wno-unknown-pragmas", "-DRPE_SIMT", f"-I{SIMT}")


def serve() -> None:
    """From now on backend "cuda" runs on CPU tensors, in this process."""
    package = backends.package("cuda")
    package.loader = Loader(EXTENSION)  # type: ignore[attr-defined]
    package.unavailable_reason = unavailable_reason  # type: ignore[attr-defined]
    package.prepare()


def round_products_once() -> None:
    """From now on products of tiles in Triton's interpreter are rounded once, when all terms are added.

    It multiplies by BLAS, which on some CPUs rounds a product and its transpose differently; tensor cores do not, and a
    large kappa magnifies the difference.
    """
    import numpy as np
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    def create_dot(
        _: object, a: TensorHandle, b: TensorHandle, d: TensorHandle, *options: object
    ) -> TensorHandle:
        product = np.matmul(a.data.astype(np.float64), b.data.astype(np.float64)) + d.data
        return TensorHandle(product.astype(d.data.dtype), d.dtype.scalar)

    InterpreterBuilder.create_dot = create_dot


def unavailable_reason(device: torch.device) -> str | None:
    """The emulated device serves CPU tensors."""
    return None if device.type == "cpu" else f"is emulated on the CPU, these tensors are on {device.type}"


def make_recipe(csrc: Path | None = None) -> build.Recipe:
    """Everything of the CUDA extension that is not of the GPU, and the emulation."""
    build.require(build.obstacle())
    csrc = csrc or build.find_csrc()
    compiler = build.find_compiler()
    assert compiler is not None
    torch_root = Path(torch.__file__).resolve().parent
    abi = f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"
    halves = ("-mf16c", "-mfma") if platform.machine().lower() in ("x86_64", "amd64") else ()
    command = (*compiler, *build.COMMON_FLAGS, abi, *FLAGS, *halves)
    emulator = build.Extension(
        EXTENSION.module_name, "", ("*",), 0, build.obstacle, make_recipe, EXTENSION.describe
    )
    sources = build.sources_digest(EXTENSION, csrc) + build.sources_digest(emulator, SIMT)
    digest = build.digest_of(sources, command, torch.__version__, build.version_of(compiler))
    told = build.module_flags(
        EXTENSION.module_name,
        build_digest=digest,
        torch_version=torch.__version__,
        build_flags="emulated",
        build_architectures="emulated",
    )
    glue = (*command, *build.torch_flags(torch_root))
    objects = [
        (f"cuda_{path.stem}.o", path, (*command, "-x", "c++")) for path in (csrc / "cuda").glob("*.cu")
    ]
    objects += [(f"simt_{path.stem}.o", path, command) for path in SIMT.glob("*.cpp")]
    for path in (csrc / "torch" / "cuda").glob("*.cpp"):
        objects.append((f"torch_{path.stem}.o", path, (*glue, *told) if path.stem == "module" else glue))
    return build.Recipe(
        extension=EXTENSION,
        csrc=csrc,
        compiler=compiler,
        compilers=build.version_of(compiler),
        objects=tuple(sorted(objects)),
        link_flags=(
            "-shared",
            f"-L{torch_root / 'lib'}",
            "-ltorch_python",
            "-ltorch",
            "-ltorch_cpu",
            "-lc10",
        ),
        digest=digest,
        sources_digest=sources,
        torch_version=str(torch.__version__),
        remedy="the emulation is for g++ on Linux.",
    )


EXTENSION = build.Extension(
    module_name="_emulated_cuda",
    title="emulated CUDA kernels",
    sources=cuda.EXTENSION.sources,
    bytes_per_job=2 << 30,  # g++ on a file of templates
    obstacle=build.obstacle,
    make_recipe=make_recipe,
    describe=dict,
)
