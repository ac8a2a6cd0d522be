"""The shipped configurations are what their names say."""

from __future__ import annotations

import re

import pytest
import torch
from transformers import AutoModelForCausalLM

from babygpt.model.cost import model_cost
from babygpt.model.load import load_config
from babygpt.presets import preset_config, preset_names

SUFFIX = {"m": 1e6, "b": 1e9}


def test_there_are_these() -> None:
    wanted = ["gpt2-11m", "gpt2-124m", "gpt2-1m", "gpt2-30m", "gpt2-4m", "llama-160m", "llama-1b", "llama-5m"]
    assert sorted(preset_names()) == wanted


@pytest.mark.parametrize("name", preset_names())
def test_size_lies_between_the_counts_without_and_with_embeddings(name: str) -> None:
    match = re.fullmatch(r"(gpt2|llama)-(\d+)([mb])", name)
    assert match
    said = int(match[2]) * SUFFIX[match[3]]
    cost = model_cost(load_config(f"preset:{name}"))
    assert 0.8 * cost.non_embedding_parameters <= said <= 1.1 * cost.parameters
    assert cost.parameters <= 1.3 * said


@pytest.mark.parametrize("name", preset_names())
def test_is_ready_for_training(name: str) -> None:
    config = load_config(f"preset:{name}")
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert preset_config(name)["architectures"] == [type(model).__name__]
    assert config.max_position_embeddings >= 512
    assert config.hidden_size % config.num_attention_heads == 0
    assert all(
        value == 0
        for field, value in config.to_dict().items()
        if re.search(r"(?<!summary_first_)(dropout|pdrop)$", field)
    )
    # Special ids belong to a tokenizer, which a preset does not have.
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (None, None, None)


def test_gpt2_is_gpt2() -> None:
    config = load_config("preset:gpt2-124m")
    assert (config.n_layer, config.n_embd, config.n_head, config.n_positions) == (12, 768, 12, 1024)
    assert config.vocab_size == 50257


def test_activation_is_gpt2s_own_function() -> None:
    from transformers.activations import ACT2FN

    x = torch.linspace(-8, 8, 4001, dtype=torch.float64)
    chosen = ACT2FN[preset_config("gpt2-4m")["activation_function"]]
    torch.testing.assert_close(chosen(x), ACT2FN["gelu_new"](x), rtol=1e-12, atol=1e-12)
