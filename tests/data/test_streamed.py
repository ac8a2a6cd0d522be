"""A store that lies elsewhere against the mapped store it was made from, whatever the sizes and faults."""

from __future__ import annotations

import pickle
import re
import threading

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from babygpt.data.batches import make_batch
from babygpt.data.order import Order
from babygpt.data.packing import pack
from babygpt.data.streamed import StreamedStore
from babygpt.data.web import HttpSource
from babygpt.errors import DataError


def made(make_store, count: int):
    """A store of documents of 100 ids, 80 in a record batch; some ids are no targets."""
    rng = np.random.default_rng(0)
    documents = [rng.integers(0, 1000, 100).tolist() for _ in range(count)]
    masks = [rng.integers(0, 2, 100).astype(bool).tolist() for _ in range(count)]
    return make_store(documents, masks, chunk=8_000)


@pytest.fixture
def numbers(make_store):
    return made(make_store, 400)


def requests_of(web) -> list[str]:
    return [headers["Range"] for path, headers in web.seen if path.endswith(".arrow")]


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.lists(st.integers(0, 999), max_size=9), min_size=1, max_size=20),
    st.integers(1, 30),
    st.integers(1, 3000),
    st.integers(40, 700),
    st.sampled_from([1000, 70_000]),
    st.data(),
)
def test_it_reads_what_was_written_whatever_the_sizes(
    make_store, serve, documents, chunk, shard_bytes, piece_bytes, vocab_size, data
) -> None:
    masks = [
        data.draw(st.none() | st.lists(st.booleans(), min_size=len(ids), max_size=len(ids)))
        for ids in documents
    ]
    mapped = make_store(documents, masks, chunk=chunk, vocab_size=vocab_size)
    place = serve(mapped, shard_bytes=shard_bytes, piece_bytes=piece_bytes)
    store = StreamedStore(place, "train")
    assert store.manifest == mapped.manifest
    np.testing.assert_array_equal(store.offsets, mapped.offsets)
    total = sum(map(len, documents))
    starts = data.draw(st.lists(st.integers(0, total), max_size=4))
    for start in starts:
        length = data.draw(st.integers(0, total - start))
        for name in ("ids", "target_mask"):
            ours, theirs = (getattr(each, name)(start, length) for each in (store, mapped))
            np.testing.assert_array_equal(ours, theirs)
            assert ours.dtype == theirs.dtype
    with pytest.raises(IndexError):
        store.ids(total, 1)
    before, theirs = store.target_cumsum(), mapped.target_cumsum()
    assert (before is None) == (theirs is None)
    if before is not None and theirs is not None:
        positions = np.arange(total + 1)
        np.testing.assert_array_equal(before[positions], theirs[positions])


def test_a_broken_server_changes_nothing(web, serve, numbers, monkeypatch) -> None:
    monkeypatch.setattr("babygpt.data.web._PART_SECONDS", 0.2)
    place = serve(numbers, piece_bytes=500, shard_bytes=20_000)
    store = StreamedStore(place, "train")
    web.faults = [503, ("cut", 100), ("wrong", 7), ("stall", 50)]  # of checksums
    for start in range(0, 40_000, 8_000):
        store.ids(start, 1)
    assert web.faults == []
    web.faults = [
        ("wrong", 7),
        503,
        ("cut", 100),
        ("wrong", 450),
        ("stall", 50),
        ("cut", 0),
        429,
        None,
        ("wrong", 600),
        500,
    ]
    np.testing.assert_array_equal(store.ids(0, 40_000), numbers.ids(0, 40_000))
    np.testing.assert_array_equal(store.target_mask(0, 40_000), numbers.target_mask(0, 40_000))
    assert web.faults == []


@pytest.mark.parametrize("packing", ["stream", "isolated"])
def test_epochs_are_those_of_the_disk_though_the_cache_holds_a_third(web, serve, make_store, packing) -> None:
    numbers = made(make_store, 100)
    windows = pack(numbers.offsets, 64, packing, numbers.target_cumsum())
    store = StreamedStore(serve(numbers, piece_bytes=4000, most=12_288), "train")
    store._pieces._most_held = 2  # of what memory holds else, everything
    order = Order(len(windows), 32, 0)
    met = []
    web.seen.clear()
    for step in range(order.steps_per_epoch + 2):
        rows = order.windows_of(step)
        ours, theirs = (make_batch(each, windows, rows, 0) for each in (store, numbers))
        assert all((ours[name] == theirs[name]).all() for name in theirs)
        met.extend(rows.tolist())
    assert sorted(met[: len(windows)]) == list(range(len(windows)))
    kept = sum(file.stat().st_size for file in store._place.pieces.glob("??/*"))
    assert 0 < kept <= 12_288 + 16 * 4096
    assert len(requests_of(web)) > 3 * 9  # a cache for all would have asked for nine pieces once


def test_nothing_before_or_beside_what_is_read_is_fetched(web, serve, numbers) -> None:
    place = serve(numbers, piece_bytes=1000, shard_bytes=30_000)
    web.seen.clear()
    store = StreamedStore(place, "train")
    assert {path.rpartition("/")[2] for path, _ in web.seen} == {"batches.i64"}
    web.seen.clear()
    row = store._batches[2]
    assert store.ids(16_100, 64).tolist() == numbers.ids(16_100, 64).tolist()
    sums, *shards = web.seen
    assert sums[0].endswith(".sums")
    first, last = ((int(row[3]) + byte) // 1000 * 1000 for byte in (200, 327))
    assert [headers["Range"] for _, headers in shards] == [f"bytes={first}-{last + 999}"]
    web.seen.clear()
    store.ids(16_100, 64)  # held in memory
    StreamedStore(place, "train").ids(16_100, 64)  # kept on the disk, index and all
    assert web.seen == []


def test_what_is_expected_is_fetched_once_and_at_once(web, serve, numbers, monkeypatch) -> None:
    store = StreamedStore(serve(numbers, piece_bytes=1000), "train")
    store.ids(0, 1)  # the checksums, so that all else are requests for pieces
    web.seen.clear()
    together, part = threading.Barrier(8), HttpSource.part

    def held(source: HttpSource, start: int, size: int) -> bytes:
        together.wait(10)  # nobody is answered before eight have asked
        return part(source, start, size)

    monkeypatch.setattr(HttpSource, "part", held)
    starts = np.array([2500, 10_500, 18_500, 26_500])  # one piece of ids and one of masks each
    store.expect(starts, np.full(4, 50))
    for start in starts.tolist():
        np.testing.assert_array_equal(store.ids(start, 50), numbers.ids(start, 50))
        np.testing.assert_array_equal(store.target_mask(start, 50), numbers.target_mask(start, 50))
    assert len(requests_of(web)) == len(set(requests_of(web))) == 8


def test_another_process_and_a_copy_read_the_same(serve, numbers) -> None:
    store = StreamedStore(serve(numbers, piece_bytes=1000), "train")
    store.ids(0, 10)
    copy = pickle.loads(pickle.dumps(store))
    np.testing.assert_array_equal(copy.ids(5, 3000), numbers.ids(5, 3000))
    store._process -= 1  # as after a fork, whose threads and sockets stay with the parent
    before = store._pieces
    np.testing.assert_array_equal(store.ids(5, 3000), numbers.ids(5, 3000))
    assert store._pieces is not before


def test_connections_stay_open_and_are_made_again(web, serve, numbers) -> None:
    store = StreamedStore(serve(numbers, piece_bytes=100), "train")
    store.ids(0, 1)
    before = web.connections
    for start in range(0, 2000, 100):
        store.ids(start + 50, 1)
    assert len(requests_of(web)) > 20
    assert web.connections == before
    web.stays = False  # answers of today's connections are their last
    for start in range(2000, 2500, 100):
        np.testing.assert_array_equal(store.ids(start, 100), numbers.ids(start, 100))


# -- what cannot be mended -----------------------------------------------------------------------------------


def changed(web) -> None:
    name = next(n for n in web.files if n.endswith("train/data-00000-of-00001.arrow"))
    web.files[name] = bytes(byte ^ 1 for byte in web.files[name])


def removed(web) -> None:
    del web.files[next(n for n in web.files if n.endswith("train/data-00000-of-00001.arrow"))]


def shortened(web) -> None:
    name = next(n for n in web.files if n.endswith("train/data-00000-of-00001.arrow"))
    web.files[name] = web.files[name][:700]


def other_sums(web) -> None:
    name = next(n for n in web.files if n.endswith("train/data-00000-of-00001.sums"))
    web.files[name] = web.files[name][::-1]


def whole_only(web) -> None:
    web.ranges = False


def html(web) -> None:
    for name in web.files:
        web.types[name] = "text/html"


def down(web) -> None:
    web.faults = [503] * 100


def refuses(web) -> None:
    web.faults = [403, 403]


def slow(web) -> None:
    web.faults = [("stall", 10)] * 100


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (
            changed,
            r"train/data-00000-of-00001\.arrow: piece 2 \(byte 2,000\) is not the one that was written.*copy it",
        ),
        (
            removed,
            r"train/data-00000-of-00001\.arrow: the server answers 404 \(Not Found\)\. Check the address",
        ),
        (shortened, r"data-00000-of-00001\.arrow: the file ends before byte 4,000\. Copy it there"),
        (other_sums, r"data-00000-of-00001\.sums: is not the file that corpus.json speaks of"),
        (whole_only, r"the server sends whole files only, and a corpus is read in parts.*Range requests"),
        (html, r"the answer is an HTML page, not data"),
        (
            down,
            r"cannot be fetched: the server answers 503 \(Service Unavailable\) \(14 tries\)\. Go on with the run",
        ),
        (refuses, r"the server answers 403 \(Forbidden\)\. It may need a token or password"),
        (slow, r"cannot be fetched: the server does not answer in time \(3 tries\)"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_cannot_be_mended_is_said(web, serve, numbers, fault, message, monkeypatch, caplog) -> None:
    if fault is slow:
        monkeypatch.setattr("babygpt.data.web._PART_SECONDS", 0.1)
        monkeypatch.setattr("babygpt.data.transfer._PATIENT_TRIES", 3)
        monkeypatch.setattr("babygpt.data.transfer._SAID_AFTER", 2)
    store = StreamedStore(serve(numbers, piece_bytes=1000), "train")
    fault(web)
    with pytest.raises(DataError, match=message):
        store.ids(700, 500)
    with pytest.raises(DataError):  # and is tried anew
        store.ids(700, 500)
    said = [record.getMessage() for record in caplog.records]
    patient = fault in (down, slow)
    assert len([each for each in said if re.search("trying for some minutes more", each)]) == patient


def test_what_failed_once_comes_the_next_time(web, serve, numbers) -> None:
    store = StreamedStore(serve(numbers, piece_bytes=1000), "train")
    web.faults = [403]
    with pytest.raises(DataError):
        store.ids(0, 100)
    np.testing.assert_array_equal(store.ids(0, 100), numbers.ids(0, 100))


def test_an_index_that_does_not_agree_is_refused(web, serve, numbers) -> None:
    place = serve(numbers)
    path = StreamedStore(place, "train")._pieces.index.path("train/batches.i64")
    table = np.fromfile(path, dtype="<i8").reshape(-1, 5)
    for row, column, value in ((0, 1, 9_000), (1, 0, 3), (2, 3, 10**9), (0, 4, -5)):
        wrong = table.copy()
        wrong[row, column] = value
        store = StreamedStore(place, "train")
        store._batches = wrong
        assert not store._agrees()
