"""Records to documents: which columns hold the text, chosen by name or guessed from the first record.

The choice is made once a file (or data set), from its first record, and holds for every further one:

    data.field           a string is text, a list a conversation
    messages             a conversation (`messages`), with what it may call in `tools`
    prompt + completion  text of which only the completion is learned; of lists of messages, the same
    text                 plain text
    conversations        a conversation                                                          guessed
    instruction + output, with input; instruction + response, with context; question + answer,
    with context; prompt + response; input + output                                              guessed
    content              plain text                                                              guessed
    the only column of strings, numbers written as strings not counted                           guessed

A guess is announced, with the columns it leaves unread; more than one that fits is an error. A guessed pair is joined
by blank lines, which `prompt` and `completion` are not: their border is the user's own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from babygpt.data.messages import conversation, kind_in_words, renamed_roles, string, withheld_turn
from babygpt.errors import DataError

__all__ = ["Columns", "Document", "Span", "choose", "content_hash", "document_of"]

_PAIRS = (
    ("instruction", "input", "output"),
    ("instruction", "output"),
    ("instruction", "input", "response"),
    ("instruction", "context", "response"),
    ("instruction", "response"),
    ("context", "question", "answer"),
    ("question", "answer"),
    ("prompt", "response"),
    ("input", "output"),
)
_CHATS = ("conversations", "conversation")
_HALVES = frozenset(name for pair in _PAIRS for name in pair) | {"prompt", "completion"}
_KNOWN = _HALVES | {"messages", *_CHATS, "text", "content"}
_OPTIONAL, _TOOLS, _SYSTEM = ("input", "context"), "tools", "system"
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
        messages: a conversation for a chat template, each with `role` and `content`; with `weight` 0 where nothing
            of it is learned.
        tools: what the conversation may call, as the record has it: schemas in a list, or its JSON.
        withheld: which of its turns is marked to be left out, in words; empty if none is. No part of the content.
    """

    id: str
    text: str | None = None
    spans: tuple[Span, ...] | None = None
    messages: tuple[dict[str, Any], ...] | None = None
    tools: Any = None
    withheld: str = field(default="", compare=False)

    @property
    def is_learned(self) -> bool:
        """Whether something of it is; of a conversation, what the assistant says."""
        return self.messages is None or any(
            message["role"] == "assistant" and message.get("weight") != 0 for message in self.messages
        )


def content_hash(document: Document) -> int:
    """64 bits of BLAKE2b over the content, not the id: equal documents get equal numbers anywhere."""
    if document.text is not None:
        content = b"t" + document.text.encode()
    elif document.spans is not None:
        parts = [[span.text, span.is_target] for span in document.spans]
        content = b"s" + json.dumps(parts).encode()
    else:
        asked = document.messages if document.tools is None else [document.messages, document.tools]
        # A table's messages may have dates and bytes beside their content.
        content = b"m" + json.dumps(asked, sort_keys=True, default=str).encode()
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big")


@dataclass(frozen=True)
class Columns:
    """Where the records of a file keep their text.

    Attributes:
        kind: what they hold: plain text, a prompt and its completion, or a conversation.
        names: the columns; of a pair, or of two lists of messages, the completion is last.
        guess: how it was guessed, in words; empty where a name decided it.
    """

    kind: Literal["text", "pair", "chat"]
    names: tuple[str, ...]
    guess: str = ""

    @property
    def optional(self) -> tuple[str, ...]:
        """Those that a record may lack, or hold nothing in: what a guess found beside an instruction or a question."""
        return _OPTIONAL if self.guess and len(self.names) > 2 else ()

    @property
    def read(self) -> tuple[str, ...]:
        """All columns that a document is made of; the last two of a conversation's need not be there."""
        return (*self.names, _TOOLS, _SYSTEM) if self.kind == "chat" else self.names

    @property
    def needed(self) -> tuple[str, ...]:
        """These, and those that need not be there but tell whether a record without text is an empty one."""
        return self.read if self.kind == "pair" else (*self.read, *sorted(_KNOWN - {*self.read}))


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
    pair: Literal["pair", "chat"] = "chat" if isinstance(found.get("prompt"), list) else "pair"
    known = [
        columns
        for columns in (
            Columns("chat", ("messages",)),
            Columns(pair, ("prompt", "completion")),
            Columns("text", ("text",)),
        )
        if all(name in found for name in columns.names)
    ]
    filled = [columns for columns in known if all(found[name] is not None for name in columns.names)]
    if not known:
        return _guess(found, where)
    return _announced((filled or known)[0], found)


def _announced(columns: Columns, record: Mapping[str, Any]) -> Columns:
    """A choice by name, with what a person has to know of it."""
    said = _in_words(columns)
    if columns.kind == "chat" and (odd := _oddities(columns, record)):
        return replace(columns, guess=f"{said}{odd} (data.field names another)")
    if columns.kind == "text" and (_chats(record) or _pairs(record)):
        return replace(
            columns, guess=f"{said} (by its name{_unread(columns, record)}; data.field names another)"
        )
    return columns


def _guess(record: Mapping[str, Any], where: str) -> Columns:
    guesses = [Columns("chat", (name,)) for name in _chats(record)]
    guesses += [Columns("pair", pair) for pair in _pairs(record)]
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
        said = f"{_in_words(columns)}{_oddities(columns, record)} ({why}{_unread(columns, record)}"
        return replace(columns, guess=f"{said}; data.field names another)")
    raise _undecided(record, guesses, strings, where)


def _undecided(
    record: Mapping[str, Any], guesses: Sequence[Columns], strings: Sequence[str], where: str
) -> DataError:
    if {"chosen", "rejected"} <= record.keys():
        what = "pairs of a chosen and a rejected answer, which are not trained on"
        return _lacks(
            record, what, where, "Write what is to be learned as prompt and completion, or messages"
        )
    if len(guesses) > 1:
        several = ", or ".join(" + ".join(columns.names) for columns in guesses)
        pairs = all(columns.kind == "pair" for columns in guesses)
        hint = "Name the two that are meant prompt and completion" if pairs else _HINT
        return _lacks(record, f"several columns could be meant: {several}", where, hint)
    if len(strings) > 1:
        return _lacks(record, f"several columns hold strings: {', '.join(strings[:_NAMED])}", where, _HINT)
    inside = next((name for name, value in record.items() if _holds_records(value)), None)
    hint = (
        _HINT if inside is None else f"Are the records those inside of {inside!r}? Make each one of its own"
    )
    return _lacks(record, "none of the fields text, prompt + completion, messages", where, hint)


def _holds_records(value: Any) -> bool:
    return isinstance(value, Mapping) or (
        isinstance(value, list) and any(isinstance(v, Mapping) for v in value)
    )


def _chats(record: Mapping[str, Any]) -> list[str]:
    """The columns that are conversations by their names."""
    held = {name: record.get(name) for name in _CHATS}
    return [
        name
        for name, value in held.items()
        if isinstance(value, list) or (isinstance(value, str) and value.lstrip().startswith("[{"))
    ]


def _pairs(record: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The columns that are prompts and completions by their names; of those that share columns, the longest.

    An answer may be a number: that it is no string is said when it is read.
    """
    found = [
        (*prompt, completion)
        for *prompt, completion in _PAIRS
        if all(_may_be_text(record.get(name, 0)) for name in prompt)
        and isinstance(record.get(completion, ()), (str, int, float, type(None)))
    ]
    return [pair for pair in found if not any(set(pair) < set(other) for other in found)]


def _oddities(columns: Columns, record: Mapping[str, Any]) -> str:
    """What else is to be said of a conversation, in words."""
    if columns.kind != "chat":
        return ""
    said = ", its system turn 'system'" if record.get(_SYSTEM) else ""
    for column in columns.names:
        renamed = renamed_roles(record.get(column))
        said += "".join(f", {name!r} is read as {role}" for name, role in renamed.items())
    return said


def _unread(columns: Columns, record: Mapping[str, Any]) -> str:
    """The columns beside, in words; empty if there are none."""
    beside = [str(name) for name in record if name not in columns.read]
    more = ", ..." if len(beside) > _NAMED else ""
    return f"; not read: {', '.join(beside[:_NAMED])}{more}" if beside else ""


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
        whole = " and ".join(map(repr, columns.names))
        return f"the conversation is column{'s' * (len(columns.names) > 1)} {whole}"
    prompt = " and ".join(map(repr, columns.names[:-1]))
    return f"the prompt is {prompt}, the completion {columns.names[-1]!r}, blank lines between them"


# -- reading -------------------------------------------------------------------------------------------------


def document_of(record: Any, columns: Columns, where: str) -> Document | None:
    """The document of one record; None when its text is empty, or there is none.

    Args:
        record: of the same file as the one that `columns` was chosen from.
        columns: where to look.
        where: the record's place, the document's id.

    Raises:
        DataError: the record is no object, lacks a column, or one holds something else.
    """
    found = _object(record, where)
    for name in columns.names:
        if name not in found and name not in columns.optional:
            hint = "All records of a file have the same columns; put others into a file of their own"
            raise _lacks(found, f"no field {name!r}, which the first record has", where, hint)
    if _is_void(found, columns):
        return None
    if columns.kind == "chat":
        messages = _messages(found, columns, where)
        return Document(where, messages=messages, tools=found.get(_TOOLS), withheld=_withheld(found, columns))
    if columns.kind == "text":
        text = string(found[columns.names[0]], columns.names[0], where)
        return Document(where, text=text) if text else None
    # A guess may have found `input` empty or missing in this record.
    names = [n for n in columns.names if n not in columns.optional or found.get(n)]
    *prompt, completion = (string(found[name], name, where) for name in names)
    joined = "".join(f"{part}\n\n" for part in prompt) if columns.guess else "".join(prompt)
    return Document(where, spans=(Span(joined, False), Span(completion, True)))


def _is_void(record: Mapping[str, Any], columns: Columns) -> bool:
    """Whether a record holds neither text nor messages: null or an empty list, in all columns that may have some."""
    if columns.kind == "pair" or any(record[name] not in (None, []) for name in columns.names):
        return False
    return all(record[name] in (None, [], "") for name in _KNOWN & record.keys())


def _messages(record: Mapping[str, Any], columns: Columns, where: str) -> tuple[dict[str, Any], ...]:
    *prompt, last = columns.names
    learned = conversation(record[last], last, where, None if prompt else record.get(_SYSTEM))
    if not prompt:
        return learned
    given = conversation(record[prompt[0]], prompt[0], where, record.get(_SYSTEM))
    return (*(m | {"weight": 0} if m["role"] == "assistant" else m for m in given), *learned)


def _withheld(record: Mapping[str, Any], columns: Columns) -> str:
    for column in columns.names:
        if (number := withheld_turn(record[column])) is not None:
            return f"message {number} of field {column!r} has weight 0, or train false"
    return ""


def _object(record: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(record, Mapping):
        hint = (
            "An array of records goes into a .json file"
            if isinstance(record, list)
            else "One object a record"
        )
        raise DataError(f"found {kind_in_words(record)}, not a JSON object", where=where, hint=hint)
    return record


def _lacks(record: Mapping[str, Any], what: str, where: str, hint: str) -> DataError:
    has = ", ".join(map(str, list(record)[:_NAMED])) or "nothing"
    return DataError(f"{what}; it has: {has}", where=where, hint=hint)
