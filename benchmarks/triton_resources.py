"""Compiles every Triton kernel for every supported architecture, on any machine, and writes what each one uses.

    python benchmarks/triton_resources.py [--arch 80 90] [--dim 16 50] [--check] [--output FILE]

Registers, spills, shared memory, occupancy and the instructions that a thread issues for each pair of points come from
the compiled kernels themselves. No GPU is needed and nothing runs on one. The exit status is 1 when a kernel spills,
does not compile, does not fit, or multiplies on 9.0 without wgmma; `--check` counts no instructions and writes no file.

The launches are those of the backend: it is called on empty tensors with its launcher replaced by a recorder. Kernels
over pairs know rows padded to BLOCK_D, a power of two, so that those of one width are those of every D it serves.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from occupancy import ARCHITECTURES, MULTIPROCESSORS, WARP, thread_blocks, write_table
from rpe_ops.backends.tile_list import NearTiles
from rpe_ops.backends.triton import connected_components, launching, mean_shift, pairwise_loss, shapes
from rpe_ops.backends.triton.launching import compile_options
from rpe_ops.backends.triton.shapes import TileShape

RESULT = Path(__file__).resolve().parent / "results" / "triton_resources.json"
# Every BLOCK_D, at its own width and, for kernels over rows, below it.
DIMS = (8, 16, 23, 32, 48, 64, 100, 128, 200, 255, 256)
# Kernels over pairs that multiply by mma.sync on 9.0, as (BLOCK_D, SPLIT). All for one reason: wgmma multiplies
# at least 64 rows, and sums of so many rows of this width, or their operands in two parts, do not fit the registers.
WITHOUT_WGMMA = {
    "blurring_backward_kernel": {(128, True), (256, False)},
    "row_backward_kernel": {(128, True), (256, True), (256, False)},
    "column_backward_kernel": {(128, True), (256, True), (256, False)},
    "mean_shift_forward_kernel": {(256, True)},
    "hinge_kernel": {(256, True)},
    "foreign_root_kernel": {(256, True)},
}
POINTERS = {
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.int32: "*i32",
    torch.int64: "*i64",
}


@dataclass(frozen=True)
class Launch:
    """One kernel as the backend launches it, without its data."""

    kernel: Any
    signature: tuple[tuple[str, str], ...]
    constants: tuple[tuple[str, Any], ...]
    shape: TileShape


@dataclass(frozen=True)
class Resources:
    """What one compiled kernel uses; `error` where it could not be compiled."""

    kernel: str
    architecture: int
    constants: dict[str, Any]
    warps: int
    stages: int
    registers: int = 0
    spilled_bytes: int = 0
    shared_bytes: int = 0
    programs_per_multiprocessor: int = 0
    occupancy: float = 0.0
    products: str = ""
    instructions_per_pair: float = 0.0
    error: str = ""

    @property
    def faults(self) -> Iterator[str]:
        """What must not be."""
        if self.error:
            yield self.error
            return
        if self.spilled_bytes:
            yield f"{self.spilled_bytes} bytes spilled"
        if self.architecture != 90 or "BLOCK_N" not in self.constants:
            return
        width = self.constants["BLOCK_D"], self.constants.get("SPLIT", True)
        excepted = width in WITHOUT_WGMMA.get(self.kernel, ())
        if "wgmma" not in self.products.split() and not excepted:
            yield f"multiplies by {self.products or 'nothing'}, not by wgmma"
        if "wgmma" in self.products.split() and excepted:
            yield "multiplies by wgmma: WITHOUT_WGMMA should not name it"


def record(architecture: int, dim: int, half: bool) -> Iterator[Launch]:
    """Every launch that the operators make for rows of this width, in all their forms."""
    launches: list[Launch] = []

    def recorder(
        kernel: Any, grid: tuple[int, ...], shape: TileShape, *arguments: Any, **constants: Any
    ) -> None:
        signature = {}
        for name, value in zip(kernel.arg_names, arguments, strict=False):
            if value is None:
                constants[name] = None
            elif isinstance(value, torch.Tensor):
                signature[name] = POINTERS[value.dtype]
            else:
                signature[name] = "fp32" if isinstance(value, float) else "i32"
        launches.append(Launch(kernel, tuple(signature.items()), tuple(constants.items()), shape))

    launching.launch = recorder
    torch.use_deterministic_algorithms(
        True
    )  # fills what no kernel wrote, so that nothing is indexed with rubbish
    shapes.architecture = lambda device: architecture
    rows, offsets, scalar = torch.ones(256, dim), torch.tensor([0, 256]), torch.ones(())
    weight, instance = torch.ones(256), torch.zeros(256, dtype=torch.int64)
    everything = NearTiles([torch.ones(4, 4, dtype=torch.bool)], offsets, offsets)
    for near in (None, everything):
        mean_shift.near_tiles = lambda *inputs, near=near: near
        for sources, log_weight in ((None, None), (None, weight), (rows, None), (rows, weight)):
            inputs = (rows, sources, log_weight, scalar, scalar, offsets, offsets)
            mean_shift.forward(*inputs, half, 0.0)
            mean_shift.backward(rows, *inputs, rows, weight, log_weight is not None, half, 0.0)
    for with_gradient in (False, True):
        pairwise_loss.forward(rows, instance, weight, offsets, 0.5, with_gradient, half)
    if not half:
        connected_components.forward(rows, offsets, 0.9)
    yield from dict.fromkeys(launches)


def compiled(launch: Launch, architecture: int, with_instructions: bool) -> Resources:
    """Compile one launch and read its resources, those instructions too that a pair of points costs, where asked."""
    constants = {name: value for name, value in launch.constants if value is not None}
    if "list_begin" in dict(launch.signature):
        constants["LISTED"] = True
    described = Resources(
        launch.kernel.fn.__name__,
        architecture,
        constants,
        launch.shape.warps,
        launch.shape.stages,
    )
    names = launch.kernel.arg_names
    signature = dict.fromkeys(names, "constexpr") | dict(launch.signature)
    # as Triton finds them at a launch: every allocation is aligned, and kernels do not ask where an argument may not be
    unasked = {
        parameter.name for parameter in launch.kernel.params if parameter.do_not_specialize_on_alignment
    }
    pointers = [name for name, kind in launch.signature if kind.startswith("*") and name not in unasked]
    source = ASTSource(
        launch.kernel,
        signature,
        dict(launch.constants),
        {(names.index(name),): [["tt.divisibility", 16]] for name in pointers},
    )
    try:
        kernel = triton.compile(
            source, target=GPUTarget("cuda", architecture, 32), options=compile_options(launch.shape)
        )
    except Exception as error:  # whatever the compiler raises is the finding
        return Resources(**asdict(described) | {"error": f"{type(error).__name__}: {str(error)[:500]}"})
    measured = _measured(kernel, architecture, launch.shape)
    pairs = launch.shape.rows * launch.shape.columns / (launch.shape.warps * WARP)
    if with_instructions and pairs:
        measured["instructions_per_pair"] = round(_loop_length(kernel.asm["cubin"]) / pairs, 2)
    return Resources(**asdict(described) | measured)


def _measured(kernel: Any, architecture: int, shape: TileShape) -> dict[str, Any]:
    threads, has = shape.warps * WARP, MULTIPROCESSORS[architecture]
    usage = _resource_usage(kernel.asm["cubin"])
    registers, shared = usage["REG"], kernel.metadata.shared
    programs = thread_blocks(architecture, threads, registers, shared)
    fits = shared <= has.shared_of_block
    error = "" if fits else f"{shared} bytes of shared memory, {has.shared_of_block} are there"
    found = sorted(set(re.findall(r"\b(wgmma|tcgen05\.mma|mma\.sync)\b", kernel.asm["ptx"])))
    return {
        "registers": registers,
        # the stack of a kernel without calls holds nothing but spills
        "spilled_bytes": usage["STACK"] + usage["LOCAL"],
        "shared_bytes": shared,
        "programs_per_multiprocessor": programs,
        "occupancy": round(programs * threads / has.threads, 3),
        "products": " ".join(found),
        "error": error,
    }


def _loop_length(cubin: bytes) -> int:
    """Instructions of the loop with the most matrix products: what each thread issues for one tile of pairs."""
    labels: dict[str, int] = {}
    code: list[str] = []
    for line in _tool("nvdisasm", "-c", cubin=cubin).splitlines():
        label = re.match(r"\s*\.(L_x_\d+):", line)
        if label:
            labels[label[1]] = len(code)
        instruction = re.search(r"/\*[0-9a-f]{4,}\*/\s+(.*?);", line)
        if instruction:
            code.append(instruction[1])
    loops = [(0, 0)]
    for place, instruction in enumerate(code):
        target = re.search(r"BRA.*\.(L_x_\d+)", instruction)
        if target and labels.get(target[1], place + 1) <= place:
            loops.append((labels[target[1]], place + 1))
    begin, end = max(loops, key=lambda loop: sum("MMA" in line for line in code[slice(*loop)]))
    return end - begin


def _resource_usage(cubin: bytes) -> dict[str, int]:
    """Registers, stack and local memory of the only kernel of a compiled file."""
    text = _tool("cuobjdump", "-res-usage", cubin=cubin)
    return {name: int(value) for name, value in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", text)}


def _tool(name: str, *options: str, cubin: bytes) -> str:
    """What one of the CUDA tools that come with Triton prints about a compiled file."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return subprocess.run([tool, *options, file.name], capture_output=True, text=True, check=True).stdout


def _write(path: Path, table: list[Resources]) -> None:
    """The table of all kernels at their own widths, the constants of each as one text."""
    facts = {"triton": triton.__version__, "command": "python benchmarks/triton_resources.py"}
    rows = []
    for row in table:
        width = row.constants.get("BLOCK_D")
        if row.constants.get("D", width) != width:
            continue
        constants = " ".join(f"{name}={value}" for name, value in row.constants.items())
        rows.append(asdict(row) | {"constants": constants})
    write_table(path, facts, rows)


def main() -> int:
    """Compile, print one line for each finding, write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arch", type=int, nargs="+", default=ARCHITECTURES, choices=ARCHITECTURES)
    parser.add_argument("--dim", type=int, nargs="+", default=DIMS)
    parser.add_argument("--half", choices=["both", "yes", "no"], default="both")
    parser.add_argument("--kernel", default="", help="only kernels whose name contains this")
    parser.add_argument("--check", action="store_true", help="count no instructions, write no file")
    parser.add_argument("--verbose", action="store_true", help="print every kernel")
    parser.add_argument("--output", type=Path, default=RESULT)
    options = parser.parse_args()
    halves = {"both": (True, False), "yes": (True,), "no": (False,)}[options.half]
    jobs = dict.fromkeys(
        (launch, architecture)
        for architecture in options.arch
        for dim in options.dim
        for half in halves
        for launch in record(architecture, dim, half)
        if options.kernel in launch.kernel.fn.__name__
    )
    with ThreadPoolExecutor(2) as pool:
        table = list(pool.map(lambda job: compiled(*job, not options.check), jobs))
    bad = [row for row in table if any(row.faults)]
    for row in table if options.verbose else bad:
        print(
            f"sm_{row.architecture} {row.kernel} {row.constants}, {row.warps} warps, {row.stages} stages: "
            f"{row.registers} registers, {row.spilled_bytes} bytes spilled, {row.shared_bytes} bytes shared, "
            f"{row.programs_per_multiprocessor} per multiprocessor, {row.products}. {'; '.join(row.faults)}"
        )
    if not options.check:
        _write(options.output, table)
    print(f"{len(table)} kernels, {len(bad)} with findings")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
