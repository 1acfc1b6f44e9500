"""Peak memory of a piece of code above what was allocated before it: the CUDA allocator's count, or the process's
high-water mark on Linux. Elsewhere the peak is unknown and stays None, with the reason beside it."""

from __future__ import annotations

import ctypes
import gc
from pathlib import Path

import torch

STATUS = Path("/proc/self/status")
# Writing 5 resets the high-water mark of the resident set (proc(5)).
RESET_PEAK = Path("/proc/self/clear_refs")


def available_bytes(device: torch.device) -> int:
    """What a provider may allocate: free GPU memory, or what Linux calls available; elsewhere no limit is known."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    meminfo = Path("/proc/meminfo")
    if not meminfo.is_file():
        return 1 << 62
    fields = dict(line.split(":") for line in meminfo.read_text().splitlines())
    return int(fields["MemAvailable"].split()[0]) * 1024


class PeakMemory:
    """Context manager; `mib` holds the peak above the start, or None where it cannot be known: `unknown` says why."""

    def __init__(self, device: torch.device):
        self.device = device
        self.mib: float | None = None
        self.unknown: str | None = None

    def __enter__(self) -> PeakMemory:
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            self._before = torch.cuda.memory_allocated(self.device)
            return self
        self.unknown = self._obstacle()
        if self.unknown is None:
            self._before = _resident_bytes("VmRSS")
        return self

    def _obstacle(self) -> str | None:
        """Why the peak of this process cannot be read, or None once its high-water mark starts again."""
        if self.device.type != "cpu":
            return f"PyTorch keeps no peak for {self.device.type} devices that is read here"
        if not STATUS.is_file():
            return f"it is read from {STATUS}, which only Linux has"
        _return_free_memory()
        try:
            RESET_PEAK.write_text("5")
        except OSError as error:
            return f"{RESET_PEAK} cannot be written ({error.strerror})"
        return None

    def __exit__(self, *_: object) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            peak = torch.cuda.max_memory_allocated(self.device)
        elif self.unknown is None:
            peak = _resident_bytes("VmHWM")
        else:
            return
        self.mib = max(0, peak - self._before) / 2**20


def _resident_bytes(field: str) -> int:
    fields = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
    return int(fields[field].split()[0]) * 1024


def _return_free_memory() -> None:
    """Gives the C library's free lists back to the system, so that reused memory counts again."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError):
        pass
