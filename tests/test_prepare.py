"""The verb data prepare: what it says there is, against counts by hand, and what it shows while it works."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from transformers import AutoTokenizer

from babygpt import DataRecipe, ModelRecipe
from babygpt.cli import main
from babygpt.data.arrow import open_store
from babygpt.data.several import prepare_several
from babygpt.errors import RecipeError
from babygpt.prepare import PreparationView, prepare_data
from babygpt.settings import PrepareSettings


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BABYGPT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text(
        "".join(json.dumps({"prompt": f"{n}?", "completion": f" is {n}"}) + "\n" for n in range(40))
    )
    return path


def test_it_counts_what_there_is(tiny_gpt2: Path, rows: Path) -> None:
    settings = PrepareSettings(
        ModelRecipe(str(tiny_gpt2)), DataRecipe(path=(str(rows),), val_path=(str(rows),))
    )
    done = prepare_data(settings)
    tokenizer = AutoTokenizer.from_pretrained(tiny_gpt2)
    texts = [(f"{n}?", f" is {n}") for n in range(40)]
    targets = sum(len(tokenizer(answer)["input_ids"]) + 1 for _, answer in texts)
    assert done.train.documents == 40
    assert done.train.tokens == sum(len(tokenizer(p + a)["input_ids"]) + 1 for p, a in texts)
    assert done.train.targets == targets
    assert done.train.bytes_per_token == pytest.approx(sum(len(a) for _, a in texts) / targets)
    assert done.val == done.train
    assert done.vocabulary == len(tokenizer)
    assert done.size == sum(f.stat().st_size for f in Path(done.folder).rglob("*") if f.is_file())
    assert Path(done.folder).name == done.key
    assert open_store(Path(done.folder) / "train").num_tokens == done.train.tokens
    again = prepare_data(settings)
    assert (done.reused, again.reused) == (False, True)
    assert again.key == done.key
    assert "the content of the data, the tokenizer and the settings are those" in again.notes[-1]


def test_the_command_prints_one_object_and_shows_its_work_elsewhere(
    tiny_gpt2: Path, rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["data", "prepare", "--data.path", str(rows), "--model.name", str(tiny_gpt2)]
    assert main([*arguments, "--json"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert found["train"]["documents"] + found["val"]["documents"] == 40
    assert found["reused"] is False
    lines = err.splitlines()
    assert lines[0] == "data: reading"
    assert any("on disk: about " in line and "expected" in line for line in lines)
    assert any(line.startswith("data: on disk: ") and "were expected" in line for line in lines)
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert err.splitlines()[-1].startswith("data: tokenised data reused from ")
    assert f"{found['train']['tokens']:,} tokens in {found['train']['documents']} documents" in out
    assert len({line.index("  ", 12) for line in out.splitlines()}) == 1, "the table lines up"


def test_a_runs_recipe_names_the_data(
    tiny_gpt2: Path, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"model: {{name: {tiny_gpt2}, dropout: 0.1}}\ndata: {{path: [{rows}], block: 32, val_fraction: 0.5}}\n"
        "budget: {steps: 3}\noptim: {lr: 0.1}\nmachine: {device: cpu}\n"
    )
    assert main(["data", "prepare", "--config", str(recipe), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    same = prepare_data(
        PrepareSettings(ModelRecipe(str(tiny_gpt2)), DataRecipe(path=(str(rows),), val_fraction=0.5))
    )
    assert (same.key, same.reused) == (found["key"], True)
    recipe.write_text("data: {blok: 32}\n")
    assert main(["data", "prepare", "--config", str(recipe)]) == 2
    assert "block" in capsys.readouterr().err


def test_with_weights_it_prepares_what_a_run_will_mix(
    rows: Path, tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    note = tmp_path / "note.txt"
    note.write_text("One and one are two, and two and two are four. " * 40)
    arguments = ["data", "prepare", "--data.path", str(rows), str(note), "--data.tokenizer", "train:300"]
    arguments += ["--data.weights", "1", "2"]
    assert main([*arguments, "--json"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    recipe = DataRecipe(path=(str(rows), str(note)), weights=(1.0, 2.0), tokenizer="train:300")
    mixed = prepare_several(recipe, model_name="preset:gpt2-1m", cache=cache)
    assert (found["key"], found["reused"], mixed.reused) == (mixed.key, False, True)
    assert found["train"]["tokens"] == mixed.train.num_tokens
    folders = [cache / "data" / key for key in mixed.key.split("+")]
    assert found["size"] == sum(f.stat().st_size for one in folders for f in one.rglob("*") if f.is_file())
    assert sum(line.startswith("data: note.txt: validation: ") for line in err.splitlines()) == 1
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert sum("note.txt: tokenised data reused" in line for line in err.splitlines()) == 1
    assert main(arguments[:-1]) == 2
    assert "1 weight for 2 paths" in capsys.readouterr().err


def test_what_is_not_read_is_said_the_first_time_too(
    rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    rows.rename(folder / "rows.jsonl")
    (folder / "picture.png").write_bytes(b"no text")
    arguments = ["data", "prepare", "--data.path", str(folder), "--data.tokenizer", "train:300"]
    for _ in range(2):
        assert main(arguments) == 0
        said = [line for line in capsys.readouterr().err.splitlines() if "not read (.png)" in line]
        assert said == [f"data: {folder}: 1 file is of another kind and not read (.png)"]


def test_data_that_teach_nothing_are_refused(
    tiny_gpt2: Path, tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "ids.parquet"
    columns = {"input_ids": [[1, 2, 3]] * 30, "labels": [[-100] * 3] * 30}
    pq.write_table(pa.table(columns), path)
    words = ["data", "prepare", "--data.path", str(path), "--model.name", str(tiny_gpt2), "--json"]
    assert main(words) == 2
    said = capsys.readouterr()
    assert "ids.parquet: no token of the training data is a target" in said.err
    assert not said.out


def test_bad_input_is_one_message(tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"text": "good"}\n{"text": \n')
    assert main(["data", "prepare", "--data.path", str(bad)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert f"{bad}:2: the line is not JSON" in err.splitlines()[-1]
    assert list((cache / "data").iterdir()) == [], "nothing half-written"
    with pytest.raises(RecipeError, match="names nothing"):
        PrepareSettings(data=DataRecipe(path=()))


@pytest.mark.parametrize("terminal", [False, True])
def test_preparing_the_data_shows_each_stage(terminal: bool) -> None:
    out = io.StringIO()
    out.isatty = lambda: terminal  # type: ignore[method-assign]
    console = Console(file=out, force_terminal=terminal, width=100, color_system=None, legacy_windows=False)
    with PreparationView(console) as view:
        for done in (1, 2, 3):
            view("reading", done, 0)
        for done in (1, 2, 3):
            view("tokenising", done, 3)
    text = out.getvalue()
    if terminal:
        assert "data: tokenising" in text
        assert "3/3" in text
    else:
        assert text == "data: reading\ndata: tokenising\n"
