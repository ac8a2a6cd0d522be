"""This computer, against what the system says of it."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import pytest
import torch

from babygpt import computer
from babygpt.computer import detect, keep_freed_memory, memory_available


def test_this_computer() -> None:
    facts = detect()
    assert facts.devices[-1] == "cpu"
    assert facts.device == facts.devices[0]
    assert facts.cuda_count == torch.cuda.device_count()
    assert facts.cores == len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else facts.cores
    assert facts.memory_bytes > 2**28
    assert facts.name
    assert 0 < memory_available("cpu") <= facts.memory_bytes


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_memory_once_freed_is_not_asked_for_again() -> None:
    """In a process of its own, since the setting stays: page faults of taking 64 MB ten times, before and after."""
    code = """
        import resource, torch
        from babygpt.computer import keep_freed_memory

        def faults():
            begun = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            for _ in range(10):
                torch.ones(2**24)
            return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - begun

        before = faults()
        assert keep_freed_memory()
        faults(), faults()  # until the heap has grown to what it keeps
        print(before, faults())
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True
    )
    before, kept = map(int, done.stdout.split())
    assert kept < 0.2 * before


@pytest.mark.parametrize(("instructions", "slow", "pays"), [
    (True, torch.float32, True), (True, torch.bfloat16, False), (True, None, False), (False, torch.float32, False),
])  # fmt: skip
def test_bf16_pays_where_a_product_is_faster(
    monkeypatch: pytest.MonkeyPatch, instructions: bool, slow: torch.dtype | None, pays: bool
) -> None:
    clock = [0.0]

    def mm(left: torch.Tensor, right: torch.Tensor) -> None:
        clock[0] += 3.0 if left.dtype == slow else 1.0

    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: instructions)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(torch, "mm", mm)
    monkeypatch.setattr("babygpt.computer.time", SimpleNamespace(thread_time=lambda: clock[0]))
    assert computer._bf16_pays_on_cpu.__wrapped__() == pays


def test_elsewhere_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.libc_ver", lambda: ("", ""))
    assert not keep_freed_memory()
