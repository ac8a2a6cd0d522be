"""Data sets of the `datasets` library: saved folders and hub names, opened as rows.

A hub data set is downloaded once, as the library caches it, and then read from a memory map: preparing data
reads the rows more than once (to split, to train a tokenizer, to encode), and every read must give the same.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

from babygpt.errors import DataError
from babygpt.hub import reachable

__all__ = ["open_hub", "open_saved"]

# Not the library's readers of archives and scientific formats, some of which unpickle. The last is its own cache.
_READ = ("json", "parquet", "csv", "text", "arrow", "cache")
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?(:[\w.-]+)?")


def open_saved(path: str) -> Any:
    """A folder written by `save_to_disk`; its training split when it holds several.

    Raises:
        DataError: it cannot be read, or has several splits and none is `train`.
    """
    import datasets  # a second's import that text files do not need

    try:
        return _one_split(datasets.load_from_disk(str(Path(path).expanduser())), path)
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"the saved data set cannot be read ({error})", where=path) from error


@functools.lru_cache(maxsize=8)
def open_hub(name: str) -> Any:
    """A data set of the hub, `owner/name` or `owner/name:configuration`; of several splits the training one.

    Raises:
        DataError: no such name, no network, or no training split; without network at once.
    """
    if not _HUB_NAME.fullmatch(name):
        raise DataError("no such file or folder, nor a data set's name", where=name, hint="Check data.path")
    import datasets

    if not datasets.config.HF_HUB_OFFLINE and not reachable():
        raise _unreachable(name)
    repository, _, configuration = name.partition(":")
    try:
        builder = datasets.load_dataset_builder(repository, configuration or None)
        if builder.name not in _READ:
            what = f"its files are of a kind that is not read ({builder.name})"
            raise DataError(what, where=name, hint=f"Choose a data set of {', '.join(_READ[:-1])} files")
        builder.download_and_prepare()
        found = builder.as_dataset()
    except DataError:
        raise
    except Exception as error:  # the library raises a dozen kinds, each with a message that says what to do
        if datasets.config.HF_HUB_OFFLINE:
            raise _unreachable(name) from error
        reason = " ".join(str(error).split())[:400]
        raise DataError(f"the hub's data set cannot be loaded ({reason})", where=name) from error
    return _one_split(found, name)


def _unreachable(name: str) -> DataError:
    return DataError(
        "no file or folder of this name, and the hub cannot be reached",
        where=name,
        hint="Give a local file or folder; a data set downloaded before is read under HF_HUB_OFFLINE=1",
    )


def _one_split(found: Any, where: str) -> Any:
    if not isinstance(found, dict):
        return found
    if "train" in found:
        return found["train"]
    if len(found) == 1:
        return next(iter(found.values()))
    raise DataError(f"the data set has no split named train; it has: {', '.join(found)}", where=where)
