"""Paths to documents: files, folders, patterns, addresses, Hugging Face data sets, two corpora every Python has.

    a file                          text, JSON, CSV, Parquet or Arrow by its name, .gz and .zst too: `formats`
    a folder, or logs/**/*.txt      the files in it, sorted by their paths: `folders`
    https://..., s3://..., -        what lies there, or comes on standard input, kept in the cache: `remote`
    a saved data set's folder       one document a row
    a hub data set's name           the same; its configuration, split and number of rows: `hub_datasets`
    builtin:python                  the source files of the running Python's standard library, one document a
                                    file
    builtin:prose                   the topics of Python's language help: English prose, one document a topic

What of a record is the text is decided in `records`. Documents are read one at a time; only a text file is held whole.
"""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from babygpt.data.cache import default_cache
from babygpt.data.folders import files_below, is_pattern, matching, read_in_a_folder
from babygpt.data.formats import format_of, looks_like_file, read_records, read_text, refuse_unread
from babygpt.data.hub_datasets import open_hub, open_saved
from babygpt.data.records import Columns, Document, Span, choose, content_hash, document_of
from babygpt.data.remote import is_remote, localise
from babygpt.data.utf8 import NotTextError
from babygpt.disk import expanded
from babygpt.errors import DataError
from babygpt.hub import looks_like_path

__all__ = [
    "Document",
    "Files",
    "Say",
    "Span",
    "check_field",
    "content_hash",
    "files_of",
    "is_hub_name",
    "is_saved",
    "prose",
    "read_documents",
]

Say = Callable[[str], None]

_NOT_CORPUS = frozenset({"test", "tests", "idle_test", "site-packages", "dist-packages", "pydoc_data"})


class Files(NamedTuple):
    """The files behind a path.

    Attributes:
        root: the folder they lie in.
        names: POSIX paths below it, in the order they are read.
        left_out: what else lies there and is not read, in words; empty if nothing.
    """

    root: Path
    names: list[str]
    left_out: str = ""


def read_documents(
    paths: Sequence[str], *, field: str = "auto", say: Say | None = None, empty: Say | None = None
) -> Iterator[Document]:
    """Read documents in a fixed order: the paths as given, each as the module's table says.

    Args:
        paths: files, folders, patterns, addresses, data set names, `builtin:python`, `builtin:prose`, `-`.
        field: the column that holds the text (or a list of messages); `auto` chooses as `records` says.
        say: told in a sentence of each choice that was guessed, once.
        empty: told the place of each record and file without text; they are no documents.

    Raises:
        DataError: something is missing, empty, damaged, not UTF-8 or lacks its column; says file, line and
            what was found.
    """
    if not paths:
        raise DataError("no path given", where="data.path", hint="Give files, folders or builtin:python")
    reader = _Reader(field, say or (lambda note: None), empty or (lambda where: None))
    for path in paths:
        if path == "builtin:prose":
            yield from prose()
        elif path.startswith("builtin:"):
            yield from reader.files(path)
        elif is_remote(path):
            for file in localise([path], default_cache())[0].files:
                yield from reader.files(str(file))
        elif is_saved(path):
            yield from reader.rows(open_saved(path), path)
        elif is_hub_name(path):
            yield from reader.rows(open_hub(path), path)
        else:
            yield from reader.files(path)


# -- names ---------------------------------------------------------------------------------------------------


def files_of(path: str) -> Files:
    """The files behind a path.

    Args:
        path: a file, a pattern, a folder of files or of a saved data set, or `builtin:python`.

    Raises:
        DataError: it is not there, is of no kind that is read, or a folder of it cannot be.
    """
    if path == "builtin:python":
        root = Path(sysconfig.get_paths()["stdlib"])
        found = [name for name in files_below(root, skipped=_NOT_CORPUS) if name.endswith(".py")]
        if not found:
            raise DataError("this Python has no source files", where=path, hint="Give data.path a file")
        return Files(root, found)
    if path.startswith("builtin:"):
        raise DataError("no such built-in corpus", where=path, hint="Use builtin:python or builtin:prose")
    if is_pattern(path):
        root, found = matching(path)
        for name in found:
            refuse_unread(name, str(root / name))
        return Files(root, found)
    root = expanded(path)
    if not root.is_dir():
        return _one_file(root, path)
    if is_saved(path):
        # `datasets` keeps what it computes from a set in the set's own folder.
        return Files(root, [n for n in files_below(root) if not n.rpartition("/")[2].startswith("cache-")])
    known, left_out = read_in_a_folder(files_below(root))
    if not known:
        raise DataError(
            "the folder holds no text",
            where=path,
            hint="Text (.txt, .md, .py, ...), .jsonl, .json, .csv, .tsv, .parquet and .arrow files are read;"
            " ids in .bin files are named, or matched by a pattern",
        )
    return Files(root, known, left_out)


def _one_file(file: Path, path: str) -> Files:
    if file.exists():
        refuse_unread(file.name, path)
        return Files(file.parent, [file.name])
    if file.is_symlink():
        raise DataError("the link leads to nothing, or in a circle", where=path, hint="Give the file itself")
    raise DataError("no such file or folder", where=path, hint="Check data.path")


def check_field(field: str, paths: Sequence[str]) -> None:
    """Refuses a field that nothing behind the paths could have.

    Raises:
        DataError: all of it is plain text, which has no fields; or as `files_of`.
    """
    if field != "auto" and not any(_has_fields(path) for path in paths):
        raise DataError(
            f"there is no field {field!r}: all of the data is plain text",
            where="data.field",
            hint="Leave it out; only records and data sets have fields",
        )


def _has_fields(path: str) -> bool:
    if path.startswith("builtin:"):
        return False
    if is_remote(path) or is_saved(path) or is_hub_name(path):
        return True  # or it is not known before it is there
    return any(format_of(name).kind != "text" for name in files_of(path).names)


def is_saved(path: str) -> bool:
    """Whether a path is a folder written by `save_to_disk`."""
    if is_remote(path):
        return False
    folder = expanded(path)
    if (folder / "babygpt.json").is_file():
        raise DataError("already tokenised", where=path, hint="Give the text it was made from")
    return (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file()


def is_hub_name(path: str) -> bool:
    """Whether a path, not being there, can only be a data set's name on the hub."""
    if path.startswith("builtin:") or is_remote(path) or is_pattern(path) or looks_like_path(path):
        return False
    return not looks_like_file(path) and not os.path.lexists(path)


# -- documents -----------------------------------------------------------------------------------------------


class _Reader:
    """Reads what lies behind a path, and tells of each guess once."""

    def __init__(self, field: str, say: Say, empty: Say) -> None:
        self._field, self._say, self._empty = field, say, empty
        self._said: set[str] = set()

    def files(self, path: str) -> Iterator[Document]:
        """The documents of the files behind a path, which must not all be empty."""
        root, names, _ = files_of(path)
        any_text = any_record = False
        for name in names:
            for document in self._file(root / name, name, path):
                any_record = True
                if document is not None:
                    any_text = True
                    yield document
        if not any_text:
            is_file = len(names) == 1 and expanded(path).is_file()
            whose = "the file" if is_file else "the files"
            what = "the file is empty" if is_file else "all of the files are empty"
            raise DataError(
                f"no record of {whose} holds text" if any_record else what, where=path, hint="Check data.path"
            )

    def _file(self, file: Path, name: str, path: str) -> Iterator[Document | None]:
        """A file's documents; None for a record without text."""
        form = format_of(name)
        if form.kind != "text":
            first = next(read_records(file, form), None)
            if first is None:
                self._empty(str(file))
                return
            columns = self._choose(first[1], first[0], path)
            for where, record in read_records(file, form, columns.needed):
                yield self._document(record, columns, where)
            return
        try:
            text = read_text(file, form.codec)
        except NotTextError:
            if path == "builtin:python":
                return  # a source file in an encoding of its own, of which there are a few
            raise
        if text:
            yield Document(str(file), text=text)
        else:
            self._empty(str(file))

    def _document(self, record: Any, columns: Columns, where: str) -> Document | None:
        document = document_of(record, columns, where)
        if document is None:
            self._empty(where)
        return document

    def rows(self, dataset: Any, path: str) -> Iterator[Document]:
        """The documents of a data set, which must not all be empty."""
        any_text = False
        first = next(iter(dataset), None)
        if first is not None:
            columns = self._choose(first, f"{path}:0", path)
            # Pictures and the like in other columns would be decoded.
            taken = dataset.select_columns([name for name in columns.needed if name in first])
            for number, row in enumerate(taken):
                if (document := self._document(row, columns, f"{path}:{number}")) is not None:
                    any_text = True
                    yield document
        if not any_text:
            raise DataError("the data set has no text", where=path)

    def _choose(self, record: Any, where: str, path: str) -> Columns:
        columns = choose(record, where, field=self._field)
        note = f"{path}: {columns.guess}"
        if columns.guess and note not in self._said:
            self._said.add(note)
            self._say(note)
        return columns


def prose() -> Iterator[Document]:
    """The documents of `builtin:prose`."""
    try:
        from pydoc_data.topics import topics  # some distributions leave it out
    except ImportError:
        raise DataError(
            "this Python comes without its language help", where="builtin:prose", hint="Use builtin:python"
        ) from None
    for name in sorted(topics):
        yield Document(f"builtin:prose/{name}", text=topics[name])
