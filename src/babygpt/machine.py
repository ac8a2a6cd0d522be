"""What this computer is, what the user asks of it, and the plan of a run on it: data and detection, no policy."""

from __future__ import annotations

import ctypes
import math
import os
import platform
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

from babygpt.cgroups import limits
from babygpt.errors import MachineError

__all__ = [
    "MachineFacts",
    "MachinePlan",
    "MachineRequest",
    "asked_as_before",
    "cpu_memory_available",
    "detect",
    "installed_versions",
    "keep_freed_memory",
    "memory_available",
    "memory_total",
    "resident_memory_bytes",
    "usable_cores",
]

# Products timed for each number format, and how many times faster bf16 has to be.
_PRODUCTS = 8
_WORTH_IT = 1.2


@dataclass(frozen=True)
class MachineRequest:
    """How this computer is to do the work; none of it changes what is learned.

    Args:
        device: what computes; auto takes the fastest there is.
        precision: number format of the arithmetic (the weights stay fp32, fp64 under 64-true); auto takes bf16 where
            it is faster.
        micro_batch: sequences of one forward pass on one device; auto takes what fits.
        activation_checkpointing: recompute activations instead of keeping them, of all blocks or of every n-th; auto
            only as much as memory demands.
        compile: compile the model's blocks with torch.compile.
        workers: loader processes of each device.
        devices: how many devices of each computer work together; auto takes as many as torchrun or srun started
            processes for, else all GPUs.
        nodes: how many computers work together; auto takes those that torchrun or srun started, else this one.
        strategy: how devices share the work; ddp gives each the whole model.
        stall_minutes: a run in which nothing moves for so long shows where it hangs and ends; null never ends it.
        cache_gb: gigabytes of the disk that pieces of a corpus elsewhere may take; auto takes a tenth of what is free,
            50 at most.

    Raises:
        MachineError: a number is out of range.
    """

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    precision: Literal["auto", "bf16-mixed", "16-mixed", "32-true", "64-true"] = "auto"
    micro_batch: int | Literal["auto"] = "auto"
    activation_checkpointing: bool | int | Literal["auto"] = "auto"
    compile: bool | Literal["auto"] = "auto"
    workers: int | Literal["auto"] = "auto"
    devices: int | Literal["auto"] = "auto"
    nodes: int | Literal["auto"] = "auto"
    strategy: Literal["auto", "ddp"] = "auto"
    stall_minutes: float | None = 30.0
    cache_gb: float | Literal["auto"] = "auto"

    def __post_init__(self) -> None:
        if self.cache_gb != "auto" and not 0 < self.cache_gb < math.inf:
            raise MachineError(f"{self.cache_gb} is not a number above 0", where="machine.cache_gb")
        if self.stall_minutes is not None and not 0 < self.stall_minutes < math.inf:
            raise MachineError(f"{self.stall_minutes} is not a number above 0", where="machine.stall_minutes")
        every: object = self.activation_checkpointing
        if every != "auto" and not isinstance(every, bool) and (not isinstance(every, int) or every < 1):
            raise MachineError(
                f"{every!r} is not true, false, or a number of at least 1: every how many blocks",
                where="machine.activation_checkpointing",
            )
        for name, least in (("micro_batch", 1), ("workers", 0), ("devices", 1), ("nodes", 1)):
            value = getattr(self, name)
            if value == "auto":
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise MachineError(
                    f"{value!r} is not a whole number of at least {least}", where=f"machine.{name}"
                )

    @property
    def most_cached(self) -> float | None:
        """Gigabytes that were asked for; None leaves them to what is free."""
        return None if self.cache_gb == "auto" else float(self.cache_gb)


@dataclass(frozen=True)
class MachinePlan:
    """How this computer does the work, every field decided; the fields are of those of `MachineRequest`.

    Args:
        device: `cpu`, `cuda` or `mps`.
        precision: Lightning's name of it.
        micro_batch: sequences of one forward pass on one device.
        activation_checkpointing: whether activations are recomputed; a number n: those of every n-th block.
        compile: whether the model's blocks are compiled.
        workers: loader processes of each device.
        devices: of this computer.
        nodes: computers.
        strategy: `auto` for one device, `ddp` for more.
    """

    device: str
    precision: str
    micro_batch: int
    activation_checkpointing: bool | int
    compile: bool
    workers: int
    devices: int
    nodes: int
    strategy: str

    @property
    def side_by_side(self) -> int:
        """How many times as fast as one device all of them are at best; processes on a CPU share its cores."""
        return self.nodes * (1 if self.device == "cpu" else self.devices)


@dataclass(frozen=True)
class MachineFacts:
    """What this computer is.

    Args:
        name: processor or GPU, as the system calls it.
        devices: kinds there are, the fastest first; `cpu` is always among them.
        cuda_count: GPUs.
        cores: processor cores this process may use.
        threads: of torch's arithmetic on the CPU.
        memory_bytes: of the computer.
        bf16_devices: kinds that multiply faster in bf16 than in fp32.
    """

    name: str
    devices: tuple[str, ...]
    cuda_count: int
    cores: int
    threads: int
    memory_bytes: int
    bf16_devices: tuple[str, ...]

    @property
    def device(self) -> str:
        """The fastest kind."""
        return self.devices[0]

    def device_for(self, asked: str) -> str:
        """The kind of device asked for, `auto` the fastest.

        Raises:
            MachineError: this computer has none.
        """
        device = self.device if asked == "auto" else asked
        if device not in self.devices:
            raise MachineError(
                f"this computer has no {device}",
                where="machine.device",
                hint=f"It has {', '.join(self.devices)}",
            )
        return device

    def bf16(self, device: str) -> bool:
        """Whether bf16 pays on a kind of device; where it does not, it can be many times slower than fp32."""
        return device in self.bf16_devices

    def same_computer(self, other: MachineFacts) -> bool:
        """Whether the other may be the same computer; what is measured anew each time does not count."""
        return replace(self, bf16_devices=()) == replace(other, bf16_devices=())

    def describe(self) -> str:
        """For people: one line."""
        what = f"{self.cuda_count} x {self.name}" if self.cuda_count else f"{self.name}, {self.cores} cores"
        return f"{what}, {self.memory_bytes / 2**30:.0f} GiB"


def asked_as_before(request: MachineRequest, before: MachinePlan) -> MachineRequest:
    """The request with what it leaves open taken from an earlier plan, so that the plan comes out the same."""
    open_fields = [name for name in asdict(before) if getattr(request, name) == "auto"]
    return replace(request, **{name: getattr(before, name) for name in open_fields})


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
