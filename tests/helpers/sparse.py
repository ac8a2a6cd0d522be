"""Token stores of any size that take no space: valid Arrow files whose pages of ids are holes."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from babygpt.data import arrow, writing
from babygpt.data.arrow import FORMAT_VERSION, MANIFEST_NAME
from babygpt.data.writing import StoreWriter

_PAGE = 4096


def write_sparse_store(
    folder: Path,
    num_tokens: int,
    *,
    document: int = 1000,
    masked: bool = False,
    fingerprint: str | None = None,
    vocab_size: int = 300,
) -> None:
    """Write a store of at least `num_tokens` tokens, all of id 0, in documents of `document` tokens.

    One record batch is written as ever, and then repeated as often as needed: what is zero in it is left out.

    Args:
        folder: made here.
        num_tokens: rounded up to whole record batches.
        document: tokens of each document.
        masked: with a mask column; of every document the second half of each ten tokens is a target, so that
            the mask itself takes its space.
        fingerprint: put into the manifest; by default that of one batch.
        vocab_size: decides two or four bytes an id.
    """
    many = writing._BATCH_TOKENS // document
    ids = np.zeros(document, dtype=np.int64)
    mask = np.arange(document) % 10 >= 5 if masked else None
    with StoreWriter(
        folder, vocab_size=vocab_size, eos_id=0, tokenizer_identity="sparse", masked=masked
    ) as writer:
        for _ in range(many):
            writer.add(ids, mask, document)
        writer._flush()
        end_of_schema = _schema_length(writer)
    (data,) = folder.glob("*.arrow")
    content = data.read_bytes()
    batches = -(-num_tokens // (many * document))
    schema, batch, end = content[:end_of_schema], content[end_of_schema:-8], content[-8:]
    with data.open("wb") as file:
        file.write(schema)
        for _ in range(batches):
            _write_around_holes(file, batch)
        file.write(end)
    path = folder / MANIFEST_NAME
    value = json.loads(path.read_text())
    del value["format"]
    manifest = arrow.StoreManifest(**value)
    manifest = replace(
        manifest,
        num_tokens=batches * manifest.num_tokens,
        num_documents=batches * manifest.num_documents,
        num_targets=batches * manifest.num_targets,
        fingerprint=fingerprint or manifest.fingerprint,
    )
    path.write_text(json.dumps({"format": FORMAT_VERSION, **asdict(manifest)}))


def _schema_length(writer: StoreWriter) -> int:
    """Bytes of the stream before the first record batch."""
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    pa.ipc.new_stream(sink, writer._schema).close()
    return len(sink.getvalue()) - 8  # without the end of the stream


def _write_around_holes(file: object, content: bytes) -> None:
    pages = np.frombuffer(content[: len(content) // _PAGE * _PAGE], dtype=np.uint8).reshape(-1, _PAGE)
    full = pages.any(axis=1)
    borders = np.flatnonzero(np.diff(full, prepend=not full[0], append=not full[-1]))
    for first, last in zip(borders[:-1].tolist(), borders[1:].tolist(), strict=True):
        if full[first]:
            file.write(content[first * _PAGE : last * _PAGE])  # type: ignore[attr-defined]
        else:
            file.seek((last - first) * _PAGE, os.SEEK_CUR)  # type: ignore[attr-defined]
    file.write(content[len(pages) * _PAGE :])  # type: ignore[attr-defined]
