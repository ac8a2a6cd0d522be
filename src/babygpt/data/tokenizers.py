"""Tokenizers: load one, train one, prove that it gives back what it was given."""

from __future__ import annotations

import hashlib
import json
import os
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from babygpt.data.encoding import Encoded, encode
from babygpt.errors import InputError, TokenizerError
from babygpt.hub import fetch

__all__ = [
    "END_OF_TEXT",
    "Encoded",
    "check_round_trip",
    "encode",
    "load_tokenizer",
    "tokenizer_identity",
    "train_tokenizer",
    "vocabulary_size",
]

END_OF_TEXT = "<|endoftext|>"
MIN_VOCABULARY = 257  # every byte, and end-of-text
_HINT = "Put the model's own tokenizer beside it; to train, data.tokenizer may name one or be train:8192"


def load_tokenizer(name: str | Path, *, revision: str | None = None) -> PreTrainedTokenizerBase:
    """Load a tokenizer; no code of its repository is run.

    Args:
        name: a folder or a hub name.
        revision: of a hub name.

    Raises:
        ModelError: there is no such folder, or the hub cannot be reached.
        TokenizerError: what is there is no tokenizer.
    """
    if str(name).startswith("preset:"):
        raise TokenizerError(
            "a preset has no tokenizer", where=str(name), hint="Give the folder of a trained checkpoint"
        )
    folder = fetch(str(name), revision=revision, what="tokenizer")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except InputError:
        raise
    except Exception as error:  # a dozen kinds, by what is missing or malformed
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise TokenizerError(
            f"no usable tokenizer here ({reason})",
            where=str(name),
            hint=_HINT,
        ) from error
    assert isinstance(tokenizer, PreTrainedTokenizerBase)
    # Where a folder holds no tokenizer, transformers makes an empty one of the model's own kind.
    if set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens):
        raise TokenizerError("no tokenizer here", where=str(name), hint=_HINT)
    return tokenizer


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer: any text encodes, and decodes to itself. Deterministic.

    `<|endoftext|>` is id 0 and both the end and the beginning token (though nothing is put at a text's
    start). There is no padding token: padding is told by length, never by id.

    Args:
        texts: what to train on, read once.
        vocab_size: at most so many entries, fewer when the text does not yield them; at least 257.

    Raises:
        TokenizerError: vocab_size is too small.
    """
    if vocab_size < MIN_VOCABULARY:
        raise TokenizerError(
            f"a vocabulary of {vocab_size} cannot hold all bytes and end-of-text",
            where="data.tokenizer",
            hint=f"Use {MIN_VOCABULARY} or more",
        )
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")  # see encoding.encode
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer=trainer)
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        clean_up_tokenization_spaces=False,
    )


def vocabulary_size(tokenizer: PreTrainedTokenizerBase) -> int:
    """One more than the largest id the tokenizer can give; more than its length where ids have gaps."""
    return max(tokenizer.get_vocab().values(), default=-1) + 1


def tokenizer_identity(tokenizer: PreTrainedTokenizerBase) -> str:
    """sha256 over everything that decides its ids: model, rules, special tokens, chat template."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        backend.no_truncation()
        backend.no_padding()
    rules = backend.to_str() if backend is not None else repr(sorted(tokenizer.get_vocab().items()))
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    probe = tokenizer("a", add_special_tokens=True)["input_ids"]
    whole = json.dumps([rules, special, probe, tokenizer.chat_template], sort_keys=True)
    return hashlib.sha256(whole.encode()).hexdigest()


def check_round_trip(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]) -> None:
    """Check that decoding what was encoded gives the text back.

    Unicode composition and white space at the ends may differ: some good tokenizers normalise the first and
    add the second.

    Raises:
        TokenizerError: it does not; shows the first difference.
    """
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        back = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        assert isinstance(back, str)
        if back == text:
            continue
        wanted, found = (unicodedata.normalize("NFC", each).strip() for each in (text, back))
        if wanted == found:
            continue
        pairs = enumerate(zip(wanted, found, strict=False))
        at = next((i for i, (a, b) in pairs if a != b), min(len(wanted), len(found)))
        raise TokenizerError(
            f"the tokenizer does not give text back: {wanted[at : at + 20]!r} became {found[at : at + 20]!r}",
            hint="Use a tokenizer that keeps text as it is, e.g. data.tokenizer train:8192",
        )
