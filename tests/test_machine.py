"""What the computer is, and what may be asked of it."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from babygpt import machine
from babygpt.errors import MachineError
from babygpt.machine import MachineFacts, MachineRequest, detect, keep_freed_memory, memory_available


def test_this_computer() -> None:
    facts = detect()
    assert facts.devices[-1] == "cpu"
    assert facts.device == facts.devices[0]
    assert facts.cuda_count == torch.cuda.device_count()
    assert facts.cores == len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else facts.cores
    assert facts.memory_bytes > 2**28
    assert facts.name
    assert 0 < memory_available("cpu") <= facts.memory_bytes


def test_one_line_for_people() -> None:
    laptop = MachineFacts("A Processor", ("cpu",), 0, 2, 2, 24 * 2**30, ())
    assert laptop.describe() == "A Processor, 2 cores, 24 GiB"
    server = MachineFacts("A GPU", ("cuda", "cpu"), 8, 64, 64, 512 * 2**30, ("cuda",))
    assert server.describe() == "8 x A GPU, 512 GiB"
    assert server.bf16("cuda")
    assert not server.bf16("cpu")


@pytest.mark.parametrize(
    ("name", "value", "least"),
    [("micro_batch", 0, 1), ("workers", -1, 0), ("devices", 0, 1), ("nodes", 0, 1), ("micro_batch", 1.5, 1),
     ("devices", True, 1), ("nodes", "two", 1)],
)  # fmt: skip
def test_numbers_out_of_range(name: str, value: object, least: int) -> None:
    with pytest.raises(MachineError) as caught:
        MachineRequest(**{name: value})  # type: ignore[arg-type]
    assert str(caught.value).startswith(f"machine.{name}: ")
    assert f"at least {least}" in str(caught.value)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_memory_once_freed_is_not_asked_for_again() -> None:
    """In a process of its own, since the setting stays: page faults of taking 64 MB ten times."""
    count = (
        "import resource, torch;"
        "faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt;"
        "any(torch.ones(2**24) is None for _ in range(20)); begun = faults();"
        "any(torch.ones(2**24) is None for _ in range(10)); print(faults() - begun)"
    )

    def faults(before: str) -> int:
        done = subprocess.run(
            [sys.executable, "-c", before + count], capture_output=True, text=True, check=True
        )
        return int(done.stdout)

    kept = faults("from babygpt.machine import keep_freed_memory; assert keep_freed_memory();")
    assert kept < 0.2 * faults("")


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
    monkeypatch.setattr("babygpt.machine.time", SimpleNamespace(thread_time=lambda: clock[0]))
    assert machine._bf16_pays_on_cpu.__wrapped__() == pays


def test_elsewhere_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.libc_ver", lambda: ("", ""))
    assert not keep_freed_memory()
