"""A record's conversation, in the forms that are in use, as chat templates want it: `role`, `content`, `tool_calls`.

    role, from            who speaks; `human`, `gpt` and their like in any case become what templates know, other
                          roles stay as they are
    content, value, text  a string; parts of text in a list are joined; null only beside something else, as a call;
                          of a tool also a number, a list or an object, which the template is given as JSON
    tool_calls            a list of calls, or its JSON, whose calls get `function` around them where they lack it
    from function_call    the JSON of a call, or of several: the assistant's
    weight 0, train false nothing of an assistant's turn is learned; of other turns, nothing is anyway, but prompts that
                          count leave no room for such marks (`withheld_turn`)
    a `system` column     the first turn, unless the list begins with the same

The list itself may be its JSON as well, which is what a column of a CSV file can hold.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from babygpt.errors import DataError

__all__ = ["conversation", "kind_in_words", "renamed_roles", "shown", "string", "withheld_turn"]

_ROLES = {
    "human": "user",
    "prompter": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "assistant": "assistant",
    "system": "system",
}
_CALL = "function_call"
_FROM = {**_ROLES, "tool": "tool", "function": "tool", "observation": "tool", _CALL: "assistant"}
_NO_CALLS = ("", "[]", "null")  # what a column of text holds where there are none
_CONTENTS = ("content", "value", "text")
_TOOLS = ("tool", "function", "ipython", "observation")
_MEDIA = (
    "image",
    "image_url",
    "input_image",
    "audio",
    "audio_url",
    "input_audio",
    "video",
    "video_url",
    "file",
)
_INSTEAD = ("tool_calls", "function_call", "reasoning_content", "reasoning", "thinking")
_MARKS = ("weight", "train")
_FORM = 'Each message is {"role": "user", "content": "..."}'


def conversation(value: Any, field: str, where: str, system: Any = None) -> tuple[dict[str, Any], ...]:
    """The messages of a list, or of its JSON.

    Args:
        value: what the record holds.
        field: its column, for messages to the user.
        where: the record's place, for these as well.
        system: what the record holds in a column `system`; nothing if empty.

    Raises:
        DataError: it is no list of messages, or one of them says not who speaks, or nothing.
    """
    if isinstance(value, str):
        value = _parsed(value, field, where)
    if not isinstance(value, list) or not value:
        raise DataError(f"field {field!r} holds {kind_in_words(value)}, not a list of messages", where=where)
    messages = tuple(_message(each, f"message {n} of field {field!r}", where) for n, each in enumerate(value))
    if not system:
        return messages
    hint = "It is read as the conversation's first turn; give the column another name if it is none"
    first = _joined(system, "field 'system'", where) if isinstance(system, list) else system
    first = string(first, "system", where, hint)
    if messages[0]["role"] != "system":
        return ({"role": "system", "content": first}, *messages)
    if str(messages[0].get("content")).strip() != first.strip():
        raise DataError(
            f"a system turn stands in field {field!r} and another in field 'system'",
            where=where,
            hint="Leave one of them out",
        )
    return messages


def renamed_roles(value: Any) -> dict[str, str]:
    """The roles in a list of messages that are read as other ones, as they are written."""
    messages = value if isinstance(value, list) else []
    named = [message.get("role") for message in messages if isinstance(message, Mapping)]
    return {name: _role(name) for name in named if isinstance(name, str) and _role(name) != name}


def withheld_turn(value: Any) -> int | None:
    """The number of the first message, of anybody, that says of itself to be left out; None where none does.

    Args:
        value: what `conversation` took.
    """
    messages = json.loads(value) if isinstance(value, str) else value
    marked = (n for n, each in enumerate(messages) if any(each.get(name) == 0 for name in _MARKS))
    return next(marked, None)


def _role(name: str) -> str:
    return _ROLES.get(name.lower(), name)


def _message(value: Any, which: str, where: str) -> dict[str, Any]:
    # A table gives every key to every message: one without a value is as good as absent.
    held = dict(value) if isinstance(value, Mapping) else {}
    message = {key: each for key, each in held.items() if each is not None or key == "content"}
    role, said = _speaker(message, which, where)
    if role is None:
        raise DataError(f"{which} has no role: {shown(str(value))}", where=where, hint=_FORM)
    filled = (name for name in _CONTENTS if message.get(name) is not None)
    name = next(filled, "content" if "content" in message else None)
    content = None if name is None else message.pop(name)
    if said == _CALL:
        message["tool_calls"], name = _calls(content, which, where), None
    elif isinstance(calls := message.pop("tool_calls", None), str):
        if calls.strip() not in _NO_CALLS:
            message["tool_calls"] = _calls(calls, which, where)
    elif calls is not None:
        message["tool_calls"] = calls
    learned = _weight(message, role, which, where)
    if content is None and not any(key in message for key in _INSTEAD):
        raise DataError(f"{which} has no content" + (" but null" if name else ""), where=where, hint=_FORM)
    if name is not None:
        message["content"] = content if content is None else _content(content, role, which, where)
    return {"role": role, **message, **({} if learned else {"weight": 0})}


def _speaker(message: dict[str, Any], which: str, where: str) -> tuple[str | None, str]:
    """Takes out who speaks: as a role, None if nobody does, and as `from` says it."""
    if isinstance(role := message.get("role"), str):
        del message["role"]
        return _role(role), ""
    if not isinstance(said := message.get("from"), str):
        return None, ""
    if said.lower() not in _FROM:
        raise DataError(
            f"{which} is from {shown(said)}, which is no known role",
            where=where,
            hint=f"Known are {', '.join(_FROM)}",
        )
    del message["from"]
    return _FROM[said.lower()], said.lower()


def _content(value: Any, role: str, which: str, where: str) -> Any:
    """Text; of a tool whatever JSON can say."""
    if isinstance(value, list) and not (role in _TOOLS and _is_data(value)):
        value = _joined(value, which, where)
    if role in _TOOLS and isinstance(value, (Mapping, list, int, float)):
        return value
    if not isinstance(value, str):
        raise DataError(f"{which} holds {kind_in_words(value)} as its content, not a string", where=where)
    return string(value, f"{which}.content", where)


def _is_data(values: list[Any]) -> bool:
    """Whether a list that a tool returns is no list of parts of a message."""
    return not any(
        _is_text(each) or (isinstance(each, Mapping) and each.get("type") in _MEDIA) for each in values
    )


def _is_text(value: Any) -> bool:
    held = {k for k, v in value.items() if v is not None} if isinstance(value, Mapping) else set()
    return held in ({"text"}, {"type", "text"}) and value.get("type") in (None, "text")


def _joined(parts: list[Any], which: str, where: str) -> str:
    return "".join(_part(each, which, where) for each in parts)


def _part(value: Any, which: str, where: str) -> str:
    if isinstance(value, str):
        return value
    part = value if isinstance(value, Mapping) else {}
    kind = part.get("type") or "text"  # null where the rows of a table differ
    if kind == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    what = f"a part of type {shown(str(kind))}" if "type" in part else kind_in_words(value)
    raise DataError(
        f"{which} holds {what}, and only text is read", where=where, hint="Leave such records or parts out"
    )


def _calls(value: Any, which: str, where: str) -> list[dict[str, Any]]:
    """Calls of tools, as templates want them, from the JSON of one or of a list."""
    found = _parsed(value, "tool_calls", where) if isinstance(value, str) else value
    calls = found if isinstance(found, list) else [found]
    if not calls or not all(
        isinstance(call, dict) and ("name" in call or isinstance(call.get("function"), dict))
        for call in calls
    ):
        raise DataError(
            f"{which} holds no call of a tool: {shown(str(value))}",
            where=where,
            hint='A call is {"name": "...", "arguments": {...}}',
        )
    wrapped = ({"type": "function", "function": call} for call in calls)
    return [
        call if isinstance(call.get("function"), dict) else own
        for call, own in zip(calls, wrapped, strict=True)
    ]


def _weight(message: dict[str, Any], role: str, which: str, where: str) -> bool:
    """Takes out whether a turn of the assistant is learned; on others it would change nothing."""
    given = [message.pop(name) for name in _MARKS if name in message]
    if role != "assistant":
        return True
    if any(each not in (0, 1) for each in given):
        raise DataError(
            f"{which} has the weight {shown(str(given[0]))}",
            where=where,
            hint="A turn is learned (1) or not (0)",
        )
    return all(given)


def _parsed(text: str, field: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise DataError(
            f"field {field!r} holds a string that is not JSON: {shown(text)}",
            where=where,
            hint="Give a list of messages, or name a column of text with data.field"
            if field != "tool_calls"
            else None,
        ) from None


def string(value: Any, field: str, where: str, hint: str | None = None) -> str:
    """A string that can be written as UTF-8; `hint` goes with the message when it is something else.

    Raises:
        DataError: it is something else.
    """
    if not isinstance(value, str):
        what = f"field {field!r} holds {kind_in_words(value)}, not a string"
        raise DataError(what, where=where, hint=hint or _as_string(value))
    try:
        value.encode()
    except UnicodeEncodeError as error:
        lone = f"U+{ord(value[error.start]):04X}"
        raise DataError(
            f"field {field!r} holds half a surrogate pair ({lone}) at character {error.start}", where=where
        ) from None
    return value


def _as_string(value: Any) -> str | None:
    """What to do about a value that is none."""
    if value is None:
        return "Leave such records out, or write an empty string"
    if isinstance(value, (int, float)):
        return f"Write it in quotes, as the model is to read it, such as {json.dumps(json.dumps(value))}"
    return "Write a record for each of them" if isinstance(value, list) and value else None


def kind_in_words(value: Any) -> str:
    """What a value of JSON or of a table is, for people."""
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


def shown(text: str) -> str:
    """A value in quotes, cut where it is long."""
    return repr(text if len(text) <= 60 else text[:57] + "...")
