"""What a computer is, what the user asks of it, and the plan of a run on it: data, no policy."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Literal

from babygpt.errors import MachineError

__all__ = ["MachineFacts", "MachinePlan", "MachineRequest", "asked_as_before"]


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
