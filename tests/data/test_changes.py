"""A run's memory of its data, on runs that are nothing but the folder and its record."""

from __future__ import annotations

import io
import json
import os
import platform
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from babygpt.data import changes
from babygpt.data.cache import default_cache
from babygpt.data.digests import Index
from babygpt.data.store import prepare
from babygpt.errors import CheckpointError, DataError, RecipeError
from babygpt.recipe import DataRecipe

LONG_AGO = 1_600_000_000_000_000_000


def write(file: Path, content: str, mtime_ns: int = LONG_AGO) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content)
    os.utime(file, ns=(mtime_ns, mtime_ns))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder of texts, a file of its own, and a run trained on both."""
    project = tmp_path / "project"
    for number in range(25):
        write(project / "texts" / "sub" / f"{number:02}.txt", f"The text of number {number} is short. " * 5)
    write(project / "notes.txt", "These are notes. " * 20)
    begin(project, DataRecipe(path=(str(project / "texts"), str(project / "notes.txt"))))
    return project


def begin(project: Path, recipe: DataRecipe) -> DataRecipe:
    out = project / "runs" / "one"
    out.mkdir(parents=True, exist_ok=True)
    changes.remember(out, prepare(recipe, model_name="preset:gpt2-1m"))
    return recipe


def recipe_of(project: Path) -> DataRecipe:
    record = json.loads((project / "runs" / "one" / "data.json").read_text())
    return DataRecipe(
        **{name: tuple(place["path"] for place in record[name]) for name in ("path", "val_path")}
    )


def check(project: Path, *, given: DataRecipe | None = None, named: tuple[str, ...] = ()) -> DataRecipe:
    recipe = recipe_of(project)
    return changes.unchanged(project / "runs" / "one", recipe, given or recipe, named)


def refusal(project: Path) -> str:
    with pytest.raises(DataError) as caught:
        check(project)
    return str(caught.value)


def test_the_record_names_store_and_files(project: Path) -> None:
    record = json.loads((project / "runs" / "one" / "data.json").read_text())
    data = prepare(recipe_of(project), model_name="preset:gpt2-1m")
    assert record["store"] == data.key == changes.store_key(project / "runs" / "one")
    assert record["fingerprint"] == data.fingerprint
    folder, file = record["path"]
    assert [entry[0] for entry in folder["files"]] == [f"sub/{n:02}.txt" for n in range(25)]
    assert file["files"][0][:3] == ["notes.txt", 340, LONG_AGO]
    assert file["relative"] == "../../notes.txt"


def test_unchanged_data_are_not_read(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Index, "state", lambda *_: pytest.fail("a file was read"))
    assert check(project) == recipe_of(project)


def test_touched_but_equal_data_go_on(project: Path) -> None:
    for file in [*project.glob("texts/**/*.txt"), project / "notes.txt"]:
        os.utime(file)
    assert check(project) == recipe_of(project)
    text = (project / "notes.txt").read_text()
    (project / "notes.txt").unlink()
    (project / "notes.txt").write_text(text)
    assert check(project) == recipe_of(project)


def test_what_changed_went_and_came_is_named_at_once(project: Path) -> None:
    sub = project / "texts" / "sub"
    size = (sub / "03.txt").stat().st_size
    write(sub / "03.txt", "longer " * 100)
    (sub / "04.txt").unlink()
    write(sub / "new.txt", "new")
    write(sub / "picture.png", "no text, so that it does not matter")
    write(project / "notes.txt", "THESE ARE NOTES. " * 20, LONG_AGO + 10**9)
    message = refusal(project)
    assert f"{sub}/03.txt was changed ({size} bytes then, 700 now)" in message
    assert f"{sub}/04.txt is missing" in message
    assert f"{sub}/new.txt was added" in message
    assert f"{project}/notes.txt was changed (of the same size)" in message
    assert "picture" not in message
    assert "--data.path" in message


def test_an_edit_that_puts_the_old_time_back_is_noticed(project: Path) -> None:
    write(project / "notes.txt", "THESE ARE NOTES. " * 20)
    assert "notes.txt was changed (of the same size)" in refusal(project)


def test_many_changes_are_counted(project: Path) -> None:
    for file in project.glob("texts/sub/*.txt"):
        write(file, "x")
    message = refusal(project)
    assert "and 17 more" in message
    assert len(message) < 2000


def test_a_copied_project_goes_on_where_it_lies(project: Path, tmp_path: Path) -> None:
    """Paths of the old place are tried first; nothing is there."""
    moved = tmp_path / "elsewhere" / "copy"
    shutil.copytree(project, moved)  # copies times too
    shutil.rmtree(project)
    assert check(moved).path == (str(moved / "texts"), str(moved / "notes.txt"))


def test_a_moved_run_folder_and_another_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "project"
    write(project / "notes.txt", "These are notes. " * 20)
    monkeypatch.chdir(project)
    begin(project, DataRecipe(path=("notes.txt",)))
    monkeypatch.chdir(tmp_path)
    assert check(project).path == (str(project / "notes.txt"),)
    (tmp_path / "far").mkdir()
    shutil.move(project / "runs", tmp_path / "far" / "runs")
    assert check(tmp_path / "far").path == (str(project / "notes.txt"),)
    write(tmp_path / "notes.txt", "Another file of this name.")  # in the way, but not the same
    assert check(tmp_path / "far").path == (str(project / "notes.txt"),)


def test_data_that_lie_elsewhere_are_named(project: Path, tmp_path: Path) -> None:
    shutil.move(project / "texts", tmp_path / "downloaded")
    shutil.move(project / "notes.txt", tmp_path / "renamed.txt")
    os.utime(tmp_path / "renamed.txt")
    assert f"{project}/texts is missing" in refusal(project)
    there = (str(tmp_path / "downloaded"), str(tmp_path / "renamed.txt"))
    given = DataRecipe(path=there)
    assert check(project, given=given, named=("path",)).path == there
    write(tmp_path / "downloaded" / "sub" / "07.txt", "other")
    with pytest.raises(DataError, match=r"downloaded/sub/07\.txt was changed"):
        check(project, given=given, named=("path",))
    with pytest.raises(
        RecipeError, match=r"begun with another recipe: data\.path: \[.*\] there, \[.*\] here"
    ):
        check(project, given=DataRecipe(path=there[:1]), named=("path",))
    with pytest.raises(RecipeError, match=r"data\.val_path: \[\] there, \[x\] here"):
        check(project, given=DataRecipe(val_path=("x",)), named=("val_path",))


def test_validation_data_are_compared_too(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", "These are notes. " * 20)
    write(tmp_path / "val.txt", "These are held out. " * 20)
    begin(tmp_path, DataRecipe(path=(str(tmp_path / "a.txt"),), val_path=(str(tmp_path / "val.txt"),)))
    check(tmp_path)
    write(tmp_path / "val.txt", "Not any more.")
    assert "val.txt was changed" in refusal(tmp_path)


def test_another_python_brings_other_text(tmp_path: Path) -> None:
    begin(tmp_path, DataRecipe(path=("builtin:prose",)))
    check(tmp_path)
    with pytest.raises(DataError, match=r"x\.txt is not builtin:prose"):
        check(tmp_path, given=DataRecipe(path=("x.txt",)), named=("path",))
    record = tmp_path / "runs" / "one" / "data.json"
    value = json.loads(record.read_text())
    for corpus in ("builtin:prose", "builtin:python"):
        value["path"][0] |= {"path": corpus, "python": "3.1.4", "fingerprint": "", "files": []}
        record.write_text(json.dumps(value))
        wanted = f"{corpus} is that of Python {platform.python_version()} and was that of Python 3.1.4"
        assert wanted in refusal(tmp_path)


@pytest.mark.parametrize(
    "damage",
    [
        "",
        "[]",
        "{",
        '{"format": 2}',
        '{"format": 1, "store": "../../etc", "fingerprint": "", "path": [], "val_path": []}',
        '{"format": 1, "store": 7, "fingerprint": "", "path": [], "val_path": []}',
    ],
)
def test_a_damaged_record_is_told(project: Path, damage: str) -> None:
    recipe = recipe_of(project)
    out = project / "runs" / "one"
    (out / "data.json").write_text(damage)
    with pytest.raises(CheckpointError, match=r"data\.json: cannot be read .* Delete it to go on"):
        changes.unchanged(out, recipe, recipe, ())
    assert changes.store_key(out) is None


def test_a_run_without_a_record_goes_on_unless_other_paths_are_given(tmp_path: Path) -> None:
    recipe = DataRecipe(path=("a.txt",))
    assert changes.unchanged(tmp_path, recipe, recipe, ("path",)) == recipe
    assert changes.store_key(tmp_path) is None
    with pytest.raises(RecipeError, match="begun with another recipe"):
        changes.unchanged(tmp_path, recipe, replace(recipe, path=("b.txt",)), ("path",))


def test_what_came_on_standard_input_is_found_where_it_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BABYGPT_STANDARD_INPUT", "")
    piped = SimpleNamespace(buffer=io.BytesIO(b"These are notes. " * 50), isatty=lambda: False)
    monkeypatch.setattr(sys, "stdin", piped)
    begin(tmp_path, DataRecipe(path=("-",)))
    # Later, with nothing on standard input and the tokenised copy gone.
    monkeypatch.setenv("BABYGPT_STANDARD_INPUT", "")
    monkeypatch.setattr(sys, "stdin", None)
    shutil.rmtree(default_cache() / "data")
    found = check(tmp_path)
    data = prepare(found, model_name="preset:gpt2-1m")
    changes.check_prepared(tmp_path / "runs" / "one", data)
    assert data.key == changes.store_key(tmp_path / "runs" / "one")
    (kept,) = found.path
    Path(kept).unlink()
    assert check(tmp_path).path == ("-",)
