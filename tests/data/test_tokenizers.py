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
    END_OF_TURN,
    check_round_trip,
    load_tokenizer,
    tokenizer_identity,
    tokenizer_source,
    train_tokenizer,
    vocabulary_size,
)
from babygpt.errors import ModelError, TokenizerError
from babygpt.tokenizer_names import TrainedTokenizer


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
    with pytest.raises(TokenizerError, match=r"258 cannot hold all bytes and .*im_end.* Use 259 or more"):
        train_tokenizer(texts, 258, chat=True)


def test_a_unigram_model_is_the_same_each_time() -> None:
    """Its trainer sums in the order of hash tables, which is another one each time."""
    texts = [document.text or "" for document in read_documents(["builtin:prose"])][:40]
    one, two = (train_tokenizer(texts, 500, kind="unigram") for _ in range(2))
    assert one.backend_tokenizer.to_str() == two.backend_tokenizer.to_str()


@pytest.fixture(scope="session")
def unigram() -> PreTrainedTokenizerFast:
    texts = [document.text or "" for document in read_documents(["builtin:prose"])]
    return train_tokenizer(texts[:60], 600, kind="unigram", chat=True)


def test_a_trained_tokenizer_for_conversations(unigram: PreTrainedTokenizerFast) -> None:
    assert len(unigram) == vocabulary_size(unigram) == 600
    special = [END_OF_TEXT, "<|im_start|>", END_OF_TURN]
    assert unigram.convert_tokens_to_ids(special) == [0, 1, 2]
    assert unigram.eos_token_id == unigram.bos_token_id == 2
    talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes."}]
    assert unigram.apply_chat_template(talk, tokenize=False) == (
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYes.<|im_end|>\n"
    )
    assert unigram.apply_chat_template(talk[:1], tokenize=False, add_generation_prompt=True) == (
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    small = train_tokenizer(["ab"], 5000, kind="unigram")
    assert small.decode(small("ab é\x00")["input_ids"], clean_up_tokenization_spaces=False) == "ab é\x00"


@pytest.mark.parametrize("which", ["tokenizer", "unigram"])
def test_it_saves_and_loads(request, which: str, tmp_path: Path) -> None:
    made = request.getfixturevalue(which)
    made.save_pretrained(tmp_path)
    text = "def f(x):\n\treturn  x  # é 漢字 🤖\r\n<|im_end|>"
    for again in (
        load_tokenizer(tmp_path),
        load_tokenizer(f"file:{tmp_path}"),
        AutoTokenizer.from_pretrained(tmp_path),
    ):
        assert again(text)["input_ids"] == made(text)["input_ids"]
        assert again.eos_token_id == made.eos_token_id
        assert again.chat_template == made.chat_template
        assert tokenizer_identity(again) == tokenizer_identity(made)


@given(st.text())
def test_any_text_round_trips(
    tokenizer: PreTrainedTokenizerFast, unigram: PreTrainedTokenizerFast, text: str
) -> None:
    for used in (tokenizer, unigram):
        ids = used(text, add_special_tokens=False)["input_ids"]
        assert used.decode(ids, clean_up_tokenization_spaces=False) == text
        check_round_trip(used, [text])


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


@pytest.mark.parametrize(
    ("name", "model", "wanted"),
    [
        ("auto", "auto", TrainedTokenizer("bpe", 8192)),
        ("auto", "preset:gpt2-1m", TrainedTokenizer("bpe", 2048)),
        ("auto", "gpt2", "gpt2"),
        ("train:300", "gpt2", TrainedTokenizer("bpe", 300)),
        ("train:unigram:300", "gpt2", TrainedTokenizer("unigram", 300)),
        ("file:a/b", "gpt2", "file:a/b"),
    ],
)
def test_what_is_loaded_and_what_is_trained(name: str, model: str, wanted: object) -> None:
    assert tokenizer_source(name, model) == wanted
