from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from babygpt.data import choosing
from babygpt.data.choosing import choose_documents
from babygpt.data.reading import Seen, Texts
from babygpt.data.work import kept_hashes
from babygpt.recipe import DataRecipe


class Many:
    """Documents that are nothing but numbers, of which every fourth comes twice."""

    def __init__(self, count: int) -> None:
        self.hashes = np.random.default_rng(0).integers(0, 2**64, size=count, dtype=np.uint64)
        self.hashes[::4] = self.hashes[1::4]

    def seen(self, paths: Sequence[str], say: Callable[[str], None]) -> Iterator[Seen]:
        for number in range(len(self.hashes)):
            yield Seen(int(self.hashes[number]), size=number % 7, masked=number == 6)

    def texts(self, paths: Sequence[str]) -> Iterator[str]:
        return iter(())


@pytest.mark.parametrize("mode", ["none", "exact"])
def test_sizes_and_masks_are_added_up_by_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    monkeypatch.setattr(choosing, "_AT_ONCE", 64)
    origin, notes = Many(4000), []
    recipe = DataRecipe(path=("x",), val_fraction=0.25, deduplicate=mode)
    found = choose_documents(recipe, origin, lambda *_: None, notes.append, tmp_path)
    # By hand: a document is held out by its hash; of the rest an equal one that came before leaves it out.
    taken, is_val, before = [], [], set()
    for number, content in enumerate(origin.hashes.tolist()):
        held_out = content < 2**62
        if held_out or mode == "none" or content not in before:
            taken.append(number)
            is_val.append(held_out)
        before.add(content)
    assert list(found.is_val) == is_val
    assert [n for n in range(4000) if not found.left_out[n]] == taken
    assert found.size == sum(n % 7 for n in taken)
    assert found.train_size == sum(n % 7 for n, held_out in zip(taken, is_val, strict=True) if not held_out)
    assert (found.train_masked, found.val_masked) == (
        (False, True) if is_val[taken.index(6)] else (True, False)
    )
    assert list(kept_hashes(tmp_path, 0)) == origin.hashes[taken].tolist()
    assert "duplicates: " in notes[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["hashes"]


def test_few_bytes_a_document_are_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the second half of the documents adds to the most that is held, and to what is left."""
    monkeypatch.setattr(choosing, "_AT_ONCE", 256)
    monkeypatch.setattr("babygpt.data.duplicates._CHUNK", 512)
    monkeypatch.setattr("babygpt.data.work._WRITTEN_AT_ONCE", 256)
    held = []
    for count in (100, 5_000, 15_000):  # the first time modules are loaded
        origin = Many(count)
        tracemalloc.start()
        try:
            found = choose_documents(
                DataRecipe(path=("x",)), origin, lambda *_: None, lambda note: None, tmp_path
            )
            held.append(tracemalloc.get_traced_memory())
        finally:
            tracemalloc.stop()
        assert found.is_val.packed.nbytes + found.left_out.packed.nbytes == 2 * -(-count // 8)
    left, most = (later - first for first, later in zip(*held[1:], strict=True))
    assert most < 16 * 10_000
    assert left < 1 * 10_000


def test_given_validation_data_are_last(tmp_path: Path) -> None:
    for name, texts in (("a", ["x", "y", "z"]), ("b", ["y", "w"])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    recipe = DataRecipe(path=(str(tmp_path / "a.jsonl"),), val_path=(str(tmp_path / "b.jsonl"),))
    notes: list[str] = []
    found = choose_documents(recipe, Texts("auto"), lambda *_: None, notes.append, tmp_path)
    assert list(found.is_val) == [False, False, False, True, True]
    assert (found.size, found.train_size, found.in_tail) == (5, 3, False)
    assert not any(found.left_out)
    assert notes[0] == (
        "validation: the 2 documents of data.val_path; 1 of them also stands in the training data"
    )
