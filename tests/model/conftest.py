"""Tiny models of many architectures, with weights large enough for differences to show."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

VOCABULARY = 97

_COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "initializer_range": 0.3,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
_LLAMA_LIKE: dict[str, Any] = {
    "intermediate_size": 48,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "head_dim": 8,
    "tie_word_embeddings": False,
}
_EXPERTS: dict[str, Any] = {
    "num_experts_per_tok": 2,
    "output_router_logits": True,
    "router_aux_loss_coef": 0.5,
}
_OWN: dict[str, dict[str, Any]] = {
    "gpt2": {"n_positions": 64, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    "llama": _LLAMA_LIKE,
    "qwen3": _LLAMA_LIKE,
    "gpt_neox": {
        "intermediate_size": 64,
        "max_position_embeddings": 64,
        "attention_dropout": 0.0,
        "hidden_dropout": 0.0,
    },
    "gemma2": {**_LLAMA_LIKE, "tie_word_embeddings": True, "query_pre_attn_scalar": 8},
    "mixtral": {**_LLAMA_LIKE, **_EXPERTS, "num_local_experts": 4},
    "qwen3_moe": {**_LLAMA_LIKE, **_EXPERTS, "num_experts": 4, "moe_intermediate_size": 24},
    "phi": {"intermediate_size": 48, "max_position_embeddings": 64},
    "granite": {**_LLAMA_LIKE, "logits_scaling": 4.0},
    "opt": {"ffn_dim": 64, "max_position_embeddings": 64, "word_embed_proj_dim": 32, "dropout": 0.0},
    "bloom": {"n_layer": 2, "n_head": 4, "hidden_dropout": 0.0, "attention_dropout": 0.0},
    "gptj": {"n_positions": 64, "rotary_dim": 4},
}


@pytest.fixture(scope="session")
def tiny() -> Callable[..., PreTrainedModel]:
    """tiny(model_type, attention="sdpa", **config): a model in train mode, random weights always the same."""

    def build(model_type: str, attention: str = "sdpa", **changes: Any) -> PreTrainedModel:
        config = AutoConfig.for_model(model_type, **{**_COMMON, **_OWN[model_type], **changes})
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            model = AutoModelForCausalLM.from_config(
                config, attn_implementation=attention, dtype=torch.float32
            )
        model.loss_type = "ForCausalLM"
        return model.train()

    return build


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    """int64 [3, 20] ids and labels: some masked at the front, one row wholly."""
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(VOCABULARY, (3, 20), generator=generator)
    labels = ids.clone()
    labels[0, :7] = -100
    labels[2] = -100
    return {"input_ids": ids, "labels": labels}
