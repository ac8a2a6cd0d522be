"""Dataclasses from plain values: types, names, and errors that say where."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import pytest

from babygpt.errors import MachineError, RecipeError
from babygpt.fields import (
    build,
    check_number,
    check_paths,
    check_whole,
    convert,
    describe,
    flatten,
    leaves,
    plain,
    read_yaml,
)


@dataclass(frozen=True)
class Inner:
    rate: float | Literal["auto"] = "auto"
    pair: tuple[float, float] = (0.0, 1.0)
    names: tuple[str, ...] = ()
    word: Literal["a", "b"] = "a"
    on: bool = False

    def __post_init__(self) -> None:
        if self.rate == -1:
            raise MachineError("is negative", where="inner.rate", hint="Give another")


@dataclass(frozen=True)
class Outer:
    inner: Inner = field(default_factory=Inner)
    count: int | None = None
    title: str | None = None


def test_leaves_are_dotted_and_typed():
    assert list(leaves(Outer)) == [
        "inner.rate", "inner.pair", "inner.names", "inner.word", "inner.on", "count", "title",
    ]  # fmt: skip
    assert leaves(Outer)["count"] == int | None


def test_build_and_plain_are_inverse():
    value = Outer(Inner(0.5, (1.0, 2.0), ("x", "y"), "b", True), 3, "t")
    assert plain(value)["inner"]["names"] == ["x", "y"]
    assert build(Outer, plain(value)) == value
    assert build(Outer, {}) == Outer()


@pytest.mark.parametrize(
    ("value", "hint", "wanted"),
    [
        ("auto", float | Literal["auto"], "auto"),
        ("1e-3", float | Literal["auto"], 0.001),
        (3, float, 3.0),
        (3, int | None, 3),
        (None, int | None, None),
        ("auto", int | Literal["auto"] | None, "auto"),
        (True, bool | Literal["auto"], True),
        ([1, "2"], tuple[float, float], (1.0, 2.0)),
        ((), tuple[str, ...], ()),
        (["a"], tuple[str, ...], ("a",)),
        ("1e5", str, "1e5"),
        ("1e9", int | None, 1_000_000_000),
        ("2.5E+6", int, 2_500_000),
        (1.5e6, int | None, 1_500_000),
        ("9e18", int, 9 * 10**18),
        ("1e9", int | Literal["auto"], 1_000_000_000),
    ],
    ids=repr,
)
def test_convert(value, hint, wanted):
    found = convert(value, hint, "f")
    assert found == wanted
    assert type(found) is type(wanted)


@pytest.mark.parametrize(
    ("value", "hint", "message"),
    [
        ("fast", float | Literal["auto"], "f: 'fast' is not a number or auto."),
        (True, int, "f: True is not a whole number."),
        (True, float, "f: True is not a number."),
        (1.5, int | None, "f: 1.5 is not a whole number or null."),
        ("1.55e1", int | None, "f: '1.55e1' is not a whole number or null."),
        ("1e-3", int, "f: '1e-3' is not a whole number."),
        ("1e999", int, "f: '1e999' is not a whole number."),
        ("1e19", int, "f: '1e19' is not a whole number."),
        (1e19, int, "f: 1e+19 is not a whole number."),
        ("\u0661e3", int, "f: '\u0661e3' is not a whole number."),
        ("12", int, "f: '12' is not a whole number."),
        (1, bool, "f: 1 is not true or false."),
        (123, str, "f: 123 is not text. Put it in quotes."),
        (None, str, "f: None is not text."),
        ("c", Literal["a", "b"], "f: 'c' is not one of a, b."),
        ("c", Literal["a"], "f: 'c' is not a."),
        ([1], tuple[float, float], "f: [1] is not 2 numbers."),
        ("x", tuple[str, ...], "f: 'x' is not a list of text. Write [x]."),
        ([1], tuple[str, ...], "f: [1] is not a list of text."),
    ],
    ids=repr,
)
def test_convert_refuses(value, hint, message):
    with pytest.raises(RecipeError) as error:
        convert(value, hint, "f")
    assert str(error.value) == message


def test_describe_every_part_of_a_union():
    assert describe(int | Literal["auto"] | None) == "a whole number or auto or null"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"cuont": 3}, "r.yaml: there is no field cuont. Did you mean count?"),
        ({"inner": {"rat": 3}}, "r.yaml: there is no field inner.rat. Did you mean inner.rate?"),
        ({"inner": 3}, "r.yaml: inner: 3 is not a group of fields. It holds rate, pair, names, word, on."),
        (
            {"inner": None},
            "r.yaml: inner: None is not a group of fields. It holds rate, pair, names, word, on.",
        ),
        ({"count": {"a": 3}}, "r.yaml: count: {'a': 3} is not a whole number or null."),
        ({"inner.rate": 3}, "r.yaml: there is no field inner.rate. Write fields indented below their group."),
        ({"inner": {"word": "c"}}, "r.yaml: inner.word: 'c' is not one of a, b."),
        ({"nothing": {}}, "r.yaml: there is no field nothing. Write fields indented below their group."),
    ],
)
def test_build_refuses(values, message):
    with pytest.raises(RecipeError) as error:
        build(Outer, values, "r.yaml")
    assert str(error.value) == message


def test_what_the_dataclass_refuses_keeps_its_kind_and_gains_the_file():
    with pytest.raises(MachineError) as error:
        build(Outer, {"inner": {"rate": -1}}, "r.yaml")
    assert str(error.value) == "r.yaml: inner.rate: is negative. Give another."


def test_flatten():
    assert flatten({"a": {"b": {"c": 1}, "d": [2]}, "e": {}}) == {"a.b.c": 1, "a.d": [2]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no fields"),
        (b"- 1\n", "holds no fields"),
        (b"a: [1\nb: 2\n", "is not YAML"),
        (b"a: \xff\n", "is not UTF-8 at byte 3"),
        (b"!!python/object/apply:os.system ['true']\n", "is not YAML"),
    ],
)
def test_read_yaml_refuses(tmp_path, content, message):
    path = tmp_path / "r.yaml"
    path.write_bytes(content)
    with pytest.raises(RecipeError, match=message) as error:
        read_yaml(path)
    assert str(path) in str(error.value)


def test_read_yaml_says_the_line(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("a: 1\nb: {\n")
    with pytest.raises(RecipeError, match=r"r\.yaml:3: is not YAML"):
        read_yaml(path)


@pytest.mark.parametrize(
    ("content", "line", "key"),
    [
        ("a:\n  b: 1\n  b: 2\n", 3, "b"),
        ("a: {b: 1}\nc: 2\na: {b: 3}\n", 3, "a"),
        ("a: {b: 1, 'b': 2}\n", 1, "b"),
    ],
)
def test_a_key_that_stands_twice_is_refused(tmp_path, content, line, key):
    path = tmp_path / "r.yaml"
    path.write_text(content)
    with pytest.raises(RecipeError, match=rf"r\.yaml:{line}: is not YAML: the key '{key}' stands twice"):
        read_yaml(path)


def test_a_merged_group_may_say_otherwise(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("a: &a {b: 1, c: 2}\nd: &d {<<: *a, b: 3}\ne: {<<: *d, c: 4}\n")
    assert read_yaml(path) == {"a": {"b": 1, "c": 2}, "d": {"b": 3, "c": 2}, "e": {"b": 3, "c": 4}}
    path.write_text("a: &a {b: 1}\nc: &c {d: 2}\ne:\n  <<: *a\n  <<: *c\n")
    assert read_yaml(path)["e"] == {"b": 1, "d": 2}


def test_read_yaml_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "r.yaml").write_text("a: 1")
    assert read_yaml("~/r.yaml") == {"a": 1}


def test_read_yaml_of_a_missing_file(tmp_path):
    with pytest.raises(RecipeError, match=r"no\.yaml: cannot be read: No such file"):
        read_yaml(tmp_path / "no.yaml")


@pytest.mark.parametrize("value", [0, -1, True, 1.0, "1", None, "auto"])
def test_check_whole_refuses(value):
    with pytest.raises(RecipeError, match="is not a whole number of at least 1"):
        check_whole("f", value, least=1)


@pytest.mark.parametrize("value", [0, 1, -0.5, float("nan"), float("inf"), 10**400, True, "0.5", None])
def test_check_number_refuses(value):
    with pytest.raises(RecipeError, match="is not a number above 0 and below 1"):
        check_number("f", value, above=0, below=1)


def test_check_paths_refuses_a_text_for_its_letters():
    with pytest.raises(RecipeError, match="is not a list of paths"):
        check_paths("f", "abc")
