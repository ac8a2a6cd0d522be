"""Windows as lines: golden views, 80 columns, and text that would rather be a command."""

from __future__ import annotations

import unicodedata

from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from babygpt.data.view import DocumentView, Piece, WindowView
from babygpt.terminal import legend, visible, window_lines


def window(*documents: DocumentView, padding: int = 0) -> WindowView:
    return WindowView(4, documents, targets=0, masked=0, padding=padding, pad_id=7)


def document(number: int, *pieces: Piece, begins: bool = True, ends: bool = True) -> DocumentView:
    return DocumentView(number, begins, ends, pieces)


def plain(view: WindowView, *, ids: bool = False) -> list[str]:
    return [str(line) for line in window_lines(view, ids=ids)]


ASKED = [Piece("<s>", (1,), False, "bos"), Piece("Why", (30,), False), Piece("?\n", (31,), False)]
ANSWER = [Piece("So", (32,), True), Piece(" it", (33,), True), Piece("</s>", (2,), True, "eos")]


def test_a_conversation() -> None:
    assert plain(window(document(12, *ASKED, *ANSWER), padding=1200)) == [
        "── document 12 ".ljust(78, "─"),
        "- ⊢Why?↵",
        "= So it⊣",
        ". 1,200 of padding (id 7)",
    ]


def test_marks_stand_below_where_a_line_has_both() -> None:
    asked = Piece("漢字: ", (40,), False)
    assert plain(window(document(1234, asked, *ANSWER, begins=False, ends=False))) == [
        "── document 1,234, continued, goes on in another window ".ljust(78, "─"),
        "  漢字: So it⊣",
        "  ------======",
    ]


def test_ids_and_spaces() -> None:
    pieces = [Piece("é", (5, 6), True), *ANSWER, Piece("\n\n ", (9,), True), Piece("x", (10,), True)]
    assert plain(window(document(0, *pieces)), ids=True)[1:] == [
        "= é⟨5+6⟩So⟨32⟩␣it⟨33⟩⊣⟨2⟩↵↵␣⟨9⟩",
        "= x⟨10⟩",
    ]


def test_a_line_end_inside_a_token_ends_the_line() -> None:
    assert plain(window(document(0, Piece("a\n  b\n", (5,), True), Piece("\n", (6,), True))))[1:] == [
        "= a↵",
        "=   b↵",
        "= ↵",
    ]


def test_long_text_is_broken_between_tokens_where_it_can_be() -> None:
    words = [Piece(f" {'w' * 9}", (n,), True) for n in range(8)]
    assert plain(window(document(0, *words)))[1:] == [f"={'  wwwwwwwww' + ' wwwwwwwww' * 6}", "=  wwwwwwwww"]
    long = plain(window(document(0, Piece("x" * 200, (1,), True))))[1:]
    assert [len(line) for line in long] == [80, 80, 46]


def test_colours_tell_the_kinds_apart() -> None:
    line = window_lines(window(document(0, *ANSWER)))[1]
    assert [(s.start, s.end, s.style) for s in line.spans if s.start > 1][:2] == [
        (2, 3, "green"),
        (3, 4, "green"),
    ]
    assert [s.style for s in line.spans][-1] == "green reverse"
    assert {str(s.style) for s in window_lines(window(document(0, *ASKED[1:])))[1].spans} == {"dim"}


HOSTILE = "\x1b]0;title\x07\x1b[2J\x9b1m\u202eabc\u2066\u200b\ufeff\r\x00"


def test_text_stays_text() -> None:
    (line,) = plain(window(document(0, Piece(HOSTILE, (1,), True))))[1:]
    assert line == (r"= \x1b]0;title\x07\x1b[2J\x9b1m\u202eabc\u2066\u200b\ufeff\x0d\x00")
    assert visible("a\tb\n\xad\U000e0041") == "a⇥b↵\\u00ad\\ue0041"
    assert visible("می\u200cخواهم 👩\u200d🚀") == "می\u200cخواهم 👩\u200d🚀"  # written with joiners


@given(st.lists(st.tuples(st.text(max_size=120), st.booleans()), max_size=20), st.booleans())
def test_no_line_is_wider_than_80_columns_or_moves_a_cursor(texts: list[tuple[str, bool]], ids: bool) -> None:
    pieces = [Piece(text, (n,), is_target) for n, (text, is_target) in enumerate(texts)]
    for line in plain(window(document(0, *pieces)), ids=ids):
        assert cell_len(line) <= 80
        assert not any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in line)


def test_the_legend_fits() -> None:
    assert max(map(cell_len, legend(1e-6))) <= 80
    assert not any("prompt" in line for line in legend(0.0))


def test_prompts_that_count_have_a_mark_of_their_own() -> None:
    asked = Piece("Why?", (30,), False, prompt_weight=0.1)
    assert plain(window(document(0, ASKED[0], asked, ANSWER[0])))[1:] == ["  ⊢Why?So", "  -~~~~=="]
    assert "~ prompt, counts 0.1" in legend(0.1)
