"""Text of others: shown without control characters, parsed within bounds."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
import yaml

from babygpt.errors import RecipeError
from babygpt.fields import read_yaml
from babygpt.untrusted import parse_json, parse_yaml, read_bytes, read_json, shown


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain, é, 漢字, 🙂\n\ttoo", "plain, é, 漢字, 🙂\n\ttoo"),
        ("\x1b[31mred\x07", r"\x1b[31mred\x07"),
        ("over\rwritten\x7f", r"over\x0dwritten\x7f"),
        ("\x9b31m", r"\x9b31m"),
        ("abc\u202efdp.exe", r"abc\u202efdp.exe"),
        ("a\u2028b", r"a\u2028b"),
        ("\ud800", r"\ud800"),
        ("no proxy http://me:secret@host:1/ here", "no proxy http://...@host:1/ here"),
        ("http://host/a@b and me@host", "http://host/a@b and me@host"),
    ],
)
def test_shown(text: str, expected: str) -> None:
    assert shown(text) == expected


def test_the_middle_of_a_long_text_gives_way() -> None:
    assert shown("a" * 500 + "b" * 500, 25) == "a" * 10 + " ... " + "b" * 10
    assert len(shown("\x1b" * 1000, 100)) <= 100


def test_a_file_is_read_up_to_a_size(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 100)
    assert read_bytes(tmp_path / "a", 100) == b"x" * 100
    with pytest.raises(ValueError, match="larger than"):
        read_bytes(tmp_path / "a", 99)


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="needs /dev/zero")
def test_an_endless_file_ends() -> None:
    with pytest.raises(ValueError, match="larger than"):
        read_bytes(Path("/dev/zero"), 1000)
    with pytest.raises(ValueError, match="no regular file"):
        read_json(Path("/dev/zero"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b"\x80\x04secret", "^not UTF-8 at byte 0$"),
        (b"{broken", "not JSON"),
        (b"9" * 5000, "digits"),
    ],
)
def test_json_that_is_none_quotes_nothing(content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        parse_json(content)
    assert len(str(caught.value)) < 200
    assert "secret" not in str(caught.value)


def laughs(base: str, levels: int = 12) -> str:
    lines = [f"x0: &x0 {base}"]
    lines += [f"x{i}: &x{i} [{', '.join([f'*x{i - 1}'] * 10)}]" for i in range(1, levels)]
    return "\n".join(lines)


def merges(levels: int = 12) -> str:
    lines = ["x0: &x0 {k: 1}"]
    lines += [f"x{i}: &x{i} {{<<: [{', '.join([f'*x{i - 1}'] * 10)}]}}" for i in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (laughs("[x, x]"), "aliases stand for more than"),
        (merges(), "aliases stand for more than"),
        ("a: &a [*a]", "contains itself"),
        ("&a {a: *a}", "contains itself"),
        ("[" * 1000, "nested too deeply"),
        ("{a: " * 1000, "nested too deeply"),
        ("\n".join(" " * i + "a:" for i in range(1000)), "nested too deeply"),
        ("!!python/object/apply:os.system ['true']", "could not determine a constructor"),
        ("!!python/name:os.system ", "could not determine a constructor"),
        ("!!python/object/new:os.system ['true']", "could not determine a constructor"),
        ("? [a, b]\n: 1", "unhashable"),
    ],
)
def test_yaml_that_is_too_much(text: str, message: str) -> None:
    begun = time.monotonic()
    with pytest.raises(yaml.YAMLError, match=message):
        parse_yaml(text.encode())
    assert time.monotonic() - begun < 2


@pytest.mark.parametrize("text", ["1:" * 5000 + "1", "1:" * 50_000 + "1.5", "2020-13-45", "9" * 100_000])
def test_a_yaml_number_or_date_that_is_none(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - of yaml or of Python, in the words of either
        parse_yaml(f"seed: {text}".encode())


def test_aliases_that_are_few_are_fine() -> None:
    text = "paths: &p [a, b]\ntrain: *p\nval: *p\nbase: &b {k: 1}\nmore: {<<: *b, l: 2}"
    found = parse_yaml(text.encode())
    assert found["train"] == found["val"] == ["a", "b"]
    assert found["more"] == {"k": 1, "l": 2}


@pytest.mark.parametrize("text", [laughs("[x]"), "[" * 1000, "seed: 1:1" + ":1" * 5000, "a: 2020-13-45"])
def test_the_message_of_a_recipe_names_its_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(RecipeError, match=r"recipe\.yaml.* is (not YAML|no recipe)") as caught:
        read_yaml(tmp_path / "recipe.yaml")
    assert len(str(caught.value)) < 500


def test_a_recipe_may_come_through_a_pipe() -> None:
    reading, writing = os.pipe()
    os.write(writing, json.dumps({"seed": 3}).encode())
    os.close(writing)
    if not Path(f"/dev/fd/{reading}").exists():
        pytest.skip("needs /dev/fd")
    assert read_yaml(f"/dev/fd/{reading}") == {"seed": 3}
    os.close(reading)
