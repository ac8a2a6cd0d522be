"""The folder that a build works in: what of it a later process can go on with.

    WORK/begun             what the stores depend on beside their key; of another one nothing is kept
    WORK/store/tokenizer/  there as soon as it is trained
    WORK/store/train/ val/ the stores, ended or not; WORK/whole/ one that is yet to be cut in two
    WORK/hashes            of the documents that are taken, written anew by each process
    WORK/progress.json     documents encoded, and the stores' positions at that point

What `progress.json` speaks of was on the disk before; what lies behind it is cut off or written again.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerBase

from babygpt.computer import installed_versions
from babygpt.data.arrow import DATA_NAME, FORMAT_VERSION
from babygpt.data.writing import Position
from babygpt.disk import fsync_dir, fsync_file
from babygpt.files import MANIFEST, make_folder, remove_partials, write_json_atomic, write_text_atomic

__all__ = ["Done", "begin", "keep_hashes", "keep_tokenizer", "kept_hashes"]

_HASHES_AT_ONCE, _WRITTEN_AT_ONCE = 1 << 12, 1 << 18


@dataclass
class Done:
    """How far a build is: `progress.json`.

    Attributes:
        documents: encoded so far.
        stores: positions of the stores, by name.
        bytes_of: UTF-8 bytes of the target text of each document, by its hash, where the tail is to be cut off: there
            are few different ones.
    """

    documents: int = 0
    stores: dict[str, Position] = field(default_factory=dict)
    bytes_of: dict[int, int] = field(default_factory=dict)

    def write(self, work: Path) -> None:
        """Writes it down; the stores have to be on the disk that far."""
        write_json_atomic(work / "progress.json", asdict(self))


def begin(work: Path, commit_tokens: int) -> Done:
    """How far the build in a folder is; what cannot be gone on with is removed.

    Args:
        work: the folder; may be empty.
        commit_tokens: after how many tokens positions are written down.
    """
    begun = json.dumps([installed_versions(), FORMAT_VERSION, commit_tokens])
    try:
        if (work / "begun").read_text(encoding="utf-8") == begun:
            remove_partials(work)
            remove_partials(work / "store")
            (work / "store" / MANIFEST).unlink(missing_ok=True)
            if (done := _read_progress(work)) is not None:
                return done
            for name in ("whole", "store/train", "store/val"):
                shutil.rmtree(work / name, ignore_errors=True)
            return Done()
    except FileNotFoundError:
        pass
    for path in work.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    make_folder(work / "store")
    write_text_atomic(work / "begun", begun)
    return Done()


def keep_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Saves a tokenizer whole or not at all."""
    beside = folder.parent / ".partial-tokenizer"
    tokenizer.save_pretrained(beside)
    for path in beside.iterdir():
        fsync_file(path)
    fsync_dir(beside)
    beside.rename(folder)
    fsync_dir(folder.parent)


def keep_hashes(
    work: Path, hashes: npt.NDArray[np.uint64], left_out: npt.NDArray[np.bool_] | None = None
) -> None:
    """Writes down what the content of each document is, uint64 [documents], but of those left out."""
    with (work / "hashes").open("wb") as file:
        for start in range(0, len(hashes), _WRITTEN_AT_ONCE):
            some = hashes[start : start + _WRITTEN_AT_ONCE]
            if left_out is not None:
                some = some[~left_out[start : start + _WRITTEN_AT_ONCE]]
            file.write(some.tobytes())  # not by `tofile`, which does not tell when the disk is full


def kept_hashes(work: Path, start: int) -> Iterator[int]:
    """The hashes from a document's number on; a few of them are in memory at a time."""
    with (work / "hashes").open("rb") as file:
        file.seek(start * 8)
        while len(some := np.fromfile(file, dtype=np.uint64, count=_HASHES_AT_ONCE)):
            yield from some.tolist()


def _read_progress(work: Path) -> Done | None:
    """What `progress.json` says; None where there is none or the stores do not bear it out."""
    try:
        value = json.loads((work / "progress.json").read_text(encoding="utf-8"))
        stores = {name: Position(**position) for name, position in value["stores"].items()}
        for name, position in stores.items():
            folder = work if name == "whole" else work / "store"
            if (folder / name / DATA_NAME).stat().st_size < position.size:
                return None
        bytes_of = {int(content): size for content, size in value["bytes_of"].items()}
        return Done(value["documents"], stores, bytes_of)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
