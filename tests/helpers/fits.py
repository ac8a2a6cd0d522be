"""What the tests of training share: a quiet trainer, a recorder, state to compare."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning as L
import torch

from babygpt import BabyGPT, FolderCheckpointIO, LLMDataModule

BLOCK = 32
PRESET = "preset:gpt2-1m"


@dataclass
class Recorder(L.Callback):
    """Keeps the gradients of one step, the order of the data and the losses."""

    gradients_of: int = -1
    gradients: dict[str, torch.Tensor] = field(default_factory=dict)
    seen: list[list[list[int]]] = field(default_factory=list)
    stop_after: int | None = None
    save_to: Path | None = None

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.seen.append(batch["input_ids"].tolist())

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        if trainer.global_step == self.gradients_of:
            named = pl_module.model.named_parameters()
            self.gradients = {n: p.grad.detach().clone() for n, p in named if p.grad is not None}

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if stepped and self.save_to is not None and trainer.global_step == self.stop_after:
            trainer.save_checkpoint(self.save_to)
            raise StopHereError


class StopHereError(Exception):
    """Ends a fit in the middle, after a save."""


def trainer_of(*, callbacks: list[Any] | None = None, **kwargs: Any) -> L.Trainer:
    """A quiet trainer on the CPU that writes our folders."""
    defaults: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "limit_val_batches": 0,
        "plugins": [FolderCheckpointIO()],
        "callbacks": callbacks or [],
    }
    return L.Trainer(**{**defaults, **kwargs})


def weights_equal(left: Any, right: Any) -> bool:
    """Whether two modules hold the same bits."""
    a, b = left.state_dict(), right.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def by_hand(
    module: BabyGPT, data: LLMDataModule, step: int, dtype: torch.dtype, weight: float = 0.0
) -> dict[str, torch.Tensor]:
    """Gradient of (sum of -log p over the targets) / (their number) over the whole step at once, from logits.

    Other tokens that are no padding count with `weight`, in the sum as in the number; not for isolated packing.
    """
    model = module.model.to(dtype).train()
    windows = data.plan.order.windows_of(step)
    rows = torch.stack([data._windows.train[[w]]["input_ids"][0] for w in windows])
    labels = torch.stack([data._windows.train[[w]]["labels"][0] for w in windows])
    logits = model(input_ids=rows, use_cache=False).logits
    logp = torch.log_softmax(logits[:, :-1], dim=-1)
    wanted = labels[:, 1:]
    is_text = torch.stack([data._windows.train[[w]]["attention_mask"][0, 1:] for w in windows])
    counted = torch.where(wanted != -100, 1.0, is_text * weight).to(dtype)
    picked = logp.gather(-1, rows[:, 1:].unsqueeze(-1)).squeeze(-1)
    loss = -(picked * counted).sum() / counted.sum()
    loss.backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def worst(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    """The largest relative distance of a tensor from its reference, by norm."""
    assert ours.keys() == theirs.keys()
    return max(float((ours[k] - theirs[k]).norm() / theirs[k].norm().clamp(min=1e-30)) for k in ours)
