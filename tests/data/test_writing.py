"""A store written with interruptions, against one written in one go."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from babygpt.data.arrow import open_store
from babygpt.data.writing import Position, StoreWriter

_NUMBER = itertools.count()


def writer(folder: Path, masked: bool, begin_at: Position | None = None) -> StoreWriter:
    return StoreWriter(
        folder, vocab_size=100, eos_id=0, tokenizer_identity="none", masked=masked, begin_at=begin_at
    )


class Killed(Exception):
    pass


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.lists(st.integers(0, 99), max_size=6), max_size=12),
    st.sets(st.integers(0, 11)),
    st.lists(st.integers(0, 11), max_size=5),
    st.booleans(),
)
def test_however_often_it_is_interrupted_the_bytes_are_the_same(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    documents: list[list[int]],
    commits: set[int],
    kills: list[int],
    masked: bool,
) -> None:
    monkeypatch.setattr("babygpt.data.writing._BATCH_TOKENS", 5)

    def write(
        folder: Path, begin: int, position: Position | None, kill: int | None
    ) -> tuple[int, Position | None]:
        """Goes on from a position; where it is killed, the last one and its document."""
        try:
            with writer(folder, masked, position) as store:
                if position is None:
                    begin, position = 0, store.commit()
                for number, ids in enumerate(documents[begin:], begin):
                    if number == kill:
                        raise Killed
                    mask = np.array(ids) % 2 == 0 if masked and number % 3 else None
                    store.add(np.array(ids), mask, 2 * len(ids))
                    if number in commits:
                        begin, position = number + 1, store.commit()
        except Killed:
            pass
        return begin, position

    undisturbed, killed = (tmp_path / str(next(_NUMBER)) for _ in range(2))
    write(undisturbed, 0, None, None)
    at: tuple[int, Position | None] = (0, None)
    for kill in [*kills, None]:
        at = write(killed, *at, kill)
    assert {p.name: p.read_bytes() for p in killed.iterdir()} == {
        p.name: p.read_bytes() for p in undisturbed.iterdir()
    }
    store = open_store(killed)
    assert [store.document(n).tolist() for n in range(len(store))] == documents
