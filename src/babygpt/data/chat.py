"""Conversations to text with marked targets, through the tokenizer's own chat template.

A template with generation marks says itself what the assistant produces. Otherwise a turn begins where the
conversation before it, rendered with the generation prompt, ends: exactly what the model is given at
inference. It ends with the end-of-turn token; the line end many templates put behind that is not the model's
to produce. Where a template writes a turn differently once others follow, its end is where the rendering becomes
the same again as with other words in its place. A call of tools is what the assistant produces like its words; what
the tools answer is not.

Cost: for a template with marks one rendering a conversation, else two for each turn of the assistant.

A template is a program in a sandbox, which keeps it from files, the network and Python's objects. It is given
20 seconds a conversation, where the system has timers, and memory as `bounds` says.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from babygpt.data.bounds import bounded
from babygpt.data.sources import Document, Span
from babygpt.data.templates import Messages, Template, as_wanted
from babygpt.errors import DataError
from babygpt.untrusted import shown

__all__ = ["Rendered", "Specials", "render", "render_all"]

_SECONDS = 20.0
_OTHER_WORDS = "\ue000\ue001"  # private characters, which no content and no template begins or ends with


@dataclass(frozen=True)
class Rendered:
    """A document's text in spans, at least one.

    Attributes:
        spans: the text in order.
        num_bytes: UTF-8 bytes of the target text; special tokens of a conversation count none.
        is_chat: whether a template wrote it, with its own special tokens.
    """

    spans: tuple[Span, ...]
    num_bytes: int
    is_chat: bool


class Specials:
    """A tokenizer's special tokens, looked up once for many documents.

    Attributes:
        ids: theirs.
        named: those that templates may name, as `eos_token`.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        added = {n: token.content for n, token in tokenizer.added_tokens_decoder.items() if token.special}
        texts = {*added.values(), *tokenizer.all_special_tokens}
        self.named: dict[str, Any] = dict(tokenizer.special_tokens_map)
        self.ids = frozenset({*added, *tokenizer.all_special_ids})
        self._any = re.compile("|".join(map(re.escape, sorted(texts, key=len, reverse=True))) or "(?!)")

    def num_bytes(self, text: str) -> int:
        """UTF-8 bytes of what is no special token."""
        return len(self._any.sub("", text).encode())

    def end_of_turn(self, text: str, at: int) -> int:
        """Where the special token at `at`, white space before it aside, ends; `at` itself when there is none."""
        behind = at + len(text[at:]) - len(text[at:].lstrip())
        found = self._any.match(text, behind)
        return found.end() if found else at

    def is_last_of(self, text: str) -> bool:
        """Whether a text ends in a special token."""
        return any(found.end() == len(text) for found in self._any.finditer(text))


def render(
    document: Document,
    tokenizer: PreTrainedTokenizerBase,
    specials: Specials | None = None,
    *,
    train_on_prompts: bool = False,
) -> Rendered:
    """A document as spans of text; arguments and errors as those of `render_all`."""
    specials = specials or Specials(tokenizer)
    return render_all([document], tokenizer, specials, train_on_prompts=train_on_prompts)[0]


def render_all(
    documents: Sequence[Document],
    tokenizer: PreTrainedTokenizerBase,
    specials: Specials,
    *,
    train_on_prompts: bool = False,
) -> list[Rendered]:
    """Documents as spans of text.

    Args:
        documents: text, spans or messages.
        tokenizer: with a chat template, where there are messages.
        specials: the tokenizer's.
        train_on_prompts: whether `num_bytes` counts all text; the spans stay as they are.

    Raises:
        DataError: the tokenizer has no chat template, its template refuses the conversation or cannot tell the
            assistant's turns apart, or the tools are malformed.
    """
    if not any(document.messages is not None for document in documents):
        return [_plain(document, train_on_prompts) for document in documents]
    with bounded() as alarm:
        return [
            _plain(document, train_on_prompts)
            if document.messages is None
            else _conversation(document, tokenizer, specials, train_on_prompts, alarm)
            for document in documents
        ]


def _plain(document: Document, train_on_prompts: bool) -> Rendered:
    if document.text is not None:
        return Rendered((Span(document.text, True),), len(document.text.encode()), False)
    spans = document.spans or ()
    counted = (len(span.text.encode()) for span in spans if span.is_target or train_on_prompts)
    return Rendered(spans, sum(counted), False)


def _conversation(
    document: Document,
    tokenizer: PreTrainedTokenizerBase,
    specials: Specials,
    train_on_prompts: bool,
    alarm: Callable[[float], None],
) -> Rendered:
    if tokenizer.chat_template is None:
        raise DataError(
            "a conversation, but the tokenizer has no chat template",
            where=document.id,
            hint="Use the tokenizer of a chat model, or prompt and completion instead of messages",
        )
    tools = _tools(document)
    template = Template(tokenizer.get_chat_template(tools=tools), tools, specials.named)
    given, learned = _without_weights(document.messages or ())
    try:
        alarm(_SECONDS)
        try:
            messages = as_wanted(given, template)
            if template.has_marks:
                text, turns = _marked_turns(messages, template, specials)
            else:
                text, turns = _located_turns(document, messages, template, specials)
            text.encode()  # half a surrogate pair may stand in what is no content
        finally:
            alarm(0)
    except DataError:
        raise
    except Exception as error:  # templates raise whatever they like: the messages do not suit them
        reason = shown(str(error) or type(error).__name__, 300)
        raise DataError(
            f"the tokenizer's chat template refuses the conversation ({reason})", where=document.id
        ) from error
    spans = _cut(text, _learned_of(turns, learned, document))
    counted = (specials.num_bytes(span.text) for span in spans if span.is_target or train_on_prompts)
    return Rendered(spans, sum(counted), True)


# -- messages ------------------------------------------------------------------------------------------------


def _without_weights(messages: Messages) -> tuple[Messages, list[bool]]:
    """The messages as templates want them, and whether each turn of the assistant is learned."""
    learned = [message.get("weight") != 0 for message in messages if message["role"] == "assistant"]
    if all(learned):
        return messages, learned
    return [{k: v for k, v in message.items() if k != "weight"} for message in messages], learned


def _learned_of(
    turns: list[tuple[int, int]], learned: list[bool], document: Document
) -> list[tuple[int, int]]:
    """The turns whose weight is not 0."""
    if all(learned):
        return turns
    if len(turns) != len(learned):
        raise DataError(
            f"some turns have the weight 0, and the chat template marks {len(turns)} for {len(learned)} turns of the"
            " assistant, so that there is no telling which",
            where=document.id,
            hint="Leave the weights out, or use a template with one mark for each turn",
        )
    return [turn for turn, is_learned in zip(turns, learned, strict=True) if is_learned]


def _tools(document: Document) -> list[Any] | None:
    """The tools a conversation may call, from a list of their schemas or the JSON of one."""
    tools = document.tools
    if isinstance(tools, str):
        try:
            tools = json.loads(tools)
        except ValueError as error:
            raise DataError(f"field 'tools' is not JSON ({error})", where=document.id) from None
    if tools is not None and not (isinstance(tools, list) and all(isinstance(tool, dict) for tool in tools)):
        raise DataError(
            "field 'tools' holds no list of objects",
            where=document.id,
            hint="Give the JSON schema of each function, as chat templates take them",
        )
    return tools or None


# -- turns ---------------------------------------------------------------------------------------------------


def _cut(text: str, turns: Sequence[tuple[int, int]]) -> tuple[Span, ...]:
    """The text in alternating spans, without the white space a template leaves at the very end."""
    spans, at = [], 0
    for start, end in turns:
        spans += [Span(text[at:start], False), Span(text[start:end], True)]
        at = end
    rest = text[at:].rstrip()
    # An empty last turn stays: its end is a target.
    return (*spans, Span(rest, False)) if rest or not spans else tuple(spans)


def _marked_turns(
    messages: Messages, template: Template, specials: Specials
) -> tuple[str, list[tuple[int, int]]]:
    """The rendering and the character ranges its generation marks name, each through its end of turn."""
    text, marked = template.render_marked(messages)
    turns: list[tuple[int, int]] = []
    for start, end in marked:
        words = text[start:end].rstrip()
        # Some templates close the mark before the end of the turn: the model would never learn to stop.
        ended = specials.is_last_of(words)
        turns.append((start, start + len(words) if ended else specials.end_of_turn(text, end)))
    return text, turns


def _located_turns(
    document: Document, messages: Messages, template: Template, specials: Specials
) -> tuple[str, list[tuple[int, int]]]:
    """The rendering and the assistant's turns in it, found by rendering what comes before each."""
    asked = [number for number, message in enumerate(messages) if message["role"] == "assistant"]
    inner = [number for number in asked if number + 1 < len(messages)]
    text, *rest = template.render_all([messages, *(messages[: number + 1] for number in inner)])
    throughs = dict(zip(inner, rest, strict=True))
    prompts = [messages[:number] for number in asked if number]
    befores = iter(template.render_all(prompts, prompt=True) if prompts else ())
    turns: list[tuple[int, int]] = []
    for number in asked:
        # Before the first message there is nothing a template could render.
        before = next(befores) if number else text[: _agreeing(text, _otherwise(messages, number, template))]
        if not text.startswith(before) or (turns and len(before) < turns[-1][1]):
            raise _rewrites(document, number)
        through = throughs.get(number, text)
        if text.startswith(through) and len(through) > len(before):
            end = len(before) + len(through[len(before) :].rstrip())
        else:
            other = _otherwise(messages, number, template)
            at = len(text) - _agreeing(text[::-1], other[::-1])
            if at < len(before):
                raise _rewrites(document, number)
            end = specials.end_of_turn(text, at)
        turns.append((len(before), end))
    return text, turns


def _otherwise(messages: Messages, number: int, template: Template) -> str:
    """The rendering with other words in the place of a turn's."""
    other = {k: v for k, v in messages[number].items() if k != "tool_calls"} | {"content": _OTHER_WORDS}
    return template.render([*messages[:number], other, *messages[number + 1 :]])


def _agreeing(a: str, b: str) -> int:
    """Characters at the beginning of both."""
    differing = (at for at, (x, y) in enumerate(zip(a, b, strict=False)) if x != y)
    return next(differing, min(len(a), len(b)))


def _rewrites(document: Document, number: int) -> DataError:
    return DataError(
        f"the chat template rewrites earlier turns, so message {number} cannot be found in the rendering",
        where=document.id,
        hint="Cut the conversation before it, or use prompt and completion instead of messages",
    )
