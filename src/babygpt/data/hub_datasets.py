"""Data sets of the `datasets` library: saved folders and hub names, opened as rows.

    owner/name                       the training split of the only or default configuration
    owner/name:configuration         of another one
    owner/name:configuration:split   another split; `owner/name::split` of the default configuration
    ...[:1000]                       its first 1,000 rows (`hub_rows`)

A whole hub data set is downloaded once, as the library caches it, and then read from a memory map: preparing data
reads the rows more than once (to split, to train a tokenizer, to encode), and every read must give the same.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from babygpt.disk import expanded
from babygpt.errors import DataError
from babygpt.hub import looks_like_path, reachable
from babygpt.untrusted import redacted, shown

__all__ = [
    "HubName",
    "builder_of",
    "hub_name",
    "is_part_of_hub",
    "one_split",
    "open_hub",
    "open_saved",
    "refused",
]

# Not the library's readers of archives and scientific formats, some of which unpickle. The last is its own cache.
_READ = ("json", "parquet", "csv", "text", "arrow", "cache")
_NAME = re.compile(r"([\w.-]+(?:/[\w.-]+)?)(?::([\w.-]*)(?::([\w.-]+))?)?(?:\[:(\d{1,12})\])?")
_PART = re.compile(r"[\w./:-]+\[[^\[\]]*:[^\[\]]*\]")


@dataclass(frozen=True)
class HubName:
    """What the name of a hub data set says.

    Attributes:
        repository: `owner/name`, or `name`.
        configuration, split: None where it leaves them open.
        rows: of its first so many; None for all.
    """

    repository: str
    configuration: str | None
    split: str | None
    rows: int | None


def is_part_of_hub(path: str) -> bool:
    """Whether a path, not being there, names some rows of a hub data set."""
    return _PART.fullmatch(path) is not None and not looks_like_path(path) and not Path(path).exists()


def hub_name(path: str) -> HubName:
    """Takes the name of a hub data set apart.

    Raises:
        DataError: it is none.
    """
    if found := _NAME.fullmatch(path):
        repository, configuration, split, rows = found.groups()
        if rows is None or int(rows):
            return HubName(repository, configuration or None, split, None if rows is None else int(rows))
    if is_part_of_hub(path):
        raise DataError(
            "what is in brackets is not a number of rows",
            where=path,
            hint="Give the first 1,000 rows of a data set as owner/name[:1000]",
        )
    raise DataError("no such file or folder, nor a data set's name", where=path, hint="Check data.path")


def open_saved(path: str) -> Any:
    """A folder written by `save_to_disk`; its training split when it holds several.

    Raises:
        DataError: it cannot be read, or has several splits and none is `train`.
    """
    import datasets  # a second's import that text files do not need

    try:
        return one_split(datasets.load_from_disk(str(expanded(path))), path)
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"the saved data set cannot be read ({error})", where=path) from error


@functools.lru_cache(maxsize=8)
def open_hub(path: str) -> Any:
    """A data set of the hub as a whole, downloaded unless it was before; of several splits the training one.

    Raises:
        DataError: no such name, no network, or no such split; without network at once.
    """
    name = hub_name(path)
    builder = builder_of(name, path)
    try:
        builder.download_and_prepare()
        found = builder.as_dataset()
    except Exception as error:  # the library raises a dozen kinds, each with a message that says what to do
        raise refused("loaded", error, path) from error
    return one_split(found, path, name.split)


def builder_of(name: HubName, path: str) -> Any:
    """What the library knows of a data set before any of it is downloaded.

    Raises:
        DataError: no such name, no network, or files of a kind that is not read.
    """
    import datasets

    if not datasets.config.HF_HUB_OFFLINE and not reachable():
        raise _unreachable(path)
    try:
        builder = datasets.load_dataset_builder(name.repository, name.configuration)
    except Exception as error:
        raise refused("found", error, path) from error
    if builder.name not in _READ:
        what = f"its files are of a kind that is not read ({builder.name})"
        raise DataError(what, where=path, hint=f"Choose a data set of {', '.join(_READ[:-1])} files")
    return builder


def refused(done: str, error: Exception, path: str, hint: str = "") -> DataError:
    """An error of the library as one of the user's; `done` is what was to be done."""
    import datasets

    if datasets.config.HF_HUB_OFFLINE:
        return _unreachable(path)
    reason = shown(redacted(" ".join(str(error).split()) or type(error).__name__), 400)
    if "Not enough disk space" in reason:
        hint = f"Free some space, or take a part: {path}[:100000] is its first 100,000 rows"
    return DataError(f"the hub's data set cannot be {done} ({reason})", where=path, hint=hint)


def one_split(found: Any, where: str, split: str | None = None) -> Any:
    """Of a data set's splits, by their names, the one that is asked for, the training one, or the only one.

    Raises:
        DataError: there is no such one.
    """
    if not isinstance(found, dict):
        return found
    if split is None and len(found) == 1:
        return next(iter(found.values()))
    if (wanted := split or "train") in found:
        return found[wanted]
    there = ", ".join(map(str, found))
    raise DataError(f"the data set has no split named {wanted}; it has: {there}", where=where)


def _unreachable(path: str) -> DataError:
    return DataError(
        "no file or folder of this name, and the hub cannot be reached",
        where=path,
        hint="Give a local file or folder; what was downloaded before is read under HF_HUB_OFFLINE=1",
    )
