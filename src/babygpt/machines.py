"""Machines that a run can be planned for without having one: the makers' figures, and what is assumed beside them.

Peak is of dense bf16 products with fp32 sums (fp16 on the T4, which has no bf16), memory what the card is sold with,
power the card's limit; all from NVIDIA's data sheets of the SXM, PCIe or retail card that is named.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from babygpt.errors import MachineError
from babygpt.machine import MachineFacts, MachineRequest
from babygpt.names import nearest

__all__ = ["ASSUMED_SHARE", "GPU", "MACHINES", "Machine", "PlanMachine"]

# Of the peak, for dense models of 100 M parameters and more: 8 H100 reach about 39 % with a plain GPT of 124 M in
# large batches. Small models and small batches reach less.
ASSUMED_SHARE = 0.35


@dataclass(frozen=True)
class GPU:
    """A kind of GPU.

    Args:
        name: the maker's.
        peak: floating-point operations a second, dense.
        memory: bytes.
        watts: at most.
        bf16: whether it multiplies in bf16.
    """

    name: str
    peak: float
    memory: int
    watts: float
    bf16: bool = True


@dataclass(frozen=True)
class Machine:
    """A computer with several GPUs of a kind."""

    gpu: GPU
    count: int

    @property
    def facts(self) -> MachineFacts:
        """As the planner takes a computer; the processor beside the GPUs is assumed to be enough."""
        bf16 = ("cuda",) if self.gpu.bf16 else ()
        cores = 16 * self.count
        return MachineFacts(
            self.gpu.name, ("cuda", "cpu"), self.count, cores, cores, 128 * 2**30 * self.count, bf16
        )


_GPUS = {
    "t4": GPU("NVIDIA T4", 65e12, 16 * 10**9, 70, bf16=False),
    "l4": GPU("NVIDIA L4", 121e12, 24 * 10**9, 72),
    "rtx4090": GPU("NVIDIA GeForce RTX 4090", 165.2e12, 24 * 10**9, 450),
    "a100-40": GPU("NVIDIA A100 40GB", 312e12, 40 * 10**9, 400),
    "a100": GPU("NVIDIA A100 80GB", 312e12, 80 * 10**9, 400),
    "h100": GPU("NVIDIA H100 SXM", 989.4e12, 80 * 10**9, 700),
    "h200": GPU("NVIDIA H200 SXM", 989.4e12, 141 * 10**9, 700),
}
MACHINES = {f"{name}x{count}": Machine(gpu, count) for name, gpu in _GPUS.items() for count in (1, 2, 4, 8)}


@dataclass(frozen=True)
class PlanMachine:
    """The computer that a run is planned for; all but `preset` as in `MachineRequest`.

    Args:
        preset: another computer, such as h100x8; by default this one.
        device: what computes; auto takes the fastest there is.
        precision: number format of the arithmetic; auto takes bf16 where it is faster.
        micro_batch: sequences of one forward pass on one device; auto takes what fits.
        activation_checkpointing: recompute activations instead of keeping them, of all blocks or of every n-th; auto
            only as much as memory demands.
        compile: compile the model's blocks with torch.compile.
        devices: how many devices of the computer work together; auto takes all GPUs.

    Raises:
        MachineError: there is no such preset, or a number is out of range.
    """

    preset: str | None = None
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    precision: Literal["auto", "bf16-mixed", "16-mixed", "32-true", "64-true"] = "auto"
    micro_batch: int | Literal["auto"] = "auto"
    activation_checkpointing: bool | int | Literal["auto"] = "auto"
    compile: bool | Literal["auto"] = "auto"
    devices: int | Literal["auto"] = "auto"

    def __post_init__(self) -> None:
        if self.preset is not None and self.preset not in MACHINES:
            close = nearest(self.preset, MACHINES)
            hint = f"Did you mean {' or '.join(close)}" if close else f"There are {', '.join(MACHINES)}"
            raise MachineError(f"there is no machine {self.preset!r}", where="machine.preset", hint=hint)
        if self.preset is not None and self.device not in ("auto", "cuda"):
            what = f"{self.device!r} is not known, only the GPUs of a preset"
            raise MachineError(what, where="machine.device", hint="Leave it out, or leave machine.preset out")
        _ = self.request  # whose numbers check themselves

    @property
    def other(self) -> Machine | None:
        """The other computer; None for this one."""
        return None if self.preset is None else MACHINES[self.preset]

    @property
    def request(self) -> MachineRequest:
        """What is asked of that computer."""
        return MachineRequest(
            device=self.device,
            precision=self.precision,
            micro_batch=self.micro_batch,
            activation_checkpointing=self.activation_checkpointing,
            compile=self.compile,
            devices=self.devices,
        )
