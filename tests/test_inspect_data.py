"""The verb data inspect: the trainer's own batch, counts by hand, and the cause where nothing is learned."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from babygpt import LLMDataModule
from babygpt.cli import main
from babygpt.data.view import Piece, WindowView
from babygpt.errors import CheckpointError, DataError, RecipeError
from babygpt.files import write_json_atomic
from babygpt.inspect_data import inspect_data
from babygpt.inspection import InspectResult
from babygpt.recipe import DataRecipe, ModelRecipe, Recipe, read_recipe, write_recipe
from babygpt.settings import InspectSettings

_TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}<|endoftext|>{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def sentence(number: int) -> str:
    return f"Number {number} is {number * number % 97} of {'abcdefgh'[number % 8] * 3}.\n"


@pytest.fixture
def records(tmp_path: Path) -> Path:
    path = tmp_path / "records.jsonl"
    path.write_text("".join(json.dumps({"text": sentence(n)}) + "\n" for n in range(40)))
    return path


@pytest.fixture
def chat_model(tiny_gpt2: Path, tmp_path: Path) -> Path:
    model = shutil.copytree(tiny_gpt2, tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template = _TEMPLATE
    tokenizer.save_pretrained(model)
    return model


def chats(path: Path, *roles: str) -> Path:
    lines = [[{"role": role, "content": f"{role} {n}"} for role in roles] for n in range(30)]
    path.write_text("".join(json.dumps({"messages": turns}) + "\n" for turns in lines))
    return path


def settings(model: Path, *paths: Path, seed: int = 0, **asked: Any) -> InspectSettings:
    own = {
        name: asked.pop(name)
        for name in ("resume", "step", "windows", "ids", "html", "json")
        if name in asked
    }
    data = DataRecipe(path=tuple(map(str, paths)), **{"block": 32, "global_batch_size": 4, **asked})
    return InspectSettings(ModelRecipe(str(model)), data, seed, **own)


def _pieces(window: WindowView) -> list[Piece]:
    return [piece for document in window.documents for piece in document.pieces]


def ids_of(found: InspectResult) -> list[list[int]]:
    return [[i for d in w.documents for p in d.pieces for i in p.ids] for w in found.windows]


# -- the batch -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packing", ["stream", "isolated", "padded"])
@pytest.mark.parametrize("step", [0, 7, 31])
def test_it_shows_the_batch_that_the_loader_gives(
    tiny_gpt2: Path, records: Path, packing: str, step: int
) -> None:
    found = inspect_data(settings(tiny_gpt2, records, packing=packing, step=step, windows=4, seed=3))
    module = LLMDataModule(
        str(tiny_gpt2), 2, path=str(records), block=32, packing=packing, global_batch_size=4, seed=3
    )
    module.setup()
    micros = [module.micro_batch(2 * step + n) for n in range(2)]
    expected = torch.cat([micro["input_ids"] for micro in micros]).tolist()
    targets = (torch.cat([micro["labels"] for micro in micros]) != -100).sum(1).tolist()
    assert ids_of(found) == [row[: 32 - w.padding] for row, w in zip(expected, found.windows, strict=False)]
    assert [w.targets for w in found.windows] == targets[: len(found.windows)]
    assert found.step_targets == sum(targets) == module.step_targets(step)
    assert found.steps_per_epoch == module.steps_per_epoch


def test_a_run_shows_its_next_step_and_nothing_in_it_is_touched(
    tiny_gpt2: Path, records: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    asked = [
        "--data.path",
        records,
        "--model.name",
        tiny_gpt2,
        "--data.block",
        32,
        "--data.global_batch_size",
        4,
    ]
    train = ["train", *asked, "--seed", 5, "--budget.steps", 3, "--out", out]
    assert main([str(word) for word in train]) == 0
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    found = inspect_data(InspectSettings(resume=str(out)))
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*")} == before
    assert (found.step, found.seed) == (3, 5)
    by_step = inspect_data(settings(tiny_gpt2, records, seed=5, step=3))
    assert ids_of(found) == ids_of(by_step)
    assert ids_of(inspect_data(InspectSettings(resume=str(out), step=0))) != ids_of(found)
    # After a rollback from step 3 to the beginning, the data of three steps are left out.
    write_json_atomic(out / "rollbacks.json", [{"spike": 2, "seen": 3, "to": 0}])
    back = inspect_data(InspectSettings(resume=str(out)))
    assert back.step == 0
    assert ids_of(back) == ids_of(found)
    # What came through standard input is gone, and what it was made into is there.
    recipe = read_recipe(out / "recipe.yaml")
    write_recipe(out / "recipe.yaml", replace(recipe, data=replace(recipe.data, path=("-",))))
    (out / "data.json").write_text(
        (out / "data.json")
        .read_text()
        .replace('"kind": "files"', '"kind": "remote"')
        .replace(str(records), "-")
    )
    piped = inspect_data(InspectSettings(resume=str(out)))
    assert ids_of(piped) == ids_of(by_step)
    assert ("odd", "not looked for: standard input cannot be read a second time") in piped.count_rows()


def test_a_run_whose_weights_were_changed_shows_the_step_that_it_will_take(
    tiny_gpt2: Path, records: Path, tmp_path: Path
) -> None:
    other, out = tmp_path / "other.jsonl", tmp_path / "run"
    other.write_text("".join(json.dumps({"text": f"Another {n}. " * 5}) + "\n" for n in range(40)))
    asked = ["--data.path", records, other, "--data.weights", 1, 1, "--model.name", tiny_gpt2]
    asked += ["--data.block", 32, "--data.global_batch_size", 4, "--budget.steps", 1, "--out", out]
    assert main([str(word) for word in ["train", *asked]]) == 0
    write_json_atomic(out / "weights.json", [{"step": 1, "weights": [0, 1]}])
    assert _sources_shown(InspectSettings(resume=str(out), windows=4)) == ["other.jsonl"] * 4
    earlier = _sources_shown(InspectSettings(resume=str(out), windows=4, step=0))
    assert sorted(earlier) == ["other.jsonl"] * 2 + ["records.jsonl"] * 2


def _sources_shown(asked: InspectSettings) -> list[str]:
    """The source of each window by its words, which has to be the one that is said."""
    found = inspect_data(asked)
    texts = ["".join(piece.text for piece in _pieces(window)) for window in found.windows]
    by_words = ["other.jsonl" if "Another" in text else "records.jsonl" for text in texts]
    assert not any("Another" in text and "Number" in text for text in texts)
    assert list(found.sources) == by_words
    counts = [f"{by_words.count(name)} of {name}" for name in dict.fromkeys(by_words)]
    assert dict(found.step_rows())["mixed"].split(", ") == counts
    assert all(f", {name}):" in found.window_heading(n) for n, name in enumerate(by_words, 1))
    return by_words


def test_what_too_long_leaves_out_is_said(tiny_gpt2: Path, records: Path) -> None:
    records.write_text("".join(json.dumps({"text": sentence(n) * (1 + n % 3)}) + "\n" for n in range(60)))
    for too_long in ("cut", "drop"):
        found = inspect_data(settings(tiny_gpt2, records, packing="isolated", too_long=too_long))
        rows = [value for name, value in found.count_rows() if name == "left out"]
        assert rows == [
            f"{found.packing.tokens_left_out:,} tokens and {found.packing.documents_left_out} whole documents"
            " are in no window"
        ]
        assert found.packing.tokens_left_out > 0
        assert (found.packing.documents_left_out > 0) == (too_long == "drop")
        assert any(note.startswith("training: ") for note in found.notes)


def test_data_tokenised_elsewhere(tiny_gpt2: Path, tmp_path: Path) -> None:
    eos = AutoTokenizer.from_pretrained(tiny_gpt2).eos_token_id
    rows = [[5 + n % 30, *range(10, 40), eos] for n in range(40)]
    path = tmp_path / "train.bin"
    np.array(rows, dtype=np.uint16).tofile(path)
    found = inspect_data(settings(tiny_gpt2, path, tokenizer=str(tiny_gpt2)))
    assert found.duplicates.documents == 10
    assert found.duplicates.example == f"{path}:30"
    assert found.oddities == ()
    assert ("odd", "not looked for: the data are tokenised already") in found.count_rows()


def test_what_train_takes_of_its_own_accord(records: Path) -> None:
    asked = DataRecipe(path=(str(records),), tokenizer="train:300")
    found = inspect_data(InspectSettings(ModelRecipe("preset:gpt2-1m"), asked))
    assert (found.model, found.packing.block) == ("preset:gpt2-1m", 128)
    # No step is larger than the text, which a run would refuse.
    assert 0 < found.step_windows <= found.packing.windows
    assert not any("model.name" in note for note in found.notes)
    found = inspect_data(InspectSettings(ModelRecipe("auto"), asked))
    assert found.notes[0].startswith("model.name auto: ")
    assert found.notes[0].endswith(f" of {found.model}")


# -- the counts ----------------------------------------------------------------------------------------------


def test_prompts_that_count(chat_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = chats(tmp_path / "chat.jsonl", "user", "assistant")
    words = ["data", "inspect", "--data.path", data, "--model.name", chat_model, "--data.block", "64"]
    words += ["--data.packing", "padded", "--windows", "2", "--data.prompt_weight", "0.1"]
    assert main([*map(str, words), "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    weighed = [0, 0]
    for window in value["windows"]:
        tokens = [token for document in window["documents"] for token in document["tokens"]]
        first, *others = tokens
        assert first[2:] == [False], "nothing predicts it"
        assert [each[2:] in ([True], [False, 0.1]) for each in others] == [True] * len(others)
        assert window["prompts"] == sum(len(ids) for ids, *_, last in others if last == 0.1)
        weighed = [weighed[0] + window["targets"], weighed[1] + window["prompts"]]
    assert value["step_targets"] >= weighed[0]
    assert value["step_prompts"] >= weighed[1] > 0
    assert value["inputs"][-1].startswith("loss_weights float32")
    assert main([*map(str, words)]) == 0
    out = capsys.readouterr().out
    assert "~ prompt, counts 0.1" in out
    assert f"{value['step_targets']:,} targets, {value['step_prompts']:,} tokens of prompts" in out
    assert f"{value['prompts']:,} tokens of prompts that count 0.1 each, in validation nothing" in out


def test_counts_by_hand(tiny_gpt2: Path, tmp_path: Path) -> None:
    path = tmp_path / "odd.jsonl"
    texts = [sentence(n) for n in range(36)]
    texts += [
        texts[3],
        texts[3],
        texts[7],
        "bell\x07 bell\x07",
        "caf\u00c3\u00a9",
        " \n",
        "x" * 10_001,
        "a\r\nb\nc\u200b",
    ]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in [*texts, "", ""]))
    found = inspect_data(settings(tiny_gpt2, path, packing="padded"))
    assert found.train.documents + found.validation.documents == len(texts)
    assert found.train.tokens + found.validation.tokens == sum(len(t.encode()) + 1 for t in texts)
    assert (found.duplicates.documents, found.duplicates.example) == (3, f"{path}:37")
    assert {o.kind: (o.documents, o.times, o.example.rpartition(":")[2]) for o in found.oddities} == {
        "empty": (2, 2, "45"),
        "blank": (1, 1, "42"),
        "control": (1, 2, "40"),
        "mojibake": (1, 1, "41"),
        "zero_width": (1, 1, "44"),
        "long_line": (1, 1, "43"),
        "mixed_line_ends": (1, 1, "44"),
    }
    value = found.to_dict()
    assert json.loads(json.dumps(value)) == json.loads(json.dumps(value, allow_nan=False))
    assert value["oddities"]["control"] == {
        "kind": "control", "documents": 1, "times": 2, "example": f"{path}:40",
    }  # fmt: skip
    assert value["packing"]["documents"] == found.train.documents
    assert [sorted(w) for w in value["windows"]] == [
        ["documents", "masked", "padding", "prompts", "targets", "window"]
    ] * 2


def test_shared_text_is_looked_for_in_the_validation_data_given(
    tiny_gpt2: Path, records: Path, tmp_path: Path
) -> None:
    val = tmp_path / "val.jsonl"
    val.write_text("".join(json.dumps({"text": t}) + "\n" for t in (sentence(4), "Something else entirely.")))
    found = inspect_data(settings(tiny_gpt2, records, val_path=(str(val),)))
    assert (found.contamination.documents, found.contamination.contaminated) == (2, 1)
    assert found.contamination.example == 0
    assert (found.duplicates.documents, found.duplicates.example) == (1, f"{val}:1")


def test_duplicates_are_told_and_left_out_on_request(tiny_gpt2: Path, records: Path) -> None:
    lines = records.read_text()
    records.write_text(lines + lines)
    as_they_are = inspect_data(settings(tiny_gpt2, records))
    without = inspect_data(settings(tiny_gpt2, records, deduplicate="exact"))
    trained = without.train.documents
    assert as_they_are.train.documents == 2 * trained
    assert as_they_are.validation == without.validation
    assert as_they_are.train.tokens == 2 * without.train.tokens
    said = f"duplicates: {trained} of {2 * trained} training documents are equal to an earlier one"
    assert [n for n in without.notes if n.startswith("duplicates")] == [f"{said} and left out"]
    assert any(n.startswith(f"{said}; they stay") for n in as_they_are.notes)
    assert without.duplicates.documents == 40, "what was read is counted, not what is left of it"


# -- what is printed -----------------------------------------------------------------------------------------


def test_the_command_in_plain_and_as_json(
    chat_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, page = chats(tmp_path / "chat.jsonl", "user", "assistant"), tmp_path / "page.html"
    words = ["data", "inspect", "--data.path", data, "--model.name", chat_model, "--data.block", "64"]
    words += ["--data.packing", "padded", "--windows", "1"]
    assert main([*map(str, words), "--html", str(page)]) == 0
    out = capsys.readouterr().out
    shown = out[out.index("── document") :].splitlines()
    number = int(shown[0].split()[2])
    assert shown[1].startswith("  user: user ")
    assert shown[1].endswith("⊣")
    prompt, answer, _ = shown[1][2:].split("⊣")
    assert (
        shown[2]
        == f"  {'-' * len(prompt + '⊣assistant: ')}{'=' * len(answer.removeprefix('assistant: ') + '⊣')}"
    )
    assert shown[3].startswith(". ")
    assert page.read_text().startswith("<!doctype html>")
    assert "\x1b" not in out
    names = [str(data), str(page), str(chat_model), os.environ["BABYGPT_CACHE"]]
    assert [line for line in out.splitlines() if len(line) > 80 and not any(n in line for n in names)] == []

    assert main([*map(str, words), "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    (window,) = value["windows"]
    assert window["documents"][0]["document"] == number
    tokens = window["documents"][0]["tokens"]
    assert (
        "".join(text for _, text, is_target in tokens if is_target)
        == answer.removeprefix("assistant: ") + "<|endoftext|>"
    )
    assert value["inputs"][0] == f"input_ids int64 [{value['step_windows']}, 64]"


def test_a_recipe_file_is_read_as_train_reads_it(
    tiny_gpt2: Path, records: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = Recipe(
        ModelRecipe(str(tiny_gpt2)), DataRecipe(path=(str(records),), block=16, global_batch_size=2)
    )
    write_recipe(tmp_path / "recipe.yaml", recipe)
    assert read_recipe(tmp_path / "recipe.yaml") == recipe
    words = ["data", "inspect", "--config", str(tmp_path / "recipe.yaml"), "--data.block", "24", "--json"]
    assert main(words) == 0
    value = json.loads(capsys.readouterr().out)
    assert (value["packing"]["block"], value["step_windows"]) == (24, 2)
    (tmp_path / "recipe.yaml").write_text("optim: {learning_rate: 1}\n")
    assert main(words) == 2
    assert "Did you mean optim.lr" in capsys.readouterr().err


# -- what is refused -----------------------------------------------------------------------------------------


def test_a_page_that_can_go_nowhere_is_refused_before_the_data_are_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["data", "inspect", "--data.path", str(tmp_path / "missing.txt"), "--html"]
    assert main([*words, str(tmp_path / "no" / "page.html")]) == 2
    said = f"{tmp_path / 'no'}: there is no such folder. Make it, or give another --html."
    assert capsys.readouterr().err == f"babygpt data inspect: {said}\n"


def test_conversations_without_an_answer(
    chat_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = chats(tmp_path / "chat.jsonl", "system", "user")
    words = ["data", "inspect", "--data.path", str(data), "--model.name", str(chat_model)]
    assert main([*words, "--html", str(tmp_path / "page.html")]) == 2
    assert (
        "not one of 30 conversations has an assistant's turn, only system and user" in capsys.readouterr().err
    )
    assert not (tmp_path / "page.html").exists()


def test_answers_that_are_all_empty(chat_model: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(chat_model)
    tokenizer.chat_template = _TEMPLATE.replace(
        "<|endoftext|>", " "
    )  # nor is there an end of turn to be learned
    tokenizer.save_pretrained(chat_model)
    path = tmp_path / "chat.jsonl"
    turns = [
        [
            {"role": "user", "content": f"Ask {n}"},
            {"role": "assistant", "content": ""},
            {"role": "user", "content": "Well?"},
        ]
        for n in range(30)
    ]
    path.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in turns))
    with pytest.raises(DataError, match="what 30 documents would teach is empty") as caught:
        inspect_data(settings(chat_model, path))
    assert caught.value.where == str(path)


def test_bad_settings() -> None:
    with pytest.raises(RecipeError, match="at least 0"):
        InspectSettings(step=-1)
    with pytest.raises(RecipeError, match="at least 1"):
        InspectSettings(windows=0)
    with pytest.raises(RecipeError, match="by its own recipe"):
        InspectSettings(resume="runs/x", seed=3)
    with pytest.raises(CheckpointError, match=r"no recipe\.yaml"):
        inspect_data(InspectSettings(resume="nowhere"))
