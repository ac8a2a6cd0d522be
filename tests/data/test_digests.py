from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from babygpt.data.digests import FileState, Index
from babygpt.data.identity import survey
from babygpt.errors import DataError

LONG_AGO = 1_600_000_000_000_000_000


def write(file: Path, content: str, mtime_ns: int = LONG_AGO) -> None:
    file.write_text(content)
    os.utime(file, ns=(mtime_ns, mtime_ns))


def sha256(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files whose content was read."""
    names: list[str] = []
    read = Index._read

    def watched(self: Index, path: str, name: str) -> FileState:
        names.append(name)
        return read(self, path, name)

    monkeypatch.setattr(Index, "_read", watched)
    return names


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    for name in "abc":
        write(folder / f"{name}.txt", name)
    return folder


def look(folder: Path, cache: Path, *, trust: bool = True) -> dict[str, str]:
    with Index([str(folder)], cache, trust=trust) as index:
        return {name: index.state(folder, name).sha256 for name in ("a.txt", "b.txt", "c.txt")}


def test_untouched_files_are_read_once(folder: Path, tmp_path: Path, reads: list[str]) -> None:
    wanted = {f"{name}.txt": sha256(name) for name in "abc"}
    assert look(folder, tmp_path / "cache") == wanted
    assert len(reads) == 3
    assert look(folder, tmp_path / "cache") == wanted
    assert len(reads) == 3
    assert look(folder, tmp_path / "cache", trust=False) == wanted
    assert len(reads) == 6


def test_every_kind_of_touch_is_read_again(folder: Path, tmp_path: Path, reads: list[str]) -> None:
    look(folder, tmp_path / "cache")
    del reads[:]
    write(folder / "a.txt", "A")  # the same size and, put back, the same time: the change time tells
    os.utime(folder / "b.txt", ns=(LONG_AGO + 1, LONG_AGO + 1))
    write(folder / "other", "c")
    os.replace(folder / "other", folder / "c.txt")  # another inode
    assert look(folder, tmp_path / "cache")["a.txt"] == sha256("A")
    assert sorted(reads) == ["a.txt", "b.txt", "c.txt"]


def test_a_fresh_file_is_not_remembered(folder: Path, tmp_path: Path, reads: list[str]) -> None:
    """A second edit of the same size might leave its time as it is."""
    (folder / "a.txt").write_text("x")
    with Index([str(folder)], tmp_path / "cache") as index:
        assert not index.state(folder, "a.txt").settled
        assert index.state(folder, "b.txt").settled
    look(folder, tmp_path / "cache")
    assert reads == ["a.txt", "b.txt", "a.txt", "c.txt"]


@pytest.mark.parametrize("damage", [b"", b"nonsense", b"\xff\n\xff", b"{}\n{}", None])
def test_a_damaged_index_is_ignored(
    folder: Path, tmp_path: Path, reads: list[str], damage: bytes | None
) -> None:
    wanted = look(folder, tmp_path / "cache")
    (index,) = (tmp_path / "cache" / "index").iterdir()
    if damage is None:  # one digit of one digest
        content = index.read_text()
        at = content.index(sha256("b"))
        damage = (content[:at] + ("0" if content[at] != "0" else "1") + content[at + 1 :]).encode()
    index.write_bytes(damage)
    assert look(folder, tmp_path / "cache") == wanted
    assert len(reads) == 6
    assert look(folder, tmp_path / "cache") == wanted
    assert len(reads) == 6


def test_a_cache_that_cannot_be_written_costs_only_time(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert look(folder, tmp_path / "cache")["a.txt"] == sha256("a")


def test_what_is_gone_is_forgotten(folder: Path, tmp_path: Path) -> None:
    look(folder, tmp_path / "cache")
    (folder / "c.txt").unlink()
    write(folder / "d.txt", "d")
    with Index([str(folder)], tmp_path / "cache") as index:
        index.state(folder, "d.txt")
    (saved,) = (tmp_path / "cache" / "index").iterdir()
    names = [os.path.basename(path) for path in json.loads(saved.read_text().splitlines()[1])]
    assert sorted(names) == ["a.txt", "b.txt", "d.txt"]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with (
        Index([str(tmp_path)], tmp_path / "cache") as index,
        pytest.raises(DataError, match=r"gone\.txt: cannot be read"),
    ):
        index.state(tmp_path, "gone.txt")


def test_a_survey_says_what_it_took_on_trust(folder: Path, tmp_path: Path) -> None:
    first = survey([str(folder)], tmp_path / "cache")
    again = survey([str(folder)], tmp_path / "cache")
    assert (first.taken_on_trust, again.taken_on_trust) == (0, 3)
    assert first.identity == again.identity
    assert survey([str(folder)], tmp_path / "cache", trust=False).taken_on_trust == 0
    write(folder / "b.txt", "B")
    assert survey([str(folder)], tmp_path / "cache").identity != first.identity
