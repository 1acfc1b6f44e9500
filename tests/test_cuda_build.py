"""The build of the CUDA extension without a GPU: the toolkit's places and versions, every reason and message.

Toolkits are folders with a shell script for nvcc; the last tests compile with the real one where there is one and torch
has CUDA. What both extensions share is in `test_build.py`. Nothing here checks an operator.
"""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rpe_ops.backends import cuda as backend
from rpe_ops.extensions import build, cache, cpu, cuda, toolkit
from rpe_ops.extensions.loader import Loader

ROOT = Path(__file__).resolve().parents[1]
KNOWN = ((7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (10, 3), (12, 0))
LISTING = "\n".join(f"compute_{major}{minor}" for major, minor in KNOWN)
FAILURE = "kernel.cu(3): error: identifier 'warp' is undefined"

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the kernels do not support Windows")
needs_compiler = pytest.mark.skipif(
    build.obstacle() is not None, reason=f"cannot compile: {build.obstacle()}"
)


def fake_toolkit(root: Path, release: str = "13.0", compiles: str = "exit 2") -> Path:
    """A folder that looks like a CUDA toolkit; `compiles` is what its nvcc does with a source."""
    for folder in ("bin", "include"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "include" / "cuda_runtime.h").write_text("")
    nvcc = root / "bin" / "nvcc"
    nvcc.write_text(
        "#!/bin/sh\n"
        f'case "$1" in\n--version) echo "Cuda compilation tools, release {release}, V{release}.88"; exit;;\n'
        f'--list-gpu-arch) echo "{LISTING}"; exit;;\n'
        f'--dryrun) echo "#$ TOP={root}/bin/.."; exit;;\nesac\n{compiles}\n',
        encoding="utf-8",
    )
    nvcc.chmod(0o755)
    return root


def without_nvcc(folder: Path, shadow: Path) -> Path:
    """A folder of programs; where nvcc is among them, another one with links to the rest."""
    if not (folder / "nvcc").exists():
        return folder
    shadow.mkdir()
    for program in folder.iterdir():
        if program.name != "nvcc":
            (shadow / program.name).symlink_to(program)
    return shadow


@pytest.fixture
def bare(monkeypatch, tmp_path):
    """A machine with a torch for CUDA 13.2, no GPU, and no toolkit in any of the places."""
    for name in ("CUDA_HOME", "CUDA_PATH", "TORCH_CUDA_ARCH_LIST", *toolkit.nvcc_variables()):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "usual").mkdir()
    monkeypatch.setattr(toolkit, "USUAL_FOLDER", tmp_path / "usual")
    monkeypatch.setattr(toolkit, "_pip_packages", list)
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(cuda, "visible_gpus", list)
    folders = [Path(folder) for folder in os.environ["PATH"].split(os.pathsep)]
    shadows = [without_nvcc(folder, tmp_path / f"path{i}") for i, folder in enumerate(folders)]
    monkeypatch.setenv("PATH", os.pathsep.join(map(str, shadows)))
    return monkeypatch


def on_path(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


# The toolkit


def test_without_a_toolkit_the_reason_names_every_place_and_the_remedy(bare, tmp_path):
    packages = tmp_path / "site-packages" / "nvidia"
    (packages / "cu13" / "include").mkdir(parents=True)
    bare.setattr(toolkit, "_pip_packages", lambda: [packages])
    reason = str(cuda.obstacle())
    for words in ("CUDA_HOME and CUDA_PATH are not set", "no nvcc on PATH", str(tmp_path / "usual" / "cuda")):
        assert words in reason
    assert f"pip packages in {packages} have no nvcc" in reason
    assert (
        "install the CUDA toolkit 13" in reason and "pip install 'cuda-toolkit[nvcc,cccl]==13.2.*'" in reason
    )
    with pytest.raises(build.BuildError, match="rpe_ops: no CUDA toolkit"):
        cuda.make_recipe()


@pytest.mark.parametrize("variable", ["CUDA_HOME", "CUDA_PATH"])
def test_the_named_folder_decides(bare, tmp_path, variable):
    on_path(bare, fake_toolkit(tmp_path / "other") / "bin")
    bare.setenv(variable, str(fake_toolkit(tmp_path / "odd place")))
    assert toolkit.find("13.2").nvcc == tmp_path / "odd place" / "bin" / "nvcc"
    bare.setenv(variable, str(tmp_path / "nothing"))
    with pytest.raises(build.Obstacle) as caught:
        toolkit.find("13.2")
    message = str(caught.value)
    assert f"{variable}={tmp_path / 'nothing'}" in message and "unset it" in message


def test_nvcc_on_path_is_followed_through_links_and_wrappers(bare, tmp_path):
    root = fake_toolkit(tmp_path / "toolkit")
    programs = tmp_path / "programs" / "bin"
    programs.mkdir(parents=True)
    on_path(bare, programs)
    (programs / "nvcc").symlink_to(root / "bin" / "nvcc")
    assert toolkit.find("13.2").nvcc == root / "bin" / "nvcc"
    (programs / "nvcc").unlink()
    (programs / "nvcc").write_text(f'#!/bin/sh\nexec {root}/bin/nvcc "$@"\n')
    (programs / "nvcc").chmod(0o755)
    found = toolkit.find("13.2")
    assert found.nvcc == root / "bin" / "nvcc" and found.include == root / "include"


def test_the_usual_folders_and_the_pip_packages_are_searched(bare, tmp_path):
    packages = tmp_path / "site-packages" / "nvidia"
    bare.setattr(toolkit, "_pip_packages", lambda: [packages])
    fake_toolkit(packages / "cu13", "13.2")
    assert toolkit.find("13.2").version == "13.2"
    fake_toolkit(tmp_path / "usual" / "cuda-13.1", "13.1")
    assert toolkit.find("13.2").version == "13.1"
    fake_toolkit(tmp_path / "usual" / "cuda", "12.8")
    assert toolkit.find("13.2").version == "13.1", "another major version is passed over"


@pytest.mark.parametrize("place", ["include", "targets/x/include", "../cuda_runtime/include"])
def test_headers_are_found_in_every_layout(bare, tmp_path, place):
    root = fake_toolkit(tmp_path / "cuda_nvcc")
    (root / "include" / "cuda_runtime.h").unlink()
    folder = root / place
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cuda_runtime.h").write_text("")
    bare.setenv("CUDA_HOME", str(root))
    assert toolkit.find("13.2").include.resolve() == folder.resolve()


def test_an_incomplete_toolkit_is_named(bare, tmp_path):
    root = fake_toolkit(tmp_path / "toolkit")
    bare.setenv("CUDA_HOME", str(root))
    (root / "include" / "cuda_runtime.h").unlink()
    assert "no cuda_runtime.h" in str(cuda.obstacle())
    (root / "include" / "cuda_runtime.h").write_text("")
    (root / "bin" / "nvcc").write_text("#!/bin/sh\nexit 1\n")
    assert "does not run" in str(cuda.obstacle())


def test_another_major_version_than_torchs_is_a_reason(bare, tmp_path):
    root = fake_toolkit(tmp_path / "toolkit", "12.4")
    on_path(bare, root / "bin")
    reason = str(cuda.obstacle())
    assert "PyTorch is built for CUDA 13.2" in reason and "of CUDA 12.4" in reason and str(root) in reason
    assert "install the CUDA toolkit 13" in reason
    bare.setattr(torch.version, "cuda", "12.8")
    assert cuda.plan().toolkit.version == "12.4", "another minor version serves"


def test_a_torch_without_cuda_is_a_reason(bare):
    bare.setattr(torch.version, "cuda", None)
    assert cuda.obstacle() == "this PyTorch is built without CUDA"
    assert "without CUDA" in str(backend.unavailable_reason(torch.device("cuda")))
    assert "without CUDA" in backend.describe()["state"]


# Architectures


@pytest.mark.parametrize(
    "listed, words",
    [
        ("8.0 fast", "'fast'"),
        ("80", "'80'"),
        ("11.0", "this nvcc compiles for 7.5 8.0"),
        ("7.5", "8.0 or newer"),
        ("Volta", "8.0 or newer"),
        ("Blackwell+Tegra", "nothing that can be compiled for"),
    ],
)
def test_a_list_that_cannot_be_served_is_refused(bare, tmp_path, listed, words):
    bare.setenv("CUDA_HOME", str(fake_toolkit(tmp_path / "toolkit")))
    bare.setenv("TORCH_CUDA_ARCH_LIST", listed)
    reason = str(cuda.obstacle())
    assert words in reason and f"TORCH_CUDA_ARCH_LIST={listed}" in reason


@needs_compiler
def test_a_list_that_leaves_out_this_gpu_is_a_reason(bare, tmp_path):
    bare.setenv("CUDA_HOME", str(fake_toolkit(tmp_path / "toolkit")))
    bare.setattr(cuda, "visible_gpus", lambda: [(9, 0)])
    assert cuda.obstacle() is None
    bare.setenv("TORCH_CUDA_ARCH_LIST", "8.0")
    reason = str(cuda.obstacle())
    assert "TORCH_CUDA_ARCH_LIST=8.0 leaves out this GPU" in reason and "add 9.0 to it" in reason
    assert dict(cuda.make_recipe().facts)["architectures"] == "8.0", "a wheel may be for other GPUs"


# The recipe


def fake_recipe(monkeypatch: pytest.MonkeyPatch, folder: Path, compiles: str) -> build.Recipe:
    """The recipe of one .cu file for a fake toolkit."""
    csrc = folder / "csrc"
    (csrc / "cuda").mkdir(parents=True, exist_ok=True)
    (csrc / "cuda" / "kernel.cu").write_text("int rpe_ops_tiny() { return 42; }\n")
    monkeypatch.setenv("CUDA_HOME", str(fake_toolkit(folder / "toolkit", compiles=compiles)))
    return dataclasses.replace(cuda.make_recipe(csrc), link_flags=("-shared", "-fPIC"))


@needs_compiler
def test_nvccs_errors_are_shown_with_the_remedy(bare, tmp_path, capsys):
    recipe = fake_recipe(bare, tmp_path, f'echo "{FAILURE}" >&2\nexit 2')
    with pytest.raises(build.BuildError) as caught:
        cache.library_for(recipe, tmp_path)
    message = str(caught.value)
    assert FAILURE in message and "nvcc 13.0" in message and "PyTorch's CUDA 13.2" in message
    assert "CXX" in message and "CUDA_HOME" in message
    assert not re.search(r"Traceback|FAILED|ninja|\[1/", message)
    assert "building the CUDA kernels with nvcc 13.0" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.build-*"))


@needs_compiler
def test_a_killed_compiler_means_memory(bare, tmp_path):
    recipe = fake_recipe(
        bare, tmp_path, 'echo "nvcc error : cicc died due to signal 9 (Kill signal)"\nexit 9'
    )
    with pytest.raises(build.BuildError, match="MAX_JOBS=1"):
        cache.library_for(recipe, tmp_path)


@needs_compiler
def test_a_finished_library_says_what_it_is_for(bare, tmp_path):
    compiles = f'while [ "$1" != -c ]; do shift; done\nexec {build.find_compiler()[0]} -x c++ -fPIC "$@"'
    bare.setenv("TORCH_CUDA_ARCH_LIST", "8.0;9.0")
    library = cache.library_for(fake_recipe(bare, tmp_path, compiles), tmp_path)
    manifest = build.verify(library, cuda.EXTENSION)
    assert (
        manifest["architectures"] == "8.0 9.0" and manifest["cuda"] == "13.2" and manifest["nvcc"] == "13.0"
    )
    assert library.name.startswith("_native_cuda.") and build.verify(library, cpu.EXTENSION) is None


@needs_compiler
def test_the_digest_follows_toolkit_architectures_and_flags_of_the_environment(bare, tmp_path):
    digests = [fake_recipe(bare, tmp_path, "exit 2").digest]
    assert fake_recipe(bare, tmp_path, "exit 2").digest == digests[0]
    bare.setenv("TORCH_CUDA_ARCH_LIST", "8.0")
    digests.append(fake_recipe(bare, tmp_path, "exit 2").digest)
    bare.setenv("NVCC_APPEND_FLAGS", "-allow-unsupported-compiler")
    digests.append(fake_recipe(bare, tmp_path, "exit 2").digest)
    bare.setenv("CUDA_HOME", str(fake_toolkit(tmp_path / "newer", "13.1")))
    digests.append(cuda.make_recipe(tmp_path / "csrc").digest)
    bare.setattr(torch.version, "cuda", "13.0")
    digests.append(cuda.make_recipe(tmp_path / "csrc").digest)
    assert len(set(digests)) == len(digests)


@needs_compiler
def test_every_source_and_header_is_in_the_digest_and_every_source_compiled(bare, tmp_path):
    bare.setenv("CUDA_HOME", str(fake_toolkit(tmp_path / "toolkit")))
    csrc = build.find_csrc()
    recipe = cuda.make_recipe()
    compiled = {source for _, source, _ in recipe.objects}
    assert compiled == {*csrc.rglob("*.cu"), *(csrc / "torch" / "cuda").glob("*.cpp")}
    for extension in (cpu.EXTENSION, cuda.EXTENSION):
        covered = {path.resolve() for path in build.sources_of(extension, csrc)}
        for path in covered:
            for name in re.findall(r'^\s*#\s*include\s*"([^"]+)"', path.read_text(), re.MULTILINE):
                included = (path.parent / name).resolve()
                assert included in covered or not included.exists(), (
                    f"{path}: {included} is not in the digest"
                )


def test_nvcc_is_given_the_compiler_without_its_launcher():
    assert cuda.host_flags(("/opt/bin/ccache", "no-such-g++")) == ("-ccbin=no-such-g++",)
    assert cuda.host_flags(("/opt/bin/g++", "-m64")) == ("-ccbin=/opt/bin/g++", "-Xcompiler=-m64")


# Libraries that a wheel carries


@needs_compiler
def test_a_prebuilt_library_for_other_gpus_is_named(bare, tmp_path):
    recipe = fake_recipe(bare, tmp_path, "exit 2")
    facts = (("cuda", "13.2"), ("nvcc", "13.0"), ("architectures", "8.0 9.0"))
    digest = build.sources_digest(cuda.EXTENSION, build.find_csrc())
    carried = tmp_path / "carried" / recipe.library_name
    carried.parent.mkdir()
    carried.write_bytes(b"a library")
    bare.setattr(Loader, "_carried", lambda self: carried)
    build.write_manifest(carried, dataclasses.replace(recipe, facts=facts, sources_digest=digest))
    bare.setenv("CUDA_HOME", str(tmp_path / "nothing"))
    loader = Loader(cuda.EXTENSION)
    for gpus in ([], [(8, 6)], [(9, 0), (12, 0)]):
        bare.setattr(cuda, "visible_gpus", lambda gpus=gpus: gpus)
        assert loader.prebuilt() == carried and loader.unavailable_reason() is None
    bare.setattr(cuda, "visible_gpus", lambda: [(12, 0)])
    assert loader.prebuilt() is None
    reason = str(loader.unavailable_reason())
    assert "no CUDA toolkit was found" in reason
    assert "the prebuilt library is for compute capability 8.0 9.0, this GPU has 12.0" in reason
    with pytest.raises(build.BuildError, match="no CUDA toolkit"):
        loader.load()
    bare.setattr(torch.version, "cuda", "13.3")
    assert "is for CUDA 13.2, this PyTorch is for 13.3" in str(Loader(cuda.EXTENSION).unavailable_reason())
    carried.write_bytes(b"another one")
    assert "is damaged" in str(Loader(cuda.EXTENSION).unavailable_reason())


def run_setup(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", str(folder)]
    return subprocess.run(
        command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=120
    )


@needs_compiler
@pytest.mark.parametrize(
    "choice, words", [("cuda", "without CUDA|CUDA_HOME=/nothing"), ("2", "RPE_OPS_AOT=2")]
)
def test_a_wheel_that_cannot_be_built_ends_in_one_message(tmp_path, choice, words):
    pytest.importorskip("setuptools")
    done = run_setup(tmp_path / "lib", RPE_OPS_AOT=choice, CUDA_HOME="/nothing")
    assert done.returncode != 0 and re.search(words, done.stderr), done.stderr
    assert "Traceback" not in done.stderr


# The backend


@pytest.mark.parametrize(
    "gpu, words",
    [
        (None, "PyTorch sees no GPU"),
        ((7, 5), "needs compute capability 8.0 or newer, this GPU has 7.5"),
        ((9, 0), "no CUDA toolkit was found"),
    ],
)
def test_the_backend_has_a_reason_for_everything(bare, gpu, words):
    bare.setattr(torch.cuda, "is_available", lambda: gpu is not None)
    bare.setattr(torch.cuda, "get_device_capability", lambda *_: gpu)
    bare.setattr(backend, "loader", Loader(cuda.EXTENSION))
    assert "these tensors are on cpu" in str(backend.unavailable_reason(torch.device("cpu")))
    assert words in str(backend.unavailable_reason(torch.device("cuda")))
    assert words in backend.describe()["state"]
    bare.setattr(torch.version, "hip", "6.0")
    assert "AMD" in str(backend.unavailable_reason(torch.device("cuda")))


def test_the_backend_serves_what_the_kernels_compute():
    assert backend.unsupported_reason(torch.float32, 256) is None
    assert "256" in str(backend.unsupported_reason(torch.float32, 257))
    assert "float64" in str(backend.unsupported_reason(torch.float64, 8))


def test_a_build_that_would_work_is_described(bare, tmp_path):
    root = fake_toolkit(tmp_path / "toolkit")
    bare.setenv("CUDA_HOME", str(root))
    bare.setenv("TORCH_CUDA_ARCH_LIST", "9.0")
    facts = cuda.describe()
    assert facts["nvcc"] == f"13.0 ({root}/bin/nvcc)" and facts["architectures"] == "9.0"


# The real nvcc

KERNEL = """
#include <cuda_fp16.h>
#include <cuda_runtime.h>
static __global__ void fill(__half* out) { out[threadIdx.x] = __float2half(1.0f); }
void launch_fill(void* out, cudaStream_t stream) { fill<<<1, 32, 0, stream>>>(static_cast<__half*>(out)); }
"""
MODULE = """
#include <c10/cuda/CUDAStream.h>
#include <pybind11/pybind11.h>
void launch_fill(void* out, cudaStream_t stream);
PYBIND11_MODULE(RPE_MODULE_NAME, module) {
  module.def("fill", [](size_t out) {
    launch_fill(reinterpret_cast<void*>(out), c10::cuda::getCurrentCUDAStream());
  });
  module.def("build_info", [] {
    pybind11::dict info;
    info["digest"] = RPE_BUILD_DIGEST;
    info["flags"] = RPE_BUILD_FLAGS;
    info["torch"] = RPE_TORCH_VERSION;
    info["architectures"] = RPE_BUILD_ARCHITECTURES;
    return info;
  });
}
"""
IMPORT = """
import sys
from pathlib import Path
from rpe_ops.extensions import cuda
from rpe_ops.extensions.loader import Loader
print(Loader(cuda.EXTENSION)._import(Path(sys.argv[1])).build_info())
"""


@pytest.fixture
def for_one_architecture(monkeypatch):
    """Skips without nvcc and a torch with CUDA, whose GPU, if there is one, plays no part."""
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.0")
    monkeypatch.setattr(cuda, "visible_gpus", list)
    reason = cuda.obstacle()
    if reason is not None:
        pytest.skip(f"cannot compile: {reason}")


def build_info(library: Path) -> str:
    """What the library answers in a process of its own, where no other one registered the same operators."""
    done = subprocess.run(
        [sys.executable, "-c", IMPORT, str(library)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_tiny_extension_compiles_links_and_loads(for_one_architecture, tmp_path):
    for name, text in (("cuda/kernel.cu", KERNEL), ("torch/cuda/module.cpp", MODULE)):
        path = tmp_path / "csrc" / name
        path.parent.mkdir(parents=True)
        path.write_text(text)
    recipe = cuda.make_recipe(tmp_path / "csrc")
    answer = build_info(cache.library_for(recipe, tmp_path))
    for words in (recipe.digest, torch.__version__, "'architectures': '8.0'", "arch=compute_80,code=sm_80"):
        assert words in answer
