from __future__ import annotations

import json
import pickle
from pathlib import Path

import datasets
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from babygpt.data.arrow import open_store
from babygpt.data.writing import StoreWriter
from babygpt.errors import DataError


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.lists(st.integers(0, 999), max_size=9), max_size=20), st.integers(1, 30), st.data())
def test_what_is_written_is_read_whatever_the_chunks(make_store, documents, chunk, data) -> None:
    masks = [
        data.draw(st.none() | st.lists(st.booleans(), min_size=len(ids), max_size=len(ids)))
        for ids in documents
    ]
    store = make_store(documents, masks, chunk=chunk)
    flat = np.array([number for ids in documents for number in ids])
    filled = [[True] * len(ids) if mask is None else mask for ids, mask in zip(documents, masks, strict=True)]
    bits = np.array([bit for mask in filled for bit in mask], dtype=bool)
    assert store.num_tokens == len(flat)
    assert store.num_documents == len(documents)
    assert store.has_targets == any(mask is not None for mask in masks)
    assert store.manifest.num_targets == bits.sum()
    np.testing.assert_array_equal(store.offsets, np.cumsum([0, *map(len, documents)]))
    for number, ids in enumerate(documents):
        assert store.document(number).tolist() == ids
    for _ in range(5):
        start = data.draw(st.integers(0, len(flat)))
        length = data.draw(st.integers(0, len(flat) - start))
        assert store.ids(start, length).tolist() == flat[start : start + length].tolist()
        assert store.target_mask(start, length).tolist() == bits[start : start + length].tolist()
        assert store.target_mask(start, length).dtype == np.bool_
    before = store.target_cumsum()
    if store.has_targets:
        assert before is not None
        positions = np.array(data.draw(st.permutations(range(len(flat) + 1))), dtype=np.int64)
        assert before[positions].tolist() == np.cumsum([0, *bits])[positions].tolist()
    else:
        assert before is None


def test_datasets_opens_it(make_store) -> None:
    documents = [[1, 2, 3], [4], [5, 6, 7, 8, 9]]
    masks = [None, [True], [False, True, True, False, True]]
    rows = datasets.load_from_disk(str(make_store(documents, masks, chunk=2).folder))
    assert rows["input_ids"][:] == documents
    assert rows["is_target"][:] == [[1, 1, 1], [1], [0, 1, 1, 0, 1]]
    assert rows.features["input_ids"] == datasets.List(datasets.Value("uint16"))
    plain = datasets.load_from_disk(str(make_store(documents).folder))
    assert plain.column_names == ["input_ids"]
    assert plain.select([2])[0]["input_ids"] == documents[2]


def test_views_are_not_copies_inside_a_chunk_and_are_read_only(make_store) -> None:
    store = make_store([list(range(100))], chunk=1000)
    view = store.ids(10, 50)
    assert not view.flags.owndata
    assert not view.flags.writeable
    assert view.dtype == np.uint16
    assert np.shares_memory(view, store.ids(0, 100))


@pytest.mark.parametrize(("vocab_size", "dtype"), [(65_536, "uint16"), (65_537, "uint32")])
def test_ids_take_two_bytes_where_they_can(make_store, vocab_size: int, dtype: str) -> None:
    store = make_store([[0, vocab_size - 1]], vocab_size=vocab_size)
    assert store.ids(0, 2).tolist() == [0, vocab_size - 1]
    assert store.manifest.dtype == str(store.ids(0, 2).dtype) == dtype


def test_the_fingerprint_is_of_the_content(make_store) -> None:
    prints = [
        make_store(*args, **kwargs).manifest.fingerprint
        for args, kwargs in [
            (([[1, 2, 3], [4]],), {}),
            (([[1, 2, 3], [4]],), {"chunk": 1}),
            (([[1, 2], [3, 4]],), {}),
            (([[1, 2, 3], [5]],), {}),
            (([[1, 2, 3], [4]], [None, [False]]), {}),
            (([[1, 2, 3], [4]], [None, [False]]), {"chunk": 1}),
            (([[1, 2, 3], [4]], [None, [True]]), {}),
        ]
    ]
    assert prints[0] == prints[1]
    assert prints[4] == prints[5]
    assert len(set(prints)) == 5


def test_it_is_picklable(make_store) -> None:
    store = make_store([[1, 2, 3], [4]])
    again = pickle.loads(pickle.dumps(store))
    assert again.ids(0, 4).tolist() == [1, 2, 3, 4]
    assert again.manifest == store.manifest


def test_positions_beyond_the_end_are_refused(make_store) -> None:
    store = make_store([[1, 2, 3]])
    for start, length in ((-1, 2), (0, 4), (3, 1)):
        with pytest.raises(IndexError):
            store.ids(start, length)


def test_a_reordered_store_is_refused(make_store) -> None:
    folder = make_store([[1, 2], [3]]).folder
    state = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(
        json.dumps({**state, "_indices_data_files": [{"filename": "indices.arrow"}]})
    )
    with pytest.raises(DataError, match="re-ordered"):
        open_store(folder)


def test_what_is_no_store_is_refused(make_store, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no token store here"):
        open_store(tmp_path)
    folder = make_store([[1, 2], [3]]).folder
    data = folder / "data-00000-of-00001.arrow"
    content = data.read_bytes()
    for cut in (0, 10, len(content) // 2):
        data.write_bytes(content[:cut])
        with pytest.raises(DataError):
            open_store(folder)
    data.write_bytes(content)
    manifest = json.loads((folder / "babygpt.json").read_text())
    (folder / "babygpt.json").write_text(json.dumps({**manifest, "num_tokens": 4}))
    with pytest.raises(DataError, match="holds 3 tokens in 2 documents, its manifest says 4 in 2"):
        open_store(folder)
    (folder / "babygpt.json").write_text(json.dumps({**manifest, "format": 0}))
    with pytest.raises(DataError, match="another version"):
        open_store(folder)
    (folder / "babygpt.json").write_text('{"format": 1, "surprise": 2}')
    with pytest.raises(DataError):
        open_store(folder)


def test_an_interrupted_build_is_no_store(tmp_path: Path) -> None:
    def interrupted() -> None:
        with StoreWriter(tmp_path / "x", vocab_size=10, eos_id=0, tokenizer_identity="") as writer:
            writer.add(np.array([1, 2]), None, 2)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with pytest.raises(DataError, match="no token store here"):
        open_store(tmp_path / "x")
