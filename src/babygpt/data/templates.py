"""A tokenizer's chat template, and conversations in the form that it takes.

What is data in a conversation, the arguments of calls and what tools return, is text to some templates, which write it
as it is, and objects to others, which write whatever they get as JSON or go through its entries. So a template is given
JSON as text, unless it quotes a text there once more or cannot do with one: then it gets what the JSON says. Both are
tried on the conversation itself.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from transformers.utils.chat_template_utils import render_jinja_template

from babygpt.untrusted import shown

__all__ = ["Messages", "Template", "as_wanted"]

Messages = Sequence[dict[str, Any]]

_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
_PROBE = '\ue000"\ue001'  # a text, to see whether it is quoted


@dataclass(frozen=True)
class Template:
    """A tokenizer's template, with the tools of one conversation and the special tokens that it may name."""

    source: str
    tools: list[Any] | None
    named: dict[str, Any]

    @property
    def has_marks(self) -> bool:
        """Whether it says itself what the assistant produces."""
        return _has_marks(self.source)

    def render(self, messages: Messages) -> str:
        """The text of a conversation."""
        return self.render_all([messages])[0]

    def render_all(self, conversations: Sequence[Messages], *, prompt: bool = False) -> list[str]:
        """Each conversation's text; at least one."""
        # What `apply_chat_template` calls, without looking the template and the special tokens up each time.
        rendered: Any = render_jinja_template(
            conversations=[list(messages) for messages in conversations],
            tools=self.tools,
            chat_template=self.source,
            add_generation_prompt=prompt,
            **self.named,
        )
        return list(rendered[0])

    def render_marked(self, messages: Messages) -> tuple[str, list[tuple[int, int]]]:
        """The text, and the character ranges that its generation marks name."""
        answer: Any = render_jinja_template(
            conversations=[list(messages)],
            tools=self.tools,
            chat_template=self.source,
            return_assistant_tokens_mask=True,
            **self.named,
        )
        return answer[0][0], answer[1][0]


@functools.lru_cache(maxsize=16)
def _has_marks(source: str) -> bool:
    return _GENERATION.search(source) is not None


def as_wanted(messages: Messages, template: Template) -> Messages:
    """The messages, without nulls, and with arguments of calls and what tools return as the template takes them.

    Raises:
        Exception: whatever the template raises.
    """
    # As `apply_chat_template` gives them: a value that is none may be rendered as the word.
    messages = [{k: v for k, v in m.items() if v is not None} for m in messages]
    arguments = [call["arguments"] for m in messages for call in _functions(m) if "arguments" in call]
    has_values = any(not isinstance(message.get("content", ""), str) for message in messages)
    if not arguments and not has_values:
        return messages
    plain = _rewritten(messages, contents=_as_text)
    if any(isinstance(each, str) for each in arguments):
        if _wants_values(_rewritten(plain, arguments=lambda value: _PROBE), template):
            messages = _rewritten(messages, arguments=_as_value)
    elif arguments and not _takes(plain, template):
        messages = _rewritten(messages, arguments=_as_text)
    if has_values and not _wants_values(_rewritten(messages, contents=_as_probe), template):
        messages = _rewritten(messages, contents=_as_text)
    return messages


def _rewritten(
    messages: Messages,
    *,
    arguments: Callable[[Any], Any] = lambda value: value,
    contents: Callable[[Any], Any] = lambda value: value,
) -> Messages:
    """A copy, with other arguments of calls and other contents."""
    copy = deepcopy(messages)
    for message in copy:
        for call in _functions(message):
            if "arguments" in call:
                call["arguments"] = arguments(call["arguments"])
        if "content" in message:
            message["content"] = contents(message["content"])
    return copy


def _wants_values(messages: Messages, template: Template) -> bool:
    """Whether the template quotes `_PROBE`, or cannot do with a text there."""
    return not _takes(messages, template, without=json.dumps(_PROBE, ensure_ascii=False))


def _takes(messages: Messages, template: Template, without: str | None = None) -> bool:
    """Whether the template renders messages, to something without a text."""
    try:
        rendering = template.render(messages)
    except (TimeoutError, MemoryError):
        raise
    except Exception:  # templates raise whatever they like
        return False
    return without is None or without not in rendering


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _as_probe(value: Any) -> str:
    return value if isinstance(value, str) else _PROBE


def _as_value(value: Any) -> Any:
    try:
        return json.loads(value or "{}") if isinstance(value, str) else value
    except ValueError:
        raise ValueError(f"the arguments of a call are not JSON: {shown(value)}") from None


def _functions(message: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for call in message.get("tool_calls") or ():
        yield call.get("function", call)
