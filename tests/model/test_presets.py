"""The shipped configurations are what their names say."""

from __future__ import annotations

import re

import pytest
import torch
from transformers import AutoModelForCausalLM

from babygpt.errors import RecipeError
from babygpt.model.cost import model_cost
from babygpt.model.load import load_config
from babygpt.presets import is_sized, preset_config, preset_names, sized

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


def test_a_family_goes_on_from_a_shipped_one() -> None:
    assert preset_config(sized(256, 4)) == preset_config("llama-5m")
    assert sized(256, 4) == "preset:llama-256x4"
    assert [is_sized(n) for n in ("preset:llama-96x3", "llama-5m", "preset:llama-1b", "gpt2")] == [1, 1, 0, 0]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(load_config("preset:llama-96x3", vocab_size=1000))
    # By hand: attention, the perceptron of 8/3 x 96 = 256, two norms a block; the last norm; embeddings, tied.
    blocks = 3 * (4 * 96 * 96 + 3 * 96 * 256 + 2 * 96)
    assert sum(p.numel() for p in model.parameters()) == blocks + 96 + 1000 * 96


@pytest.mark.parametrize("width", range(32, 2049, 32))
def test_every_width_of_the_family_has_whole_heads(width: int) -> None:
    config = preset_config(f"llama-{width}x2")
    head = config["hidden_size"] / config["num_attention_heads"]
    assert head in (32, 64)
    assert config["intermediate_size"] % 16 == 0
    assert 0 <= config["intermediate_size"] - 8 * width / 3 < 16


@pytest.mark.parametrize("name", ["llama-100x2", "llama-8224x1", "llama-64x129"])
def test_beyond_the_family(name: str) -> None:
    with pytest.raises(RecipeError, match=r"model.name: there is no preset of .* Widths are multiples of 32"):
        preset_config(name)


@pytest.mark.parametrize("name", ["llama-0x2", "llama-64x0", "llama-64x", "llama-064x2"])
def test_no_size(name: str) -> None:
    with pytest.raises(RecipeError, match="there is no preset"):
        preset_config(name)
