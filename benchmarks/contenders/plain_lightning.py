"""The tutorial's script: a first LightningModule around a Hugging Face model, with its habits kept.

Activation checkpointing asked for, `16-mixed` (which Lightning turns into bf16 autocast on a CPU), a
collator that hands over an all-ones mask, the loss logged every step, and a cosine schedule that steps once
an epoch. Lightning keeps the eval mode of `from_pretrained`, in which transformers does not checkpoint; the
result says so.
"""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from probe import Spec, StepProbe, autocasts, count_parameters, hugging_face_loss, read_spec, report
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, AutoTokenizer, DataCollatorForLanguageModeling


class Engine(L.LightningModule):
    """A Hugging Face model, its own loss, AdamW with decay on matrices only."""

    def __init__(self, folder: str, lr: float) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.model = AutoModelForCausalLM.from_pretrained(folder)
        self.model.gradient_checkpointing_enable()

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        """The model's loss, logged for the step and the epoch."""
        del batch_idx
        loss: torch.Tensor = self.model(**batch).loss
        self.log("train_loss", loss, prog_bar=True, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """The model's loss and its exponential."""
        del batch_idx
        loss = self.model(**batch).loss
        self.log("val_loss", loss, prog_bar=True)
        self.log("val_perplexity", loss.exp(), prog_bar=True)

    def configure_optimizers(self) -> Any:
        """AdamW in two groups and a cosine over a thousand epochs."""
        named = [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]
        plain = {name for name, p in named if p.dim() < 2 or "bias" in name or "norm" in name}
        groups = [
            {"params": [p for name, p in named if name not in plain], "weight_decay": 0.1},
            {"params": [p for name, p in named if name in plain], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=self.hparams["lr"], betas=(0.9, 0.95))
        return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=1000)]


def loaders(spec: Spec) -> tuple[Any, Any]:
    """Training and validation batches through the collator for causal language models."""
    collate = DataCollatorForLanguageModeling(AutoTokenizer.from_pretrained(spec.model), mlm=False)
    train = [{"input_ids": row, "attention_mask": [1] * len(row)} for row in spec.train_windows().tolist()]
    val = [{"input_ids": row, "attention_mask": [1] * len(row)} for row in spec.held_out()[:, :-1].tolist()]
    return (
        DataLoader(train, batch_size=spec.micro_batch, shuffle=True, collate_fn=collate),  # type: ignore[arg-type]
        DataLoader(val, batch_size=spec.micro_batch, collate_fn=collate),  # type: ignore[arg-type]
    )


def main() -> None:
    """Trains for the spec's steps and reports."""
    spec = read_spec()
    L.seed_everything(spec.seed)
    model = Engine(spec.model, spec.learning_rate)
    train, val = loaders(spec)
    probe = StepProbe(spec)
    L.Trainer(
        max_steps=spec.steps,
        accelerator="auto",
        devices=1,
        precision="16-mixed",
        accumulate_grad_batches=spec.accumulate,
        callbacks=[ModelCheckpoint(dirpath="checkpoints", monitor="val_loss", mode="min", save_top_k=1)],
        log_every_n_steps=10,
    ).fit(model, train, val)
    checkpointing = ", gradient checkpointing" if model.model.training else ", eval mode"
    report(
        spec,
        probe,
        held_out=hugging_face_loss(model.model, spec),
        parameters=count_parameters(model.model),
        arithmetic=autocasts(True) + checkpointing,
    )


if __name__ == "__main__":
    main()
