"""The plain path of `fast_versus_plain.py`: transformers and torch, one operation after the other, nothing fused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from babygpt.optim.schedules import multiplier
from babygpt.recipe import OptimRecipe, Recipe

__all__ = ["count", "plain"]


class PlainMuon:
    """Muon's published steps on one matrix at a time, and torch's AdamW, tensor by tensor, for everything else."""

    def __init__(self, model: torch.nn.Module, optim: OptimRecipe) -> None:
        self._decay, self.rate = optim.weight_decay, 0.0
        named = dict(model.named_parameters())
        self._hidden = {n: p for n, p in named.items() if ".h." in n and p.dim() == 2}
        self._momenta = {n: torch.zeros_like(p) for n, p in self._hidden.items()}
        rest = [p for n, p in named.items() if n not in self._hidden]
        self._adamw = plain_adamw(rest, optim)

    @torch.no_grad()
    def step(self) -> None:
        for group in self._adamw.param_groups:
            group["lr"] = self.rate
        self._adamw.step()
        for name, weight in self._hidden.items():
            assert weight.grad is not None
            momentum = self._momenta[name]
            momentum.copy_(0.95 * momentum + 0.05 * weight.grad)
            ahead = 0.95 * momentum + 0.05 * weight.grad
            # GPT-2 keeps queries, keys and values side by side.
            thirds = 3 if "c_attn" in name else 1
            moves = [_near_orthogonal(m) * 0.2 * max(m.shape) ** 0.5 for m in ahead.chunk(thirds, dim=1)]
            weight.copy_(weight * (1 - self.rate * self._decay) - self.rate * torch.cat(moves, dim=1))


class PlainAdamW:
    """Torch's AdamW, one tensor after the other; matrices are decayed and nothing else."""

    def __init__(self, model: torch.nn.Module, optim: OptimRecipe) -> None:
        self._adamw, self.rate = plain_adamw(list(model.parameters()), optim), 0.0

    def step(self) -> None:
        for group in self._adamw.param_groups:
            group["lr"] = self.rate
        self._adamw.step()


def plain_adamw(parameters: Sequence[torch.nn.Parameter], optim: OptimRecipe) -> torch.optim.AdamW:
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": optim.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, betas=optim.betas, eps=1e-8, foreach=False, fused=False)


def _near_orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / x.norm()
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.T if tall else x


def plain(
    folder: Path, recipe: Recipe, batches: Sequence[dict[str, torch.Tensor]], micro: int
) -> list[float]:
    """Loss of each step of the recipe's budget."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    model.train()
    optim, schedule, total = recipe.optim, recipe.schedule, int(recipe.budget.steps or 0)
    optimizer = {"adamw": PlainAdamW, "muon": PlainMuon}[optim.name](model, optim)
    losses = []
    for number, batch in enumerate(batches):
        loss, targets = 0.0, count(batch["labels"])
        for ids, labels in zip(*(batch[n].split(micro) for n in ("input_ids", "labels")), strict=True):
            mean = model(input_ids=ids, labels=labels, use_cache=False).loss
            share = mean * (count(labels) / targets)
            share.backward()
            loss += float(share.detach())
        torch.nn.utils.clip_grad_norm_(model.parameters(), optim.grad_clip, foreach=False)
        optimizer.rate = float(optim.lr) * multiplier(
            schedule.name, number, total, schedule.warmup, schedule.final
        )
        optimizer.step()
        model.zero_grad()
        losses.append(loss)
    return losses


def count(labels: torch.Tensor) -> int:
    """Targets: labels but for the first column's and those that are none."""
    return int((labels[:, 1:] != -100).sum())
