"""Whether a loaded tokenizer gives the ids that its own file gives.

A `tokenizer.json` describes the whole way from text to ids. For many classes `AutoTokenizer` takes only the
vocabulary from it and builds the rest anew as the class has it: a normaliser, a splitting of digits or a rule for
spaces that the file asks for is lost without a word, and a pretrained model is given ids it has never seen. So
both are asked for the ids of a probe: spaces, line ends, digits, contractions, many scripts, every added token
between words, and entries from all over the vocabulary, which another way of splitting could not reach.

What the special tokens put at a text's ends are is compared too, unless `tokenizer_config.json` decides it by
`add_bos_token` or `add_eos_token`: then the file is not meant to.

Cost: 0.2 s for 49,152 entries, most of it for reading the file a second time.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from babygpt.errors import TokenizerError
from babygpt.tokenizer_names import FROM_FILE
from babygpt.untrusted import read_json

__all__ = ["check_against_file"]

_ENTRIES, _ADDED = 2000, 500  # of the vocabulary, and of its added tokens, at most
_SHOWN = 4  # tokens of a difference
_TEXTS = (
    "Hello, world! How are you?",
    " one space before",
    "  two  spaces   three    and at the end ",
    "line\nend\n\ntwo\n\n\nthree\r\nfour\r\n\r\n",
    "\n a line end first\t\ttabs\n\tand\n    four spaces\n",
    ".\n\n!\n\n)\n\n  \n  x",
    "0 1 12 123 1234 12345 1234567890 3.14 1,000,000 x86 v2",
    "I'm you're he'll they'd it's I'M IT'S don't DON'T",
    "camelCase snake_case __init__ (a[b]{c}) <d/> x==y != z->w // #",
    "é ü ß ﬁ ½ Å \u017f İ \u0131 e\u0301 a\u0308",
    "日本語の文 漢字 中文。한국어 ไทย العربية עברית हिन्दी",
    "🤖 👩‍👩‍👧 🇩🇪 ✓ — “quotes” … \u00a0 \u2003 \u200b \ufeff x",
    "UPPER lower Title",
)


def check_against_file(tokenizer: PreTrainedTokenizerBase, folder: Path, name: str) -> None:
    """Compares a tokenizer with the `tokenizer.json` beside it; without one there is nothing to compare.

    Args:
        tokenizer: as `AutoTokenizer` has loaded it.
        folder: where from.
        name: what the user calls it.

    Raises:
        TokenizerError: the ids of some text differ; the first difference is shown.
    """
    file = folder / "tokenizer.json"
    if not file.is_file():
        return
    own = Tokenizer.from_file(str(file))
    own.no_truncation()
    own.no_padding()
    config_file = folder / "tokenizer_config.json"
    config = read_json(config_file) if config_file.is_file() else {}
    decided = any(config.get(key) is not None for key in ("add_bos_token", "add_eos_token"))
    texts = _probe(own)
    for special in (False, True)[: 1 if decided else 2]:
        theirs: Any = tokenizer(texts, add_special_tokens=special, verbose=False)["input_ids"]
        for text, encoding, ids in zip(
            texts, own.encode_batch(texts, add_special_tokens=special), theirs, strict=True
        ):
            if encoding.ids != ids:
                raise _mismatch(text, encoding.tokens, encoding.ids, ids, tokenizer, name)


def _probe(own: Tokenizer) -> list[str]:
    added = [token.content for token in own.get_added_tokens_decoder().values()][:_ADDED]
    vocabulary = sorted(own.get_vocab(with_added_tokens=False).values())
    entries = vocabulary[:: max(1, len(vocabulary) // _ENTRIES)]
    decoded = (own.decode([entry], skip_special_tokens=False) for entry in entries)
    return [
        *_TEXTS,
        *(f"one{token}two {token} three{token}\n{token}" for token in added),
        *(text for text in decoded if text and "\ufffd" not in text),
    ]


def _mismatch(
    text: str,
    tokens: list[str],
    wanted: list[int],
    found: list[int],
    tokenizer: PreTrainedTokenizerBase,
    name: str,
) -> TokenizerError:
    at = next((i for i, (a, b) in enumerate(zip(wanted, found, strict=False)) if a != b), None)
    at = min(len(wanted), len(found)) if at is None else at
    others = tokenizer.convert_ids_to_tokens(found[at : at + _SHOWN])
    return TokenizerError(
        f"transformers' {type(tokenizer).__name__} does not give the ids of its own tokenizer.json: of {text!r},"
        f" token {at} and on are {' '.join(tokens[at : at + _SHOWN]) or 'nothing'} by the file and"
        f" {' '.join(others) or 'nothing'} as loaded, so that a model trained with one would be given the other",
        where=name,
        hint=f"Give data.tokenizer {FROM_FILE}{name} to take the file as it is",
    )
