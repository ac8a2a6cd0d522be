from __future__ import annotations

import os
import secrets

from babygpt.data.corpus import digest_of
from babygpt.data.piece_cache import PieceCache, bound_of


def size_of(folder) -> int:
    return sum(-(-file.stat().st_size // 4096) * 4096 for file in folder.glob("??/*"))


def test_what_was_asked_for_last_stays_and_the_bound_holds_for_two(tmp_path) -> None:
    caches = [PieceCache(tmp_path, 16 * 4096) for _ in range(2)]
    pieces = [secrets.token_bytes(4000) for _ in range(60)]
    for number, piece in enumerate(pieces):
        caches[number % 2].put(digest_of(piece), piece)
        os.utime(caches[0]._path(digest_of(piece)), ns=(number, number))  # clocks may be coarse
        if number >= 1:
            assert caches[0].get(digest_of(pieces[0])) == pieces[0]  # asked for again and again
        assert size_of(tmp_path) <= 16 * 4096
    assert caches[1].get(digest_of(pieces[-1])) == pieces[-1]
    assert caches[1].get(digest_of(pieces[30])) is None
    assert (tmp_path / "ledger").stat().st_size * 4096 >= size_of(tmp_path)


def test_a_smaller_bound_holds_from_the_next_piece_on(tmp_path) -> None:
    for piece in (pieces := [secrets.token_bytes(4000) for _ in range(20)]):
        PieceCache(tmp_path, 10**9).put(digest_of(piece), piece)
    PieceCache(tmp_path, 8 * 4096).put(digest_of(pieces[0]), pieces[0])
    assert size_of(tmp_path) <= 7 * 4096


def test_a_damaged_piece_is_not_given(tmp_path) -> None:
    cache, digest = PieceCache(tmp_path, 10**6), digest_of(b"content")
    assert cache.get(digest) is None
    cache.put(digest, b"content")
    assert cache.get(digest) == b"content"
    cache._path(digest).write_bytes(b"")  # as power cuts leave files
    assert cache.get(digest) is None
    assert not cache._path(digest).exists()


def test_the_bound_is_a_tenth_of_what_is_free(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("babygpt.data.piece_cache.free_bytes", lambda folder: 100 * 10**9)
    assert bound_of(tmp_path, None) == 10 * 10**9
    (tmp_path / "ledger").write_bytes(bytes(10_000))
    assert bound_of(tmp_path, None) == (100 * 10**9 + 10_000 * 4096) // 10
    monkeypatch.setattr("babygpt.data.piece_cache.free_bytes", lambda folder: 10**13)
    assert bound_of(tmp_path, None) == 50 * 10**9
    assert bound_of(tmp_path, 0.5) == 5 * 10**8
