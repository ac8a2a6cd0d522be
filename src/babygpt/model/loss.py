"""Summed next-token loss of a model.

Where a model's logits are nothing but its head applied to its last hidden states (found by a numeric probe, not by a
list of names), the loss takes the hidden states and never has all logits at once (`cross_entropy.py`); on a CPU those
of the targets alone, so that masked prompts and padding cost the head nothing. Other models (soft-capped or scaled
logits, mixture-of-experts with a balancing loss) go through their own forward. Nothing here waits for the device.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel

from babygpt.data.labels import IGNORED
from babygpt.errors import ModelError
from babygpt.model.attention import known_packing
from babygpt.model.cross_entropy import (
    LOGITS_BYTES,
    LogitsMemory,
    chunk_rows,
    head_nll,
    logits_nll,
)

__all__ = ["Head", "count_targets", "find_head", "rows_of_head", "sum_nll"]

_PROBE_GAIN = 1000.0
# With a larger share of targets, copying their rows costs what it saves.
_MOST_COUNTED = 7 / 8


def rows_of_head(share: float, device: str) -> float:
    """The share of a micro-batch's tokens that the head is applied to, if so many of them count.

    Args:
        share: of the tokens that are targets, or have a weight.
        device: as `cpu`.
    """
    return share if device == "cpu" and share <= _MOST_COUNTED else 1.0


@dataclass(frozen=True)
class Head:
    """A model in two parts: logits = linear(base(inputs).last_hidden_state), and nothing else.

    Args:
        base: input ids -> hidden states [batch, block, width].
        linear: hidden states -> logits [batch, block, vocabulary]; only its weights are used, so that hooks on it are
            not called.
        memory: for its logits.
    """

    base: nn.Module
    linear: nn.Linear
    memory: LogitsMemory = field(default_factory=LogitsMemory, compare=False, repr=False)


def count_targets(labels: torch.Tensor) -> torch.Tensor:
    """Targets of `sum_nll`, an int64 scalar: labels that are not ignored, but for the first column."""
    return (labels[:, 1:] != IGNORED).sum()


@torch.no_grad()
def find_head(model: PreTrainedModel) -> Head | None:
    """The model's base and head, if its logits are exactly the head of the base's last hidden state.

    One forward pass of four tokens with the head's output amplified, so that a soft cap or a scale shows, and
    one of the base alone.

    Args:
        model: with weights on a device; its mode and the process's random numbers are left as they were.

    Returns:
        None where the model's own logits have to be used.
    """
    causal: Any = model  # transformers' methods carry no types
    linear, base = causal.get_output_embeddings(), causal.base_model
    if type(linear) is not nn.Linear or base is model or linear.weight.device.type == "meta":
        return None
    seen: dict[str, torch.Tensor] = {}

    def amplify(module: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        del module
        seen["hidden"], seen["logits"] = args[0], output * _PROBE_GAIN
        return seen["logits"]

    rows = int(causal.get_input_embeddings().weight.shape[0])
    inputs = {"input_ids": torch.arange(4, device=linear.weight.device)[None] % rows, "use_cache": False}
    was_training = model.training
    causal.eval()
    hook = linear.register_forward_hook(amplify)
    try:
        out = causal(**inputs)
        hidden = base(**inputs).last_hidden_state
    finally:
        hook.remove()
        model.train(was_training)
    if not seen or getattr(out, "aux_loss", None) is not None:
        return None
    whole = seen["hidden"].shape == hidden.shape and torch.equal(seen["hidden"], hidden)
    plain = out.logits.shape == seen["logits"].shape and torch.equal(out.logits, seen["logits"])
    return Head(base, linear) if whole and plain else None


def sum_nll(
    model: PreTrainedModel,
    inputs: dict[str, Any],
    labels: torch.Tensor,
    head: Head | None,
    *,
    weights: torch.Tensor | None = None,
    logits_bytes: int = LOGITS_BYTES,
) -> torch.Tensor:
    """Sum of -log p(token | tokens before it) over the targets, or over all tokens by their weights.

    Divided by `count_targets(labels)` it is the loss of `model(**inputs, labels=labels)`; a
    mixture-of-experts model's balancing loss is in it, times the targets, or the weights' sum, wherever the model adds
    it itself.

    Args:
        model: any causal language model.
        inputs: of `model_inputs`, without labels.
        labels: int64 [batch, block], the input ids or -100 where a token is no target.
        head: of `find_head`, for this very model.
        weights: float [batch, block], how much each token's loss counts, whatever its label; None counts targets alone.
        logits_bytes: of the head's fp32 logits that are there at a time.

    Returns:
        A scalar in fp32, or fp64 for an fp64 model, to be differentiated once.

    Raises:
        ModelError: a balancing loss whose weight is not known.
    """
    if weights is not None:
        labels = inputs["input_ids"].masked_fill(weights == 0, IGNORED)
    # Shifting the labels, not the hidden states, saves copying those; the last column then predicts nothing.
    targets = F.pad(labels[:, 1:], (0, 1), value=IGNORED).reshape(-1)
    shares = None if weights is None else F.pad(weights[:, 1:], (0, 1)).reshape(-1)
    if head is None:
        return _own_logits_nll(model, inputs, targets, shares)
    with known_packing(inputs):
        hidden = head.base(**inputs).last_hidden_state
    rows = hidden.reshape(-1, hidden.shape[-1])
    linear = head.linear
    # Of all rows, whatever number of them counts: memory that grew with it would leave gaps.
    chunk = max(1, min(chunk_rows(linear.weight.shape[0], logits_bytes), len(rows)))
    targets, shares = targets.to(rows.device), None if shares is None else shares.to(rows.device)
    if (counted := _counted_rows(targets)) is not None:
        rows, targets = rows[counted], targets[counted]
        shares = None if shares is None else shares[counted]
    return head_nll(rows, linear.weight, linear.bias, targets, chunk, head.memory, shares)


def _counted_rows(targets: torch.Tensor) -> torch.Tensor | None:
    """Which rows have a target, where enough have none; looked for on a CPU only, since a device is waited for.

    Not where none has one: the head then has no gradient, for which other processes may wait.
    """
    if targets.device.type != "cpu" or not len(targets):
        return None
    counted = (targets != IGNORED).nonzero()[:, 0]
    return counted if len(counted) and rows_of_head(len(counted) / len(targets), "cpu") < 1 else None


def _own_logits_nll(
    model: PreTrainedModel, inputs: dict[str, Any], targets: torch.Tensor, weights: torch.Tensor | None
) -> torch.Tensor:
    with known_packing(inputs):
        out = model(**inputs)
    logits: torch.Tensor = out.logits.reshape(-1, out.logits.shape[-1])
    weights = None if weights is None else weights.to(logits.device)
    nll = logits_nll(logits, targets.to(logits.device), weights)
    aux: torch.Tensor | None = getattr(out, "aux_loss", None)
    if aux is None:
        return nll
    count = (targets != IGNORED).sum() if weights is None else weights.sum()
    return nll + _aux_weight(model) * aux.to(nll) * count.to(nll)


def _aux_weight(model: PreTrainedModel) -> float:
    for owner in (model, model.config):
        for name in ("router_aux_loss_coef", "aux_loss_coef"):
            if getattr(owner, name, None) is not None:
                return float(getattr(owner, name))
    raise ModelError(
        f"{type(model).__name__} has a balancing loss of unknown weight",
        where="model",
        hint="Set output_router_logits to false in its config.json to train without it",
    )
