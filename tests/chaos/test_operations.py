"""Killed at every single change to the disk, or refused it: the checkpoint before or the new one is there, whole."""

from __future__ import annotations

import errno
import io
import re
import shutil
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from itertools import count
from pathlib import Path
from threading import Lock
from typing import Any

import pytest

from babygpt.checkpoints import keep, load_state, newest
from forking import Child, ForkServer
from publishing import (
    ALL,
    FAIL_FROM,
    FAIL_ONCE,
    KILL,
    NAMES,
    RECORD,
    TEAR,
    WAYS,
    Arm,
    digest,
    digest_at,
)

pytestmark = pytest.mark.chaos

LAST = 4
SPACE = ("open", "write", "truncate", "fsync", "rename", "link", "symlink", "mkdir")
_numbers = count()
# Processes run side by side; transformers, which reads what they leave, is not made for two threads.
_reading = Lock()


class Place:
    """A folder of checkpoints of its own, and a child that publishes into it."""

    def __init__(self, server: ForkServer, folder: Path, way: str) -> None:
        self.folder, self.way = folder / f"place-{next(_numbers)}", way
        self.folder.mkdir()
        self.parent = self.folder / "checkpoints"
        self._server = server

    def run(self, program: str, first: int, last: int, **arm: Any) -> Child:
        given = Arm(str(self.folder), **arm).to_dict()
        return self._server.run(
            f"publishing:{program}",
            *(self.way, str(self.parent), first, last, given),
            output=self.folder.with_suffix(".txt"),
            in_full=False,
        )

    def begun(self) -> Place:
        """With step 1 published."""
        with _reading, redirect_stdout(io.StringIO()):
            WAYS[self.way](self.parent, 1)
        return self

    def remove(self) -> None:
        shutil.rmtree(self.folder)
        self.folder.with_suffix(".txt").unlink()


def number(word: str, text: str) -> int | None:
    """The last number printed behind the word."""
    found = re.findall(rf"^{word} (\d+)", text, re.MULTILINE)
    return int(found[-1]) if found else None


def operations(
    server: ForkServer, folder: Path, way: str, first: int, last: int, kinds: Iterable[str]
) -> int:
    place = Place(server, folder, way).begun()
    child = place.run("publish_steps", first, last, mode=RECORD, kinds=tuple(kinds))
    assert child.wait() == 0, child.text()
    found = number("operations", child.text())
    place.remove()
    assert found
    return found


def in_lanes(work: Callable[[int], str | None], items: Iterable[int]) -> list[str]:
    """What was found wrong, of all of them."""
    with ThreadPoolExecutor(2) as lanes:
        return [problem for problem in lanes.map(work, items) if problem]


def after_a_kill(place: Place, published: int, expected: dict[str, int]) -> str | None:
    """What is wrong with what is found, after clearing up, and after going on."""
    said: list[str] = []

    def there() -> int | None:
        found = newest(place.parent, said.append)
        return None if found is None else expected[digest(load_state(found))]

    first = there()
    if first not in (published, published + 1) or said:
        names = sorted(p.name for p in place.parent.iterdir())
        return f"step {first} is found after {published} was published; {said}; {names}"
    keep(place.parent, newest=2, say=said.append)
    left = [p.name for p in place.parent.iterdir() if p.name.startswith(".")]
    if left or said or there() != first:
        return f"clearing up leaves {left}, {there()} instead of {first}, and says {said}"
    WAYS[place.way](place.parent, first + 1)
    if there() != first + 1 or said:
        return f"going on leads to {there()} instead of {first + 1}, and says {said}"
    return None


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("mode", [KILL, TEAR], ids=["before", "in-the-middle"])
def test_killed_at_every_operation(
    shimmed: ForkServer, quick: Path, way: str, mode: int, figures: list[str]
) -> None:
    began = time.monotonic()
    kinds = ALL if mode == KILL else ("write",)
    total = operations(shimmed, quick, way, 2, LAST, kinds)
    expected = {digest_at(step): step for step in range(1, LAST + 2)}

    def killed(at: int) -> str | None:
        place = Place(shimmed, quick, way).begun()
        child = place.run("publish_steps", 2, LAST, mode=mode, at=at, kinds=kinds)
        assert child.wait() == -9, f"operation {at} of {total}: {child.text()}"
        with _reading, redirect_stdout(io.StringIO()):
            problem = after_a_kill(place, number("published", child.text()) or 1, expected)
        if problem:
            return f"operation {at}: {problem}"
        place.remove()
        return None

    assert in_lanes(killed, range(total)) == []
    figures.append(
        f"killed {'before' if mode == KILL else 'within'} each operation, {way}: {total}, "
        f"{time.monotonic() - began:.0f} s"
    )


FAULTS: dict[str, tuple[int, tuple[str, ...], str]] = {
    "full": (
        errno.ENOSPC,
        SPACE,
        r"SpaceError: .*no space left on the device: .* is free.*Free some space",
    ),
    "read-only": (errno.EROFS, NAMES, r"InputError: .*cannot be written to \(read-only file system\)"),
    "forbidden": (errno.EACCES, NAMES, r"InputError: .*cannot be written to \(permission denied\)"),
    "broken": (errno.EIO, ALL, r"Error: .*Input/output error"),
}


@pytest.mark.parametrize(
    ("way", "fault", "mode"),
    [
        *(("run", fault, FAIL_ONCE) for fault in FAULTS),
        *(("run", fault, FAIL_FROM) for fault in ("full", "read-only")),
        *(("one name", fault, FAIL_ONCE) for fault in ("read-only", "broken")),
        ("one name", "full", FAIL_FROM),
    ],
)
def test_refused_at_every_operation(
    shimmed: ForkServer,
    quick: Path,
    way: str,
    fault: str,
    mode: int,
    figures: list[str],
) -> None:
    began = time.monotonic()
    error, kinds, message = FAULTS[fault]
    total = operations(shimmed, quick, way, 2, LAST, kinds)
    expected = digest_at(LAST)

    def refused(at: int) -> str | None:
        place = Place(shimmed, quick, way).begun()
        child = place.run("publish_through_failure", 2, LAST, mode=mode, at=at, error=error, kinds=kinds)
        said = child.text()
        if child.wait() != 0:
            return f"operation {at}: {said[-1500:]}"
        failed = re.search(r"^failed at .*", said, re.MULTILINE)
        if failed and not re.search(message, failed[0]):
            return f"operation {at}: {failed[0]}"
        with _reading:
            found = newest(place.parent, lambda text: None)
            right = found is not None and digest(load_state(found)) == expected
        if not right:
            return f"operation {at}: {found} is found at the end; {said}"
        place.remove()
        return None

    assert in_lanes(refused, range(total)) == []
    figures.append(
        f"{errno.errorcode[error]} at each operation {'once' if mode == FAIL_ONCE else 'and from then on'}, {way}:"
        f" {total}, {time.monotonic() - began:.0f} s"
    )
