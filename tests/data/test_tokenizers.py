from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerFast

from babygpt.data.sources import read_documents
from babygpt.data.tokenizers import (
    END_OF_TEXT,
    check_round_trip,
    load_tokenizer,
    tokenizer_identity,
    train_tokenizer,
    vocabulary_size,
)
from babygpt.errors import ModelError, TokenizerError


def test_a_trained_tokenizer_has_the_promised_shape(tokenizer: PreTrainedTokenizerFast) -> None:
    assert len(tokenizer) == vocabulary_size(tokenizer) == 1000
    assert tokenizer.convert_tokens_to_ids(END_OF_TEXT) == 0
    assert tokenizer.eos_token_id == tokenizer.bos_token_id == 0
    assert tokenizer.pad_token is None
    assert tokenizer.unk_token is None
    assert 0 not in tokenizer("plain text")["input_ids"]


def test_training_is_deterministic_and_bounded() -> None:
    texts = [document.text or "" for document in read_documents(["builtin:prose"])]
    one, two = train_tokenizer(texts, 700), train_tokenizer(texts, 700)
    assert one.backend_tokenizer.to_str() == two.backend_tokenizer.to_str()
    assert tokenizer_identity(one) == tokenizer_identity(two)
    assert tokenizer_identity(one) != tokenizer_identity(train_tokenizer(texts, 701))
    assert len(train_tokenizer(["ab"], 5000)) == 257
    with pytest.raises(TokenizerError, match="256 cannot hold all bytes"):
        train_tokenizer(texts, 256)


def test_it_saves_and_loads(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    text = "def f(x):\n\treturn  x  # é 漢字 🤖\r\n"
    for again in (load_tokenizer(tmp_path), AutoTokenizer.from_pretrained(tmp_path)):
        assert again(text)["input_ids"] == tokenizer(text)["input_ids"]
        assert again.eos_token_id == 0
        assert tokenizer_identity(again) == tokenizer_identity(tokenizer)


@given(st.text())
def test_any_text_round_trips(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text
    check_round_trip(tokenizer, [text])


def test_a_lossy_tokenizer_is_refused() -> None:
    backend = Tokenizer(models.BPE(unk_token="?"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.train_from_iterator(["hello world"] * 3, trainers.BpeTrainer(vocab_size=60, special_tokens=["?"]))
    lossy = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="?")
    with pytest.raises(TokenizerError, match="does not give text back: 'Hello"):
        check_round_trip(lossy, ["Hello world"])


def test_a_folder_without_a_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="no usable tokenizer here"):
        load_tokenizer(tmp_path)
    with pytest.raises(ModelError, match="no such folder"):
        load_tokenizer(tmp_path / "missing")
    with pytest.raises(TokenizerError, match="a preset has no tokenizer"):
        load_tokenizer("preset:gpt2-1m")


@pytest.mark.parametrize("kind", ["gpt2", "llama", "qwen3", "gpt_neox", "gemma2"])
def test_a_model_without_a_tokenizer_is_not_given_an_empty_one(kind: str, tmp_path: Path) -> None:
    """Transformers makes one from nothing, in which any text is no tokens at all."""
    AutoConfig.for_model(kind).save_pretrained(tmp_path)
    with pytest.raises(TokenizerError, match=r"no (usable )?tokenizer here"):
        load_tokenizer(tmp_path)
