"""Continuing a text: against a greedy loop by hand, and at the edges."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from babygpt import GenerateSettings
from babygpt import generate as generate_verb
from babygpt.errors import InputError, RecipeError
from babygpt.generate import continue_text


@pytest.fixture
def model(tiny_gpt2: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(tiny_gpt2).eval()


@pytest.fixture
def tokenizer(tiny_gpt2: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny_gpt2)


def by_hand(model: Any, tokenizer: Any, prompt: str, count: int) -> str:
    ids = tokenizer(prompt)["input_ids"]
    begun = len(ids)
    for _ in range(count):
        with torch.no_grad():
            best = int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())
        if best == tokenizer.eos_token_id:
            break
        ids.append(best)
    return str(tokenizer.decode(ids[begun:]))


@pytest.mark.parametrize("prompt", ["def f(x):", "a"])
def test_greedy_is_the_likeliest_token_each_time(model: Any, tokenizer: Any, prompt: str) -> None:
    text = continue_text(model, tokenizer, prompt, max_new_tokens=20, temperature=0)
    assert text == by_hand(model, tokenizer, prompt, 20)


def test_a_seed_gives_one_text_and_leaves_the_random_numbers(model: Any, tokenizer: Any) -> None:
    def write(seed: int) -> str:
        return continue_text(model, tokenizer, "x", max_new_tokens=20, temperature=1, top_p=1, seed=seed)

    state = torch.random.get_rng_state()
    first = write(1)
    assert torch.equal(state, torch.random.get_rng_state())
    torch.rand(3)
    assert write(1) == first
    assert write(2) != first


def test_a_tiny_nucleus_is_greedy(model: Any, tokenizer: Any) -> None:
    narrow = continue_text(model, tokenizer, "x", max_new_tokens=10, temperature=1, top_p=1e-6)
    assert narrow == by_hand(model, tokenizer, "x", 10)


def test_without_a_prompt_it_begins_a_document(model: Any, tokenizer: Any) -> None:
    assert continue_text(model, tokenizer, "", max_new_tokens=5, temperature=0) == by_hand(
        model, tokenizer, "<|endoftext|>", 5
    )


def test_a_prompt_that_is_no_text(tiny_gpt2: Path) -> None:
    prompt = b"caf\xe9".decode("utf-8", "surrogateescape")  # as Python gives an argument of another encoding
    with pytest.raises(InputError, match=r"^prompt: holds bytes that are no UTF-8\."):
        generate_verb(GenerateSettings(str(tiny_gpt2), prompt))


def test_it_ends_where_the_positions_do(model: Any, tokenizer: Any) -> None:
    text = continue_text(model, tokenizer, "x" * 120, max_new_tokens=50, temperature=0)
    assert len(tokenizer(text)["input_ids"]) <= 8
    with pytest.raises(InputError) as caught:
        continue_text(model, tokenizer, "x" * 128, max_new_tokens=50)
    assert "the prompt is 128 tokens and the model has 128 positions" in str(caught.value)


@pytest.mark.parametrize(
    "own",
    [
        {"num_beams": 10**6},
        {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5},
        {"penalty_alpha": 0.6, "top_k": 4},
        {"num_return_sequences": 10**7},
        {"stop_strings": ["x"]},
        {"min_new_tokens": 10**9},
        {"repetition_penalty": 1e-9},
        {"cache_implementation": "evil/x"},
        {"prompt_lookup_num_tokens": 3},
        {"max_time": 0},
        {"suppress_tokens": [10**12]},
        {"bad_words_ids": [[10**9]]},
        {"forced_bos_token_id": 10**12},
        {"guidance_scale": 7.0},
        {"return_dict_in_generate": True},
    ],
    ids=str,
)
def test_the_models_own_settings_change_nothing(model: Any, tokenizer: Any, own: dict[str, Any]) -> None:
    plain = continue_text(model, tokenizer, "a", max_new_tokens=5)
    for name, value in own.items():
        setattr(model.generation_config, name, value)
    assert continue_text(model, tokenizer, "a", max_new_tokens=5) == plain
    assert all(getattr(model.generation_config, name) == value for name, value in own.items())


def test_the_verb(tiny_gpt2: Path, model: Any, tokenizer: Any) -> None:
    done = generate_verb(GenerateSettings(str(tiny_gpt2), "def f", max_new_tokens=8, temperature=0))
    assert done.to_dict() == {
        "checkpoint": str(tiny_gpt2),
        "prompt": "def f",
        "text": by_hand(model, tokenizer, "def f", 8),
        "chat": False,
    }
    assert done.lines() == ["def f" + done.text]


# -- a turn of a conversation ----------------------------------------------------------------------------------------

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture
def chat_model(tiny_gpt2: Path, tmp_path: Path) -> Path:
    """The tiny model with ChatML's two marks behind its other tokens."""
    folder = tmp_path / "chat"
    tokenizer = AutoTokenizer.from_pretrained(tiny_gpt2)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = CHATML
    tokenizer.save_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(tiny_gpt2)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.save_pretrained(folder)
    return folder


def test_a_turn_is_answered_in_the_models_own_template(
    chat_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}

    def noted(model: Any, tokenizer: Any, prompt: Any, **options: Any) -> str:
        seen.update(prompt=prompt, ends=options["ends"])
        return continue_text(model, tokenizer, prompt, **options)

    monkeypatch.setattr(importlib.import_module("babygpt.generate"), "continue_text", noted)
    asked = GenerateSettings(str(chat_model), "Hi!", chat=True, max_new_tokens=8, temperature=0)
    done = generate_verb(asked)
    tokenizer = AutoTokenizer.from_pretrained(chat_model)
    start, end = (tokenizer.convert_tokens_to_ids(mark) for mark in ("<|im_start|>", "<|im_end|>"))
    words = [tokenizer(text)["input_ids"] for text in ("user\nHi!", "\n", "assistant\n")]
    assert seen["prompt"] == [start, *words[0], end, *words[1], start, *words[2]]
    assert seen["ends"] == [end]
    model = AutoModelForCausalLM.from_pretrained(chat_model).eval()
    text = "<|im_start|>user\nHi!<|im_end|>\n<|im_start|>assistant\n"
    assert done.text == by_hand(model, tokenizer, text, 8)
    assert done.lines() == [done.text]


def test_what_ends_a_turn_ends_the_text(model: Any, tokenizer: Any) -> None:
    stop = tokenizer(by_hand(model, tokenizer, "a", 1))["input_ids"][0]  # the likeliest token after it
    text = continue_text(model, tokenizer, "a", ends=[stop], max_new_tokens=9, temperature=0)
    assert text == by_hand(model, tokenizer, "a", 1)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "the tokenizer has no chat template"),
        ("{{ raise_exception('no such role') }}", r"the chat template refuses the prompt \(no such role\)"),
    ],
)
def test_a_template_that_is_missing_or_refuses(
    chat_model: Path, template: str | None, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(chat_model)
    tokenizer.chat_template = template
    monkeypatch.setattr("babygpt.data.tokenizers.load_tokenizer", lambda folder: tokenizer)
    with pytest.raises(InputError, match=message):
        generate_verb(GenerateSettings(str(chat_model), "Hi!", chat=True))


def test_a_chat_needs_a_turn() -> None:
    with pytest.raises(RecipeError, match="there is no turn to answer"):
        GenerateSettings("model", chat=True)
