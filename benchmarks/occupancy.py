"""How many thread blocks a multiprocessor holds, and the file that lists compiled kernels; for `*_resources.py`.

Numbers alone: nothing here compiles, and no GPU is asked.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WARP = 32


@dataclass(frozen=True)
class Multiprocessor:
    """What one has: bytes of shared memory, the most one thread block may have, threads, thread blocks."""

    shared_bytes: int
    shared_of_block: int
    threads: int
    blocks: int


MULTIPROCESSORS = {
    80: Multiprocessor(164 * 1024, 163 * 1024, 2048, 32),
    89: Multiprocessor(100 * 1024, 99 * 1024, 1536, 24),
    90: Multiprocessor(228 * 1024, 227 * 1024, 2048, 32),
    100: Multiprocessor(228 * 1024, 227 * 1024, 2048, 32),
    120: Multiprocessor(100 * 1024, 99 * 1024, 1536, 24),
}
ARCHITECTURES = tuple(MULTIPROCESSORS)
# The same everywhere: quarters of a multiprocessor, registers of one, registers that a warp takes at a time, and bytes
# of shared memory that the driver adds to each thread block.
QUARTERS = 4
REGISTERS_OF_QUARTER = 16_384
REGISTER_UNIT = 256
BLOCK_OVERHEAD = 1024


def thread_blocks(architecture: int, threads: int, registers: int, shared_bytes: int) -> int:
    """Thread blocks of a kernel that fit one multiprocessor; a warp has its registers in one quarter."""
    has, warps = MULTIPROCESSORS[architecture], threads // WARP
    registers_of_warp = -(-registers * WARP // REGISTER_UNIT) * REGISTER_UNIT
    by_registers = QUARTERS * (REGISTERS_OF_QUARTER // registers_of_warp) // warps
    by_shared = has.shared_bytes // (shared_bytes + BLOCK_OVERHEAD)
    return min(by_registers, by_shared, has.threads // threads, has.blocks)


def write_table(path: Path, facts: Mapping[str, object], rows: Sequence[Mapping[str, Any]]) -> None:
    """One line for each kernel, its values in the order of `columns`."""
    header = json.dumps({**facts, "columns": list(rows[0]) if rows else []})
    lines = (json.dumps(list(row.values()), separators=(",", ":")) for row in rows)
    path.write_text(header[:-1] + ', "kernels": [\n' + ",\n".join(lines) + "\n]}\n", encoding="utf-8")
