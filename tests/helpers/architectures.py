"""Tiny models of many architectures, saved as Hugging Face folders with a tokenizer."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

_COMMON: dict[str, Any] = {
    "vocab_size": 257,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "initializer_range": 0.3,  # large enough for differences to show
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": None,
}
_LLAMA_LIKE: dict[str, Any] = {
    "intermediate_size": 48,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "head_dim": 8,
    "tie_word_embeddings": False,
}
_OWN: dict[str, dict[str, Any]] = {
    "gpt2": {"n_positions": 256},
    "llama": _LLAMA_LIKE,
    "qwen3": _LLAMA_LIKE,
    "gpt_neox": {"intermediate_size": 64, "max_position_embeddings": 256},
    # A softcap small enough to bend these logits.
    "gemma2": {**_LLAMA_LIKE, "query_pre_attn_scalar": 8, "final_logit_softcapping": 3.0},
    "opt": {"ffn_dim": 64, "max_position_embeddings": 256, "word_embed_proj_dim": 32},
    "bloom": {"n_layer": 2, "n_head": 4},
}


def save_tiny(kind: str, tokenizer: Path, folder: Path) -> Path:
    """Writes a model of random weights, always the same, with the tokenizer of another folder."""
    config = AutoConfig.for_model(kind, **{**_COMMON, **_OWN[kind]})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tokenizer / name, folder / name)
    return folder


def plain(folder: Path, attention: str = "eager") -> Any:
    """The Hugging Face model itself, for references: fp32, eval mode."""
    return AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation=attention, dtype=torch.float32
    ).eval()


@torch.no_grad()
def own_loss(model: Any, batch: dict[str, torch.Tensor]) -> float:
    """The model's own mean loss over the targets of a batch."""
    return float(model(**batch, use_cache=False).loss)


@torch.no_grad()
def loss_alone(model: Any, documents: list[torch.Tensor]) -> float:
    """Mean loss over all targets of documents, each run by itself; ids int64 [tokens]."""
    targets = sum(len(d) - 1 for d in documents)
    losses = (float(model(input_ids=d[None], labels=d[None], use_cache=False).loss) for d in documents)
    return sum(loss * (len(d) - 1) for loss, d in zip(losses, documents, strict=True)) / targets
