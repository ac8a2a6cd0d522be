from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from babygpt.data.reading import READING_VERSION, Texts


def test_what_has_no_text_is_told_once_for_all(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("")
    (tmp_path / "b.txt").write_text("b")
    (tmp_path / "c.jsonl").write_text('{"text": ""}\n{"text": "c"}\n{"text": ""}\n')
    (tmp_path / "d.jsonl").write_text("\n")
    (tmp_path / "d1.jsonl").write_text('{"text": null, "url": "u"}\n{"text": "d"}\n')
    (tmp_path / "d2.jsonl").write_text(
        '{"messages": []}\n{"messages": [{"role": "assistant", "content": "a"}]}\n'
    )
    paths = [tmp_path / name for name in ("b.txt", "c.jsonl")]
    said: list[str] = []
    assert len(list(Texts("auto").seen([str(tmp_path / "[a-d]*.*")], said.append))) == 4
    assert said == [f"passed over, since without text: 6 documents, such as {tmp_path / 'a.txt'}"]
    said.clear()
    assert len(list(Texts("auto").seen(list(map(str, paths)), said.append))) == 2
    assert said == [f"passed over, since without text: 2 documents, such as {paths[1]}:1"]


def test_what_is_seen_of_documents(tmp_path: Path) -> None:
    rows = [
        {"text": "naïve"},
        {"prompt": "a", "completion": "bc"},
        {"messages": [{"role": "user", "content": "é"}]},
    ]
    paths = [tmp_path / f"{number}.jsonl" for number in range(len(rows))]
    for path, row in zip(paths, rows, strict=True):
        path.write_text(json.dumps(row))
    said: list[str] = []
    seen = list(Texts("auto").seen(list(map(str, paths)), said.append))
    assert said == [f"1 conversation has no turn of the assistant to learn from, such as {paths[2]}:1"]
    assert [(s.size, s.masked, s.is_chat) for s in seen] == [
        (6, False, False),
        (3, True, False),
        (2, True, True),
    ]
    everything = Texts("auto", train_on_prompts=True).seen(list(map(str, paths)), pytest.fail)
    assert not any(s.masked for s in everything)
    assert len({s.content_hash for s in seen}) == 3


# A record of each kind, and forms that an earlier version read otherwise or refused.
READ = [
    {"text": "t"},
    {"prompt": "p", "completion": "c"},
    {"prompt": [{"role": "user", "content": "q"}], "completion": [{"role": "assistant", "content": "a"}]},
    {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], "tools": "[]"},
    {"conversations": [{"from": "Human", "value": "q"}, {"from": "gpt", "value": "a", "weight": 0}]},
    {"messages": [{"role": "bot", "content": [{"type": "text", "text": "a"}], "train": True}], "system": "s"},
    {"messages": [{"from": "function_call", "value": '{"name": "f", "arguments": {}}'}]},
    {"instruction": "i", "context": "c", "response": "r"},
    {"question": "q", "answer": "a", "context": ""},
    {"input": "i", "output": "o"},
    {"content": "c", "n": "1"},
    {"question": "q", "answer": "42"},
    {
        "messages": [
            {"role": "tool", "content": ["a", "b"]},
            {"role": "tool", "content": {"x": 1}, "weight": 0.5},
        ]
    },
    {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}], "system": " s"},
]


def test_another_reading_has_another_version(tmp_path: Path) -> None:
    """If this fails, the same data come to other documents: raise READING_VERSION, then write both down here."""
    paths = [tmp_path / f"{number}.jsonl" for number in range(len(READ))]
    for path, row in zip(paths, READ, strict=True):
        path.write_text(json.dumps(row))
    seen = [str(s.content_hash) for s in Texts("auto").seen(list(map(str, paths)), lambda _: None)]
    digest = hashlib.sha256(" ".join(seen).encode()).hexdigest()
    assert (READING_VERSION, digest[:16]) == (3, "075f20a6d7b11c2d")
