"""The page as a browser reads it: the text that went in, nothing else, and nothing that runs or loads."""

from __future__ import annotations

import re
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import pytest

from babygpt.data.view import DocumentView, Piece, WindowView
from babygpt.pages import inspect_page
from browser import Browser

HOSTILE = (
    "</span></p><script>alert(1)</script><img src=x onerror=alert(2)>\"' onfocus='alert(3) &lt; \x1b\u202e"
)


@dataclass(frozen=True)
class Found:
    windows: tuple[WindowView, ...]
    ids: bool = False
    prompt_weight: float = 0.0

    def window_heading(self, number: int) -> str:
        return f"window {number} <b>"

    def step_rows(self) -> list[tuple[str, str]]:
        return [("data", HOSTILE)]

    def count_rows(self) -> list[tuple[str, str]]:
        return [("odd", "nothing")]


class Reader(HTMLParser):
    """What a browser would make of it: elements with their attributes, and each token's text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.tokens: list[str] = []
        self.text = ""
        self._depth, self._in_token = 0, False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "span":
            self._depth += 1
            self._in_token |= "tabindex" in dict(attrs)
            if "tabindex" in dict(attrs):
                self.tokens.append("")

    def handle_endtag(self, tag: str) -> None:
        self._depth -= tag == "span"
        self._in_token &= self._depth > 0

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._depth and self.tokens and self._in_token:
            self.tokens[-1] += data


PIECES = (
    Piece("<s>", (1,), False, "bos"),
    Piece(HOSTILE, (5, 6), True),
    Piece("line\n", (7,), True),
    Piece('<|"turn"|>', (3,), True, "other"),
    Piece("</s>", (2,), True, "eos"),
)
VIEW = WindowView(0, (DocumentView(3, True, False, PIECES),), targets=4, masked=1, padding=9, pad_id=0)


def test_each_token_with_its_text_id_and_kind() -> None:
    found = Reader(inspect_page(Found((VIEW,))))
    hostile = HOSTILE.replace("\x1b", "\\x1b").replace("\u202e", "\\u202e")
    assert found.tokens == ["⊢", hostile, "line↵", '<|"turn"|>', "⊣"]
    tokens = [attributes for tag, attributes in found.elements if "tabindex" in attributes]
    assert [(t["data-k"], t["class"]) for t in tokens] == [
        ("1: not learned, <s>", "t n s"),
        ("5+6: target", "t y"),
        ("7: target", "t y"),
        ('3: target, <|"turn"|>', "t y s"),
        ("2: target, </s>", "t y s"),
    ]
    assert "document 3, goes on in another window" in found.text
    assert "9 of padding (id 0)" in found.text
    assert "window 1 <b>" in found.text


def test_prompts_that_count() -> None:
    asked = Piece("Why", (8,), False, prompt_weight=0.25)
    view = WindowView(0, (DocumentView(3, True, True, (asked,)),), 0, 0, 0, pad_id=0, prompts=1)
    found = Reader(inspect_page(Found((view,), prompt_weight=0.25)))
    (token,) = [attributes for tag, attributes in found.elements if "tabindex" in attributes]
    assert (token["data-k"], token["class"]) == ("8: prompt, counts 0.25", "t q")
    assert "prompt, counts 0.25" in found.text
    assert "prompt, counts" not in Reader(inspect_page(Found((VIEW,)))).text


def test_neighbouring_tokens_of_a_kind_that_counts_are_of_two_shades() -> None:
    style = inspect_page(Found(()))
    for kind in ("y", "q"):
        shades = re.findall(
            rf"^\.{kind}(?::nth-of-type\(even\))? {{.*?background: var\((--\w+)\)", style, re.M
        )
        assert len(set(shades)) == 2
        for shade in shades:
            assert style.count(f"{shade}: #") == 2, "light and dark"


def test_ids_on_request() -> None:
    assert Reader(inspect_page(Found((VIEW,), ids=True))).tokens[1].endswith("5+6")


def test_nothing_runs_and_nothing_is_loaded() -> None:
    page = inspect_page(Found((VIEW, VIEW)))
    elements = Reader(page).elements
    assert {tag for tag, _ in elements} == {
        *("html", "head", "meta", "title", "style", "body", "main", "h1", "h2", "h3", "p", "span"),
        *("table", "tr", "th", "td", "details", "summary"),
    }
    names = {name for _, attributes in elements for name in attributes}
    assert names <= {
        "lang",
        "charset",
        "http-equiv",
        "content",
        "name",
        "class",
        "tabindex",
        "data-k",
        "open",
        "scope",
    }
    policies = [a["content"] for _, a in elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'"]
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)
    assert style is not None
    assert "url(" not in style[1]
    assert "prefers-color-scheme: dark" in style[1]
    assert not any(ord(c) < 32 and c != "\n" for c in page)


@pytest.mark.browser
@pytest.mark.parametrize(("width", "dark"), [(1100, False), (1100, True), (390, False)])
def test_a_browser_shows_it_and_axe_finds_nothing(
    browser: Browser, tmp_path: Path, width: int, dark: bool
) -> None:
    page = tmp_path / "page.html"
    page.write_text(inspect_page(Found((VIEW, VIEW), ids=True)), encoding="utf-8")
    browser.open(page, width=width, dark=dark)
    assert browser.problems == []
    assert browser.requests == [page.as_uri()]
    assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert browser.violations() == []
