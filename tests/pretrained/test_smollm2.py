"""A real pretrained model: it loads, knows what it should, and finds plain English prose likely."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

pytestmark = pytest.mark.pretrained

# Written for this test, so that no model has read it.
PROSE = (
    "The old bridge at the end of our street was closed for most of the winter. Every morning the"
    " children who lived on the far side had to walk an extra mile along the river to reach the school,"
    " and their parents complained to the council about it. In the spring a team of engineers came to look"
    " at the stones. They found that the water had worn away part of the foundation, so that one of the"
    " arches was slowly sinking. It took four months and a good deal of money to repair it. When the"
    " bridge was opened again in August, the whole town came out to celebrate. There was music, and"
    " someone had baked a cake in the shape of the bridge, with little people made of sugar walking across"
    " it. My grandmother, who was ninety that year, was asked to cut the ribbon, because she remembered"
    " the day when it had been built. She said that she had liked the old bridge better, but that she was"
    " glad to have any bridge at all."
)


@pytest.fixture(scope="module")
def tokenizer(smollm2: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(smollm2)


@pytest.fixture(scope="module")
def model(smollm2: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(smollm2).eval()


def test_the_folder_holds_the_whole_model(model, tokenizer) -> None:
    assert sum(p.numel() for p in model.parameters()) == 134_515_008
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert len(tokenizer) == model.config.vocab_size == 49_152


def test_the_tokenizer_gives_text_back(tokenizer) -> None:
    text = f"{PROSE}\n\n\tdef f(x):  # 1984, naïve — 你好 🙂\n        return x ** 12345"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer.tokenize("12") == ["1", "2"]


def test_it_knows_the_capital_of_france(model, tokenizer) -> None:
    ids = tokenizer("The capital of France is", return_tensors="pt")["input_ids"]
    likeliest = model(input_ids=ids).logits[0, -1].argmax()
    assert tokenizer.decode(likeliest) == " Paris"


def test_it_answers_in_its_own_chat_format_and_stops(model, tokenizer) -> None:
    question = [{"role": "user", "content": "What is the capital of France?"}]
    asked = tokenizer.apply_chat_template(
        question, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    answer = model.generate(**asked, max_new_tokens=30, do_sample=False)[0, asked["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(answer)
    assert answer[-1] == tokenizer.eos_token_id


def test_plain_prose_has_the_perplexity_of_a_pretrained_model(model, tokenizer) -> None:
    ids = tokenizer(PROSE, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        loss = model(input_ids=ids, labels=ids).loss
    assert 12 < math.exp(loss) < 20  # 16.2; wrongly permuted attention weights or token ids give thousands
