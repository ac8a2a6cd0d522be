"""Writes a corpus (`corpus` says what it looks like) from prepared data.

The record batches of the cached stores are copied as they are, into a shard until it is full; where their ids and
masks came to lie is noted on the way. The same data give the same bytes. Memory: one record batch. Every
byte is written once and read twice, for its piece's checksum and for the folder's manifest.
"""

from __future__ import annotations

import glob
import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from babygpt.data.arrow import MANIFEST_NAME, StoreManifest, numbers
from babygpt.data.corpus import (
    BATCHES,
    CORPUS_NAME,
    FORMAT,
    LENGTHS,
    MARK,
    SIDES,
    Shard,
    Side,
    digest_of,
    sums_name,
)
from babygpt.data.tokenizers import load_tokenizer, tokenizer_identity
from babygpt.errors import InputError
from babygpt.files import check_name, publish_folder, read_manifest, sha256_of
from babygpt.untrusted import read_json

try:
    import fcntl
except ImportError:  # Windows: what a killed process left stays
    fcntl = None  # type: ignore[assignment]

__all__ = ["export", "refuse_taken"]

PIECE_BYTES = 1 << 16
SHARD_BYTES = 1 << 28
_END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"
_STATE = "state.json"
_BEGUN_SECONDS = 60.0  # until a folder that is begun has its lock


def refuse_taken(target: Path) -> None:
    """Refuses a folder that is there, before anything is prepared for it.

    Raises:
        InputError: it is there, or its name is none.
    """
    check_name(target.absolute().name)
    if target.exists() or target.is_symlink():
        raise InputError(
            "is there already", where=str(target), hint="Give a folder that is not, or delete it first"
        )


def export(
    folder: Path,
    target: Path,
    settings: Mapping[str, Any],
    fingerprint: str,
    *,
    shard_bytes: int = SHARD_BYTES,
    piece_bytes: int = PIECE_BYTES,
) -> Path:
    """Writes a corpus, whole or not at all, and removes what killed processes left of the same one.

    Args:
        folder: of prepared data in the cache: `train`, `val`, `tokenizer` and a manifest.
        target: the folder to make.
        settings: of the recipe that decided the documents; plain values without secrets.
        fingerprint: of the prepared data.
        shard_bytes: a shard ends before the record batch that would make it larger.
        piece_bytes: bytes that a checksum covers.

    Returns:
        The folder: `target`, or that with `-v1`, ... behind it where another process has made one meanwhile.

    Raises:
        InputError: the folder is there already, or cannot be written to.
        SpaceError: the disk is full.
    """
    refuse_taken(target)
    target = target.absolute()
    _clear_leftovers(target)
    held = ExitStack()

    facts = read_manifest(folder).facts

    def fill(partial: Path) -> None:
        if (lock := _lock(partial)) is not None:
            held.callback(os.close, lock)
        shutil.copytree(folder / "tokenizer", partial / "tokenizer")
        sides = {name: _write_side(folder / name, partial, name, shard_bytes, piece_bytes) for name in SIDES}
        shards = {shard.name for side in sides.values() for shard in side.shards}
        names = sorted(p.relative_to(partial).as_posix() for p in partial.rglob("*") if p.is_file())
        content = {
            MARK: FORMAT,
            "fingerprint": fingerprint,
            "tokenizer": tokenizer_identity(load_tokenizer(partial / "tokenizer")),
            "piece": piece_bytes,
            "settings": dict(settings),
            # What they took on the disk here says nothing of where they go.
            "notes": [_public(n) for n in facts["notes"] if not n.startswith("on disk")],
            "withheld": None if facts.get("withheld") is None else _public(facts["withheld"]),
            "sides": {
                name: {
                    "manifest": asdict(side.manifest),
                    "shards": [[shard.name, shard.size] for shard in side.shards],
                }
                for name, side in sides.items()
            },
            "files": {
                name: {"size": (partial / name).stat().st_size, "sha256": sha256_of(partial / name)}
                for name in names
                if name not in shards
            },
        }
        (partial / CORPUS_NAME).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    with held:
        return publish_folder(target.parent, target.name, fill, {"fingerprint": fingerprint})


def _public(note: str) -> str:
    """A note without the folder of the file that it begins with: whoever gets the corpus need not know it."""
    about, mark, rest = note.partition(": ")
    return "".join((re.split(r"[/\\]", about)[-1], mark, rest)) if mark else note


def _clear_leftovers(target: Path) -> None:
    """Removes what killed processes left half-written beside a folder under its name. Never fails."""
    with suppress(OSError):
        for path in target.parent.glob(f".partial-{glob.escape(target.name)}-" + "[0-9a-f]" * 8):
            if path.stat().st_mtime < time.time() - _BEGUN_SECONDS and (lock := _lock(path)) is not None:
                shutil.rmtree(path, ignore_errors=True)
                os.close(lock)


def _lock(folder: Path) -> int | None:
    """A descriptor that holds a folder for this process until it is closed; None where it is held, or cannot be."""
    if fcntl is None:
        return None
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _write_side(store: Path, root: Path, name: str, shard_bytes: int, piece_bytes: int) -> Side:
    """Writes one store, cut into shards, with its index."""
    folder = root / name
    folder.mkdir()
    state = read_json(store / _STATE)
    rows: list[list[int]] = []
    parts: list[Path] = []
    with (folder / LENGTHS).open("wb") as lengths:
        for part, (row, batch) in _shards(store, state, folder, shard_bytes):
            if len(parts) == part:
                parts.append(folder / f"part-{part}")
            rows.append([part, *row])
            offsets = numbers(batch.column("input_ids").offsets)
            lengths.write(np.diff(offsets.astype(np.int64)).astype("<u4").tobytes())
    # Not by `tofile`, which does not tell when the disk is full.
    (folder / BATCHES).write_bytes(np.array(rows, dtype="<i8").tobytes())
    shards = []
    for number, part_path in enumerate(parts):
        path = part_path.rename(folder / f"data-{number:05}-of-{len(parts):05}.arrow")
        (root / sums_name(f"{name}/{path.name}")).write_bytes(b"".join(_sums(path, piece_bytes)))
        shards.append(Shard(f"{name}/{path.name}", path.stat().st_size))
    state["_data_files"] = [{"filename": Path(shard.name).name} for shard in shards]
    (folder / _STATE).write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")
    for other in ("dataset_info.json", MANIFEST_NAME):
        shutil.copyfile(store / other, folder / other)
    described = read_json(store / MANIFEST_NAME)
    described.pop("format")
    return Side(StoreManifest(**described), tuple(shards))


def _shards(
    store: Path, state: Any, folder: Path, shard_bytes: int
) -> Iterator[tuple[int, tuple[list[int], pa.RecordBatch]]]:
    """Copies a store's record batches into `part-0`, `part-1`, ...; gives each with its row of `batches.i64`."""
    number, out = 0, (folder / "part-0").open("wb")
    try:
        is_begun = has_batches = False
        for file in state["_data_files"]:
            with pa.OSFile(str(store / file["filename"])) as source, pa.ipc.open_stream(source) as reader:
                head = reader.schema.serialize()
                for batch in reader:
                    if not batch.num_rows:
                        continue
                    message = batch.serialize()
                    if has_batches and out.tell() + len(message) + len(_END_OF_STREAM) > shard_bytes:
                        out.write(_END_OF_STREAM)
                        out.close()
                        number, is_begun = number + 1, False
                        out = (folder / f"part-{number}").open("wb")
                    if not is_begun:
                        out.write(head)
                        is_begun = has_batches = True
                    yield number, (_row(message, reader.schema, out.tell()), batch)
                    out.write(message)
        out.write(_END_OF_STREAM)
    finally:
        out.close()


def _row(message: pa.Buffer, schema: pa.Schema, at: int) -> list[int]:
    """Tokens, documents, and the bytes in the file where a batch's ids and masks begin."""
    whole = pa.ipc.read_record_batch(message, schema)
    ids = whole.column("input_ids").values
    places = [_place(ids, message, at)]
    places.append(
        _place(whole.column("is_target").values, message, at) if "is_target" in schema.names else -1
    )
    return [len(ids), whole.num_rows, *places]


def _place(values: pa.Array, message: pa.Buffer, at: int) -> int:
    data = values.buffers()[1]
    return at if data is None or not len(values) else at + int(data.address - message.address)


def _sums(path: Path, piece_bytes: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(piece_bytes):
            yield digest_of(piece)
