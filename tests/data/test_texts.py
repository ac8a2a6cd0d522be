from __future__ import annotations

import random

import numpy as np
import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from babygpt.data import texts
from babygpt.data.encoding import encode
from babygpt.data.sources import Document


@pytest.mark.parametrize("which", ["tokenizer", "trimming", "sentencepiece_like"])
def test_a_long_text_is_cut_without_changing_a_token(request, monkeypatch, prose, which: str) -> None:
    used = request.getfixturevalue(which)
    text = ("\n".join(prose) + "\n\n\n  é漢字🤖\r\n\tend")[:150_000]
    whole = used(text, add_special_tokens=False)["input_ids"]
    for piece in (300, 5000):
        monkeypatch.setattr(texts, "_PIECE_CHARS", piece)
        cut = texts._encode_long(text, used.backend_tokenizer)
        assert cut is not None
        np.testing.assert_array_equal(cut, whole)
    (encoded,) = encode([Document("x", text=text)], used)
    assert encoded.ids.tolist()[-len(whole) - 1 : -1] == whole


def test_cuts_survive_any_white_space(tokenizer, trimming, monkeypatch) -> None:
    monkeypatch.setattr(texts, "_PIECE_CHARS", 40)
    monkeypatch.setattr(texts, "_CONTEXT_CHARS", 30)
    draw = random.Random(0)
    for _ in range(60):
        text = "".join(
            draw.choice(["\n", "\n", " ", "a", "word", "é", ".", "\t", "\r\n", "🤖"]) for _ in range(400)
        )
        for used in (tokenizer, trimming):
            wanted = used(text, add_special_tokens=False)["input_ids"]
            assert texts.encode_texts([text], used)[0].tolist() == wanted


def test_a_tokenizer_that_cuts_would_break_is_given_the_whole(monkeypatch) -> None:
    backend = Tokenizer(models.BPE(vocab={"a": 0, "\n": 1, "\na": 2}, merges=[("\n", "a")]))
    used = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")
    monkeypatch.setattr(texts, "_PIECE_CHARS", 10)
    text = "a\n" * 100 + "a"
    assert texts._encode_long(text, used.backend_tokenizer) is None
    assert texts.encode_texts([text], used)[0].tolist() == used(text, add_special_tokens=False)["input_ids"]
