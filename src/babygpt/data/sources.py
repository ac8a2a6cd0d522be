"""Paths to documents: files, folders, Hugging Face data sets and two corpora every Python brings along.

    *.txt and any other text file   one document a file, line endings kept, a byte order mark dropped
    *.jsonl, *.ndjson               one document a line: `text`, `prompt` + `completion`, or `messages`
    a folder                        the text and .jsonl files in it and below, sorted by relative path; hidden
                                    ones skipped
    a saved data set's folder       one document a row, fields as in .jsonl
    a hub data set's name           the same; `name:configuration` picks a configuration
    builtin:python                  the source files of the running Python's standard library, one document a
                                    file
    builtin:prose                   the topics of Python's language help: English prose, one document a topic

Documents are read one at a time; only a text file is held whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import sysconfig
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from babygpt.data.hub_datasets import open_hub, open_saved
from babygpt.data.tokenised import IDS, is_tokenised
from babygpt.errors import DataError
from babygpt.hub import looks_like_path

__all__ = [
    "JSONL_SUFFIXES",
    "Document",
    "Span",
    "check_field",
    "content_hash",
    "files_of",
    "is_hub_name",
    "is_saved",
    "prose",
    "read_documents",
]

JSONL_SUFFIXES = frozenset({".jsonl", ".ndjson"})
TEXT_SUFFIXES = frozenset(
    f".{suffix}"
    for line in (
        "txt text md markdown rst tex org adoc log html htm xml yaml yml toml ini cfg css sql",
        "py pyi js mjs ts jsx tsx java c h cc cpp hpp cs go rs rb php pl lua r jl scala kt swift hs ml",
        "clj ex erl sh bash",
    )
    for suffix in line.split()
)
_UNREAD_SUFFIXES = frozenset({".json", ".csv", ".tsv", ".parquet", ".arrow", ".gz", ".zip", ".xz", ".zst"})
_BOM = b"\xef\xbb\xbf"
_NOT_CORPUS = frozenset({"test", "tests", "idle_test", "site-packages", "dist-packages", "pydoc_data"})


@dataclass(frozen=True)
class Span:
    """A part of a document's text, and whether its tokens are targets."""

    text: str
    is_target: bool


@dataclass(frozen=True)
class Document:
    """One document: exactly one of `text`, `spans` and `messages`.

    Attributes:
        id: where it came from, for messages: `folder/a.txt`, `b.jsonl:3`.
        text: plain text; every token is a target.
        spans: text in parts, some of which are targets.
        messages: a conversation for a chat template, each with `role` and `content`.
    """

    id: str
    text: str | None = None
    spans: tuple[Span, ...] | None = None
    messages: tuple[dict[str, Any], ...] | None = None


def content_hash(document: Document) -> int:
    """64 bits of BLAKE2b over the content, not the id: equal documents get equal numbers anywhere."""
    if document.text is not None:
        content = b"t" + document.text.encode()
    elif document.spans is not None:
        parts = [[span.text, span.is_target] for span in document.spans]
        content = b"s" + json.dumps(parts).encode()
    else:
        content = b"m" + json.dumps(document.messages, sort_keys=True).encode()
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big")


def read_documents(paths: Sequence[str], *, field: str = "auto") -> Iterator[Document]:
    """Read documents in a fixed order: the paths as given, each as the module's table says.

    Args:
        paths: files, folders, data set names, `builtin:python`, `builtin:prose`.
        field: the column that holds the text (or a list of messages); `auto` takes `messages`, `prompt` +
            `completion` or `text`, whichever a record has.

    Raises:
        DataError: something is missing, empty, not UTF-8, not JSON or lacks its field; says file, line and
            what was found.
    """
    if not paths:
        raise DataError("no path given", where="data.path", hint="Give files, folders or builtin:python")
    for path in paths:
        if path == "builtin:prose":
            yield from prose()
        elif path.startswith("builtin:"):
            yield from _read_files(path, field)
        elif is_saved(path):
            yield from _rows(open_saved(path), path, field)
        elif is_hub_name(path):
            yield from _rows(open_hub(path), path, field)
        else:
            yield from _read_files(path, field)


# -- files ---------------------------------------------------------------------------------------------------


def files_of(path: str) -> tuple[Path, list[str]]:
    """The files behind a path: the folder they lie in, and their names in it, sorted.

    Args:
        path: a file, a folder of text or of a saved data set, or `builtin:python`.

    Raises:
        DataError: it is not there, or is of no kind that is read.
    """
    if path == "builtin:python":
        root = Path(sysconfig.get_paths()["stdlib"])
        found = [name for name in _walk(root, _NOT_CORPUS) if name.endswith(".py")]
        if not found:
            raise DataError("this Python has no source files", where=path, hint="Give data.path a file")
        return root, found
    if path.startswith("builtin:"):
        raise DataError("no such built-in corpus", where=path, hint="Use builtin:python or builtin:prose")
    root = Path(path).expanduser()
    if root.is_file():
        if root.suffix in _UNREAD_SUFFIXES and not is_tokenised(path, IDS):
            raise DataError(
                f"{root.suffix} files are not read",
                where=path,
                hint="Convert it to .txt or .jsonl, one object a line",
            )
        return root.parent, [root.name]
    if not root.is_dir():
        raise DataError("no such file or folder", where=path, hint="Check data.path")
    if is_saved(path):
        # `datasets` keeps what it computes from a set in the set's own folder.
        return root, [name for name in _walk(root) if not name.rpartition("/")[2].startswith("cache-")]
    known = TEXT_SUFFIXES | JSONL_SUFFIXES
    found = [name for name in _walk(root) if os.path.splitext(name)[1] in known]
    if not found:
        raise DataError(
            "the folder holds no text",
            where=path,
            hint="Text files (.txt, .md, .py, ...) and .jsonl are read",
        )
    return root, found


def check_field(field: str, paths: Sequence[str]) -> None:
    """Refuses a field that nothing behind the paths could have.

    Raises:
        DataError: all of it is plain text, which has no fields; or as `files_of`.
    """
    if field != "auto" and not any(_has_fields(path) for path in paths):
        raise DataError(
            f"there is no field {field!r}: all of the data is plain text",
            where="data.field",
            hint="Leave it out; only .jsonl and data sets have fields",
        )


def _has_fields(path: str) -> bool:
    if path.startswith("builtin:"):
        return False
    if is_saved(path) or is_hub_name(path):
        return True
    return any(os.path.splitext(name)[1] in JSONL_SUFFIXES for name in files_of(path)[1])


def _walk(root: Path, skipped: frozenset[str] = frozenset()) -> list[str]:
    """POSIX paths of the files below a folder, sorted; nothing hidden, nothing below a skipped name."""
    found = []
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".") and name not in skipped]
        inside = os.path.relpath(folder, root).replace(os.sep, "/")
        prefix = "" if inside == "." else f"{inside}/"
        found += [prefix + name for name in files if not name.startswith(".")]
    return sorted(found)


def _read_files(path: str, field: str) -> Iterator[Document]:
    root, names = files_of(path)
    named = path != "builtin:python" and Path(path).expanduser().is_file()
    any_text = False
    for file in (root / name for name in names):
        if file.suffix in JSONL_SUFFIXES:
            documents = _read_jsonl(file, field)
        else:
            documents = _read_text(file, skip_undecodable=path == "builtin:python")
        for document in documents:
            any_text = True
            yield document
        if named and not any_text:
            raise DataError("the file is empty", where=path, hint="Check data.path")
    if not any_text:
        raise DataError("all files of the folder are empty", where=path, hint="Check data.path")


def _read_text(file: Path, *, skip_undecodable: bool) -> Iterator[Document]:
    with _open(file) as stream:
        content = stream.read().removeprefix(_BOM)
    if not content:
        return
    try:
        yield Document(str(file), text=content.decode())
    except UnicodeDecodeError as error:
        if not skip_undecodable:
            raise _not_utf8(str(file), content, error, 0) from None


def _read_jsonl(file: Path, field: str) -> Iterator[Document]:
    offset = 0
    with _open(file) as stream:
        for number, line in enumerate(stream, 1):
            where = f"{file}:{number}"
            content = line.removeprefix(_BOM) if number == 1 else line
            if content.strip():
                try:
                    record = json.loads(content.decode())
                except UnicodeDecodeError as error:
                    raise _not_utf8(where, content, error, offset + len(line) - len(content)) from None
                except ValueError as error:
                    shown = _shown(content.decode(errors="replace").strip())
                    raise DataError(
                        f"the line is not JSON ({error}): {shown}", where=where, hint="One JSON object a line"
                    ) from None
                except RecursionError:
                    raise DataError("the line is nested too deeply", where=where) from None
                yield from _document(record, where, field)
            offset += len(line)


@contextmanager
def _open(file: Path) -> Iterator[Any]:
    """The file's bytes; an error of the disk, at the first or any later block, names the file."""
    try:
        with file.open("rb") as stream:
            yield stream
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", where=str(file)) from None


def _not_utf8(where: str, content: bytes, error: UnicodeDecodeError, offset: int) -> DataError:
    utf16 = content[:2] in (b"\xff\xfe", b"\xfe\xff")
    found = "it looks like UTF-16" if utf16 else f"byte 0x{content[error.start]:02x}"
    return DataError(
        f"not UTF-8 at byte offset {offset + error.start} ({found})",
        where=where,
        hint="Convert it, for example with iconv -t UTF-8",
    )


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


# -- records -------------------------------------------------------------------------------------------------


def _document(record: Any, where: str, field: str) -> Iterator[Document]:
    """The document of one record; none when its text is empty."""
    if not isinstance(record, dict):
        raise DataError(f"found {_kind(record)}, not a JSON object", where=where, hint="One object a line")
    if field != "auto":
        if field not in record:
            raise _lacks(record, f"no field {field!r}", where)
        value = record[field]
        document = (
            Document(where, messages=_messages(value, field, where)) if isinstance(value, list) else None
        )
        document = document or Document(where, text=_string(value, field, where))
    elif record.get("messages") is not None:
        document = Document(where, messages=_messages(record["messages"], "messages", where))
    elif "prompt" in record and "completion" in record:
        prompt, completion = (_string(record[name], name, where) for name in ("prompt", "completion"))
        document = Document(where, spans=(Span(prompt, False), Span(completion, True)))
    elif "text" in record:
        document = Document(where, text=_string(record["text"], "text", where))
    else:
        raise _lacks(record, "none of the fields text, prompt + completion, messages", where)
    if document.text != "":
        yield document


def _lacks(record: dict[str, Any], what: str, where: str) -> DataError:
    has = ", ".join(map(str, list(record)[:12])) or "nothing"
    return DataError(f"{what}; it has: {has}", where=where, hint="Name the text's column with data.field")


def _string(value: Any, field: str, where: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"field {field!r} holds {_kind(value)}, not a string", where=where)
    try:
        value.encode()
    except UnicodeEncodeError as error:
        lone = f"U+{ord(value[error.start]):04X}"
        raise DataError(
            f"field {field!r} holds half a surrogate pair ({lone}) at character {error.start}", where=where
        ) from None
    return value


def _messages(value: Any, field: str, where: str) -> tuple[dict[str, Any], ...]:
    if not isinstance(value, list) or not value:
        raise DataError(f"field {field!r} holds {_kind(value)}, not a list of messages", where=where)
    for number, message in enumerate(value):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise DataError(
                f"message {number} of field {field!r} has no role: {_shown(str(message))}", where=where
            )
        if isinstance(message.get("content"), str):
            _string(message["content"], f"{field}[{number}].content", where)
        elif "content" not in message and "tool_calls" not in message:
            raise DataError(f"message {number} of field {field!r} has no content", where=where)
    return tuple(value)


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if value == [] and isinstance(value, list):
        return "an empty list"
    kinds = {
        bool: "a boolean",
        int: "a number",
        float: "a number",
        str: "a string",
        list: "a list",
        dict: "an object",
    }
    return kinds.get(type(value), f"a {type(value).__name__}")


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")


# -- data sets -----------------------------------------------------------------------------------------------


def is_saved(path: str) -> bool:
    """Whether a path is a folder written by `save_to_disk`."""
    folder = Path(path).expanduser()
    if (folder / "babygpt.json").is_file():
        raise DataError("already tokenised", where=path, hint="Give the text it was made from")
    return (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file()


def is_hub_name(path: str) -> bool:
    """Whether a path, not being there, can only be a data set's name on the hub."""
    if path.startswith("builtin:") or looks_like_path(path):
        return False
    looks_like_file = Path(path).suffix in TEXT_SUFFIXES | JSONL_SUFFIXES | _UNREAD_SUFFIXES
    return not looks_like_file and not Path(path).exists()


def _rows(dataset: Any, path: str, field: str) -> Iterator[Document]:
    any_text = False
    for number, row in enumerate(dataset):
        # Arrow gives every column to every row: one without a value is as good as absent.
        filled = {name: value for name, value in row.items() if value is not None}
        for document in _document(filled, f"{path}:{number}", field):
            any_text = True
            yield document
    if not any_text:
        raise DataError("the data set has no text", where=path)
