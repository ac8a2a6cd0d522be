"""The decoder blocks of a model: found, recomputed, compiled.

* Recomputed: every n-th block keeps its input only and runs again in the backward pass, so that memory is given
  up by as little as has to be.
* Compiled: each block by itself and in place. Parameter names stay, and attention masks are still built in eager
  code, where it can be seen that nothing is masked; traced with the model, they become dense and keep attention
  off its causal kernels. Blocks are alike, so that the compiler's own cache makes the first the only dear one.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from babygpt.errors import ModelError
from babygpt.untrusted import shown

__all__ = [
    "compile_blocks",
    "compiled_only",
    "compiler_fault",
    "deterministic",
    "find_blocks",
    "recompute_blocks",
    "uncompile_blocks",
]

logger = logging.getLogger(__name__)

# What CUDA's matrix products need to be the same in every process; others ignore it.
_CUBLAS, _CUBLAS_VALUE = "CUBLAS_WORKSPACE_CONFIG", ":4096:8"


def find_blocks(model: PreTrainedModel) -> dict[str, nn.Module]:
    """The decoder blocks by name: the list of `num_hidden_layers` modules, or that of most parameters."""
    lists = [(name, m) for name, m in model.named_modules() if isinstance(m, nn.ModuleList) and len(m)]
    if not lists:
        return {}
    layers = getattr(model.config.get_text_config(), "num_hidden_layers", None)

    def rank(item: tuple[str, nn.ModuleList]) -> tuple[bool, int]:
        return len(item[1]) == layers, sum(p.numel() for p in item[1].parameters())

    name, blocks = max(lists, key=rank)
    return {f"{name}.{index}": block for index, block in enumerate(blocks)}


def recompute_blocks(model: PreTrainedModel, every: int) -> None:
    """Has every n-th block keep its input only and computed again in the backward pass.

    Args:
        model: of transformers.
        every: 1 recomputes all blocks, 2 every second, the first included; 0 none.

    Raises:
        ModelError: the model cannot do it, or not for a part of its blocks.
    """
    # Transformers renamed it in 5.23.
    kind = "activation" if hasattr(model, "activation_checkpointing_enable") else "gradient"
    if not every:
        getattr(model, f"{kind}_checkpointing_disable")()
        return
    if not model.supports_gradient_checkpointing:
        raise ModelError(
            f"{type(model).__name__} has no activation checkpointing",
            where="machine.activation_checkpointing",
            hint="Set it to false and use a smaller micro-batch",
        )
    getattr(model, f"{kind}_checkpointing_enable")({"use_reentrant": False})
    if every == 1:
        return
    blocks = find_blocks(model)
    if not blocks or not all(hasattr(block, "gradient_checkpointing") for block in blocks.values()):
        raise ModelError(
            f"{type(model).__name__} recomputes all of its blocks or none",
            where="machine.activation_checkpointing",
            hint="Set it to true",
        )
    for index, block in enumerate(blocks.values()):
        # Torch's types know only tensors and modules as a module's attributes.
        switched: Any = block
        switched.gradient_checkpointing = index % every == 0


def compile_blocks(model: PreTrainedModel, trial: Callable[[], object]) -> list[str]:
    """Compiles each block by itself, in place, for the shapes and the mode of one trial.

    What differs from the trial (a validation, a short batch, generation) runs uncompiled inside `compiled_only`
    instead of being compiled too.

    Args:
        model: on its device, in train mode.
        trial: the forward and backward pass to compile for; the gradients it leaves are taken away.

    Returns:
        The names of the compiled blocks; none, and a warning in the log, where there is no working compiler or it
        fails on this model.
    """
    blocks = find_blocks(model)
    device = next(model.parameters()).device
    reason = compiler_fault(device) if blocks else "it has no list of blocks"
    if reason is None:
        for block in blocks.values():
            block.compile(dynamic=False)
        reason = _fault_of(trial, model, device)
    if reason is not None:
        uncompile_blocks(model)
        logger.warning("not compiled, going on without: %s", reason)
        return []
    return list(blocks)


def uncompile_blocks(model: PreTrainedModel) -> None:
    """The blocks as they were loaded."""
    for block in find_blocks(model).values():
        block._compiled_call_impl = None  # what nn.Module.compile sets; torch has no way back


def compiled_only() -> Any:
    """While this context lasts, what has not been compiled yet runs uncompiled."""
    return torch.compiler.set_stance("eager_on_recompile")


def _fault_of(trial: Callable[[], object], model: PreTrainedModel, device: torch.device) -> str | None:
    """What the compiler says to the trial; None if it works."""
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            trial()
    except Exception as error:
        # Compilers raise what they like. An error that is not theirs comes again without them, and is not hidden.
        return _first_line(error)
    finally:
        for parameter in model.parameters():
            parameter.grad = None
    return None


def compiler_fault(device: torch.device) -> str | None:
    """Why torch.compile does not work here, found by compiling a line of code; None where it does."""

    def line(x: torch.Tensor) -> torch.Tensor:
        return (x * 2).tanh()

    try:
        given = torch.ones(8, device=device)
        compiled: Any = torch.compile(line, dynamic=False)
        right = torch.allclose(compiled(given), line(given))
    except Exception as error:
        # A missing C++ compiler, an unsupported Python or platform: whatever it is, training goes on.
        return _first_line(error)
    return None if right else "its result differs from the eager one"


@contextmanager
def deterministic() -> Iterator[None]:
    """Has torch take kernels whose results are the same in every process, as compiled ones are not by default."""
    on, warns = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    memory: Any = torch.utils.deterministic  # its one switch is no attribute to the type checker
    fills = memory.fill_uninitialized_memory
    os.environ.setdefault(_CUBLAS, _CUBLAS_VALUE)
    torch.use_deterministic_algorithms(True)
    # Filling fresh memory finds bugs and costs a pass over every tensor.
    memory.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(on, warn_only=warns)
        memory.fill_uninitialized_memory = fills


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    # Torch begins with which back end failed, and says why in the next line.
    said = next((line for line in lines if not line.endswith(":")), lines[0])
    return shown(said.rstrip("."), 300)
