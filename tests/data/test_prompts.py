"""Prompts that count: told from what was left out for another reason, and from data that have none."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from babygpt.data.store import prepare
from babygpt.errors import RecipeError
from babygpt.files import publish_filled
from babygpt.recipe import DataRecipe
from sentences import build, sentence

_TURNS = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]


def _talks(path: Path, *, marked: dict[str, object] | None = None, at: int = 1) -> Path:
    """Thirty conversations, a turn of the third with something more in it."""
    lines = []
    for number in range(30):
        turns = [dict(turn, content=f"{turn['content']} {sentence(number)}") for turn in _TURNS]
        if number == 2 and marked:
            turns[at].update(marked)
        lines.append(json.dumps({"messages": [*turns, *_TURNS]}))
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize(("marked", "at"), [({"weight": 0}, 1), ({"train": False}, 1), ({"train": False}, 0)])
def test_what_was_left_out_on_purpose_does_not_come_back_as_a_prompt(
    tmp_path: Path, marked: dict[str, object], at: int
) -> None:
    file = _talks(tmp_path / "talks.jsonl", marked=marked, at=at)
    with pytest.raises(RecipeError, match="that may be more than prompts"):
        build(tmp_path / "fresh", file, tokenizer="train:400", prompt_weight=0.1)
    assert list((tmp_path / "fresh" / "data").iterdir()) == [], "refused before anything is encoded"
    whole = build(tmp_path / "cache", file, tokenizer="train:400")
    message = (
        rf"^data\.prompt_weight: .*{re.escape(str(file))}:3: message {at} of field 'messages' has weight 0"
    )
    for _ in range(2):
        with pytest.raises(RecipeError, match=message):
            build(tmp_path / "cache", file, tokenizer="train:400", prompt_weight=0.1)
    assert build(tmp_path / "cache", file, tokenizer="train:400").fingerprint == whole.fingerprint


def test_prompts_count_in_the_very_store_that_is_there(tmp_path: Path) -> None:
    file, cache = _talks(tmp_path / "talks.jsonl", marked={"weight": 1}), tmp_path / "cache"
    whole = build(cache, file, tokenizer="train:400")
    assert whole.withheld == ""
    again = build(cache, file, tokenizer="train:400", prompt_weight=0.1)
    assert (again.key, again.reused) == (whole.key, True)
    assert not any("prompt_weight" in note for note in again.notes)
    # One that does not say is made again, and no other.
    facts = {"notes": list(whole.notes)}
    (whole.folder / "manifest.json").unlink()
    publish_filled(whole.folder.rename(tmp_path / "filled"), whole.folder, facts)
    assert build(cache, file, tokenizer="train:400").reused
    recipe, told = DataRecipe(path=(str(file),), tokenizer="train:400", prompt_weight=0.1), list[str]()
    made = prepare(recipe, model_name="preset:gpt2-1m", cache=cache, say=told.append)
    assert sum("tokenised again: an earlier version" in note for note in told) == 1
    assert (made.key, made.reused, made.fingerprint) == (whole.key, False, whole.fingerprint)
    assert build(cache, file, tokenizer="train:400", prompt_weight=0.1).reused


def test_text_has_no_prompts_and_pairs_leave_nothing_out(corpus: Path, tmp_path: Path) -> None:
    told: list[str] = []
    recipe = DataRecipe(path=(str(corpus),), prompt_weight=0.25)
    data = prepare(recipe, model_name="preset:gpt2-1m", cache=tmp_path / "cache", say=told.append)
    note = "there are no prompts in these data: data.prompt_weight 0.25 changes nothing"
    assert data.notes[-1] == told[-1] == note
    file = tmp_path / "pairs.jsonl"
    rows = [{"prompt": sentence(n), "completion": sentence(n + 1)} for n in range(30)]
    # Turns of the assistant in a prompt are prompts.
    lists = [{"prompt": [*_TURNS, _TURNS[0]], "completion": [_TURNS[1]]} for _ in range(30)]
    for records in (rows, lists):
        file.write_text("".join(json.dumps(row) + "\n" for row in records))
        assert build(tmp_path / "cache", file, tokenizer="train:400", prompt_weight=1.0).withheld == ""


def _rows(path: Path, *labels: list[int], ids: Sequence[int] = (5, 6, 7, 0)) -> Path:
    """Tokenised documents, ten with each of these labels."""
    columns = {"input_ids": [list(ids)] * 10 * max(1, len(labels))}
    if labels:
        columns["labels"] = [row for row in labels for _ in range(10)]
    pq.write_table(pa.table(columns), path)
    return path


@pytest.mark.parametrize(("labels", "ids", "said"), [
    ([[5, 6, 7, 0], [-100, -100, 7, 0]], [5, 6, 7, 0], "leave out 2 of the 4 tokens of document 10, and "),
    ([[5, 6, 7, -100]], [5, 6, 7, 0], "leave out the end of document 0, and do not say why"),
    ([[5, 6, 7]], [5, 6, 7], "leave out the end of document 0"),  # which is put there
])  # fmt: skip
def test_what_labels_leave_out_may_be_anything(
    tmp_path: Path, tiny_gpt2: Path, labels: list[list[int]], ids: list[int], said: str
) -> None:
    file = _rows(tmp_path / "x.parquet", *labels, ids=ids)
    wanted = (
        rf"^data\.prompt_weight: .* may be more than prompts: {re.escape(str(file))}: labels or masks {said}"
    )
    with pytest.raises(RecipeError, match=wanted):
        build(tmp_path, file, model_name=str(tiny_gpt2), val_path=(str(file),), prompt_weight=0.1)


def test_labels_that_leave_nothing_out_are_no_prompts(tmp_path: Path, tiny_gpt2: Path) -> None:
    """Neither are none; also of data in the cache of a version that took any labels for a reason to refuse."""
    nothing = "there are no prompts in these data: data.prompt_weight 0.1 changes nothing"
    for number, labels in enumerate(([], [[5, 6, 7, 0]] * 3)):
        file = _rows(tmp_path / f"{number}.parquet", *labels)
        plain = build(tmp_path, file, model_name=str(tiny_gpt2), val_path=(str(file),))
        data = build(tmp_path, file, model_name=str(tiny_gpt2), val_path=(str(file),), prompt_weight=0.1)
        assert data.notes[-1] == nothing
        assert data.fingerprint == plain.fingerprint
        assert data.train.has_targets == bool(labels)
    facts = {
        "notes": [],
        "withheld": f"{file}: the labels or masks of tokenised data do not say what they leave out",
    }
    (data.folder / "manifest.json").unlink()
    publish_filled(data.folder.rename(tmp_path / "filled"), data.folder, facts)
    again = build(tmp_path, file, model_name=str(tiny_gpt2), val_path=(str(file),), prompt_weight=0.1)
    assert again.reused
    assert again.notes[-1] == nothing
