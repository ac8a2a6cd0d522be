from __future__ import annotations

import glob
from pathlib import Path

import pytest

from babygpt.data.folders import files_below, is_pattern, matching
from babygpt.data.sources import files_of, read_documents

NAMES = ["a.txt", "b.md", "logs/1.txt", "logs/2.log", "logs/deep/3.txt", "logs/deep/er/4.txt", "z/[1].txt"]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in [*NAMES, ".hidden/h.txt", "logs/.h.txt"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


PATTERNS = (
    *("*", "*.txt", "logs/*", "logs/*.txt", "logs/**/*.txt", "**/*.txt", "**", "logs/**", "*/*.txt", "?.md"),
    *("logs/[12].*", "**/deep/*", "logs/**/er/**/*.txt", "z/*"),
)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_matches_what_the_standard_library_says(tree: Path, pattern: str) -> None:
    root, names = matching(str(tree / pattern))
    wanted = [path for path in glob.glob(str(tree / pattern), recursive=True) if Path(path).is_file()]
    assert [str(root / name) for name in names] == sorted(
        set(wanted), key=lambda p: Path(p).relative_to(root).as_posix()
    )
    assert names


def test_a_name_that_looks_like_a_pattern_is_a_name(tree: Path) -> None:
    assert not is_pattern(str(tree / "z" / "[1].txt"))
    assert [document.text for document in read_documents([str(tree / "z" / "[1].txt")])] == ["z/[1].txt"]


def test_links_to_folders_are_followed(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "e.txt").write_text("e")
    (tree / "link").symlink_to(elsewhere)
    (tree / "link2").symlink_to(elsewhere)  # twice is no circle
    assert files_below(tree) == sorted([*NAMES, "link/e.txt", "link2/e.txt"])
    assert "link/e.txt" in matching(str(tree / "l*" / "*.txt"))[1]


def test_what_is_not_read_is_counted(tree: Path) -> None:
    assert files_of(str(tree)).left_out == ""
    for name in ("a.png", "b.png", "Makefile"):
        (tree / name).touch()
    assert files_of(str(tree)).left_out == "3 files are of other kinds and not read (.png, without a suffix)"
    (tree / "READ.ME.TXT.GZ").touch()
    assert "READ.ME.TXT.GZ" in files_of(str(tree)).names


def test_settings_beside_code_are_no_documents(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    (tree / "package.json").write_text('{"name": "x"}')
    (tree / "results.csv").write_text("a,b\n1,2\n")
    (tree / "talks.jsonl").write_text('{"text": "t"}\n')
    files = files_of(str(tree))
    assert not {"package.json", "results.csv"} & set(files.names)
    assert "talks.jsonl" in files.names
    assert files.left_out == "2 files are of other kinds and not read (.json, .csv)"
    alone = tmp_path_factory.mktemp("alone")
    for name in ("a.json", "b.csv"):
        (alone / name).touch()
    assert files_of(str(alone)).names == ["a.json", "b.csv"]
