"""What a run was trained on, remembered in its folder, and the refusal to go on with anything else.

    RUN/data.json   the token store's key, fingerprint and counts, and for each path every file's size, time and sha256

A run that goes on compares names and sizes first, then times, and reads only the files whose time differs (or
that the cache's index knows to have been touched): equal content under another time is the same data. Nothing
in the file depends on the machine but two hints where the data lay, from the root and from the run's folder, so
that a copied run finds data that were copied along with it. Data that lie elsewhere are named by `data.path`.

What a hub data set's name or an address stands for is not compared: the store holds what was trained on,
whatever it is today. A corpus and the text that it was prepared from are the same data where their fingerprints are,
and a run may go on from either.
"""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from babygpt.data.cache import default_cache
from babygpt.data.corpus import Corpus
from babygpt.data.digests import FileState, Index
from babygpt.data.identity import Listing, survey
from babygpt.data.opening import corpora_among
from babygpt.data.prepared import PreparedData
from babygpt.data.remote import kept_input
from babygpt.data.sources import files_of
from babygpt.disk import expanded
from babygpt.errors import CheckpointError, DataError, InputError, RecipeError
from babygpt.files import write_text_atomic
from babygpt.recipe import DataRecipe
from babygpt.untrusted import redacted

__all__ = ["NAME", "check_prepared", "remember", "store_key", "unchanged"]

NAME = "data.json"
_FORMAT = 1
_STORES = r"[0-9a-f]{32}(-v[0-9]+)?(\+[0-9a-f]{32}(-v[0-9]+)?)*"  # one key, or one a source of a mixture
_SHOWN = 8  # files that a message names
_PATHS = ("path", "val_path")


@dataclass(frozen=True)
class _Place:
    """A path of the run: what stood behind it, and where it was."""

    listing: Listing
    absolute: str
    relative: str


@dataclass(frozen=True)
class _Record:
    """The content of `data.json`."""

    store: str
    fingerprint: str
    places: dict[str, tuple[_Place, ...]]


# -- writing and reading -------------------------------------------------------------------------------------


def remember(out: Path, data: PreparedData) -> None:
    """Writes down what a run is about to be trained on.

    Args:
        out: the run's folder.
        data: with its sources.
    """
    assert data.sources is not None
    head: dict[str, Any] = {"format": _FORMAT, "store": data.key, "fingerprint": data.fingerprint}
    for name, store in (("train", data.train), ("val", data.val)):  # for people: a copied run has no cache
        head[name] = {"documents": store.num_documents, "tokens": store.num_tokens}
    lines = [f'  "{name}": {json.dumps(value)}' for name, value in head.items()]
    for name in _PATHS:
        places = [_place_lines(listing, out) for listing in getattr(data.sources, name).listings]
        lines.append(f'  "{name}": [{",".join(places)}]')
    write_text_atomic(out / NAME, "{\n" + ",\n".join(lines) + "\n}\n")


def _place_lines(listing: Listing, out: Path) -> str:
    """JSON with a line a file: there may be a hundred thousand."""
    head: dict[str, Any] = {"path": listing.path, "kind": listing.kind}
    if listing.kind in ("files", "saved"):
        absolute = os.path.abspath(os.path.expanduser(listing.path))
        head |= {"absolute": absolute, "relative": _relative(absolute, out)}
    head |= {"fingerprint": listing.fingerprint, "python": listing.python}
    files = [
        json.dumps([file.name, file.size, file.mtime_ns if file.settled else None, file.sha256])
        for file in listing.files
    ]
    inside = ",".join(f"\n      {file}" for file in files)
    return "\n    " + json.dumps(head)[:-1] + f', "files": [{inside}]}}'


def _relative(absolute: str, out: Path) -> str:
    try:
        return os.path.relpath(absolute, out)
    except ValueError:  # another drive
        return absolute


def _read(out: Path) -> _Record | None:
    """The record; None in a run folder of before there was one.

    Raises:
        CheckpointError: it is damaged.
    """
    path = out / NAME
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if value["format"] != _FORMAT or not re.fullmatch(_STORES, value["store"]):
            raise ValueError("not of this version")
        places = {name: tuple(map(_place, value[name])) for name in _PATHS}
        return _Record(value["store"], str(value["fingerprint"]), places)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"cannot be read ({error})",
            where=str(path),
            hint="Delete it to go on without comparing the data files with those of the run's beginning",
        ) from None


def _place(value: Any) -> _Place:
    files = []
    for name, size, mtime_ns, sha256 in value["files"]:
        if not isinstance(name, str) or type(size) is not int or not re.fullmatch("[0-9a-f]{64}", sha256):
            raise ValueError("an entry is malformed")
        files.append(FileState(name, size, mtime_ns or 0, sha256, settled=mtime_ns is not None))
    listing = Listing(
        str(value["path"]), value["kind"], tuple(files), str(value["fingerprint"]), str(value["python"])
    )
    return _Place(listing, str(value.get("absolute", "")), str(value.get("relative", "")))


def store_key(out: Path) -> str | None:
    """The token store that a run was begun with; None if its folder does not say."""
    try:
        record = _read(out)
    except CheckpointError:
        return None
    return None if record is None else record.store


# -- comparing -----------------------------------------------------------------------------------------------


def unchanged(out: Path, recipe: DataRecipe, given: DataRecipe, named: Sequence[str]) -> DataRecipe:
    """The run's data recipe with its paths where the same data lie now.

    Args:
        out: the run's folder.
        recipe: the run's.
        given: of this start.
        named: which of `path` and `val_path` were given at this start.

    Raises:
        DataError: a file was changed, is missing or was added; each is named.
        RecipeError: other paths are given, and not as many, or there is no record to compare them with.
        CheckpointError: the record is damaged.
    """
    record = _read(out)
    paths = given.path if "path" in named else recipe.path
    corpora = corpora_among(paths, default_cache())
    if record is not None and (
        any(corpora) or any(p.listing.kind == "corpus" for p in record.places["path"])
    ):
        return _around_corpora(out, record, corpora, recipe, given if "path" in named else recipe)
    for name in named:
        there, here = getattr(recipe, name), getattr(given, name)
        if there != here and (record is None or len(there) != len(here)):
            raise RecipeError(
                f"the run was begun with another recipe: data.{name}: [{redacted(', '.join(there))}] there,"
                f" [{redacted(', '.join(here))}] here",
                where=str(out),
                hint="Leave it out to go on, name where each of the same data lies now, or start a new run with --out",
            )
    if record is None:
        return recipe
    found: dict[str, tuple[str, ...]] = {}
    wrong: list[str] = []
    for name in _PATHS:
        is_asked = name in named
        paths = getattr(given if is_asked else recipe, name)
        found[name], odd = _find(out, record.places[name], paths, elsewhere=not is_asked)
        wrong += odd
    if wrong:
        more = f"; and {len(wrong) - _SHOWN:,} more" if len(wrong) > _SHOWN else ""
        raise DataError(
            f"the data are not those the run was begun with: {'; '.join(wrong[:_SHOWN])}{more}",
            where=str(out),
            hint="Put them back, name by --data.path where they lie now, or start a new run with --out",
        )
    return replace(recipe, path=found["path"], val_path=found["val_path"])


def _around_corpora(
    out: Path, record: _Record, corpora: Sequence[Corpus | None], recipe: DataRecipe, asked: DataRecipe
) -> DataRecipe:
    """The run's data recipe with the paths asked for, where they or those of its beginning are corpora.

    What is no corpus has no listing to be compared with; `check_prepared` compares what comes of it.
    """
    begun = record.places["path"]
    known = [place.listing.fingerprint for place in begun if place.listing.kind == "corpus"]
    if len(corpora) == 1 and not recipe.weights:
        known = [record.fingerprint]
    if len(known) == len(corpora):
        for path, corpus, fingerprint in zip(asked.path, corpora, known, strict=True):
            if corpus is not None and corpus.fingerprint != fingerprint:
                raise _another(out, path)
    return replace(recipe, path=asked.path, val_path=() if all(corpora) else asked.val_path)


def check_prepared(out: Path, data: PreparedData) -> None:
    """Refuses prepared data that are not those of a run's beginning.

    Raises:
        DataError: they are not.
    """
    record = _read(out)
    if record is not None and record.fingerprint != data.fingerprint:
        sources = data.sources.path.listings if data.sources else ()
        raise _another(out, ", ".join(listing.path for listing in sources) or "what the cache holds")


def _another(out: Path, path: str) -> DataError:
    return DataError(
        f"the data are not those the run was begun with: {redacted(path)} holds other ids",
        where=str(out),
        hint="Name the same data by --data.path, or start a new run with --out",
    )


def _find(
    out: Path, places: Sequence[_Place], now: Sequence[str], *, elsewhere: bool
) -> tuple[tuple[str, ...], list[str]]:
    """Where the data of each place lie now, and what differs there; `elsewhere` looks also where they were."""
    if len(now) != len(places):
        now = [place.listing.path for place in places]
    paths, wrong = [], []
    with Index(now, default_cache()) as index:
        for place, path in zip(places, now, strict=True):
            if path == "-" and (kept := _kept(place.listing)) is not None:
                paths.append(kept)
                continue
            candidates = [path]
            if elsewhere and place.absolute:
                further = [os.path.normpath(out / place.relative), place.absolute]
                candidates += [c for c in further if os.path.abspath(c) != os.path.abspath(path)]
            odd: dict[str, list[str]] = {}
            for candidate in candidates:
                odd[candidate] = _differences(place.listing, candidate, index)
                if not odd[candidate]:
                    paths.append(candidate)
                    break
            else:
                paths.append(path)
                wrong += odd[next(filter(os.path.exists, candidates), path)]
    return tuple(paths), wrong


def _kept(then: Listing) -> str | None:
    """Where what came on standard input is kept, which nobody can be asked to pipe in once more."""
    file = kept_input(default_cache(), then.files[0].name) if then.path == "-" and then.files else None
    return None if file is None else str(file)


def _differences(then: Listing, path: str, index: Index) -> list[str]:
    """What is behind a path now and was not then, in words; sizes first, then times, content where they differ."""
    if then.kind not in ("files", "saved"):
        if redacted(path) != then.path:
            return [f"{redacted(path)} is not {then.path}"]
        if then.kind in ("hub", "remote"):
            return []
    if path == "builtin:prose":
        same = survey([path], default_cache()).listings[0].fingerprint == then.fingerprint
        return [] if same else [_of_another_python(then)]
    try:
        root, names, _ = files_of(path)
    except InputError:
        return [f"{path} is missing"]
    if len(then.files) == 1 == len(names) and expanded(path).is_file():
        now = {then.files[0].name: names[0]}  # whatever it is called now
    else:
        now = {name: name for name in names}
    wrong = [f"{root / name} was added" for name in now.keys() - {file.name for file in then.files}]
    for file in then.files:
        what = _difference(file, root, now[file.name], index) if file.name in now else "is missing"
        if what:
            wrong.append(f"{root / now.get(file.name, file.name)} {what}")
    if wrong and then.python and then.python != platform.python_version():
        return [_of_another_python(then)]
    return sorted(wrong)


def _difference(then: FileState, root: Path, name: str, index: Index) -> str:
    try:
        status = os.stat(os.path.join(root, name))
        if status.st_size != then.size:
            return f"was changed ({then.size:,} bytes then, {status.st_size:,} now)"
        as_it_was = then.settled and status.st_mtime_ns == then.mtime_ns and not index.was_touched(root, name)
        if as_it_was or index.state(root, name).sha256 == then.sha256:
            return ""
    except OSError:
        return "is missing"
    except DataError as error:
        return error.what
    return "was changed (of the same size)"


def _of_another_python(then: Listing) -> str:
    return f"{then.path} is that of Python {platform.python_version()} and was that of Python {then.python}"
