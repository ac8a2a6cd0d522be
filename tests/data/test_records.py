from __future__ import annotations

import json
from typing import Any

import pytest

from babygpt.data.records import Document, Span, choose, document_of
from babygpt.errors import DataError

TALK = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
SHARED = [{"from": "system", "value": "be"}, {"from": "human", "value": "hi"}, {"from": "gpt", "value": "ho"}]
ROLES = ("system", "user", "assistant")

# a record, its document, and what is said of the guess
CHOICES: list[tuple[dict[str, Any], Document, str]] = [
    ({"text": "t", "content": "c", "title": "u"}, Document("w", text="t"), ""),
    ({"messages": json.dumps(TALK)}, Document("w", messages=tuple(TALK)), ""),
    ({"messages": TALK, "text": "t"}, Document("w", messages=tuple(TALK)), ""),
    ({"messages": None, "text": "t"}, Document("w", text="t"), ""),
    ({"prompt": "p", "completion": "c", "text": "t"}, Document("w", spans=(Span("p", False), Span("c", True))), ""),
    (
        {"instruction": "i", "input": "n", "output": "o", "id": "x"},
        Document("w", spans=(Span("i\n\nn\n\n", False), Span("o", True))),
        "the prompt is 'instruction' and 'input', the completion 'output', blank lines between them (by their names",
    ),
    (
        {"instruction": "i", "input": "", "output": "o"},
        Document("w", spans=(Span("i\n\n", False), Span("o", True))),
        "'instruction' and 'input'",
    ),
    (
        {"instruction": "i", "response": "o"},
        Document("w", spans=(Span("i\n\n", False), Span("o", True))),
        "the prompt is 'instruction', the completion 'response'",
    ),
    (
        {"question": "q", "answer": "a", "source": "s"},
        Document("w", spans=(Span("q\n\n", False), Span("a", True))),
        "the prompt is 'question', the completion 'answer'",
    ),
    ({"content": "c", "title": "t"}, Document("w", text="c"), "the text is column 'content' (by its name"),
    ({"id": 7, "body": "b", "score": "0.5"}, Document("w", text="b"), "column 'body' (the only column of strings"),
    (
        {"conversations": SHARED, "id": "x"},
        Document("w", messages=tuple({"role": r, "content": m["value"]} for r, m in zip(ROLES, SHARED, strict=True))),
        "the conversation is column 'conversations' (by its name",
    ),
    (
        {"conversations": SHARED[1:], "system": "be", "id": "x"},
        Document("w", messages=tuple({"role": r, "content": m["value"]} for r, m in zip(ROLES, SHARED, strict=True))),
        "column 'conversations', its system turn 'system' (by its name; not read: id; data",
    ),
    (
        {"messages": [{"role": "Human", "content": "hi"}, {"role": "model", "content": "ho"}]},
        Document("w", messages=tuple(TALK)),
        "the conversation is column 'messages', 'Human' is read as user, 'model' is read as assistant (data.field",
    ),
    (
        {"prompt": TALK, "completion": TALK[1:]},
        Document("w", messages=(TALK[0], TALK[1] | {"weight": 0}, TALK[1])),
        "",
    ),
    (
        {"instruction": "i", "context": "c", "response": "o", "category": "x"},
        Document("w", spans=(Span("i\n\nc\n\n", False), Span("o", True))),
        "'instruction' and 'context', the completion 'response', blank lines between them (by their names; not read: c",
    ),
    (
        {"instruction": "i", "input": "", "output": "o", "system": "s", "history": [["a", "b"]]},
        Document("w", spans=(Span("i\n\n", False), Span("o", True))),
        "not read: system, history",
    ),
    (
        {"instruction": "i", "input": "", "output": "o", "text": "t"},
        Document("w", text="t"),
        "the text is column 'text' (by its name; not read: instruction, input, output",
    ),
    (
        {"input": "p", "output": "o"},
        Document("w", spans=(Span("p\n\n", False), Span("o", True))),
        "the prompt is 'input', the completion 'output'",
    ),
    (
        {"prompt": "p", "response": "o"},
        Document("w", spans=(Span("p\n\n", False), Span("o", True))),
        "the prompt is 'prompt', the completion 'response'",
    ),
    ({"conversation": TALK}, Document("w", messages=tuple(TALK)), "the conversation is column 'conversation'"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("record", "document", "said"),
    CHOICES,
    ids=[str(list(r)) + str(n) for n, (r, _, _) in enumerate(CHOICES)],
)
def test_columns_are_found_and_guesses_announced(record: Any, document: Document, said: str) -> None:
    columns = choose(record, "w")
    assert document_of(record, columns, "w") == document
    assert said in columns.guess
    assert bool(said) == bool(columns.guess)
    assert columns.guess == "" or columns.guess.endswith("data.field names another)")


def test_a_choice_holds_for_all_records() -> None:
    columns = choose({"instruction": "i", "input": "n", "output": "o"}, "a:1")
    without = document_of({"instruction": "j", "output": "p"}, columns, "a:2")
    assert without == Document("a:2", spans=(Span("j\n\n", False), Span("p", True)))
    with pytest.raises(
        DataError, match="a:3: no field 'output', which the first record has; it has: instruction"
    ):
        document_of({"instruction": "j"}, columns, "a:3")
    with pytest.raises(DataError, match="b:2: no field 'input', which the first record has; it has: output"):
        document_of({"output": "o"}, choose({"input": "i", "output": "o"}, "b:1"), "b:2")
    text = choose({"text": "a"}, "a:1")
    with pytest.raises(DataError, match="a:2: no field 'text'"):
        document_of({"messages": TALK}, text, "a:2")
    assert document_of({"text": "", "messages": TALK}, text, "a:2") is None


def test_a_named_column_is_announced_by_nobody() -> None:
    assert choose({"a": "x", "b": "y"}, "w", field="b").guess == ""
    shared = choose({"a": SHARED}, "w", field="a")
    document = document_of({"a": SHARED}, shared, "w")
    assert document is not None
    assert document.messages is not None
    assert [message["role"] for message in document.messages] == list(ROLES)


def test_what_a_table_leaves_empty_is_as_good_as_absent() -> None:
    message = {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}], "name": None}
    document = document_of({"messages": [message]}, choose({"messages": [message]}, "w"), "w")
    assert document is not None
    assert document.messages == ({"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},)
