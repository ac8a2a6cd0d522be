"""A checkpoint in memory: what a training state is made of, taken apart and ready to be written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from babygpt.model.weights import PREFIX, comes_back, describe, split_state_dict
from babygpt.state import copied, encode

__all__ = ["STATE_FORMAT", "Staged", "stage"]

STATE_FORMAT = 1


@dataclass(frozen=True)
class Staged:
    """A checkpoint in memory, ready to be written.

    Args:
        model: whose `save_pretrained` writes the weights.
        tokenizer: written beside it, if given.
        weights: by the model's own names.
        tensors: of the rest of the state.
        document: the JSON part of the state.
        facts: for the manifest.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase | None
    weights: Mapping[str, Any]
    tensors: Mapping[str, torch.Tensor]
    document: Mapping[str, Any]
    facts: Mapping[str, Any]


def stage(
    *,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    state: Mapping[str, Any],
    facts: Mapping[str, Any],
    copy: bool = False,
) -> Staged:
    """Takes a state apart; arguments and errors as of `checkpoints.publish`.

    Args:
        copy: hold copies of every tensor on the CPU, so that training may go on before they are written: as much
            memory as the checkpoint has bytes.
    """
    weights, rest = split_state_dict(state["state_dict"], model)
    extra = rest | {PREFIX + k: v for k, v in weights.items() if not comes_back(k, weights, model)}
    encoded, tensors = encode({**state, "state_dict": extra})
    document = {"format": STATE_FORMAT, "state": encoded, "weights": describe(weights)}
    if copy:
        weights, tensors = copied(weights), copied(tensors)
    return Staged(model, tokenizer, weights, tensors, document, dict(facts))
