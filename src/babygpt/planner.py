"""Recipe + machine facts -> a resolved recipe and the plan of this computer, each choice with its reason.

The recipe is resolved first, from the model and the data alone wherever that is possible; the plan never changes it.
What of the recipe looks at the machine is written down resolved: the steps that a budget in minutes buys
(`budgets`), and the model of a run that names none (`training.dial`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import PreTrainedConfig

from babygpt.computer import memory_available, resident_memory_bytes
from babygpt.errors import MachineError
from babygpt.machine import MachineFacts, MachinePlan, MachineRequest
from babygpt.model.cost import MemoryParts, gap_bytes, memory_bytes, model_cost
from babygpt.optim.cost import update_bytes
from babygpt.recipe import Recipe

__all__ = [
    "SHARE_OF_MEMORY",
    "Planned",
    "memory_of",
    "resolve_plan",
    "resolve_recipe",
    "should_checkpoint_activations",
]

SHARE_OF_MEMORY = 0.7
# A micro-batch of more tokens than this no longer gains on a CPU, whose caches it leaves.
_CPU_TOKENS = 4096
# Processes that work together can be tried on any computer, however few cores it has.
_PROCESSES_ANYWHERE = 2


@dataclass(frozen=True)
class Planned:
    """A machine plan and why it is so.

    Args:
        plan: every field resolved.
        reasons: a line for each choice.
        memory: predicted bytes by part.
        available: bytes that a run may take of its device, beside what this process has taken already.
    """

    plan: MachinePlan
    reasons: tuple[str, ...]
    memory: MemoryParts
    available: int

    @property
    def fits(self) -> bool:
        """Whether the prediction is within what a run may take."""
        return self.memory.needed <= room_in(self.available)


def resolve_recipe(
    recipe: Recipe, *, model_name: str, parameters: int, block: int, windows: int = 2**62
) -> Recipe:
    """Replaces every `auto` but the budget's and the validation's, which need the number of steps.

    Args:
        recipe: as given.
        model_name: the resolved name.
        parameters: of the model.
        block: the resolved window length.
        windows: that the training text makes at least; a step is given no more of its own accord.
    """
    scratch = model_name.startswith("preset:")
    size: int | str = recipe.data.global_batch_size
    if size == "auto":
        tokens = 4096 if parameters < 2e7 else 16_384 if parameters < 1e8 else 65_536
        size = max(1, min(windows, (tokens if scratch else 8192) // block))
    optimizer = recipe.optim.name
    if optimizer == "auto":
        optimizer = "muon" if scratch else "adamw"
    lr: float | str = recipe.optim.lr
    if lr == "auto":
        lr = float(f"{_rate_from_scratch(optimizer, parameters):.1e}") if scratch else 5e-5
    return replace(
        recipe,
        model=replace(recipe.model, name=model_name),
        data=replace(recipe.data, block=block, global_batch_size=int(size)),
        optim=replace(recipe.optim, name=optimizer, lr=float(lr)),
    )


def _rate_from_scratch(optimizer: str, parameters: int) -> float:
    """The peak rate for random weights, which falls with size.

    AdamW's is about 6e-4 at 124 M and grows as the inverse root below it. Muon, whose updates have the same size in
    every direction, bears more: 9e-3 was best at 5 M.
    """
    share = 124e6 / parameters
    if optimizer == "muon":
        return min(9e-3, 1.2e-3 * math.pow(share, 0.64))
    return min(4e-3, 6e-4 * math.sqrt(share))


def room_in(available: int) -> int:
    """Bytes that a run may take of those available: the rest is for what is not predicted, and for other programs."""
    return int(SHARE_OF_MEMORY * available)


def memory_of(
    recipe: Recipe,
    config: Any,
    device: str,
    precision: str,
    micro_batch: int,
    checkpointing: int,
    world: int = 1,
) -> MemoryParts:
    """Predicted bytes of a run on one device at its peak.

    On a CPU the process itself lies in the same memory, and so does the copy of weights and optimiser state that is
    written while training goes on; and there are gaps.

    Args:
        recipe: resolved.
        config: of the model.
        device: kind of it.
        precision: Lightning's name of it.
        micro_batch: sequences at a time.
        checkpointing: every n-th block is computed again; 0 none.
        world: devices that share a step.
    """
    bf16 = precision.startswith("bf16")
    parts = memory_bytes(
        config,
        micro_batch,
        int(recipe.data.block),
        checkpointing=checkpointing,
        bf16=bf16,
        update=update_bytes(config, recipe.optim.name, bf16=bf16),
        # On a CPU they keep their places beside recomputed blocks (`model.gradients`).
        accumulates=micro_batch * world < int(recipe.data.global_batch_size)
        or (device == "cpu" and checkpointing > 0),
    )
    if device != "cpu":
        return parts
    return replace(
        parts,
        saving=parts.weights + parts.optimizer,
        process=resident_memory_bytes(),
        gaps=gap_bytes(config, parts.activations),
    )


def should_checkpoint_activations(
    config: PreTrainedConfig, micro_batch: int, block: int, device: torch.device
) -> bool:
    """Whether a step without activation checkpointing would not fit into the device's memory."""
    parts = memory_bytes(config, micro_batch, block, checkpointing=False, bf16=False)
    return parts.needed > room_in(memory_available(device.type))


def resolve_plan(
    request: MachineRequest,
    facts: MachineFacts,
    recipe: Recipe,
    config: Any,
    available: Callable[[str], int] | None = None,
) -> Planned:
    """The plan of a computer: as asked, or the fastest that fits.

    Args:
        request: what the user asks; `auto` elsewhere.
        facts: what the computer is.
        recipe: resolved.
        config: the model's configuration.
        available: bytes that a run may take on a kind of device of it; None asks this computer.

    Raises:
        MachineError: the computer has not what was asked.
    """
    reasons: list[str] = []
    available = available or memory_available
    device = facts.device_for(request.device)
    devices = (facts.cuda_count if device == "cuda" else 1) if request.devices == "auto" else request.devices
    if device == "cuda" and devices > facts.cuda_count:
        raise MachineError(
            f"{devices} devices asked, {facts.cuda_count} there",
            where="machine.devices",
            hint="Give fewer",
        )
    if device != "cuda" and devices > max(facts.cores, _PROCESSES_ANYWHERE):
        raise MachineError(
            f"{devices} processes would share {facts.cores} cores",
            where="machine.devices",
            hint=f"Give at most {max(facts.cores, _PROCESSES_ANYWHERE)}",
        )
    precision, why = _precision(request.precision, device, facts)
    reasons.append(f"precision {precision}: {why}")
    block, size = int(recipe.data.block), int(recipe.data.global_batch_size)
    nodes = 1 if request.nodes == "auto" else request.nodes
    world = devices * nodes
    per_rank = -(-size // world)
    free = available(device)

    def memory(micro_batch: int, checkpointing: int) -> MemoryParts:
        return memory_of(recipe, config, device, precision, micro_batch, checkpointing, world)

    micro, checkpointing = _fit(request, config, per_rank, block, device, memory, room_in(free))
    reasons.append(f"micro-batch {micro} of {per_rank} sequences a device and step")
    reasons.append(_checkpointing_reason(request.activation_checkpointing, checkpointing))
    reasons.append(_compile_reason(request.compile))
    plan = MachinePlan(
        device=device,
        precision=precision,
        micro_batch=micro,
        activation_checkpointing=checkpointing,
        compile=request.compile is True,
        workers=(2 if device == "cuda" else 0) if request.workers == "auto" else request.workers,
        devices=devices,
        nodes=nodes,
        strategy="ddp" if world > 1 else "auto",
    )
    return Planned(plan, tuple(reasons), memory(micro, checkpointing), free)


def _precision(asked: str, device: str, facts: MachineFacts) -> tuple[str, str]:
    if asked != "auto":
        if asked == "16-mixed" and device == "cpu":
            raise MachineError(
                "16-mixed needs a GPU", where="machine.precision", hint="Give bf16-mixed or 32-true, or auto"
            )
        return asked, "as asked"
    if facts.bf16(device):
        return "bf16-mixed", "faster than fp32 on this hardware"
    if device == "cuda":
        return "16-mixed", "a GPU without bf16: fp16 with loss scaling"
    return "32-true", "bf16 is no faster on this hardware"


def _checkpointing_reason(asked: bool | int | str, chosen: bool | int) -> str:
    blocks = "every block" if chosen == 1 else f"one block in {chosen}"
    if asked != "auto":
        return f"activation checkpointing {f'of {blocks}' if chosen else 'off'}: as asked"
    return f"activation checkpointing {f'of {blocks}: less would not fit' if chosen else 'off: it fits'}"


def _compile_reason(asked: bool | str) -> str:
    if asked != "auto":
        return f"compilation {'on' if asked else 'off'}: as asked"
    # Neither the gain nor the compiler's time can be told without compiling, which is most of its cost.
    return (
        "compilation off: compiled blocks save 0 to 10 % of a step on a CPU, and how much here is not known before the"
        " compiler's time is spent; for a long run, machine.compile true to try"
    )


def _fit(
    request: MachineRequest,
    config: Any,
    per_rank: int,
    block: int,
    device: str,
    memory: Callable[[int, int], MemoryParts],
    room: int,
) -> tuple[int, bool | int]:
    """The largest divisor of a rank's sequences that fits, and of every how many blocks activations are recomputed.

    A smaller micro-batch costs less than computing twice, and fewer blocks computed twice less than more.
    """
    cap = max(1, _CPU_TOKENS // block) if device == "cpu" else per_rank
    sizes = [s for s in range(per_rank, 0, -1) if per_rank % s == 0 and s <= cap]
    if request.micro_batch != "auto":
        sizes = [min(request.micro_batch, per_rank)]
    asked = request.activation_checkpointing
    fewer_to_more = (False, *range(model_cost(config).layers, 1, -1), True)
    shares: tuple[bool | int, ...] = fewer_to_more if asked == "auto" else (asked,)
    for checkpointing in shares:
        for size in sizes:
            if memory(size, checkpointing).needed <= room:
                return size, checkpointing
    return sizes[-1], shares[-1]


def parameters_of(config: Any) -> int:
    """Parameters of a model of this configuration, each counted once."""
    return int(model_cost(config).parameters)
