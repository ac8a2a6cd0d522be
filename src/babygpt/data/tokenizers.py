"""Tokenizers: load one, train one, prove that it gives back what it was given.

Both kinds that are trained, BPE and Unigram, work on bytes cut into words as GPT-2 cuts them: any text encodes
without an unknown token, and decodes to itself. BPE with 8,192 entries takes about 2 s on 10 MB of text, Unigram 8.
"""

from __future__ import annotations

import hashlib
import json
import os
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from babygpt.data.encoding import Encoded, encode
from babygpt.data.regressions import check_against_file
from babygpt.errors import InputError, TokenizerError
from babygpt.hub import fetch
from babygpt.presets import preset_config
from babygpt.tokenizer_names import FROM_FILE, TrainedTokenizer, names_no_class, trained_tokenizer

__all__ = [
    "CHATML",
    "END_OF_TEXT",
    "END_OF_TURN",
    "Encoded",
    "check_round_trip",
    "encode",
    "load_tokenizer",
    "tokenizer_identity",
    "tokenizer_source",
    "train_tokenizer",
    "vocabulary_size",
]

END_OF_TEXT, START_OF_TURN, END_OF_TURN = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
CHATML = (
    "{% if tools %}{{ '<|im_start|>tools' }}{% for tool in tools %}{{ '\n' + (tool | tojson) }}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endif %}"
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + (message['content'] or '') }}"
    "{% for call in message['tool_calls'] or [] %}"
    "{{ '<tool_call>' + (call['function'] | tojson) + '</tool_call>' }}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_AUTO_VOCABULARY = 8192  # for `auto` with a model that is not decided yet
_BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
_SCORE_DIGITS = 6
_HINT = "Put the model's own tokenizer beside it; to train, data.tokenizer may name one or be train:8192"


def load_tokenizer(name: str | Path, *, revision: str | None = None) -> PreTrainedTokenizerBase:
    """Load a tokenizer; no code of its repository is run.

    Args:
        name: a folder or a hub name; `file:` before it takes its `tokenizer.json` as it is, whatever class it names.
        revision: of a hub name.

    Raises:
        ModelError: there is no such folder, or the hub cannot be reached.
        TokenizerError: what is there is no tokenizer, or transformers does not load it as its file has it.
    """
    loader: Any = PreTrainedTokenizerFast if str(name).startswith(FROM_FILE) else AutoTokenizer
    name = str(name).removeprefix(FROM_FILE)
    if name.startswith("preset:"):
        raise TokenizerError(
            "a preset has no tokenizer", where=name, hint="Give the folder of a trained checkpoint"
        )
    folder = fetch(name, revision=revision, what="tokenizer")
    try:
        try:
            tokenizer = _loaded(loader, folder, name)
        except TokenizerError:
            if not names_no_class(folder):
                raise
            # Of some kinds of models transformers takes their own class all the same.
            tokenizer = _loaded(PreTrainedTokenizerFast, folder, name)
    except InputError:
        raise
    except Exception as error:  # a dozen kinds, by what is missing or malformed
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise TokenizerError(
            f"no usable tokenizer here ({reason})",
            where=name,
            hint=_HINT,
        ) from error
    # Where a folder holds no tokenizer, transformers makes an empty one of the model's own kind.
    if set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens):
        raise TokenizerError("no tokenizer here", where=name, hint=_HINT)
    return tokenizer


def _loaded(loader: Any, folder: Path, name: str) -> PreTrainedTokenizerBase:
    tokenizer = loader.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    assert isinstance(tokenizer, PreTrainedTokenizerBase)
    check_against_file(tokenizer, folder, name)
    return tokenizer


def tokenizer_source(name: str, model_name: str) -> str | TrainedTokenizer:
    """What a recipe asks for: the name of what is loaded, or what is trained."""
    if name != "auto":
        return trained_tokenizer(name) or name
    if model_name == "auto":
        return TrainedTokenizer("bpe", _AUTO_VOCABULARY)
    if model_name.startswith("preset:"):
        return TrainedTokenizer("bpe", int(preset_config(model_name)["vocab_size"]))
    return model_name


def train_tokenizer(
    texts: Iterable[str],
    vocab_size: int,
    *,
    kind: Literal["bpe", "unigram"] = "bpe",
    chat: bool = False,
) -> PreTrainedTokenizerFast:
    """Train a byte-level tokenizer: any text encodes, and decodes to itself. The same texts give the same one.

    `<|endoftext|>` is id 0 and both the end and the beginning token (though nothing is put at a text's start). With
    `chat`, `<|im_start|>` and `<|im_end|>` follow, the chat template is ChatML, and the end and the beginning
    token is `<|im_end|>`: where it ends a turn, generating stops. There is no padding token: padding is told by
    length, never by id.

    Args:
        texts: what to train on, read once.
        vocab_size: at most so many entries, fewer when the text does not yield them; at least 257, with `chat` 259.
        kind: byte-pair encoding or a unigram model.
        chat: for conversations.

    Raises:
        TokenizerError: vocab_size is too small.
    """
    special = [END_OF_TEXT, START_OF_TURN, END_OF_TURN] if chat else [END_OF_TEXT]
    if vocab_size < len(_BYTES) + len(special):
        raise TokenizerError(
            f"a vocabulary of {vocab_size} cannot hold all bytes and {', '.join(special)}",
            where="data.tokenizer",
            hint=f"Use {len(_BYTES) + len(special)} or more",
        )
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")  # see encoding.encode
    tokenizer = Tokenizer(models.BPE() if kind == "bpe" else models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    settings: dict[str, Any] = {
        "vocab_size": vocab_size,
        "special_tokens": special,
        "initial_alphabet": _BYTES,
        "show_progress": False,
    }
    if kind == "bpe":
        tokenizer.train_from_iterator(texts, trainer=trainers.BpeTrainer(min_frequency=2, **settings))
    else:
        tokenizer.train_from_iterator(texts, trainer=trainers.UnigramTrainer(**settings))
        tokenizer.model = _settled(tokenizer, special)
    end = END_OF_TURN if chat else END_OF_TEXT
    trained: Any = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, bos_token=end, eos_token=end, clean_up_tokenization_spaces=False
    )
    trained.chat_template = CHATML if chat else None
    return trained  # type: ignore[no-any-return]


def _settled(tokenizer: Tokenizer, special: list[str]) -> models.Unigram:
    """The trained unigram model, made independent of the order in which its trainer summed and went through bytes.

    Scores are rounded and equal ones sorted by their text. The bytes that the text does not yield get the lowest
    score and 0.0001 more for each, in an order of chance, from the trainer: here they share the lowest.
    """
    trained: list[tuple[str, float]] = json.loads(tokenizer.to_str())["model"]["vocab"]
    scores = {text: round(score, _SCORE_DIGITS) for text, score in trained if text not in special}
    lowest = min(scores.values())
    band = lowest + 0.0001 * len(_BYTES)
    settled = {t: lowest if len(t) == 1 and score <= band else score for t, score in scores.items()}
    ordered = sorted(settled.items(), key=lambda entry: (-entry[1], entry[0]))
    return models.Unigram([*((token, 0.0) for token in special), *ordered], None, False)


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
