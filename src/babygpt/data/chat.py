"""Conversations to text with marked targets, through the tokenizer's own chat template.

A template with generation marks says itself what the assistant produces. Otherwise a turn begins where the
conversation before it, rendered with the generation prompt, ends: exactly what the model is given at
inference. It ends with the end-of-turn token; the line end many templates put behind that is not the model's
to produce.

A template is a program in a sandbox, which keeps it from files, the network and Python's objects. It is given
20 seconds and 2 GB a conversation, the first where the system has timers, the second where it has limits.
"""

from __future__ import annotations

import re
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from babygpt.data.sources import Document, Span
from babygpt.errors import DataError
from babygpt.untrusted import shown

__all__ = ["Rendered", "render"]

_SECONDS, _BYTES = 20.0, 2 << 30
_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")


@dataclass(frozen=True)
class Rendered:
    """A document's text in spans, at least one; `num_bytes` counts the UTF-8 bytes of the target text."""

    spans: tuple[Span, ...]
    num_bytes: int
    is_chat: bool


def render(document: Document, tokenizer: PreTrainedTokenizerBase) -> Rendered:
    """A document as spans of text.

    Raises:
        DataError: the tokenizer has no chat template, or its template cannot tell the assistant's turns
            apart.
    """
    if document.text is not None:
        return Rendered((Span(document.text, True),), len(document.text.encode()), False)
    if document.spans is not None:
        targets = (len(span.text.encode()) for span in document.spans if span.is_target)
        return Rendered(document.spans, sum(targets), False)
    assert document.messages is not None
    if tokenizer.chat_template is None:
        raise DataError(
            "a conversation, but the tokenizer has no chat template",
            where=document.id,
            hint="Use the tokenizer of a chat model, or prompt and completion instead of messages",
        )
    try:
        with _bounded():
            if _GENERATION.search(tokenizer.get_chat_template()):
                text, turns = _marked_turns(document.messages, tokenizer)
            else:
                text, turns = _located_turns(document, tokenizer)
    except DataError:
        raise
    except Exception as error:  # templates raise whatever they like: the messages do not suit them
        reason = shown(str(error) or type(error).__name__, 300)
        raise DataError(
            f"the tokenizer's chat template refuses the conversation ({reason})", where=document.id
        ) from error
    contents = (m.get("content") for m in document.messages if m["role"] == "assistant")
    num_bytes = sum(len(content.encode()) for content in contents if isinstance(content, str))
    return Rendered(_cut(text, turns), num_bytes, True)


@contextmanager
def _bounded() -> Iterator[None]:
    """Ends what takes too long or too much memory; a thread other than the main one has no timer."""
    timed = hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread()
    with _limited_memory():
        if not timed:
            yield
            return

        def late(signum: int, frame: object) -> None:
            raise TimeoutError(f"it takes more than {_SECONDS:g} seconds")

        before = signal.signal(signal.SIGALRM, late)
        signal.setitimer(signal.ITIMER_REAL, _SECONDS)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)


@contextmanager
def _limited_memory() -> Iterator[None]:
    if sys.platform != "linux":
        yield
        return
    import resource

    with open("/proc/self/statm", "rb") as file:
        size = int(file.read().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    least = min(limit for limit in (size + _BYTES, soft, hard) if limit != resource.RLIM_INFINITY)
    resource.setrlimit(resource.RLIMIT_AS, (least, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _cut(text: str, turns: Sequence[tuple[int, int]]) -> tuple[Span, ...]:
    """The text in alternating spans, without the white space a template leaves at the very end."""
    spans, at = [], 0
    for start, end in turns:
        spans += [Span(text[at:start], False), Span(text[start:end], True)]
        at = end
    spans.append(Span(text[at:].rstrip(), False))
    return tuple(span for span in spans if span.text) or (Span("", False),)


def _apply(
    messages: Sequence[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, *, prompt: bool = False
) -> str:
    rendered = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=prompt)
    assert isinstance(rendered, str)
    return rendered


def _marked_turns(
    messages: Sequence[dict[str, Any]], tokenizer: PreTrainedTokenizerBase
) -> tuple[str, list[tuple[int, int]]]:
    """The rendering and the character ranges its generation marks name, each through its end of turn."""
    special: dict[str, Any] = dict(tokenizer.special_tokens_map)
    answer: Any = render_jinja_template(
        conversations=[list(messages)],
        chat_template=tokenizer.get_chat_template(),
        return_assistant_tokens_mask=True,
        **special,
    )
    text: str = answer[0][0]
    specials = _special_tokens(tokenizer)
    turns: list[tuple[int, int]] = []
    for start, end in answer[1][0]:
        words = text[start:end].rstrip()
        ended = words.endswith(tuple(specials))
        # Some templates close the mark before the end of the turn: the model would never learn to stop.
        turns.append((start, start + len(words) if ended else _end_of_turn(text, end, specials)))
    return text, turns


def _located_turns(
    document: Document, tokenizer: PreTrainedTokenizerBase
) -> tuple[str, list[tuple[int, int]]]:
    """The rendering and the assistant's turns in it, found by rendering what comes before each."""
    messages = document.messages or ()
    text = _apply(messages, tokenizer)
    specials = _special_tokens(tokenizer)
    turns: list[tuple[int, int]] = []
    for number, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = _apply(messages[:number], tokenizer, prompt=True) if number else ""
        if not text.startswith(before) or (turns and len(before) < turns[-1][1]):
            raise _rewrites(document, number)
        through = text if number + 1 == len(messages) else _apply(messages[: number + 1], tokenizer)
        if text.startswith(through) and len(through) > len(before):
            end = len(before) + len(through[len(before) :].rstrip())
        else:
            # The template writes the last turn differently from the others: look for the turn's own words.
            content = message.get("content")
            content = content.strip() if isinstance(content, str) else ""
            at = text.find(content, len(before)) if content else -1
            if at < 0:
                raise _rewrites(document, number)
            end = _end_of_turn(text, at + len(content), specials)
        turns.append((len(before), end))
    return text, turns


def _rewrites(document: Document, number: int) -> DataError:
    return DataError(
        f"the chat template rewrites earlier turns, so message {number} cannot be found in the rendering",
        where=document.id,
        hint="Cut the conversation before it, or use prompt and completion instead of messages",
    )


def _special_tokens(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    added = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    return added | set(tokenizer.all_special_tokens)


def _end_of_turn(text: str, at: int, specials: set[str]) -> int:
    """Where the special token at `at`, white space before it aside, ends; `at` itself when there is none."""
    behind = at + len(text[at:]) - len(text[at:].lstrip())
    ends = [behind + len(token) for token in specials if text.startswith(token, behind)]
    return max(ends, default=at)
