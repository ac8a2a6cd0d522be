"""What becomes of a corpus whose disk is full, that is killed, or that another process makes, too."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from babygpt.data.exporting import export
from babygpt.data.opening import settings_of
from babygpt.data.work import keep_hashes
from babygpt.errors import RecipeError, SpaceError
from babygpt.files import make_folder, write_json_atomic
from babygpt.recipe import DataRecipe
from babygpt.settings import PrepareSettings

FULL = Path("/dev/full")


@pytest.fixture
def prepared(make_store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as the cache has it."""
    monkeypatch.setattr("babygpt.data.exporting.load_tokenizer", lambda folder: None)
    monkeypatch.setattr("babygpt.data.exporting.tokenizer_identity", lambda tokenizer: "none")
    store, folder = make_store([[1, 2, 3]] * 4), tmp_path / "prepared"
    (folder / "tokenizer").mkdir(parents=True)
    for side in ("train", "val"):
        (folder / side).symlink_to(store.folder)
    notes = ["/home/me/private/a.csv: the text is column 'body'", "validation: 2 of 4 documents"]
    write_json_atomic(folder / "manifest.json", {"format": 1, "facts": {"notes": notes}, "files": {}})
    return folder


@pytest.mark.skipif(not FULL.exists(), reason="no disk that is always full")
@pytest.mark.parametrize("name", ["BATCHES", "LENGTHS"])
def test_an_index_for_which_there_is_no_room_is_an_error(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(f"babygpt.data.exporting.{name}", str(FULL))
    with pytest.raises(SpaceError):
        export(prepared, tmp_path / "corpus", {}, "f" * 64)
    assert not (tmp_path / "corpus").exists()


@pytest.mark.skipif(not FULL.exists(), reason="no disk that is always full")
def test_hashes_for_which_there_is_no_room_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "hashes").symlink_to(FULL)
    with pytest.raises(OSError, match="No space left"):
        keep_hashes(tmp_path, np.arange(10, dtype=np.uint64))


def test_what_a_killed_process_left_is_removed_and_what_one_is_at_stays(
    prepared: Path, tmp_path: Path
) -> None:
    left = tmp_path / ".partial-corpus-01234567"
    others = [tmp_path / name for name in (".partial-corpus-2-01234567", ".partial-corpus-new", "corpus-x")]
    begun = tmp_path / ".partial-corpus-89abcdef"
    for folder in (left, begun, *others):
        make_folder(folder / "train")
        os.utime(folder, (0, 0))
    os.utime(begun)
    export(prepared, tmp_path / "corpus", {}, "f" * 64)
    assert not left.exists()
    assert begun.exists()
    assert all(each.exists() for each in others)


def test_two_processes_do_not_take_each_others_work(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Path] = []

    def loaded(folder: Path) -> None:
        """In the middle of one export the other begins and ends."""
        os.utime(folder.parent, (0, 0))
        if not made:
            made.append(folder.parent)
            made.append(export(prepared, tmp_path / "corpus", {}, "f" * 64))

    monkeypatch.setattr("babygpt.data.exporting.load_tokenizer", loaded)
    path = export(prepared, tmp_path / "corpus", {}, "f" * 64)
    assert (path.name, made[1].name) == ("corpus-v1", "corpus")
    assert (path / "corpus.json").read_bytes() == (made[1] / "corpus.json").read_bytes()


def test_it_says_nothing_of_where_it_was_made(prepared: Path, tmp_path: Path) -> None:
    recipe = DataRecipe(path=("a.csv",), tokenizer=f"file:{tmp_path}/mine")
    export(prepared, tmp_path / "corpus", settings_of(recipe), "f" * 64)
    text = (tmp_path / "corpus" / "corpus.json").read_text()
    assert str(tmp_path) not in text
    assert json.loads(text)["notes"] == ["a.csv: the text is column 'body'", "validation: 2 of 4 documents"]


def test_a_corpus_is_written_to_no_address() -> None:
    with pytest.raises(RecipeError, match="is an address"):
        PrepareSettings(to="s3://me:secret@bucket/corpus")
