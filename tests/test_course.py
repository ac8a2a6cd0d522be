"""The course says what the labs found: filled anew it stays as it is, and no number stands in it that was typed."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from babygpt.cli import main
from babygpt.labs.catalog import NAMES
from babygpt.labs.framework import NULL
from modules import module_at

ROOT = Path(__file__).parents[1]
COURSE = ROOT / "docs" / "course"
CHAPTERS = sorted(COURSE.glob("*.md"))
make_course = module_at(ROOT / "docs" / "make_course.py")
RESULTS: dict[str, Any] = make_course.read_results()
chapters = pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.name)


@cache
def text_of(chapter: Path) -> str:
    return chapter.read_text(encoding="utf-8")


@chapters
def test_every_place_is_filled_with_what_the_labs_found(chapter: Path) -> None:
    assert make_course.filled(text_of(chapter), RESULTS) == text_of(chapter), "run python docs/make_course.py"


@chapters
def test_a_filled_place_in_a_sentence_never_begins_a_line(chapter: Path) -> None:
    """To Markdown the rest of such a line is HTML, and the paragraph is broken in two."""
    assert re.findall(r"^<!--is (?!figure|intervals|table|verdicts).*", text_of(chapter), re.MULTILINE) == []


def test_every_figure_is_drawn_from_what_the_labs_found() -> None:
    wanted = {}
    for chapter in CHAPTERS:
        wanted.update(make_course.figures(text_of(chapter), RESULTS))
    there = {f"pictures/{p.name}": p.read_text(encoding="utf-8") for p in (COURSE / "pictures").iterdir()}
    assert there == wanted


def test_every_lab_that_the_course_is_about_has_its_results_cited() -> None:
    cited = {m["what"].split()[1] for c in CHAPTERS for m in make_course.PLACE.finditer(text_of(c))}
    assert cited == set(RESULTS)
    assert cited <= set(NAMES)


# -- numbers ---------------------------------------------------------------------------------------------------------

# What is no measurement: the confidence of an interval, numbers of chapters and points, names.
ALLOWED = re.compile(r"^# \d+\. |^\d+\. |\b(95|5) %|\bGPT-2\b|\b16-bit\b|\b(bf16|fp16|fp32)\b", re.MULTILINE)
NUMBER_WORDS = re.compile(
    r"\b(twice|thrice|halved?|halves|quarters?|percent|per cent|dozens?|hundreds?|thousands?|millions?|billions?"
    r"|\w+fold|(two|three|four|five|six|seven|eight|nine|ten|several) times"
    r"|times (as|more|less|larger|smaller|faster|slower))\b",
    re.IGNORECASE,
)


def typed(text: str) -> list[str]:
    """Numbers of a chapter's prose, in digits or in words, that are neither filled in, nor code, nor allowed."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    text = make_course.PLACE.sub("", text)
    text = re.sub(r"`[^`]*`|\]\([^)]*\)", "", text)
    text = ALLOWED.sub("", text)
    return [m[0] for m in re.finditer(r"\S*\d\S*", text)] + [m[0] for m in NUMBER_WORDS.finditer(text)]


@chapters
def test_no_number_was_typed(chapter: Path) -> None:
    assert typed(text_of(chapter)) == []


def test_a_typed_number_is_found() -> None:
    assert (
        typed("# 2. The model\n\n1. It costs `12` and <!--is mean a b c-->3.4<!--/--> in 95 % of cases.")
        == []
    )
    assert typed("It is 1.7x slower, twice the memory [see](2.md).") == ["1.7x", "twice"]
    assert typed("```bash\nbabygpt --seeds 3\n```\nA loss of 5.") == ["5."]


# -- what makes it ----------------------------------------------------------------------------------------------------


def raw_results(*, better: bool = False) -> dict[str, Any]:
    """As `babygpt lab labels` leaves them; the unshifted arm is worse by one nat, or better."""
    values = {"right": 5.0, "unshifted": 4.0 if better else 6.0, "double": 5.5, NULL: 5.01}
    runs = [
        {
            "arm": arm,
            "number": n,
            "setting": {"steps": 1200, "lr": 0.003},
            "outcomes": {"val_loss": value + 0.0012345678 * n, "train_loss": value},
            "curves": {
                "train_loss": [[float(s), value + s] for s in range(1, 122)],
                "val_loss": [[0.0, 6.0], [120.0, None if arm == "double" else value]],
            },
            "tables": {f"Targets, {arm}": [["position", "sees"], ["0", "'a|b'"]]},
        }
        for n in range(2)
        for arm, value in values.items()
    ]
    return {
        "lab": "labels", "scale": "small", "seeds": 2, "cpu_seconds": 1234.5, "machine": "a machine",
        "versions": {"babygpt": "1", "torch": "2"}, "runs": runs,
    }  # fmt: skip


def test_what_is_kept_is_little_and_gives_the_same_numbers() -> None:
    kept = make_course.compact(raw_results())
    assert json.loads(make_course.written(kept)) == kept
    assert kept["command"] == "babygpt lab labels --seeds 2"
    curve = kept["curves"]["train_loss"]["right"]
    assert len(curve) <= 60
    # Two or three points at a time: the first is the mean of steps 1, 2, 3, of both runs.
    assert curve[0] == [2.0, 7.0]
    assert kept["curves"]["val_loss"]["double"] == [[0.0, 6.0], [120.0, None]]
    assert kept["runs"][4]["outcomes"]["val_loss"] == 5.0012346


def test_a_run_that_broke_down_has_no_curve_to_draw() -> None:
    raw = raw_results()
    for run in raw["runs"]:
        if run["arm"] == "double" or (run["arm"], run["number"]) == ("unshifted", 1):
            run.update(outcomes={"val_loss": None, "train_loss": None}, curves={}, tables={})
    kept = make_course.compact(raw)
    assert kept["curves"]["train_loss"]["double"] == []
    assert kept["curves"]["train_loss"]["unshifted"][0] == [2.0, 8.0]  # of the other run
    results = {"labels": kept}
    place = "It <!--is verdict labels val_loss double right--><!--/-->."
    assert "breaks down in 2 of 2 runs" in make_course.filled(place, results)
    assert "<polyline" in make_course.to_file(make_course.drawn(kept, "figure", "train_loss"))


def test_places_by_hand() -> None:
    results = {"labels": make_course.compact(raw_results())}
    for what, wanted in {
        "effect labels val_loss unshifted right": "+1 [+1, +1]",
        "verdict labels val_loss unshifted right": "higher",
        "mean labels val_loss right": "5.001",
        "setting labels steps": "1,200",
        "setting labels lr": "0.003",
        "made labels": "`babygpt lab labels --seeds 2`: 2 pairs, 1,234 CPU seconds (a machine; babygpt 1, torch 2)",
    }.items():
        assert (
            make_course.filled(f"a <!--is {what}-->x<!--/--> b", results)
            == f"a <!--is {what}-->{wanted}<!--/--> b"
        )
    table = make_course.filled("<!--is table labels Targets, right--><!--/-->", results)
    assert "| position | sees |\n|---|---|\n| 0 | `'a\\|b'` |" in table


def test_a_verdict_that_is_another_one_now_is_told() -> None:
    place = "It is <!--is verdict labels val_loss unshifted right--><!--/-->."
    first = make_course.filled(place, {"labels": make_course.compact(raw_results())})
    again = make_course.filled(first, {"labels": make_course.compact(raw_results(better=True))})
    assert make_course.changed_verdicts(place, first) == []
    assert make_course.changed_verdicts(first, again) == [
        "verdict labels val_loss unshifted right: was higher, is lower"
    ]


# -- commands --------------------------------------------------------------------------------------------------------


def test_the_labs_that_one_is_told_to_run_are_those_whose_results_are_shown() -> None:
    commands = {
        line
        for chapter in CHAPTERS
        for block in re.findall(r"^```bash\n(.*?)^```", text_of(chapter), re.MULTILINE | re.DOTALL)
        for line in block.splitlines()
        if line.startswith("babygpt lab ")
    }
    assert commands == {result["command"] for result in RESULTS.values()}


def test_the_lab_commands_are_ones_that_the_command_takes(capsys: pytest.CaptureFixture[str]) -> None:
    """They take minutes: `make test-lab` runs every lab. Here only what is wrong with their words would show."""
    for result in RESULTS.values():
        assert main([*result["command"].split()[1:], "--seeds", "1"]) == 2
        assert "seeds: 1 is not a whole number of at least 2" in capsys.readouterr().err
