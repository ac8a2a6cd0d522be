"""Duplicates against sets and against exact similarities; shared runs of tokens against sets of tuples."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from babygpt.data import duplicates
from babygpt.data.duplicates import (
    choose,
    contamination,
    distinct,
    identity_of,
    near,
    repeated,
    shared,
    words_of,
)
from babygpt.errors import DataError

RUN = 13
WORDS = [f"word{n}" for n in range(3000)]


# -- exact ---------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 9), max_size=40))
def test_what_came_before_is_a_repetition(numbers: list[int]) -> None:
    expected = [number in numbers[:at] for at, number in enumerate(numbers)]
    assert repeated(np.array(numbers, dtype=np.uint64)).tolist() == expected


def test_the_hashes_are_gone_through_at_most_64_times(monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[int] = []
    parts = duplicates._parts
    monkeypatch.setattr(duplicates, "_CHUNK", 8)
    monkeypatch.setattr(duplicates, "_parts", lambda count: passes.append(count) or parts(count))
    hashes = np.random.default_rng(0).integers(0, 2**64, 2000, dtype=np.uint64)
    assert not repeated(hashes).any()
    assert len(passes) == 64


def test_hashes_are_sorted_in_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(1)
    hashes = random.choice(random.integers(0, 2**64, size=3000, dtype=np.uint64), 5000)
    among = random.random(5000) < 0.8
    before: set[int] = set()
    expected = []
    for content, is_looked_at in zip(hashes.tolist(), among.tolist(), strict=True):
        expected.append(is_looked_at and content in before)
        before |= {content} if is_looked_at else set()
    train, val = hashes[:3000], hashes[3000:]
    stand_in_both = sum(content in set(train.tolist()) for content in val.tolist())
    for share in (1 << 20, 1000, 300):
        monkeypatch.setattr("babygpt.data.duplicates._CHUNK", share)
        assert repeated(hashes, among).tolist() == expected
        assert shared(train, val) == stand_in_both
        assert (shared(train, val[:0]), shared(train[:0], val)) == (0, 0)
        assert distinct(hashes, 20) >= 20
        assert distinct(np.repeat(hashes[:7], 900), 20) == len(set(hashes[:7].tolist()))


@pytest.mark.parametrize(
    ("mode", "left_out", "said"),
    [
        (
            "none",
            [0, 0, 0, 0, 0],
            "2 of 4 training documents are equal to an earlier one; they stay (data.deduplicate exact leaves them out)",
        ),
        ("exact", [0, 0, 1, 0, 1], "2 of 4 training documents are equal to an earlier one and left out"),
    ],
)
def test_only_training_documents_are_left_out(mode: str, left_out: list[int], said: str) -> None:
    hashes, is_val = np.array([7, 3, 7, 3, 7], dtype=np.uint64), np.array([False, False, False, True, False])
    found, note = choose(mode, hashes, is_val, iter([]))
    assert found.tolist() == [bool(each) for each in left_out]
    assert note == f"duplicates: {said}"


@pytest.mark.parametrize("mode", ["none", "exact"])
def test_nothing_to_leave_out_is_said_too(mode: str) -> None:
    _, note = choose(mode, np.arange(3, dtype=np.uint64), np.zeros(3, dtype=bool), iter([]))
    assert note == "duplicates: none of 3 training documents is equal to an earlier one"


# -- near ----------------------------------------------------------------------------------------------------


def similarity(a: str, b: str) -> float:
    """Jaccard similarity of the runs of five words, exactly."""
    one, two = ({tuple(w[i : i + 5]) for i in range(len(w) - 4)} for w in (a.split(), b.split()))
    return len(one & two) / len(one | two)


def planted() -> tuple[list[str], list[bool | None]]:
    """Texts, and whether each is a near duplicate: the clear cases only, None for those near the border."""
    draw = random.Random(0)
    texts: list[str] = []
    is_near: list[bool | None] = []
    for number in range(120):
        original = [draw.choice(WORDS) for _ in range(200)]
        texts.append(" ".join(original))
        is_near.append(False)
        changed = list(original)
        for at in draw.sample(range(200), number % 12):
            changed[at] = draw.choice(WORDS)
        texts.append(" ".join(changed))
        alike = similarity(texts[-2], texts[-1])
        is_near.append(True if alike > 0.92 else False if alike < 0.68 else None)
    return texts, is_near


def test_planted_near_duplicates_are_found_and_nothing_else() -> None:
    pytest.importorskip("rensa")
    texts, expected = planted()
    assert expected.count(True) > 20
    assert expected.count(False) > 130
    found = list(near(texts))
    assert [f for f, e in zip(found, expected, strict=True) if e is not None] == [
        e for e in expected if e is not None
    ]
    assert found == list(near(texts)), "another answer the second time"


def test_case_and_punctuation_do_not_matter_and_short_texts_must_agree() -> None:
    pytest.importorskip("rensa")
    texts = [
        "Hello, World!",
        "hello world",
        "hello there",
        "!?",
        "!?",
        "?!",
        "あいうえおかきくけこ",
        "あいうえおかきくけこ。",
    ]
    assert list(near(texts)) == [False, True, False, False, True, False, False, True]


def test_near_leaves_out_the_equal_ones_too() -> None:
    pytest.importorskip("rensa")
    texts = [
        " ".join(WORDS[:100]),
        " ".join(WORDS[:100]) + " more",
        "another",
        "another",
        " ".join(WORDS[:100]),
    ]
    hashes = np.array([1, 2, 3, 3, 1], dtype=np.uint64)
    found, note = choose("near", hashes, np.array([False, False, False, False, True]), iter(texts))
    assert found.tolist() == [False, True, False, True, False]
    assert note == (
        "duplicates: 1 of 4 training documents is equal to an earlier one, 1 nearly so; 2 left out"
    )


def test_words_of_every_script() -> None:
    assert words_of("Don't STOP, 3.5 times: 漢字かな ok") == [
        "don",
        "t",
        "stop",
        "3",
        "5",
        "times",
        *"漢字かな",
        "ok",
    ]


def test_without_its_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise duplicates.PackageNotFoundError(name)

    monkeypatch.setattr(duplicates, "version", missing)
    assert identity_of("none") == ()
    assert identity_of("exact") == ("exact",)
    with pytest.raises(DataError, match=r"rensa, which is not installed.*pip install rensa") as caught:
        identity_of("near")
    assert caught.value.where == "data.deduplicate"


# -- contamination -------------------------------------------------------------------------------------------


def by_hand(
    train: list[list[int]], val: list[list[int]], masks: list[list[bool]]
) -> tuple[int, int, int, int]:
    """Tokens, shared tokens, documents, contaminated documents, through sets of tuples."""
    runs = {tuple(d[i : i + RUN]) for d in train for i in range(len(d) - RUN + 1)}
    tokens = shared = documents = contaminated = 0
    for ids, mask in zip(val, masks, strict=True):
        if len(ids) < RUN or not any(mask):
            continue
        hit = [False] * len(ids)
        for at in range(len(ids) - RUN + 1):
            if tuple(ids[at : at + RUN]) in runs:
                hit[at : at + RUN] = [True] * RUN
        count = sum(h and m for h, m in zip(hit, mask, strict=True))
        tokens += sum(mask)
        shared += count
        documents += 1
        contaminated += count >= 0.8 * sum(mask)
    return tokens, shared, documents, contaminated


@pytest.mark.parametrize("seed", range(6))
def test_shared_runs_are_those_of_a_set_of_tuples(
    make_store: Any, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(duplicates, "_CHUNK", 29)
    draw = random.Random(seed)
    train = [[draw.randrange(1, 900) for _ in range(draw.randrange(2, 60))] + [0] for _ in range(20)]
    val = []
    for _ in range(12):
        begin, source = draw.randrange(20), draw.choice(train)
        own = [draw.randrange(1, 900) for _ in range(draw.randrange(0, 12))]
        val.append(own + source[begin : begin + draw.randrange(5, 60)] + [0])
    masks = [[draw.random() < 0.7 for _ in ids] for ids in val]
    expected = by_hand(train, val, masks)
    assert expected[1] > 0
    found = contamination(make_store(train), make_store(val, masks))
    assert (found.tokens, found.shared, found.documents, found.contaminated) == expected
    assert (found.example is None) == (expected[3] == 0)


def test_contamination_in_words(make_store: Any) -> None:
    document = [*list(range(1, 40)), 0]
    clean = [*list(range(100, 160)), 0]
    found = contamination(make_store([document, [*clean[:20], 0]]), make_store([clean[30:], document]))
    assert found.example == 1
    assert found.in_words() == (
        "56.3% of the validation tokens lie in runs of 13 that are trained on too; 1 of 2 documents by 80 % or more"
    )
    short = contamination(make_store([document]), make_store([[5, 0], [6, 0]]))
    assert short.in_words() == "not looked for: no validation document has 13 tokens"


def test_a_large_validation_store_is_looked_at_in_part(
    make_store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(duplicates, "_MOST_VAL_TOKENS", 50)
    document = [*list(range(1, 40)), 0]
    told: list[tuple[int, int]] = []
    found = contamination(make_store([document]), make_store([document, document]), lambda *a: told.append(a))
    assert (found.documents, found.tokens, found.contaminated) == (1, 40, 1)
    assert told == [(40, 40)]
