"""Atomic writes, manifests, and folders that appear whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from babygpt import files
from babygpt.disk import expanded, plain_errors
from babygpt.errors import CheckpointError, InputError, SpaceError
from babygpt.files import publish_folder, read_manifest, remove_partials, verify_folder


def fill(folder: Path) -> None:
    (folder / "a.txt").write_text("first")
    (folder / "inner").mkdir()
    (folder / "inner" / "b.bin").write_bytes(bytes(range(256)))
    (folder / "empty").touch()


def visible(parent: Path) -> list[str]:
    return sorted(p.name for p in parent.iterdir())


def test_published_folder_verifies_and_its_manifest_is_right(tmp_path: Path) -> None:
    path = publish_folder(tmp_path / "deep" / "er", "one", fill, {"step": 3, "val_loss": math.nan})
    assert path == tmp_path / "deep" / "er" / "one"
    manifest = verify_folder(path)
    assert manifest.facts == {"step": 3, "val_loss": None}
    assert sorted(manifest.files) == ["a.txt", "empty", "inner/b.bin"]
    for name, entry in manifest.files.items():
        data = (path / name).read_bytes()
        assert (entry.size, entry.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert visible(path.parent) == ["one"]
    (path / "later.txt").write_text("a file beyond the manifest does no harm")
    verify_folder(path)


def test_a_taken_name_gets_a_version(tmp_path: Path) -> None:
    names = [publish_folder(tmp_path, "one", fill, {"n": n}).name for n in range(3)]
    assert names == ["one", "one-v1", "one-v2"]
    assert [read_manifest(tmp_path / name).facts["n"] for name in names] == [0, 1, 2]


@pytest.mark.parametrize("kind", ["nothing", "folder", "file", "link"])
def test_replace_takes_the_place_of_anything(tmp_path: Path, kind: str) -> None:
    other = publish_folder(tmp_path / "other", "kept", fill, {})
    target = tmp_path / "here" / "one"
    target.parent.mkdir()
    if kind == "folder":
        shutil.copytree(other, target)
    elif kind == "file":
        target.write_text("old")
    elif kind == "link":
        target.symlink_to(other)
    path = publish_folder(target.parent, "one", fill, {"new": True}, replace=True)
    assert path == target
    assert not path.is_symlink()
    assert verify_folder(path).facts == {"new": True}
    assert visible(target.parent) == ["one"]
    verify_folder(other)


@pytest.mark.parametrize("error", [RuntimeError("no"), KeyboardInterrupt()])
@pytest.mark.parametrize("replace", [False, True])
def test_an_exception_leaves_nothing_new(tmp_path: Path, error: BaseException, replace: bool) -> None:
    publish_folder(tmp_path, "one", fill, {})

    def fail(folder: Path) -> None:
        fill(folder)
        raise error

    with pytest.raises(type(error)):
        publish_folder(tmp_path, "one", fail, {}, replace=replace)
    assert visible(tmp_path) == ["one"]
    verify_folder(tmp_path / "one")


def test_a_swap_that_fails_half_way_is_undone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish_folder(tmp_path, "one", fill, {"new": False})
    rename = Path.rename

    def refuse_the_new(self: Path, target: Path) -> Path:
        if self.name.startswith(".partial-"):
            raise OSError(errno.EIO, "broken")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse_the_new)
    with pytest.raises(OSError, match="broken"):
        publish_folder(tmp_path, "one", fill, {"new": True}, replace=True)
    assert visible(tmp_path) == ["one"]
    assert verify_folder(tmp_path / "one").facts == {"new": False}


@pytest.mark.skipif(os.name == "nt", reason="folders cannot be flushed there")
def test_all_is_on_the_disk_before_the_rename_and_the_rename_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[int | str] = []
    fsync, rename = os.fsync, Path.rename
    monkeypatch.setattr(os, "fsync", lambda fd: (events.append(os.fstat(fd).st_ino), fsync(fd)))
    monkeypatch.setattr(Path, "rename", lambda self, to: (events.append("rename"), rename(self, to))[1])
    path = publish_folder(tmp_path, "one", fill, {})
    at = events.index("rename")
    inside = [path, *path.rglob("*")]
    assert {p.stat().st_ino for p in inside} <= set(events[:at])
    manifest = (path / "manifest.json").stat().st_ino
    assert all(
        events.index(p.stat().st_ino) < events.index(manifest)
        for p in inside
        if p.is_file() and p.stat().st_ino != manifest
    )
    assert events[at + 1 :] == [tmp_path.stat().st_ino]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError("I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_one_plain_message(tmp_path: Path, error: Exception) -> None:
    def fail(folder: Path) -> None:
        raise error

    with pytest.raises(SpaceError, match=r"no space left.* [MG]B is free") as caught:
        publish_folder(tmp_path, "one", fail, {})
    assert str(tmp_path) in str(caught.value)
    assert visible(tmp_path) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_device_that_is_really_full(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        with open("/dev/full", "w") as file:
            file.write("x")

    with pytest.raises(SpaceError):
        publish_folder(tmp_path, "one", fail, {})


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_no_right_to_write_is_one_plain_message(tmp_path: Path, number: int) -> None:
    def fail(folder: Path) -> None:
        raise OSError(number, "no")

    with pytest.raises(InputError, match="cannot be written to"):
        publish_folder(tmp_path, "one", fail, {})


def test_what_may_not_be_read_elsewhere_is_named_itself(tmp_path: Path) -> None:
    place = tmp_path / "run"
    for named in (place, place / "checkpoints" / "x", tmp_path, "name-in-an-open-folder"):
        with pytest.raises(InputError) as caught, plain_errors(place):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(named))
        assert caught.value.where == str(place)
    with pytest.raises(InputError) as caught, plain_errors(place):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(tmp_path / "data" / "notes.txt"))
    assert str(caught.value).startswith(f"{tmp_path / 'data' / 'notes.txt'}: permission denied. Grant")


@pytest.mark.parametrize(
    "error", [OSError(errno.EFBIG, "File too large"), Exception("File too large (os error 27)")], ids=repr
)
def test_a_file_that_is_too_large_for_the_place(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(SpaceError, match=r"larger than it may be here, by ulimit -f or the file system"):  # noqa: SIM117
        with plain_errors(tmp_path):
            raise error


def test_a_home_folder_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert expanded("~/run") == Path("/home/me/run")
    assert expanded("run~/~") == Path("run~/~")
    assert expanded("./~run") == Path("./~run")
    with pytest.raises(InputError, match=r"^~no-such-user/run: there is no home folder for its ~\."):
        expanded("~no-such-user/run")


def test_a_place_where_no_file_can_be_made(tmp_path: Path) -> None:
    files.check_file_place(tmp_path / "page.html", "--html")
    for place, message in (
        (tmp_path, "is a folder"),
        (tmp_path / "no" / "page.html", r"no: there is no such folder\. Make it, or give another --html"),
        (tmp_path / ("x" * 300), "cannot be written"),
        (tmp_path / ("x" * 250), "cannot be written"),
    ):
        with pytest.raises(InputError, match=message):
            files.check_file_place(place, "--html")
    assert visible(tmp_path) == []


@pytest.mark.parametrize("below", ["", "deep/er"])
def test_a_file_in_the_way_of_a_folder_is_one_plain_message(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"file.*: the folder cannot be made"):
        publish_folder(tmp_path / "file" / below, "one", lambda folder: None, {})
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        raise OSError(errno.EIO, "broken")

    with pytest.raises(OSError, match="broken") as caught:
        publish_folder(tmp_path, "one", fail, {})
    assert not isinstance(caught.value, InputError)


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".hidden", "a/b", "a\\b", "../up", "/root", "c:x", "a\0b", "a\nb"]
)
def test_a_name_that_leads_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="no name"):
        publish_folder(tmp_path / "here", name, fill, {})
    assert visible(tmp_path) == []


def test_expected_files_must_come_out_so(tmp_path: Path) -> None:
    wanted = read_manifest(publish_folder(tmp_path, "one", fill, {})).files
    publish_folder(tmp_path, "two", fill, {}, expected=wanted)

    def other(folder: Path) -> None:
        fill(folder)
        (folder / "a.txt").write_text("FIRST")

    with pytest.raises(CheckpointError, match=r"a\.txt is not what its manifest says"):
        publish_folder(tmp_path, "three", other, {}, expected=wanted)
    assert visible(tmp_path) == ["one", "two"]


# -- damage ----------------------------------------------------------------------------------------


def test_every_single_flipped_bit_is_found(tmp_path: Path) -> None:
    path = publish_folder(tmp_path, "one", fill, {})
    target = path / "inner" / "b.bin"
    good = target.read_bytes()
    for position in (0, 100, 255):
        bad = bytearray(good)
        bad[position] ^= 1
        target.write_bytes(bad)
        with pytest.raises(CheckpointError, match=r"one: inner/b\.bin is damaged"):
            verify_folder(path)
    target.write_bytes(good)
    verify_folder(path)


def test_missing_short_and_long_files_are_named(tmp_path: Path) -> None:
    path = publish_folder(tmp_path, "one", fill, {})
    (path / "a.txt").write_text("firs")
    with pytest.raises(CheckpointError, match=r"a\.txt has 4 bytes instead of 5"):
        verify_folder(path)
    (path / "a.txt").write_text("first!")
    with pytest.raises(CheckpointError, match=r"a\.txt has 6 bytes instead of 5"):
        verify_folder(path)
    (path / "a.txt").unlink()
    with pytest.raises(CheckpointError, match=r"a\.txt is missing"):
        verify_folder(path)


def test_sizes_are_checked_before_anything_is_hashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = publish_folder(tmp_path, "one", fill, {})
    (path / "inner" / "b.bin").write_bytes(b"short")
    monkeypatch.setattr(files, "sha256_of", lambda path: pytest.fail("hashed"))
    with pytest.raises(CheckpointError, match="instead of 256"):
        verify_folder(path)


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../outside", "inner/../../outside", "", ".", "c:/x", "..\\outside", "a\\b"]
)
def test_a_manifest_that_points_outside_is_refused(tmp_path: Path, name: str) -> None:
    path = publish_folder(tmp_path, "one", fill, {})
    content = json.loads((path / "manifest.json").read_text())
    content["files"][name] = content["files"]["a.txt"]
    (path / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="not inside"):
        read_manifest(path)


@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_link_that_leads_out_is_refused(tmp_path: Path, what: str) -> None:
    path = publish_folder(tmp_path, "one", fill, {})
    if what == "file":
        shutil.move(path / "a.txt", tmp_path / "moved")
        (path / "a.txt").symlink_to(tmp_path / "moved")
    else:
        shutil.move(path / "inner", tmp_path / "moved")
        (path / "inner").symlink_to(tmp_path / "moved")
    with pytest.raises(CheckpointError, match="leads out"):
        verify_folder(path)


def test_a_folder_is_verified_through_a_link(tmp_path: Path) -> None:
    path = publish_folder(tmp_path, "one", fill, {"step": 1})
    (tmp_path / "last").symlink_to(path.name)
    assert verify_folder(tmp_path / "last").facts == {"step": 1}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        '{"format": 1}',
        '{"format": 1, "facts": 3, "files": {}}',
        '{"format": 1, "facts": {}, "files": []}',
        '{"format": 1, "facts": {}, "files": {"a": 1}}',
        '{"format": 1, "facts": {}, "files": {"a": {"size": -1, "sha256": "' + "0" * 64 + '"}}}',
        '{"format": 1, "facts": {}, "files": {"a": {"size": true, "sha256": "' + "0" * 64 + '"}}}',
        '{"format": 1, "facts": {}, "files": {"a": {"size": 1, "sha256": "00"}}}',
        "[" * 100_000,
    ],
)
def test_a_malformed_manifest_is_a_checkpoint_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_manifest(tmp_path)


def test_a_flipped_bit_anywhere_in_a_manifest_is_found(tmp_path: Path) -> None:
    path = publish_folder(tmp_path, "one", fill, {"step": 3, "val_loss": 1.25, "data": {"é": None}})
    whole = (path / "manifest.json").read_bytes()
    manifest = read_manifest(path)
    for position in range(len(whole)):
        bad = bytearray(whole)
        bad[position] ^= 1 << position % 8
        (path / "manifest.json").write_bytes(bad)
        with suppress(CheckpointError):
            assert read_manifest(path) == manifest, "spelt otherwise, it says the same"
    (path / "manifest.json").write_bytes(whole.replace(b'"step": 3', b'"step": 4'))
    with pytest.raises(CheckpointError, match=r"one: manifest\.json is damaged"):
        verify_folder(path)
    (path / "manifest.json").write_bytes(whole)
    verify_folder(path)


def test_messages_for_no_manifest_no_folder_and_another_format(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has no manifest\.json"):
        verify_folder(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="file: is no folder"):
        read_manifest(tmp_path / "file")
    with pytest.raises(CheckpointError, match="is no folder"):
        verify_folder(tmp_path / "absent")
    (tmp_path / "manifest.json").write_text('{"format": 2, "facts": {}, "files": {}}')
    with pytest.raises(CheckpointError, match="format is 2, and this version reads 1"):
        verify_folder(tmp_path)
    (tmp_path / "manifest.json").write_bytes(b"\xff\xfe")
    with pytest.raises(CheckpointError, match="cannot be read"):
        verify_folder(tmp_path)


# -- killed ----------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
from pathlib import Path
from babygpt import files

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

def fill(folder):
    (folder / "a.txt").write_text("new")

point, parent = sys.argv[1], Path(sys.argv[2])
if point == "fill":
    fill = lambda folder: ((folder / "a.txt").write_text("half"), die())
elif point == "manifest":
    files.write_json_atomic = die
elif point == "between renames":
    rename = Path.rename
    Path.rename = lambda self, target: die() if ".partial-" in self.name else rename(self, target)
elif point == "deleting":
    files.shutil.rmtree = die
files.publish_folder(parent, "one", fill, {"new": True}, replace=True)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
@pytest.mark.parametrize(
    ("point", "new"), [("fill", False), ("manifest", False), ("between renames", False), ("deleting", True)]
)
def test_killed_at_any_point_the_old_or_the_new_is_there(tmp_path: Path, point: str, new: bool) -> None:
    publish_folder(tmp_path, "one", fill, {"new": False})
    source = str(Path(files.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": source}
    done = subprocess.run([sys.executable, "-c", KILLED, point, str(tmp_path)], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    remove_partials(tmp_path)
    assert visible(tmp_path) == ["one"]
    assert verify_folder(tmp_path / "one").facts == {"new": new}


def test_clearing_up_touches_only_partial_ones(tmp_path: Path) -> None:
    publish_folder(tmp_path, "one", fill, {})
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".partial-x-1").mkdir()
    (tmp_path / ".partial-x-1" / "a").touch()
    (tmp_path / ".partial-file-1").touch()
    (tmp_path / ".partial-link-1").symlink_to(tmp_path / "one")
    (tmp_path / ".replaced-one-1").mkdir()
    remove_partials(tmp_path)
    assert visible(tmp_path) == [".hidden", "one"]
    verify_folder(tmp_path / "one")
    remove_partials(tmp_path / "absent")


def test_what_an_interrupted_replacement_set_aside_is_found_until_it_is_put_back(tmp_path: Path) -> None:
    one = publish_folder(tmp_path, "one-a", fill, {"n": 1})
    older = publish_folder(tmp_path, "older", fill, {"n": 0})
    os.utime(older / "manifest.json", ns=(0, 0))
    older.rename(tmp_path / ".replaced-one-a-ffffffff")
    assert files.set_aside(tmp_path) == {}
    aside = one.rename(tmp_path / ".replaced-one-a-00000000")
    (tmp_path / ".partial-one-a-00000000").mkdir()
    assert files.set_aside(tmp_path) == {one: aside}, "the latest"
    remove_partials(tmp_path)
    assert visible(tmp_path) == ["one-a"]
    assert verify_folder(one).facts == {"n": 1}
    assert files.set_aside(tmp_path / "absent") == {}


@pytest.mark.skipif(os.name == "nt", reason="folders cannot be flushed there")
def test_names_are_on_the_disk_before_anything_is_built_on_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[tuple[str, list[str]]] = []
    monkeypatch.setattr(files, "fsync_dir", lambda path: flushed.append((path.name, visible(path))))
    files.make_folder(tmp_path / "a" / "b")
    assert flushed == [(tmp_path.name, ["a"]), ("a", ["b"])]
    files.make_folder(tmp_path / "a" / "b")
    assert len(flushed) == 2
    path = publish_folder(tmp_path / "a" / "b", "one", fill, {})
    flushed.clear()
    deleted: list[str] = []
    monkeypatch.setattr(files.shutil, "rmtree", lambda path: deleted.append(flushed[-1][0]))
    files.remove_folder(path)
    assert deleted == ["b"], "a name that came back after a crash would stand for half a folder"
    assert not any(name == "one" for _, names in flushed for name in names)


# -- small things ----------------------------------------------------------------------------------


def test_text_is_written_whole_or_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    files.write_text_atomic(path, "é\n")
    assert path.read_bytes() == b"\xc3\xa9\n"

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SpaceError):
        files.write_text_atomic(path, "new")
    assert path.read_bytes() == b"\xc3\xa9\n"
    assert visible(tmp_path) == ["a.json"]


def test_json_is_strict(tmp_path: Path) -> None:
    value = {"a": [1, 2.5, math.inf, {"b": math.nan}], "c": (True, None, "x")}
    files.write_json_atomic(tmp_path / "a.json", value)

    def refuse(name: str) -> None:
        raise ValueError(name)

    read = json.loads((tmp_path / "a.json").read_text(), parse_constant=refuse)
    assert read == {"a": [1, 2.5, None, {"b": None}], "c": [True, None, "x"]}


def test_space_is_asked_where_the_path_will_be(tmp_path: Path) -> None:
    absent = tmp_path / "a" / "b" / "c"
    assert abs(files.free_bytes(absent) - shutil.disk_usage(tmp_path).free) < 10**9
    files.ensure_space(absent, 1, "a thing")
    with pytest.raises(SpaceError, match=r"a thing needs 1000000000\.00 GB, and .* is free"):
        files.ensure_space(absent, 10**18, "a thing")


def test_removing_a_link_leaves_its_target(tmp_path: Path) -> None:
    path = publish_folder(tmp_path, "one", fill, {})
    (tmp_path / "last").symlink_to("one")
    files.remove_folder(tmp_path / "last")
    verify_folder(path)
    files.remove_folder(path)
    assert visible(tmp_path) == []


def test_a_published_folder_has_the_usual_rights(tmp_path: Path) -> None:
    path = publish_folder(tmp_path, "one", fill, {})
    (tmp_path / "usual").mkdir()
    assert path.stat().st_mode == (tmp_path / "usual").stat().st_mode


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no such pipes")
def test_a_pipe_or_device_is_not_replaced(tmp_path: Path) -> None:
    """`--out /dev/null`, as root, would leave the computer without it."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    (tmp_path / "link").symlink_to(pipe)
    for path in (pipe, tmp_path / "link"):
        with pytest.raises(InputError, match="is no regular file"):
            files.write_text_atomic(path, "text")
    assert pipe.is_fifo()
    assert visible(tmp_path) == ["link", "pipe"]
