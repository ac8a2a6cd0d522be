"""Records to documents: which columns hold the text, chosen by name or guessed from the first record.

The choice is made once a file (or data set), from its first record, and holds for every further one:

    data.field           a string is text, a list a conversation
    messages             a conversation, with what it may call in `tools`
    prompt + completion  text of which only the completion is learned
    text                 plain text
    conversations        a conversation, `from` and `value` taken for `role` and `content`       guessed
    instruction + output, with input; instruction + response; question + answer                  guessed
    content              plain text                                                              guessed
    the only column of strings, numbers written as strings not counted                           guessed

A guess is announced; more than one that fits is an error. A guessed pair is joined by blank lines, which `prompt`
and `completion` are not: their border is the user's own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from babygpt.errors import DataError

__all__ = ["Columns", "Document", "Span", "choose", "content_hash", "document_of"]

_PAIRS = (
    ("instruction", "input", "output"),
    ("instruction", "output"),
    ("instruction", "input", "response"),
    ("instruction", "response"),
    ("question", "answer"),
)
_CHATS = ("conversations", "conversation")
_HALVES = frozenset(name for pair in _PAIRS for name in pair) | {"prompt", "completion"}
_OPTIONAL, _TOOLS = "input", "tools"
_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "assistant": "assistant",
    "system": "system",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
}
_NAMED = 12  # columns that a message names
_HINT = "Name the text's column with data.field"


@dataclass(frozen=True)
class Span:
    """A part of a document's text, and whether its tokens are targets."""

    text: str
    is_target: bool


@dataclass(frozen=True)
class Document:
    """One document: exactly one of `text`, `spans` and `messages`.

    Attributes:
        id: where it came from, for messages: `folder/a.txt`, `b.jsonl:3`.
        text: plain text; every token is a target.
        spans: text in parts, some of which are targets.
        messages: a conversation for a chat template, each with `role` and `content`.
        tools: what the conversation may call, as the record has it: schemas in a list, or its JSON.
    """

    id: str
    text: str | None = None
    spans: tuple[Span, ...] | None = None
    messages: tuple[dict[str, Any], ...] | None = None
    tools: Any = None


def content_hash(document: Document) -> int:
    """64 bits of BLAKE2b over the content, not the id: equal documents get equal numbers anywhere."""
    if document.text is not None:
        content = b"t" + document.text.encode()
    elif document.spans is not None:
        parts = [[span.text, span.is_target] for span in document.spans]
        content = b"s" + json.dumps(parts).encode()
    else:
        asked = document.messages if document.tools is None else [document.messages, document.tools]
        content = b"m" + json.dumps(asked, sort_keys=True).encode()
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big")


@dataclass(frozen=True)
class Columns:
    """Where the records of a file keep their text.

    Attributes:
        kind: what they hold: plain text, a prompt and its completion, or a conversation.
        names: the columns; of a pair the completion is last.
        guess: how it was guessed, in words; empty where a name decided it.
    """

    kind: Literal["text", "pair", "chat"]
    names: tuple[str, ...]
    guess: str = ""

    @property
    def read(self) -> tuple[str, ...]:
        """All columns that are looked at; the last of a conversation's need not be there."""
        return (*self.names, _TOOLS) if self.kind == "chat" else self.names


# -- choosing ------------------------------------------------------------------------------------------------


def choose(record: Any, where: str, *, field: str = "auto") -> Columns:
    """The columns that the first record of a file decides on.

    Args:
        record: the first record.
        where: its place, for messages.
        field: the column to take; `auto` goes by the table of this module.

    Raises:
        DataError: the record is no object, has no such column, or none or several that could be meant.
    """
    found = _object(record, where)
    if field != "auto":
        if field not in found:
            nested = isinstance(found.get(field.partition(".")[0]), Mapping)
            hint = "Fields inside of other fields are not read; write it to a column of its own"
            raise _lacks(found, f"no field {field!r}", where, hint if nested else _HINT)
        return Columns("chat" if isinstance(found[field], list) else "text", (field,))
    known = [
        columns
        for columns in (
            Columns("chat", ("messages",)),
            Columns("pair", ("prompt", "completion")),
            Columns("text", ("text",)),
        )
        if all(name in found for name in columns.names)
    ]
    filled = [columns for columns in known if all(found[name] is not None for name in columns.names)]
    if known:
        return (filled or known)[0]
    return _guess(found, where)


def _guess(record: Mapping[str, Any], where: str) -> Columns:
    guesses = [Columns("chat", (name,)) for name in _CHATS if isinstance(record.get(name), list)]
    pairs = [pair for pair in _PAIRS if all(_may_be_text(record.get(name, 0)) for name in pair)]
    # The longest of those that share the first column: `input` is a part of the prompt where there is one.
    guesses += [
        Columns("pair", pair) for n, pair in enumerate(pairs) if pair[0] not in {p[0] for p in pairs[:n]}
    ]
    if _may_be_text(record.get("content", 0)):
        guesses.append(Columns("text", ("content",)))
    strings = [name for name, value in record.items() if _may_be_text(value)]
    why = "by their names" if guesses and len(guesses[0].names) > 1 else "by its name"
    if (
        not guesses
        and len(strings) == 1
        and isinstance(record[strings[0]], str)
        and strings[0] not in _HALVES
    ):
        guesses, why = [Columns("text", (strings[0],))], "the only column of strings"
    if len(guesses) == 1:
        columns = guesses[0]
        return Columns(columns.kind, columns.names, f"{_in_words(columns)} ({why}; data.field names another)")
    if len(guesses) > 1:
        several = ", or ".join(" + ".join(columns.names) for columns in guesses)
        raise _lacks(record, f"several columns could be meant: {several}", where, _HINT)
    if len(strings) > 1:
        raise _lacks(record, f"several columns hold strings: {', '.join(strings[:_NAMED])}", where, _HINT)
    raise _lacks(record, "none of the fields text, prompt + completion, messages", where, _HINT)


def _may_be_text(value: Any) -> bool:
    """Whether a column could be one of text; a missing value leaves it open."""
    if value is None:
        return True
    if not isinstance(value, str):
        return False
    try:
        float(value)
    except ValueError:
        return True
    return False


def _in_words(columns: Columns) -> str:
    if columns.kind == "text":
        return f"the text is column {columns.names[0]!r}"
    if columns.kind == "chat":
        return f"the conversation is column {columns.names[0]!r}"
    prompt = " and ".join(map(repr, columns.names[:-1]))
    return f"the prompt is {prompt}, the completion {columns.names[-1]!r}, blank lines between them"


# -- reading -------------------------------------------------------------------------------------------------


def document_of(record: Any, columns: Columns, where: str) -> Document | None:
    """The document of one record; None when its text is empty.

    Args:
        record: of the same file as the one that `columns` was chosen from.
        columns: where to look.
        where: the record's place, the document's id.

    Raises:
        DataError: the record is no object, lacks a column, or one holds something else.
    """
    found = _object(record, where)
    for name in columns.names:
        if name not in found and not (columns.guess and name == _OPTIONAL):
            hint = "All records of a file have the same columns; put others into a file of their own"
            raise _lacks(found, f"no field {name!r}, which the first record has", where, hint)
    if columns.kind == "chat":
        name = columns.names[0]
        return Document(where, messages=_messages(found[name], name, where), tools=found.get(_TOOLS))
    if columns.kind == "text":
        text = _string(found[columns.names[0]], columns.names[0], where)
        return Document(where, text=text) if text else None
    # A guess may have found `input` empty or missing in this record.
    names = [n for n in columns.names if not (columns.guess and n == _OPTIONAL and not found.get(n))]
    *prompt, completion = (_string(found[name], name, where) for name in names)
    joined = "".join(f"{part}\n\n" for part in prompt) if columns.guess else "".join(prompt)
    return Document(where, spans=(Span(joined, False), Span(completion, True)))


def _object(record: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(record, Mapping):
        raise DataError(f"found {_kind(record)}, not a JSON object", where=where, hint="One object a record")
    return record


def _lacks(record: Mapping[str, Any], what: str, where: str, hint: str) -> DataError:
    has = ", ".join(map(str, list(record)[:_NAMED])) or "nothing"
    return DataError(f"{what}; it has: {has}", where=where, hint=hint)


def _string(value: Any, field: str, where: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"field {field!r} holds {_kind(value)}, not a string", where=where)
    try:
        value.encode()
    except UnicodeEncodeError as error:
        lone = f"U+{ord(value[error.start]):04X}"
        raise DataError(
            f"field {field!r} holds half a surrogate pair ({lone}) at character {error.start}", where=where
        ) from None
    return value


def _messages(value: Any, field: str, where: str) -> tuple[dict[str, Any], ...]:
    if not isinstance(value, list) or not value:
        raise DataError(f"field {field!r} holds {_kind(value)}, not a list of messages", where=where)
    return tuple(_message(message, number, field, where) for number, message in enumerate(value))


def _message(value: Any, number: int, field: str, where: str) -> dict[str, Any]:
    # A table gives every key to every message: one without a value is as good as absent.
    message = (
        {key: held for key, held in value.items() if held is not None or key == "content"}
        if isinstance(value, Mapping)
        else {}
    )
    if "role" not in message and isinstance(message.get("from"), str) and "value" in message:
        if message["from"] not in _ROLES:
            raise DataError(
                f"message {number} of field {field!r} is from {_shown(message['from'])}, which is no known role",
                where=where,
                hint=f"Known are {', '.join(_ROLES)}",
            )
        renamed = {"role": _ROLES[message.pop("from")], "content": message.pop("value")}
        message = renamed | message
    if not isinstance(message.get("role"), str):
        raise DataError(f"message {number} of field {field!r} has no role: {_shown(str(value))}", where=where)
    if isinstance(message.get("content"), str):
        _string(message["content"], f"{field}[{number}].content", where)
    elif "content" not in message and "tool_calls" not in message:
        raise DataError(f"message {number} of field {field!r} has no content", where=where)
    return message


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if value == [] and isinstance(value, list):
        return "an empty list"
    kinds = {
        bool: "a boolean",
        int: "a number",
        float: "a number",
        str: "a string",
        list: "a list",
        dict: "an object",
    }
    return kinds.get(type(value), f"a {type(value).__name__}")


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
