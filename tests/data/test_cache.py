from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from babygpt.data import cache, store
from babygpt.data.cache import clear_leftovers, publishing
from babygpt.data.store import prepare
from babygpt.errors import DataError
from babygpt.recipe import DataRecipe

needs_locks = pytest.mark.skipif(sys.platform == "win32", reason="no flock")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of the cache with what two killed processes left, long ago, and something whole."""
    folder = tmp_path / "data"
    for name in (".partial-one-00000000/train", ".replaced-two-00000000", "whole"):
        (folder / name).mkdir(parents=True)
        (folder / name / "file").write_text("content")
    age(folder, 4000)
    return folder


def age(folder: Path, seconds: float) -> None:
    then = time.time() - seconds
    for path in [folder, *folder.rglob("*")]:
        os.utime(path, (then, then))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@needs_locks
def test_old_leftovers_go_and_what_was_replaced_comes_back(folder: Path) -> None:
    clear_leftovers(folder)
    assert names(folder) == ["two", "whole"]


def test_young_leftovers_stay(folder: Path) -> None:
    os.utime(folder / ".partial-one-00000000" / "train" / "file")
    clear_leftovers(folder)
    assert len(names(folder)) == 3


@needs_locks
def test_nothing_goes_while_somebody_publishes(folder: Path) -> None:
    with publishing(folder), publishing(folder):
        clear_leftovers(folder)
        assert len(names(folder)) == 3
    clear_leftovers(folder)
    assert len(names(folder)) == 2


def test_an_absent_folder_is_no_failure(tmp_path: Path) -> None:
    clear_leftovers(tmp_path / "none" / "data")


def _killed_while(stage: str, nth: int, recipe: DataRecipe, home: Path) -> None:
    def at(told: str, done: int, total: int) -> None:
        if (told, done) == (stage, nth):
            os.kill(os.getpid(), signal.SIGKILL)

    if stage == "flushing":
        store.StoreWriter._finish = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[method-assign]
    prepare(recipe, model_name="preset:gpt2-1m", cache=home, progress=at)


@needs_locks
def test_a_killed_build_leaves_nothing_that_matters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(30):
        file = tmp_path / "texts" / f"{number}.txt"
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"The text of number {number} is short. " * 5)
    recipe = DataRecipe(path=(str(tmp_path / "texts"),), tokenizer="train:300")
    home = tmp_path / "home"
    context = multiprocessing.get_context("fork")
    for kill in (("reading", 9), ("sampling", 5), ("encoding", 1), ("encoding", 30), ("flushing", 0)):
        process = context.Process(target=_killed_while, args=(*kill, recipe, home))
        process.start()
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
    left = names(home / "data")
    assert len(left) == 5
    assert all(name.startswith(".partial-") for name in left)
    undisturbed = prepare(recipe, model_name="preset:gpt2-1m", cache=tmp_path / "other")
    data = prepare(recipe, model_name="preset:gpt2-1m", cache=home)
    assert (data.key, data.fingerprint) == (undisturbed.key, undisturbed.fingerprint)
    assert len(names(home / "data")) == 6
    monkeypatch.setattr(cache, "_UNTOUCHED_SECONDS", 0.0)
    time.sleep(0.01)
    prepare(recipe, model_name="preset:gpt2-1m", cache=home)
    assert names(home / "data") == [data.key]


def test_data_that_change_while_they_are_read_make_no_store(tmp_path: Path) -> None:
    for number in range(30):
        (tmp_path / f"{number}.txt").write_text(f"The text of number {number}.")
    recipe = DataRecipe(path=(str(tmp_path),), tokenizer="train:300")
    home = tmp_path / ".home"

    def at(change: str) -> None:
        def told(stage: str, done: int, total: int) -> None:
            if (stage, done) == ("encoding", 30):
                if change == "added":
                    (tmp_path / "new.txt").write_text("new")
                elif change == "edited":
                    (tmp_path / "3.txt").write_text("THE TEXT OF NUMBER 3.")
                else:
                    (tmp_path / "3.txt").unlink()

        prepare(recipe, model_name="preset:gpt2-1m", cache=home, progress=told)

    for change, name in (("added", "new.txt"), ("edited", "3.txt"), ("removed", "3.txt")):
        with pytest.raises(DataError, match=rf"{name}: the data changed while it was read"):
            at(change)
        assert names(home / "data") == []
