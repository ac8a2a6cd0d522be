"""Tokenizers that transformers loads differently from what their own file says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from babygpt.data.sources import read_documents
from babygpt.data.tokenizers import load_tokenizer, tokenizer_identity
from babygpt.errors import TokenizerError
from babygpt.tokenizer_names import loader_of

Save = Callable[..., Path]
PLAIN = pre_tokenizers.ByteLevel(add_prefix_space=False)
# What SmolLM and others do: every digit a word of its own.
DIGITS = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), PLAIN])
# What Llama 3 does at line ends and numbers.
LLAMA3 = pre_tokenizers.Sequence(
    [
        pre_tokenizers.Split(
            Regex(r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+"), "isolated"
        ),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
)  # fmt: skip


@pytest.fixture(scope="module")
def texts() -> list[str]:
    found = [document.text or "" for document in read_documents(["builtin:prose"])][:30]
    return [*found, *(f"in {year} or {year + 1}.\n\nx ﬁne" for year in range(1990, 2030))]


@pytest.fixture
def save(tmp_path: Path, texts: list[str]) -> Save:
    def build(splits: Any, name: str, *, normalizer: Any = None, bos: bool = False, **config: Any) -> Path:
        """A byte-level tokenizer trained without the rules and saved with them, under the name of a class."""
        backend = Tokenizer(models.BPE())
        backend.pre_tokenizer, backend.decoder = PLAIN if splits is DIGITS else splits, decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=700,
            special_tokens=["<|endoftext|>", "<s>"],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        backend.train_from_iterator(texts, trainer)
        backend.pre_tokenizer, backend.normalizer = splits, normalizer
        if bos:
            backend.post_processor = processors.TemplateProcessing("<s> $A", None, [("<s>", 1)])
        made = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>", bos_token="<s>")
        made.save_pretrained(tmp_path)
        file = tmp_path / "tokenizer_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"tokenizer_class": name} | config))
        return tmp_path

    return build


@pytest.mark.parametrize("name", ["GPT2Tokenizer", "PreTrainedTokenizerFast"])
def test_a_tokenizer_that_is_loaded_as_it_is_passes(save: Save, name: str) -> None:
    folder = save(PLAIN, name, bos=True)
    own = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert load_tokenizer(folder)("Hi 123")["input_ids"] == own.encode("Hi 123").ids


@pytest.mark.parametrize(
    ("splits", "normalizer", "name", "wanted"),
    [
        (DIGITS, None, "GPT2Tokenizer", r"'0 1 12 .*by the file and"),
        (LLAMA3, None, "GPT2TokenizerFast", r"transformers' GPT2Tokenizer does not give the ids"),
        (PLAIN, normalizers.NFKC(), "GPT2Tokenizer", "ﬁ"),
        (DIGITS, None, "GPTNeoXTokenizer", "transformers' GPTNeoXTokenizer"),
    ],
)
def test_a_class_that_builds_its_rules_anew_is_refused(
    save: Save, splits: Any, normalizer: Any, name: str, wanted: str
) -> None:
    folder = save(splits, name, normalizer=normalizer)
    with pytest.raises(TokenizerError, match=wanted) as refused:
        load_tokenizer(folder)
    assert str(refused.value).startswith(f"{folder}: ")
    # What the hint says helps: the ids are those of the file, also once saved and loaded again.
    assert f"Give data.tokenizer file:{folder}" in str(refused.value)
    own = Tokenizer.from_file(str(folder / "tokenizer.json"))
    text = "In 1999 and 2000.\n\nﬁne"
    taken = load_tokenizer(f"file:{folder}")
    assert taken(text)["input_ids"] == own.encode(text).ids
    taken.save_pretrained(folder / "again")
    assert load_tokenizer(folder / "again")(text)["input_ids"] == own.encode(text).ids


def test_spaces_at_the_start_and_behind_special_tokens_are_compared(tmp_path: Path) -> None:
    """Files as Llama 2's put their mark before every part of a text; LlamaTokenizer does so at the start only."""
    letters = ["▁", *"abcdefghijklmnopqrstuvwxyz"]
    entries = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *letters]
    model = models.BPE({e: i for i, e in enumerate(entries)}, [], unk_token="<unk>", byte_fallback=True)
    backend = Tokenizer(model)
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made = PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )
    made.save_pretrained(tmp_path)
    assert load_tokenizer(tmp_path) is not None
    file = tmp_path / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"tokenizer_class": "LlamaTokenizer"}))
    with pytest.raises(
        TokenizerError, match="of ' one space before', token 1 and on are ▁ o n e by the file and o n e ▁"
    ):
        load_tokenizer(tmp_path)


def test_an_added_token_with_other_flags_is_found(save: Save) -> None:
    folder = save(PLAIN, "PreTrainedTokenizerFast")
    made = load_tokenizer(folder)
    made.add_tokens([AddedToken("<tool>", lstrip=True)])
    made.save_pretrained(folder)
    assert load_tokenizer(folder) is not None
    file = folder / "tokenizer.json"
    values = json.loads(file.read_text())
    values["added_tokens"][-1]["lstrip"] = False
    file.write_text(json.dumps(values))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["added_tokens_decoder"] = {"700": {"content": "<tool>", "lstrip": True, "rstrip": False, "normalized": True,
                                              "single_word": False, "special": False}}  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    own, theirs = Tokenizer.from_file(str(file)), PreTrainedTokenizerFast.from_pretrained(folder)
    if own.encode("a <tool>").ids == theirs("a <tool>")["input_ids"]:
        pytest.skip("this transformers lets the file decide")
    with pytest.raises(TokenizerError, match="<tool>"):
        load_tokenizer(folder)


def test_bos_that_is_lost_is_found_unless_the_configuration_decides(save: Save, monkeypatch) -> None:
    folder = save(PLAIN, "GPT2Tokenizer", bos=True)
    lost = load_tokenizer(folder)
    lost.backend_tokenizer.post_processor = processors.ByteLevel()
    monkeypatch.setattr("babygpt.data.tokenizers.AutoTokenizer.from_pretrained", lambda *_, **__: lost)
    with pytest.raises(TokenizerError, match=r"token 0 and on are <s> .* by the file"):
        load_tokenizer(folder)
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"add_bos_token": False}))
    assert load_tokenizer(folder) is lost


@pytest.mark.parametrize("model", ["llama", "qwen2", "gpt2", "gemma"])
def test_what_was_taken_as_it_is_stays_so_in_a_checkpoint(save: Save, tmp_path: Path, model: str) -> None:
    """Evaluating, generating and going on load a checkpoint's tokenizer without `file:` before its name."""
    folder = save(DIGITS, "GPT2Tokenizer")
    with pytest.raises(TokenizerError, match="file:"):
        load_tokenizer(folder)
    taken = load_tokenizer(f"file:{folder}")
    checkpoint = tmp_path / "checkpoint"
    taken.save_pretrained(checkpoint)
    (checkpoint / "config.json").write_text(json.dumps({"model_type": model}))
    again = load_tokenizer(checkpoint)
    assert again("in 1990,\n\nx")["input_ids"] == taken("in 1990,\n\nx")["input_ids"]
    assert tokenizer_identity(again) == tokenizer_identity(taken)
    named = getattr(transformers, loader_of(checkpoint)).from_pretrained(checkpoint)  # what a model card says
    assert named("in 1990,\n\nx")["input_ids"] == taken("in 1990,\n\nx")["input_ids"]
