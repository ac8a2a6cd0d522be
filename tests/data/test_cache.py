from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from babygpt.data import building, work, writing
from babygpt.data.cache import clear_leftovers, default_cache, publishing
from babygpt.data.store import prepare
from babygpt.errors import DataError, InputError
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


@needs_locks
def test_what_was_published_leaves_nothing_to_go_on_with(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    for name in ("abc", ".building-abc", ".building-def"):
        (folder / name / "whole").mkdir(parents=True)
    for name in (".building-abc.lock", ".building-def.lock"):
        (folder / name).touch()
    clear_leftovers(folder)
    assert sorted(p.name for p in folder.iterdir()) == [".building-def", ".building-def.lock", "abc"]


def test_a_cache_that_cannot_be_made_is_one_plain_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    message = (
        r"cache: the folder cannot be made \(.*\)\. Set BABYGPT_CACHE to a folder that can be written to"
    )
    with pytest.raises(InputError, match=message), publishing(tmp_path / "file" / "babygpt" / "data"):
        pass

    def refused(path: Path, **options: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "mkdir", refused)
    message = (
        r"no-home/babygpt/data: the cache: cannot be written to \(permission denied\)\. Set BABYGPT_CACHE"
    )
    with pytest.raises(InputError, match=message), publishing(tmp_path / "no-home" / "babygpt" / "data"):
        pass


def test_a_user_without_a_home_is_told_of_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless(path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", homeless)
    for name in ("BABYGPT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InputError, match=r"^cache: this user has no home folder for it\. Set BABYGPT_CACHE"):
        default_cache()


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
        writing.StoreWriter._finish = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[method-assign]
    prepare(recipe, model_name="preset:gpt2-1m", cache=home, progress=at)


def whole(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


KILLS = [
    ("reading", 9),
    ("sampling", 5),
    ("encoding", 1),
    ("encoding", 10),
    ("encoding", 30),
    ("flushing", 0),
]


@needs_locks
@pytest.mark.parametrize("kind", ["held-out documents", "held-out tail", "given validation"])
def test_a_killed_build_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(building, "_COMMIT_TOKENS", 100)
    texts = [f"The text of number {number} is short. " * 5 for number in range(30)]
    if kind == "held-out tail":
        texts = [f"One of few: {number % 7}. " * 9 for number in range(30)]
    plain = [{"text": text} for text in texts[:20]]
    halves = [{"prompt": text[:20], "completion": text[20:]} for text in texts[20:]]
    paths = (str(tmp_path / "plain.jsonl"), str(tmp_path / "halves.jsonl"))
    for path, rows in zip(paths, (plain, halves), strict=True):
        Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = paths if kind == "given validation" else ()
    recipe = DataRecipe(path=paths, val_path=given, tokenizer="train:300")
    home = tmp_path / "home"
    context = multiprocessing.get_context("fork")
    for kill in KILLS:
        process = context.Process(target=_killed_while, args=(*kill, recipe, home))
        process.start()
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
    (left,) = (name for name in names(home / "data") if not name.endswith(".lock"))
    assert left.startswith(".building-")
    told: list[tuple[str, int]] = []
    undisturbed = prepare(recipe, model_name="preset:gpt2-1m", cache=tmp_path / "other")
    data = prepare(
        recipe,
        model_name="preset:gpt2-1m",
        cache=home,
        progress=lambda stage, done, _: told.append((stage, done)),
    )
    assert not [done for stage, done in told if stage in ("sampling", "encoding")], "nothing is done twice"
    assert f"gone on with, after {len(texts) * (1 + bool(given))} documents" in data.notes[-1]
    assert data.notes[:-1] == undisturbed.notes
    assert whole(data.folder) == whole(undisturbed.folder)
    assert names(home / "data") == [data.key]


@needs_locks
def test_what_other_versions_left_is_not_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "texts.jsonl").write_text("".join(f'{{"text": "number {n}"}}\n' for n in range(30)))
    recipe = DataRecipe(path=(str(tmp_path / "texts.jsonl"),), tokenizer="train:300")
    home = tmp_path / "home"
    process = multiprocessing.get_context("fork").Process(
        target=_killed_while, args=("flushing", 0, recipe, home)
    )
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    monkeypatch.setattr(work, "installed_versions", lambda: {"babygpt": "0.0.0"})
    assert not any("gone on" in note for note in prepare(recipe, model_name="auto", cache=home).notes)


@needs_locks
def test_what_can_be_gone_on_with_stays_a_week(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for days in (6, 8):
        left = folder / f".building-{days}"
        left.mkdir()
        (left / "begun").write_text("")
        (folder / f".building-{days}.lock").write_text("")
        for path in (left / "begun", left, folder / f".building-{days}.lock"):
            os.utime(path, (time.time() - days * 86_400,) * 2)
    with publishing(folder):
        clear_leftovers(folder)
        assert len(names(folder)) == 4
    clear_leftovers(folder)
    assert names(folder) == [".building-6", ".building-6.lock"]


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
