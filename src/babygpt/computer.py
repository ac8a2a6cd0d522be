"""This computer: what it is, its cores and its memory, and the versions of what is installed on it."""

from __future__ import annotations

import ctypes
import math
import os
import platform
import sys
import time
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from babygpt.cgroups import limits
from babygpt.machine import MachineFacts

__all__ = [
    "cpu_memory_available",
    "cpu_name",
    "detect",
    "installed_versions",
    "keep_freed_memory",
    "memory_available",
    "memory_total",
    "multiplies_bf16",
    "peak_memory_bytes",
    "resident_memory_bytes",
    "usable_cores",
]

# Products timed for each number format, and how many times faster bf16 has to be.
_PRODUCTS = 8
_WORTH_IT = 1.2


def detect() -> MachineFacts:
    """Looks at this computer."""
    import torch

    devices, bf16 = ["cpu"], ["cpu"] if _bf16_pays_on_cpu() else []
    name, cuda = cpu_name(), 0
    if torch.backends.mps.is_available():
        devices.insert(0, "mps")
    if torch.cuda.is_available():
        devices.insert(0, "cuda")
        cuda, name = torch.cuda.device_count(), torch.cuda.get_device_name(0)
        if torch.cuda.is_bf16_supported(including_emulation=False):
            bf16.append("cuda")
    return MachineFacts(
        name=name,
        devices=tuple(devices),
        cuda_count=cuda,
        cores=usable_cores(),
        threads=torch.get_num_threads(),
        memory_bytes=memory_total(),
        bf16_devices=tuple(bf16),
    )


def installed_versions() -> dict[str, str]:
    """Of the packages that decide what a run computes and how it is stored."""
    found = {}
    for package in ("babygpt", "torch", "transformers", "lightning", "tokenizers", "safetensors"):
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def keep_freed_memory() -> bool:
    """Has this process reuse freed memory instead of handing it back to the system; where glibc is, else nothing.

    A step on a CPU frees and takes the same gigabyte each time, and by default each large piece comes from the
    system afresh: 186,000 page faults a step of 4,096 tokens at 5 M parameters, a third of its time. The price is
    that the process keeps the most it has ever used.

    Returns:
        whether it was possible.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    trim_threshold, top_pad, mmap_max = -1, -2, -4  # of malloc.h
    settings = ((mmap_max, 0), (trim_threshold, 2**31 - 1), (top_pad, 64 * 2**20))
    return all(mallopt(name, value) for name, value in settings)


def peak_memory_bytes(device: str) -> int | None:
    """The most memory used so far: by tensors on a GPU, by this whole process elsewhere; None where it is not told."""
    if device == "cuda":
        import torch

        return int(torch.cuda.max_memory_allocated())
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def resident_memory_bytes() -> int:
    """Memory that this process holds now, with what torch's arithmetic takes as it is first used.

    Where the system does not say, the most that the process has held; 0 on Windows.
    """
    _first_product()
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return peak_memory_bytes("cpu") or 0  # not Linux


@cache
def _first_product() -> None:
    """A product and its gradient: kernels and their buffers are there from then on, 25 MiB on two cores."""
    import torch

    weight = torch.ones(256, 1024, requires_grad=True)
    torch.mm(torch.ones(512, 256), weight).sum().backward()  # type: ignore[no-untyped-call]


def memory_available(device: str) -> int:
    """Bytes that a run may take on a kind of device: free on a GPU, available on a CPU."""
    import torch

    if device == "cuda":
        return int(torch.cuda.mem_get_info()[0])
    if device == "mps":
        return int(torch.mps.recommended_max_memory())
    return cpu_memory_available()


def cpu_memory_available() -> int:
    """Bytes that programs may still take of this computer's memory, or of its container's limit."""
    available = memory_total() // 2
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    available = int(line.split()[1]) * 1024
    except OSError:
        pass  # not Linux
    left = limits().memory_free
    return available if left is None else min(available, left)


def multiplies_bf16() -> bool:
    """Whether this processor has instructions for products in bf16; without them each is put together from fp32."""
    import torch

    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, bool)() for name in names)


@cache
def _bf16_pays_on_cpu() -> bool:
    """Whether a matrix product is faster in bf16, measured where the processor has instructions for it.

    The instructions alone do not tell: with AMX bf16 is several times faster than fp32, with AVX-512's own dot
    products and no AMX it was half as fast (torch 2.13, products of 4,096 x 384 x 1,536).
    """
    import torch

    if not multiplies_bf16():
        return False
    fastest = dict.fromkeys((torch.float32, torch.bfloat16), math.inf)
    # In turns, on one thread and by that thread's own time: beside other work, the wall clock of several threads
    # that wait for one another was seen to call bf16 the faster one where it takes twice as long.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for _ in range(_PRODUCTS):
            for dtype in fastest:
                left, right = torch.ones(1024, 512, dtype=dtype), torch.ones(512, 1024, dtype=dtype)
                begun = time.thread_time()
                torch.mm(left, right)
                fastest[dtype] = min(fastest[dtype], time.thread_time() - begun)
    finally:
        torch.set_num_threads(threads)
    return fastest[torch.float32] > _WORTH_IT * fastest[torch.bfloat16]


def usable_cores() -> int:
    """Processor cores that this process may use, whole ones, after its affinity and its container's limit."""
    affinity = getattr(os, "sched_getaffinity", None)
    count = len(affinity(0)) if affinity else os.cpu_count() or 1
    allowed = limits().cores
    return count if allowed is None else max(1, min(count, math.ceil(allowed)))


def memory_total() -> int:
    """Bytes of this computer's memory, or of its container's limit."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        total = 8 * 2**30  # a system that does not say: what a small laptop has
    return min(total, limits().memory or total)


def cpu_name() -> str:
    """The processor, as the system calls it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()
