"""The benchmarks' own measure of memory: a tensor is seen, and where the peak cannot be known a reason is given."""

import sys
from pathlib import Path

import pytest
import torch

import memory

CPU = torch.device("cpu")
MEBIBYTES = 64


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_a_tensor_that_lives_for_a_moment_is_seen():
    with memory.PeakMemory(CPU) as peak:
        torch.ones(MEBIBYTES << 18).sum()
    if peak.unknown:
        pytest.skip(peak.unknown)
    assert 0.9 * MEBIBYTES < peak.mib < 1.5 * MEBIBYTES  # the kernel counts in batches of pages


def test_no_peak_without_proc(monkeypatch):
    monkeypatch.setattr(memory, "STATUS", Path("/nonexistent/status"))
    with memory.PeakMemory(CPU) as peak:
        pass
    assert peak.mib is None and "only Linux" in peak.unknown


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_no_peak_where_the_mark_cannot_be_reset(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "RESET_PEAK", tmp_path)  # a folder cannot be written
    with memory.PeakMemory(CPU) as peak:
        pass
    assert peak.mib is None and f"{tmp_path} cannot be written (Is a directory)" in peak.unknown


def test_no_peak_of_a_device_that_keeps_none():
    with memory.PeakMemory(torch.device("meta")) as peak:
        pass
    assert peak.mib is None and "no peak for meta devices" in peak.unknown
