"""Compiles every CUDA kernel for every supported architecture, on any machine with nvcc, and writes what each one uses.

    nice python benchmarks/cuda_resources.py [--capability 8.0 9.0a] [--check] [--verbose] [--output FILE]

Commands and flags are those of the build (`rpe_ops/extensions/cuda.py`) with every warning an error; registers, spills
and threads are the compiler's own words, shared memory is that of `csrc/cuda/traits.cuh`. No GPU is needed and nothing
runs on one. The exit status is 1 when a kernel spills, does not compile without a warning, or does not fit, and 77
where no CUDA kernel can be compiled; `--check` writes no file.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

from occupancy import MULTIPROCESSORS, WARP, thread_blocks, write_table
from report import commit
from rpe_ops.extensions import build, cuda, toolkit

RESULT = Path(__file__).resolve().parent / "results" / "cuda_resources.json"
CAPABILITIES = ("8.0", "8.9", "9.0a", "10.0", "12.0")
FLAGS = ("-Werror", "all-warnings", "-Xptxas", "-v")
CANNOT_COMPILE = 77
MOST_COMPILERS = 2  # at a time: one file takes minutes, and others work on the machine
SHOWN_ERRORS = 10  # of one file
# What the flag of a kernel's template means, false and true.
FORMS = {
    "mean_shift_forward_kernel": ("running maximum", "fixed shift"),
    "scale_slopes_kernel": ("two-sided", "blurring"),
}
REPORT = re.compile(
    r"Compiling entry function '(?P<symbol>\w+)' for '(?P<architecture>sm_\w+)'\n"
    r".*Function properties for (?P=symbol)\n"
    r"\s*(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, .*\n"
    r".*Used (?P<registers>\d+) registers(?P<more>.*)"
)
# A kernel in PTX, and the threads of the thread blocks that it is compiled for, with which it is launched.
ENTRY = re.compile(r"\.entry (\w+)\([^)]*\)\s*\.maxntid (\d+)")


@dataclass(frozen=True)
class Tile:
    """The arguments of `Traits`, which kernels over pairs have in their names."""

    walk: int
    dim: int
    split: bool
    listed: bool


@dataclass(frozen=True)
class Compiled:
    """One kernel in the words of the compiler; `tile` for kernels over pairs."""

    kernel: str
    architecture: str
    dim: int | None
    tile: Tile | None
    threads: int
    registers: int
    static_bytes: int
    spilled_bytes: int


@dataclass(frozen=True)
class Resources:
    """A row of the table; the names are those of the extension's `kernel_resources()`.

    Kernels over rows have no `half`, and no `shared_bytes`: the few kilobytes that some of them are launched with limit
    no number of thread blocks, and are said at the launch alone.
    """

    kernel: str
    architecture: str
    dim: int | None
    half: bool | None
    threads: int
    registers: int
    spilled_bytes: int
    shared_bytes: int | None
    blocks_per_processor: int
    occupancy: float

    @property
    def title(self) -> str:
        half = {None: "", True: ", half", False: ", float32-grade"}[self.half]
        width = "" if self.dim is None else f", width {self.dim}"
        return f"{self.architecture} {self.kernel}{width}{half}"

    @property
    def faults(self) -> Iterator[str]:
        """What must not be."""
        most = MULTIPROCESSORS[number(self.architecture)].shared_of_block
        if self.spilled_bytes:
            yield f"{self.spilled_bytes} bytes spilled, with {self.registers} registers"
        if (self.shared_bytes or 0) > most:
            yield f"{self.shared_bytes} bytes of shared memory, {most} are there"
        elif not self.blocks_per_processor:
            yield f"{self.registers} registers for each of {self.threads} threads, which fit no multiprocessor"


@dataclass
class Output:
    """What compiling one file gave."""

    kernels: list[Compiled] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


def number(architecture: str) -> int:
    """90 for sm_90a."""
    return int(re.sub(r"\D", "", architecture))


def compile_file(source: Path, command: Sequence[str], folder: Path) -> Output:
    """Compile one file of kernels for all architectures, and read the compiler's report."""
    kept = folder / source.stem
    kept.mkdir()
    command = [*command, *FLAGS, "--keep", f"--keep-dir={kept}", "-c", str(source), "-o", str(kept / "it.o")]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    lines = done.stdout.splitlines()
    wrong = [line.strip() for line in lines if re.search(r"\b(error|warning|fatal)\b[^:]*:", line)]
    if done.returncode and not wrong:
        wrong = lines[-SHOWN_ERRORS:] or [f"nvcc ended with status {done.returncode}"]
    output = Output(faults=[f"{source.name}: {line}" for line in wrong[:SHOWN_ERRORS]])
    if done.returncode == 0:
        entries = [entry for file in kept.glob("*.ptx") for entry in ENTRY.findall(file.read_text())]
        threads = dict(entries)
        output.kernels = [
            read_report(found, int(threads[found["symbol"]])) for found in REPORT.finditer(done.stdout)
        ]
        if len(output.kernels) != len(entries):
            output.faults.append(
                f"{source.name}: {len(output.kernels)} of {len(entries)} kernels are reported"
            )
    return output


def read_report(found: re.Match[str], threads: int) -> Compiled:
    """One kernel of ptxas' report. Its mangled name ends with <length><name>, I<arguments of the template>E and the
    arguments of the function, where numbers are Li<number>E, flags Lb<0 or 1>E, and the walk is <type>E<number>E."""
    named = re.search(r"\d([a-z][a-z_]*_kernel)(I.*)?", found["symbol"])
    assert named is not None, found["symbol"]
    kernel, template = named[1], named[2] or ""
    walk, dim = re.search(r"4WalkE(\d+)E", template), re.search(r"Li(\d+)E", template)
    flags = [flag == "1" for flag in re.findall(r"Lb([01])E", template)]
    tile = Tile(int(walk[1]), int(dim[1]), flags.pop(0), flags.pop(0)) if walk and dim else None
    if tile and tile.listed:
        kernel += ", listed"
    for flag in flags:
        kernel += f", {FORMS.get(kernel.partition(',')[0], ('false', 'true'))[flag]}"
    shared = re.search(r"(\d+) bytes smem", found["more"])
    return Compiled(
        kernel,
        found["architecture"],
        int(dim[1]) if dim else None,
        tile,
        threads,
        int(found["registers"]),
        int(shared[1]) if shared else 0,
        # the stack of a kernel without calls holds nothing but spills
        max(int(found["stack"]), int(found["stores"])),
    )


def shared_bytes(tiles: Sequence[Tile], recipe: build.Recipe, folder: Path) -> dict[Tile, int]:
    """Shared memory of each tile, as a C++ program prints it that includes the traits."""
    program, text = folder / "traits", '#include "cuda/traits.cuh"\n#include <cstdio>\nint main() {\n'
    for tile in tiles:
        flags = f"{tile.split}, {tile.listed}".lower()
        traits = f"rpe::cuda::Traits<rpe::cuda::Walk({tile.walk}), {tile.dim}, {flags}>"
        text += f'  std::printf("%d\\n", int({traits}::kSharedBytes));\n'
    program.with_suffix(".cpp").write_text(text + "}\n")
    options = ("-std=c++17", f"-I{recipe.csrc}", f"{program}.cpp", "-o", str(program))
    subprocess.run([*recipe.compiler, *options], check=True)
    answers = subprocess.run([str(program)], capture_output=True, text=True, check=True).stdout.split()
    return dict(zip(tiles, map(int, answers), strict=True))


def resources_of(kernel: Compiled, tile_bytes: dict[Tile, int]) -> Resources:
    """The row of one kernel."""
    tile, architecture = kernel.tile, number(kernel.architecture)
    shared = kernel.static_bytes + (tile_bytes[tile] if tile else 0)
    blocks = thread_blocks(architecture, kernel.threads, kernel.registers, shared)
    return Resources(
        kernel.kernel,
        kernel.architecture,
        kernel.dim,
        not tile.split if tile else None,
        kernel.threads,
        kernel.registers,
        kernel.spilled_bytes,
        shared if tile else None,
        blocks,
        round(blocks * kernel.threads / MULTIPROCESSORS[architecture].threads, 3),
    )


def print_summary(table: Sequence[Resources]) -> None:
    """Kernels over pairs by padded width: the most registers and the fewest warps of all architectures."""
    over_pairs = [row for row in table if row.half is not None]
    widths = sorted({row.dim for row in over_pairs if row.dim})
    print("registers of a thread, at most / warps on a multiprocessor, at least; by width of rows")
    print(" " * 60 + "".join(f"{width:>10}" for width in widths))
    for kernel, half in dict.fromkeys((row.kernel, row.half) for row in over_pairs):
        line = f"{kernel}, {'half' if half else 'float32-grade'}".ljust(60)
        for width in widths:
            rows = [row for row in over_pairs if (row.kernel, row.half, row.dim) == (kernel, half, width)]
            if rows:
                warps = min(row.blocks_per_processor * row.threads // WARP for row in rows)
                line += f"{max(row.registers for row in rows)} / {warps}".rjust(10)
        print(line)


def main() -> int:
    """Compile, print one line for each finding and a summary, write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--capability", nargs="+", default=CAPABILITIES, choices=CAPABILITIES)
    parser.add_argument("--check", action="store_true", help="write no file")
    parser.add_argument("--verbose", action="store_true", help="print every kernel")
    parser.add_argument("--output", type=Path, default=RESULT)
    options = parser.parse_args()
    os.environ["TORCH_CUDA_ARCH_LIST"] = " ".join(options.capability)
    try:
        recipe = cuda.make_recipe()
    except build.BuildError as reason:
        print(f"note: CUDA kernels were not compiled: {str(reason).removeprefix('rpe_ops: ')}")
        return CANNOT_COMPILE
    jobs = [(source, command) for _, source, command in recipe.objects if source.suffix == ".cu"]
    jobs.sort(key=lambda job: -job[0].stat().st_size)
    compilers = min(MOST_COMPILERS, build.num_jobs(cuda.EXTENSION.bytes_per_job))
    with tempfile.TemporaryDirectory(prefix="rpe_ops-") as name, ThreadPoolExecutor(compilers) as pool:
        folder = Path(name)
        outputs = list(pool.map(lambda job: compile_file(*job, folder), jobs))
        kernels = [kernel for output in outputs for kernel in output.kernels]
        tiles = list(dict.fromkeys(kernel.tile for kernel in kernels if kernel.tile))
        tile_bytes = shared_bytes(tiles, recipe, folder)
    # Kernels over rows are in several files, the same in each.
    table = list(dict.fromkeys(resources_of(kernel, tile_bytes) for kernel in kernels))
    table.sort(key=lambda row: (number(row.architecture), row.kernel, str(row.half), row.dim or 0))

    if options.verbose:
        for row in table:
            print(", ".join([row.title, *(f"{key} {value}" for key, value in list(asdict(row).items())[4:])]))
    faults = [fault for output in outputs for fault in output.faults]
    faults += [f"{row.title}: {fault}" for row in table for fault in row.faults]
    print(*faults, sep="\n", end="\n" if faults else "")
    print_summary(table)
    nvcc = Path(jobs[0][1][0])
    version = re.search(r"V(\d+[\d.]+)", toolkit.ask(nvcc, "--version"))
    facts = {
        "nvcc": version[1] if version else "unknown",
        "flags": " ".join((*cuda.NVCC_FLAGS, *FLAGS)),
        "commit": commit(),
        "command": "python benchmarks/cuda_resources.py",
    }
    if not options.check:
        write_table(options.output, facts, [asdict(row) for row in table])
    print(f"note: CUDA kernels compiled by nvcc {facts['nvcc']} for {' '.join(options.capability)}")
    print(f"{len(table)} kernels, {len(faults)} findings")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
