"""Counts of what is odd, against texts made odd by hand and by the codecs themselves."""

from __future__ import annotations

import pytest

from babygpt.data.oddities import KINDS, Oddity, Tally, odd_in, text_of
from babygpt.data.sources import Document, Span, read_documents

LINES = "\n".join(f"line {n}" for n in range(12))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", {"blank": 1}),
        (" \n\t\u3000", {"blank": 1}),
        ("plain\ttext\nwith a page\fbreak", {}),
        ("\x1b[31mred\x1b[0m and \x00", {"control": 3}),
        ("lost \ufffd\ufffd bytes", {"replacement": 2}),
        ("a\u200bb\u2060c\ufeff", {"zero_width": 3}),
        ("می\u200cخواهم 👩\u200d🚀", {}),  # joiners that belong there
        ("access\u202e resu \u2066x\u2069", {"bidi": 3}),
        ("a\r\nb\r\nc\nd", {"mixed_line_ends": 1}),
        ("a\r\nb\r\n", {}),
        ("a\rb\nc\n", {"mixed_line_ends": 1}),
        ("x" * 10_000, {}),
        ("x" * 10_001 + "\n" + "y" * 20_000, {"long_line": 2}),
        (LINES, {}),
        (LINES + "\n" + "  line 3\n" * 6, {"repeated_lines": 6}),  # 6 of 18 lines
        (LINES + "\nline 3" * 5, {}),  # 5 of 17, below 30 %
        ("same\n" * 9, {}),  # too few lines to tell
    ],
)
def test_each_kind_is_counted(text: str, found: dict[str, int]) -> None:
    assert odd_in(text) == found


@pytest.mark.parametrize(
    ("text", "codec", "times"),
    [
        (
            "Café déjà vu: naïve",
            "latin-1",
            3,
        ),  # four letters; of à the second half is a hard space, which may be meant
        ("Café déjà vu: naïve", "cp1252", 3),
        ("“quoted” – and…", "cp1252", 3),  # of ” a byte is lost, since Windows-1252 has no 0x9d
        ("Привет", "latin-1", 6),
        ("Ελλάδα", "latin-1", 4),  # of λ the second half is », which may be meant
        ("Ελλάδα", "cp1252", 4),
        ("漢字と仮名", "latin-1", 5),
        ("🚀🚀", "latin-1", 2),
        ("🚀🚀", "cp1252", 2),
    ],
)
def test_utf_8_read_as_another_encoding_is_found(text: str, codec: str, times: int) -> None:
    assert odd_in(text.encode().decode(codec, errors="ignore")) == {"mojibake": times}


def test_text_as_people_write_it_is_not_odd() -> None:
    for text in (
        "„Spaß“, «CAFÉ», é… “naïveté” Ã“",
        "São Tomé e Príncipe – «Â»",
        "İstanbul’da çay",
        "Đặng Thị Ngọc",
    ):
        assert odd_in(text) == {}, text


def test_a_tally_names_the_first_of_each() -> None:
    tally = Tally()
    for name, text in (("a", "fine"), ("b", "\x07"), ("c", "\x07\x07\ufffd"), ("d", " ")):
        tally.add(name, text)
    assert tally.found == (
        Oddity("blank", 1, 1, "d"),
        Oddity("control", 2, 3, "b"),
        Oddity("replacement", 1, 1, "c"),
    )
    assert [o.in_words() for o in tally.found] == [
        "1 document, such as d",
        "2 documents (3 characters), such as b",
        "1 document (1 character), such as c",
    ]
    assert {o.kind for o in tally.found} <= KINDS.keys()


def test_the_built_in_prose_is_clean() -> None:
    tally = Tally()
    for document in read_documents(["builtin:prose"]):
        tally.add(document.id, text_of(document))
    assert tally.found == ()


def test_the_text_of_every_form() -> None:
    assert text_of(Document("a", text="x")) == "x"
    assert text_of(Document("a", spans=(Span("x", False), Span("y", True)))) == "xy"
    turns = (
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": None},
        {"role": "user", "content": "y"},
    )
    assert text_of(Document("a", messages=turns)) == "x\ny"
