"""What a hostile or damaged `corpus.json` says is refused before anything is made of it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from babygpt.data.corpus import read_corpus
from babygpt.data.corpus_index import Place
from babygpt.data.streamed import StreamedStore
from babygpt.errors import DataError
from web_server import WebServer

Change = Callable[[dict[str, Any]], object]


def manifest(**values: object) -> Change:
    return lambda content: content["sides"]["train"]["manifest"].update(values)


def listed(name: str, size: int) -> Change:
    return lambda content: content["files"].update({name: {"size": size, "sha256": "0" * 64}})


CHANGES: list[Change] = [
    lambda c: c.update(babygpt_corpus=True),
    lambda c: c.update(babygpt_corpus="1" * 100_000),
    lambda c: c.update(notes="a note"),
    lambda c: c.update(notes=[1, None]),
    lambda c: c.update(fingerprint=5),
    lambda c: c.update(tokenizer="\x1b[2J"),
    lambda c: c.update(piece=1),
    lambda c: c["sides"]["train"]["shards"][0].__setitem__(1, 1 << 62),
    manifest(bytes_per_target=math.nan),
    manifest(bytes_per_target="4"),
    manifest(bytes_per_target=10**400),
    manifest(eos_id="0"),
    manifest(has_targets=None),
    manifest(has_targets=False),
    manifest(num_targets=10**9),
    manifest(num_documents=10**6),
    manifest(num_tokens=1 << 62),
    manifest(num_tokens=int("9" * 4000)),
    manifest(fingerprint=None),
    listed("train/lengths.u32", 7),
    listed("train/batches.i64", 41),
    listed("tokenizer/tokenizer.json/evil", 1),
    listed("train", 1),
]


@pytest.mark.parametrize("change", CHANGES, ids=map(str, range(len(CHANGES))))
def test_what_cannot_be_is_refused(serve, web: WebServer, make_store, tmp_path: Path, change: Change) -> None:
    masks = [[True, False, True]] * 4
    serve(make_store([[1, 2, 3]] * 4, masks))
    content = json.loads((tmp_path / "corpus0" / "corpus.json").read_text())
    listed("tokenizer/tokenizer.json", 1)(content)
    (tmp_path / "wrong").mkdir()
    path = tmp_path / "wrong" / "corpus.json"
    path.write_text(json.dumps(content))
    assert read_corpus(str(path), tmp_path) is not None
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"no whole corpus\.json|a corpus of format") as caught:
        read_corpus(str(path), tmp_path)
    assert len(str(caught.value)) < 1000


def replaced(serve, web: WebServer, store, name: str, content: bytes) -> Place:
    """A corpus one of whose files is another, as its `corpus.json` says."""
    place = serve(store)
    web.files[f"/corpus0/{name}"] = content
    described = json.loads(web.files["/corpus0/corpus.json"])
    described["files"][name] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    web.files["/corpus0/corpus.json"] = json.dumps(described).encode()
    corpus = read_corpus(place.address, place.folder.parent.parent)
    assert corpus is not None
    return Place(place.address, corpus, place.folder.parent / corpus.key, place.pieces, place.most)


def test_an_index_with_numbers_beyond_bounds_is_refused(serve, web: WebServer, make_store) -> None:
    store = make_store([[1, 2, 3]] * 4)
    row = np.array(
        [[0, 12, 4, (1 << 63) - 5, -1]], dtype="<i8"
    )  # and 24 bytes of ids come to less than nothing
    place = replaced(serve, web, store, "train/batches.i64", row.tobytes())
    with pytest.raises(DataError, match=r"does not agree with its corpus\.json"):
        StreamedStore(place, "train")


def test_lengths_that_do_not_come_to_all_tokens_are_refused(serve, web: WebServer, make_store) -> None:
    store = make_store([[1, 2, 3]] * 4)
    lengths = np.array([3, 3, 3, 9], dtype="<u4")
    streamed = StreamedStore(replaced(serve, web, store, "train/lengths.u32", lengths.tobytes()), "train")
    with pytest.raises(DataError, match=r"does not agree with its corpus\.json"):
        _ = streamed.offsets
