from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from babygpt.data import layout
from babygpt.data.layout import lay_out, notes_on_length
from babygpt.data.packing import Windows, pack

FIELDS = ("starts", "lengths", "offsets", "targets")
DOCUMENTS = [[10 * n + k for k in range(1 + n % 7)] for n in range(60)]
MASKS = [[k % 3 != 1 for k in range(1 + n % 7)] for n in range(60)]


@pytest.fixture(autouse=True)
def everything_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "_KEPT_FROM", 1)


def same(one: Windows, two: Windows) -> bool:
    equal = all(np.array_equal(getattr(one, name), getattr(two, name)) for name in FIELDS)
    return equal and (one.block, one.isolated) == (two.block, two.isolated)


@pytest.mark.parametrize("packing", ["stream", "isolated", "padded"])
@pytest.mark.parametrize("masked", [False, True])
def test_kept_windows_are_those_of_packing(
    make_store: Any, monkeypatch: pytest.MonkeyPatch, packing: Any, masked: bool
) -> None:
    store = make_store(DOCUMENTS, MASKS if masked else None)
    for block in (5, 8):
        wanted = pack(store.offsets, block, packing, store.target_cumsum())
        assert same(lay_out(store, block, packing), wanted)
        with monkeypatch.context() as patch:
            if masked or packing != "stream":
                patch.setattr(layout, "pack", lambda *_, **__: pytest.fail("laid out again"))
            assert same(lay_out(store, block, packing), wanted)


@pytest.mark.parametrize("packing", ["stream", "isolated", "padded"])
def test_windows_with_prompts_are_kept_beside_those_without(make_store: Any, packing: Any) -> None:
    """Blocks in which some window has no target."""
    store, block = make_store(DOCUMENTS, MASKS), 3
    for _ in range(2):
        for with_prompts in (False, True):
            wanted = pack(store.offsets, block, packing, store.target_cumsum(), with_prompts=with_prompts)
            assert same(lay_out(store, block, packing, with_prompts=with_prompts), wanted)
    assert len(list((store.folder.parent / "windows").iterdir())) == 2
    plain = make_store(DOCUMENTS)
    lay_out(plain, block, "padded", with_prompts=True)
    assert (plain.folder.parent / "windows" / f"{plain.folder.name}-padded-{block}.i64").exists()


@pytest.mark.parametrize("damage", [b"", b"x" * 7, b"x" * 800, None])
def test_a_damaged_file_is_made_again(make_store: Any, damage: bytes | None) -> None:
    store = make_store(DOCUMENTS, MASKS)
    wanted = pack(store.offsets, 8, "isolated", store.target_cumsum())
    lay_out(store, 8, "isolated")
    (path,) = (store.folder.parent / "windows").iterdir()
    path.write_bytes(path.read_bytes()[:-8] if damage is None else damage)
    assert same(lay_out(store, 8, "isolated"), wanted)
    assert len(path.read_bytes()) == 8 * (6 + 2 * len(wanted.starts) + 2 * len(wanted) + 1)


def test_another_stores_file_is_not_taken(make_store: Any) -> None:
    one, two = make_store(DOCUMENTS), make_store(DOCUMENTS[:-1])
    lay_out(one, 8, "padded")
    folder = one.folder.parent / "windows"
    os.replace(folder / f"{one.folder.name}-padded-8.i64", folder / f"{two.folder.name}-padded-8.i64")
    assert same(lay_out(two, 8, "padded"), pack(two.offsets, 8, "padded"))


def test_where_nothing_can_be_written_it_is_laid_out_each_time(make_store: Any, tmp_path: Path) -> None:
    store = make_store(DOCUMENTS)
    (store.folder.parent / "windows").write_text("a file in the way")
    assert same(lay_out(store, 8, "padded"), pack(store.offsets, 8, "padded"))


def test_leftovers_go_after_an_hour(make_store: Any) -> None:
    store = make_store(DOCUMENTS)
    folder = store.folder.parent / "windows"
    folder.mkdir()
    (folder / ".partial-old").write_text("half")
    lay_out(store, 8, "padded")
    assert (folder / ".partial-old").exists()
    os.utime(folder / ".partial-old", (time.time() - 4000,) * 2)
    lay_out(store, 9, "padded")
    assert not (folder / ".partial-old").exists()


@pytest.mark.parametrize("packing", ["isolated", "padded"])
def test_what_becomes_of_too_long_documents_has_windows_of_its_own(make_store: Any, packing: Any) -> None:
    store = make_store(DOCUMENTS, MASKS)
    for _ in range(2):
        for too_long in ("split", "cut", "drop"):
            wanted = pack(store.offsets, 4, packing, store.target_cumsum(), too_long=too_long)
            assert same(lay_out(store, 4, packing, too_long=too_long), wanted)
    assert len(list((store.folder.parent / "windows").iterdir())) == 3


def test_notes_name_both_sides(make_store: Any) -> None:
    train, val = make_store(DOCUMENTS), make_store([[1, 2], [1, 2, 3]])
    assert notes_on_length(train, val, 4, "stream", "split") == []
    (said,) = notes_on_length(train, val, 4, "padded", "cut")
    assert said.startswith("training: 24 of 60 documents are longer than a window of 4 tokens")
    sides = [said.partition(":")[0] for said in notes_on_length(train, val, 2, "isolated", "drop")]
    assert sides == ["training", "validation"]
