"""A golden table: hand-written conversations through tokenizers and templates of every common shape.

Each row says by hand what the rendered text is and what the tokens are, with the targets between ⟦ and ⟧; tokens are
separated by ¦, and a token's id is its place in a vocabulary that the tokenizer is built from here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from babygpt.data.chat import render
from babygpt.data.encoding import encode
from babygpt.data.sources import Document, Span, content_hash
from babygpt.data.tokenizers import CHATML as OUR_CHATML
from babygpt.errors import DataError

# -- tokenizers ----------------------------------------------------------------------------------------------


def merges_of(words: Sequence[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Entries and merges that build each word from its left, a character at a time."""
    entries: list[str] = []
    merges: list[tuple[str, str]] = []
    for word in words:
        for end in range(2, len(word) + 1):
            if word[:end] not in entries:
                entries.append(word[:end])
                merges.append((word[: end - 1], word[end - 1]))
    return entries, merges


def byte_level(special: Sequence[str]) -> Tokenizer:
    """As GPT-2's."""
    words = [
        "Hi",
        "Hello",
        "Why",
        "So",
        "user",
        "assistant",
        "system",
        "Be",
        "Ġkind",
        "tool",
        "Ġé".replace("é", "Ã©"),
    ]
    entries, merges = merges_of(words)
    vocabulary = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet()), *entries]
    backend = Tokenizer(models.BPE({entry: i for i, entry in enumerate(vocabulary)}, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(list(special))
    return backend


def llama_like(special: Sequence[str]) -> Tokenizer:
    """As Llama 2's and Mistral's: a mark for spaces, also at a text's start, bytes for the unknown, BOS before."""
    entries, merges = merges_of(["▁Hi", "▁Hello", "▁Why", "▁So", "Hello"])
    letters = sorted({c for entry in entries for c in entry} | set(".?"))
    vocabulary = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), *letters, *entries]
    model = models.BPE(
        {e: i for i, e in enumerate(vocabulary)}, merges, unk_token="<unk>", byte_fallback=True
    )
    backend = Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    backend.add_special_tokens(list(special))
    return backend


def unigram_like(special: Sequence[str]) -> Tokenizer:
    """As SentencePiece's unigram models: the likeliest pieces, a mark for spaces, BOS before and EOS behind."""
    pieces = [
        "▁Hi",
        "▁Hello",
        "▁Why",
        "Hi",
        "Hello",
        "Why",
        "So",
        "user",
        "model",
        ".",
        "?",
        "\n",
        "▁",
        "é",
        "漢",
        "▁é",
    ]
    vocabulary = [*((s, 0.0) for s in special), *((p, -1.0 - len(p) / 100) for p in pieces)]
    backend = Tokenizer(models.Unigram(vocabulary, 0, False))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    backend.decoder = decoders.Metaspace(prepend_scheme="first")
    backend.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", 1), ("<eos>", 2)]
    )
    backend.add_special_tokens(list(special))
    return backend


WORDS = [
    *(
        "Hi",
        "Hello",
        "Why",
        "So",
        "user",
        "assistant",
        "system",
        "tool",
        "tools",
        "model",
        "Be",
        "kind",
        "Two",
        "Sum",
    ),
    *("sum", "name", "arguments", "a", "1", "2", "é", "漢", "think", "Call", "call"),
]


def word_level(special: Sequence[str]) -> Tokenizer:
    """Words, white space and every other sign are tokens."""
    signs = [*'.?:,{}[]"<>/_\\🤖', " ", "\n"]
    entries = [*special, *WORDS, *signs]
    backend = Tokenizer(models.WordLevel({entry: i for i, entry in enumerate(entries)}, unk_token=special[0]))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"\s|[^\W_]+|[\W_]"), "isolated")
    backend.decoder = decoders.Fuse()
    backend.add_special_tokens(list(special))
    return backend


Build = Callable[[Sequence[str]], Tokenizer]


@cache
def tokenizer_of(
    build: Build, special: tuple[str, ...], template: str, roles: str
) -> PreTrainedTokenizerFast:
    """`roles` names special tokens: `eos=</s> bos=<s>`."""
    named = {f"{role}_token": token for role, token in (pair.split("=") for pair in roles.split())}
    made = PreTrainedTokenizerFast(tokenizer_object=build(special), **named)
    made.chat_template = template
    return made


# -- templates -----------------------------------------------------------------------------------------------

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
MARKED = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}{{ '<|im_start|>assistant\n' }}"
    "{% generation %}{{ m['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}"
    "{% else %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endif %}{% endfor %}"
)
DEFAULT_SYSTEM = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}{% endif %}"
    + CHATML
)
HEADERS = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' }}"
    "{{ m['content'] | trim }}{{ '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
INST = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% elif m['role'] == 'assistant' %}{{ ' ' + m['content'] + eos_token }}"
    "{% else %}{{ raise_exception('no such role') }}{% endif %}{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% for m in messages %}{% set role = 'model' if m['role'] == 'assistant' else m['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + (m['content'] | trim) + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
ZEPHYR = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + eos_token + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
# Only the last turn gets an empty thought, and content is what stands behind one.
THINKING = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if m['role'] == 'assistant' and loop.last %}{{ '<think></think>' }}{% endif %}"
    "{{ (m['content'] or '').split('</think>')[-1] }}"
    "{% for call in m['tool_calls'] or [] %}{{ 'Call:' + call['function']['name'] }}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# As DeepSeek's, which joins the arguments' text to what is around it.
TEXT_ARGUMENTS = (
    "{% for m in messages %}{% if m['role'] == 'tool' %}{{ '<|tool|>' + m['content'] }}"
    "{% elif m['role'] == 'user' %}{{ '<|user|>' + m['content'] }}"
    "{% else %}{{ '<|assistant|>' + (m['content'] or '') }}{% for call in m['tool_calls'] or [] %}"
    "{{ call['function']['name'] + ':' + call['function']['arguments'] }}{% endfor %}{{ eos_token }}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
# As Vicuna's: no token ends a turn, so that end-of-text has to.
BARE = (
    "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)

# -- conversations -------------------------------------------------------------------------------------------


def said(*turns: str) -> tuple[dict[str, Any], ...]:
    """`u: Hi` and so on to messages."""
    roles = {"u": "user", "a": "assistant", "s": "system", "t": "tool"}
    return tuple({"role": roles[turn[0]], "content": turn[3:]} for turn in turns)


TALK = said("u: Hi", "a: Hello.", "u: Why?", "a: So.")
SYSTEM = said("s: Be kind.", "u: Hi", "a: Hello.")
EMPTY = said("u: Hi", "a: ", "u: Why?", "a: ")
UNICODE = said("u: é漢?", "a: é 🤖.")
SPACED = said("u:  Hi ", "a: Hello.\n\n", "u: Why?", "a:   So. ")
ENDS_WITH_USER = said("u: Hi", "a: Hello.", "u: Why?")
BEGINS_WITH_ASSISTANT = said("a: Hello.", "u: Why?", "a: So.")
THOUGHT = said("u: Hi", "a: <think>So.</think>So.", "u: Why?", "a: So.")


def called(arguments: Any) -> tuple[dict[str, Any], ...]:
    call = {"type": "function", "function": {"name": "sum", "arguments": arguments}}
    return (
        {"role": "user", "content": "Sum?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "2"},
        {"role": "assistant", "content": "Two."},
    )


SUM = [{"name": "sum"}]

# -- the table -----------------------------------------------------------------------------------------------

GPT2 = (byte_level, ("<|endoftext|>", "<|im_start|>", "<|im_end|>"))
LLAMA = (llama_like, ("<unk>", "<s>", "</s>", "[INST]", "[/INST]"))
UNIGRAM = (unigram_like, ("<unk>", "<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>", "<pad>"))
WORD_CHATML = (word_level, ("<|endoftext|>", "<|im_start|>", "<|im_end|>"))
WORD_HEADERS = (word_level, ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"))
WORD_ROLES = (word_level, ("<s>", "</s>", "<|user|>", "<|assistant|>", "<|tool|>"))


@dataclass(frozen=True)
class Row:
    """What goes in, and by hand what comes out."""

    name: str
    kind: tuple[Build, tuple[str, ...]]
    roles: str
    template: str
    messages: tuple[dict[str, Any], ...]
    text: str
    tokens: str
    tools: Any = None
    end: str = ""  # a target behind the rendering


TABLE = [
    Row(
        "GPT-2, ChatML, eos of its own, no pad", GPT2, "eos=<|endoftext|>", CHATML, TALK,
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n⟦Hello.<|im_end|>⟧\n"
        "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n⟦So.<|im_end|>⟧",
        "<|im_start|>¦user¦Ċ¦Hi¦<|im_end|>¦Ċ¦<|im_start|>¦assistant¦Ċ⟦¦Hello¦.¦<|im_end|>⟧¦Ċ¦"
        "<|im_start|>¦user¦Ċ¦Why¦?¦<|im_end|>¦Ċ¦<|im_start|>¦assistant¦Ċ⟦¦So¦.¦<|im_end|>⟧¦<|endoftext|>",
    ),
    Row(
        "GPT-2, ChatML, unicode", GPT2, "eos=<|endoftext|>", CHATML, UNICODE,
        "<|im_start|>user\né漢?<|im_end|>\n<|im_start|>assistant\n⟦é 🤖.<|im_end|>⟧",
        "<|im_start|>¦user¦Ċ¦Ã¦©¦æ¦¼¦¢¦?¦<|im_end|>¦Ċ¦<|im_start|>¦assistant¦Ċ⟦¦Ã¦©¦Ġ¦ð¦Ł¦¤¦ĸ¦.¦<|im_end|>⟧¦<|endoftext|>",
    ),
    Row(
        "GPT-2, ChatML, pad = eos = end of turn", GPT2, "eos=<|im_end|> pad=<|im_end|>", CHATML, SYSTEM,
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\n⟦Hello.<|im_end|>⟧",
        "<|im_start|>¦system¦Ċ¦Be¦Ġkind¦.¦<|im_end|>¦Ċ¦<|im_start|>¦user¦Ċ¦Hi¦<|im_end|>¦Ċ¦"
        "<|im_start|>¦assistant¦Ċ⟦¦Hello¦.¦<|im_end|>⟧",
    ),
    Row(
        "GPT-2, ChatML, pad = eos, empty turns", GPT2, "eos=<|im_end|> pad=<|im_end|>", CHATML, EMPTY,
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n⟦<|im_end|>⟧\n"
        "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n⟦<|im_end|>⟧",
        "<|im_start|>¦user¦Ċ¦Hi¦<|im_end|>¦Ċ¦<|im_start|>¦assistant¦Ċ⟦¦<|im_end|>⟧¦Ċ¦"
        "<|im_start|>¦user¦Ċ¦Why¦?¦<|im_end|>¦Ċ¦<|im_start|>¦assistant¦Ċ⟦¦<|im_end|>⟧",
    ),
    Row(
        "GPT-2, ChatML, the user's turn is last", GPT2, "eos=<|im_end|>", CHATML, ENDS_WITH_USER,
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n⟦Hello.<|im_end|>⟧\n<|im_start|>user\nWhy?<|im_end|>",
        "<|im_start|>¦user¦Ċ¦Hi¦<|im_end|>¦Ċ¦<|im_start|>¦assistant¦Ċ⟦¦Hello¦.¦<|im_end|>⟧¦Ċ¦"
        "<|im_start|>¦user¦Ċ¦Why¦?¦<|im_end|>",
    ),
    Row(
        "ChatML with generation marks", WORD_CHATML, "eos=<|endoftext|> pad=<|endoftext|>", MARKED, TALK,
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n⟦Hello.<|im_end|>⟧\n"
        "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n⟦So.<|im_end|>⟧",
        "<|im_start|>¦user¦\n¦Hi¦<|im_end|>¦\n¦<|im_start|>¦assistant¦\n⟦¦Hello¦.¦<|im_end|>⟧¦\n¦"
        "<|im_start|>¦user¦\n¦Why¦?¦<|im_end|>¦\n¦<|im_start|>¦assistant¦\n⟦¦So¦.¦<|im_end|>⟧¦<|endoftext|>",
    ),
    Row(
        "ChatML with generation marks, empty turns", WORD_CHATML, "eos=<|im_end|>", MARKED, EMPTY,
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n⟦<|im_end|>⟧\n"
        "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n⟦<|im_end|>⟧",
        "<|im_start|>¦user¦\n¦Hi¦<|im_end|>¦\n¦<|im_start|>¦assistant¦\n⟦¦<|im_end|>⟧¦\n¦"
        "<|im_start|>¦user¦\n¦Why¦?¦<|im_end|>¦\n¦<|im_start|>¦assistant¦\n⟦¦<|im_end|>⟧",
    ),
    Row(
        "a template that adds a system turn", WORD_CHATML, "eos=<|im_end|>", DEFAULT_SYSTEM, said("u: Hi", "a: Hello."),
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\n⟦Hello.<|im_end|>⟧",
        "<|im_start|>¦system¦\n¦Be¦ ¦kind¦.¦<|im_end|>¦\n¦<|im_start|>¦user¦\n¦Hi¦<|im_end|>¦\n¦"
        "<|im_start|>¦assistant¦\n⟦¦Hello¦.¦<|im_end|>⟧",
    ),
    Row(
        "a template that adds a system turn, the assistant begins", WORD_CHATML, "eos=<|im_end|>", DEFAULT_SYSTEM,
        BEGINS_WITH_ASSISTANT,
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>assistant\n⟦Hello.<|im_end|>⟧\n"
        "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n⟦So.<|im_end|>⟧",
        "<|im_start|>¦system¦\n¦Be¦ ¦kind¦.¦<|im_end|>¦\n¦<|im_start|>¦assistant¦\n⟦¦Hello¦.¦<|im_end|>⟧¦\n¦"
        "<|im_start|>¦user¦\n¦Why¦?¦<|im_end|>¦\n¦<|im_start|>¦assistant¦\n⟦¦So¦.¦<|im_end|>⟧",
    ),
    Row(
        "Llama 3's headers", WORD_HEADERS, "eos=<|eot_id|> bos=<|begin_of_text|>", HEADERS, SYSTEM,
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe kind.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n⟦Hello.<|eot_id|>⟧",
        "<|begin_of_text|>¦<|start_header_id|>¦system¦<|end_header_id|>¦\n¦\n¦Be¦ ¦kind¦.¦<|eot_id|>¦"
        "<|start_header_id|>¦user¦<|end_header_id|>¦\n¦\n¦Hi¦<|eot_id|>¦"
        "<|start_header_id|>¦assistant¦<|end_header_id|>¦\n¦\n⟦¦Hello¦.¦<|eot_id|>⟧",
    ),
    Row(
        "Llama 3's headers, a template that strips content", WORD_HEADERS, "eos=<|eot_id|> bos=<|begin_of_text|>",
        HEADERS, SPACED,
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n⟦Hello.<|eot_id|>⟧"
        "<|start_header_id|>user<|end_header_id|>\n\nWhy?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n⟦So.<|eot_id|>⟧",
        "<|begin_of_text|>¦<|start_header_id|>¦user¦<|end_header_id|>¦\n¦\n¦Hi¦<|eot_id|>¦"
        "<|start_header_id|>¦assistant¦<|end_header_id|>¦\n¦\n⟦¦Hello¦.¦<|eot_id|>⟧¦"
        "<|start_header_id|>¦user¦<|end_header_id|>¦\n¦\n¦Why¦?¦<|eot_id|>¦"
        "<|start_header_id|>¦assistant¦<|end_header_id|>¦\n¦\n⟦¦So¦.¦<|eot_id|>⟧",
    ),
    Row(
        "Llama-like with BOS, Mistral's [INST]", LLAMA, "eos=</s> bos=<s> unk=<unk>", INST, TALK,
        "<s>[INST] Hi [/INST]⟦ Hello.</s>⟧[INST] Why? [/INST]⟦ So.</s>⟧",
        "<s>¦[INST]¦▁Hi¦▁¦[/INST]⟦¦▁Hello¦.¦</s>⟧¦[INST]¦▁Why¦?¦▁¦[/INST]⟦¦▁So¦.¦</s>⟧",
    ),
    Row(
        "Llama-like with BOS, unicode by bytes", LLAMA, "eos=</s> bos=<s> unk=<unk>", INST, said("u: é", "a: 🤖."),
        "<s>[INST] é [/INST]⟦ 🤖.</s>⟧",
        "<s>¦[INST]¦▁¦<0xC3>¦<0xA9>¦▁¦[/INST]⟦¦▁¦<0xF0>¦<0x9F>¦<0xA4>¦<0x96>¦.¦</s>⟧",
    ),
    Row(
        "SentencePiece-like Unigram, Gemma's role model", UNIGRAM,
        "eos=<eos> bos=<bos> pad=<pad> unk=<unk>", GEMMA, TALK,
        "<bos><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n⟦Hello.<end_of_turn>⟧\n"
        "<start_of_turn>user\nWhy?<end_of_turn>\n<start_of_turn>model\n⟦So.<end_of_turn>⟧",
        "<bos>¦<start_of_turn>¦user¦\n¦Hi¦<end_of_turn>¦\n¦<start_of_turn>¦model¦\n⟦¦Hello¦.¦<end_of_turn>⟧¦\n¦"
        "<start_of_turn>¦user¦\n¦Why¦?¦<end_of_turn>¦\n¦<start_of_turn>¦model¦\n⟦¦So¦.¦<end_of_turn>⟧¦<eos>",
    ),
    Row(
        "SentencePiece-like Unigram, Gemma, unicode", UNIGRAM,
        "eos=<eos> bos=<bos> pad=<pad> unk=<unk>", GEMMA, said("u: é漢", "a: Hello é."),
        "<bos><start_of_turn>user\né漢<end_of_turn>\n<start_of_turn>model\n⟦Hello é.<end_of_turn>⟧",
        "<bos>¦<start_of_turn>¦user¦\n¦é¦漢¦<end_of_turn>¦\n¦<start_of_turn>¦model¦\n⟦¦Hello¦▁é¦.¦<end_of_turn>⟧¦<eos>",
    ),
    Row(
        "Zephyr's roles, no pad", WORD_ROLES, "eos=</s> bos=<s>", ZEPHYR, TALK,
        "<|user|>\nHi</s>\n<|assistant|>\n⟦Hello.</s>⟧\n<|user|>\nWhy?</s>\n<|assistant|>\n⟦So.</s>⟧",
        "<|user|>¦\n¦Hi¦</s>¦\n¦<|assistant|>¦\n⟦¦Hello¦.¦</s>⟧¦\n¦<|user|>¦\n¦Why¦?¦</s>¦\n¦<|assistant|>¦\n⟦¦So¦.¦</s>⟧",
    ),
    Row(
        "a last turn written differently", WORD_CHATML, "eos=<|im_end|>", THINKING, TALK,
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n⟦Hello.<|im_end|>⟧\n"
        "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n⟦<think></think>So.<|im_end|>⟧",
        "<|im_start|>¦user¦\n¦Hi¦<|im_end|>¦\n¦<|im_start|>¦assistant¦\n⟦¦Hello¦.¦<|im_end|>⟧¦\n¦<|im_start|>¦user¦\n¦"
        "Why¦?¦<|im_end|>¦\n¦<|im_start|>¦assistant¦\n⟦¦<¦think¦>¦<¦/¦think¦>¦So¦.¦<|im_end|>⟧",
    ),
    Row(
        "a last turn written differently, thoughts are left out", WORD_CHATML, "eos=<|im_end|>", THINKING, THOUGHT,
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n⟦So.<|im_end|>⟧\n"
        "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n⟦<think></think>So.<|im_end|>⟧",
        "<|im_start|>¦user¦\n¦Hi¦<|im_end|>¦\n¦<|im_start|>¦assistant¦\n⟦¦So¦.¦<|im_end|>⟧¦\n¦<|im_start|>¦user¦\n¦"
        "Why¦?¦<|im_end|>¦\n¦<|im_start|>¦assistant¦\n⟦¦<¦think¦>¦<¦/¦think¦>¦So¦.¦<|im_end|>⟧",
    ),
    Row(
        "a last turn written differently, with a call", WORD_CHATML, "eos=<|im_end|>", THINKING, called({"a": 1}),
        "<|im_start|>user\nSum?<|im_end|>\n<|im_start|>assistant\n⟦Call:sum<|im_end|>⟧\n<|im_start|>tool\n2<|im_end|>\n"
        "<|im_start|>assistant\n⟦<think></think>Two.<|im_end|>⟧",
        "<|im_start|>¦user¦\n¦Sum¦?¦<|im_end|>¦\n¦<|im_start|>¦assistant¦\n⟦¦Call¦:¦sum¦<|im_end|>⟧¦\n¦<|im_start|>¦tool¦\n¦"
        "2¦<|im_end|>¦\n¦<|im_start|>¦assistant¦\n⟦¦<¦think¦>¦<¦/¦think¦>¦Two¦.¦<|im_end|>⟧",
    ),
    *(
        Row(
            f"our ChatML with tools, arguments as {kind}", WORD_CHATML, "eos=<|im_end|>", OUR_CHATML, called(arguments),
            '<|im_start|>tools\n{"name": "sum"}<|im_end|>\n<|im_start|>user\nSum?<|im_end|>\n'
            '<|im_start|>assistant\n⟦<tool_call>{"name": "sum", "arguments": {"a": 1}}</tool_call><|im_end|>⟧\n'
            "<|im_start|>tool\n2<|im_end|>\n<|im_start|>assistant\n⟦Two.<|im_end|>⟧",
            '<|im_start|>¦tools¦\n¦{¦"¦name¦"¦:¦ ¦"¦sum¦"¦}¦<|im_end|>¦\n¦<|im_start|>¦user¦\n¦Sum¦?¦<|im_end|>¦\n¦'
            '<|im_start|>¦assistant¦\n⟦¦<¦tool¦_¦call¦>¦{¦"¦name¦"¦:¦ ¦"¦sum¦"¦,¦ ¦"¦arguments¦"¦:¦ ¦{¦"¦a¦"¦:¦ ¦1¦}¦}¦'
            "<¦/¦tool¦_¦call¦>¦<|im_end|>⟧¦\n¦"
            "<|im_start|>¦tool¦\n¦2¦<|im_end|>¦\n¦<|im_start|>¦assistant¦\n⟦¦Two¦.¦<|im_end|>⟧",
            tools,
        )
        for kind, arguments, tools in [("an object", {"a": 1}, SUM), ("text", '{"a": 1}', '[{"name": "sum"}]')]
    ),
    Row(
        "a template that wants arguments as text", WORD_ROLES, "eos=</s> bos=<s>", TEXT_ARGUMENTS, called('{"a": 1}'),
        '<|user|>Sum?<|assistant|>⟦sum:{"a": 1}</s>⟧<|tool|>2<|assistant|>⟦Two.</s>⟧',
        '<|user|>¦Sum¦?¦<|assistant|>⟦¦sum¦:¦{¦"¦a¦"¦:¦ ¦1¦}¦</s>⟧¦<|tool|>¦2¦<|assistant|>⟦¦Two¦.¦</s>⟧',
    ),
    Row(
        "no token ends a turn", WORD_ROLES, "eos=</s> bos=<s>", BARE, TALK,
        "user: Hi\nassistant: ⟦Hello.⟧\nuser: Why?\nassistant: ⟦So.⟧",
        "user¦:¦ ¦Hi¦\n¦assistant¦:¦ ⟦¦Hello¦.⟧¦\n¦user¦:¦ ¦Why¦?¦\n¦assistant¦:¦ ⟦¦So¦.¦</s>⟧",
        end="</s>",
    ),
]  # fmt: skip


def marked(parts: Sequence[str]) -> tuple[list[str], list[bool]]:
    """Parts and whether each is a target, without the marks; a mark stands behind the part before it or alone."""
    out, flags, inside = [], [], False
    for part in parts:
        opens, closes = part.startswith("⟦"), part.endswith("⟧")
        inside = inside or opens
        out.append(part.strip("⟦⟧"))
        flags.append(inside)
        inside = inside and not closes
    return out, flags


def tokens_by_hand(row: Row) -> tuple[list[str], list[bool]]:
    return marked(row.tokens.replace("⟦¦", "¦⟦").split("¦"))


def spans_by_hand(row: Row) -> list[Span]:
    parts = row.text.replace("⟦", "\0⟦").replace("⟧", "⟧\0").split("\0")
    return [Span(text, flag) for text, flag in zip(*marked(parts), strict=True) if text]


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_text_ids_and_targets_are_those_written_by_hand(row: Row) -> None:
    used = tokenizer_of(*row.kind, row.template, row.roles)
    document = Document("talk.jsonl:7", messages=row.messages, tools=row.tools)
    rendered = render(document, used)
    assert [span for span in rendered.spans if span.text] == spans_by_hand(row)

    (encoded,) = encode([document], used)
    tokens, targets = tokens_by_hand(row)
    assert used.convert_ids_to_tokens(encoded.ids.tolist()) == tokens
    vocabulary = used.get_vocab()
    assert encoded.ids.tolist() == [vocabulary[token] for token in tokens]
    assert encoded.is_target is not None
    assert encoded.is_target.tolist() == targets
    if used.bos_token is not None:
        assert encoded.ids.tolist().count(used.bos_token_id) <= 1


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_targets_decode_to_the_assistants_words_and_the_end(row: Row) -> None:
    used = tokenizer_of(*row.kind, row.template, row.roles)
    (encoded,) = encode([Document("x", messages=row.messages, tools=row.tools)], used)
    found = used.decode(encoded.ids[encoded.is_target], clean_up_tokenization_spaces=False)
    words = "".join(span.text for span in spans_by_hand(row) if span.is_target)
    assert found == words + row.end


@pytest.mark.parametrize(
    ("kind", "roles", "parts", "tokens"),
    [
        (GPT2, "eos=<|endoftext|>", ["Hi", "Hello."], "Hi⟦¦Hello¦.¦<|endoftext|>⟧"),
        (GPT2, "eos=<|endoftext|>", ["Be kind", ""], "Be¦Ġkind⟦¦<|endoftext|>⟧"),
        (LLAMA, "eos=</s> bos=<s> unk=<unk>", ["Hi", " Hello."], "<s>¦▁Hi⟦¦▁Hello¦.¦</s>⟧"),
        # A completion without a space before it must not get one.
        (LLAMA, "eos=</s> bos=<s> unk=<unk>", ["Hi", "Hello."], "<s>¦▁Hi⟦¦Hello¦.¦</s>⟧"),
        (LLAMA, "eos=</s> bos=<s> unk=<unk>", ["<s>Hello", " So."], "<s>¦Hello⟦¦▁So¦.¦</s>⟧"),
        (LLAMA, "eos=</s> bos=<s> unk=<unk>", ["", "Hi."], "<s>⟦¦▁Hi¦.¦</s>⟧"),
        (UNIGRAM, "eos=<eos> bos=<bos> unk=<unk>", ["Why?", "Hello."], "<bos>¦▁Why¦?⟦¦Hello¦.¦<eos>⟧"),
        (UNIGRAM, "eos=<eos> bos=<bos> unk=<unk>", ["<bos>Why?", "Hi<eos>"], "<bos>¦Why¦?⟦¦Hi¦<eos>⟧"),
    ],
)
def test_prompts_and_completions(
    kind: tuple[Build, tuple[str, ...]], roles: str, parts: list[str], tokens: str
) -> None:
    used = tokenizer_of(*kind, "", roles)
    spans = Span(parts[0], False), Span(parts[1], True)
    (encoded,) = encode([Document("x", spans=spans)], used)
    wanted, targets = marked(tokens.replace("⟦¦", "¦⟦").split("¦"))
    assert used.convert_ids_to_tokens(encoded.ids.tolist()) == wanted
    assert encoded.is_target is not None
    assert encoded.is_target.tolist() == targets
    (everything,) = encode([Document("x", spans=spans)], used, train_on_prompts=True)
    assert everything.ids.tolist() == encoded.ids.tolist()
    assert everything.is_target is None
    assert everything.num_bytes == len("".join(parts).encode())


def test_the_tools_belong_to_what_a_document_says() -> None:
    used = tokenizer_of(*WORD_CHATML, OUR_CHATML, "eos=<|im_end|>")
    with pytest.raises(DataError, match=r"talk\.jsonl:7: field 'tools' holds no list of objects"):
        render(Document("talk.jsonl:7", messages=TALK, tools=["sum"]), used)
    with pytest.raises(DataError, match=r"talk\.jsonl:7: field 'tools' is not JSON"):
        render(Document("talk.jsonl:7", messages=TALK, tools="sum"), used)
    plain, with_tools = Document("x", messages=TALK), Document("x", messages=TALK, tools=SUM)
    assert content_hash(plain) != content_hash(with_tools)


def test_bytes_are_those_of_the_targets_without_special_tokens() -> None:
    used = tokenizer_of(*WORD_CHATML, OUR_CHATML, "eos=<|im_end|>")
    talk = Document("x", messages=called({"a": 1}))
    assert render(talk, used).num_bytes == len(
        '<tool_call>{"name": "sum", "arguments": {"a": 1}}</tool_call>' + "Two."
    )
    everything = render(talk, used, train_on_prompts=True)
    assert everything.spans == render(talk, used).spans
    assert everything.num_bytes == render(talk, used).num_bytes + len(
        "user\nSum?\nassistant\n\ntool\n2\nassistant\n"
    )
