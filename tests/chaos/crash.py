"""What a machine that lost its power may find on its disk, worked out from a record of every change to it.

A file system keeps changes in memory and writes them to the disk when it likes, in an order that it likes. POSIX
promises two things: after `fsync` of a file its content is on the disk, after `fsync` of a folder the names in it
are. A rename happens whole or not at all. Nothing else is relied on here:

1. `read_record` gives the operations that the shim has written down.
2. `Disk` plays them, and knows of each file what is on the disk for certain and what is in memory only, and of the
   folders which changes of names are still pending.
3. `Disk.images` draws what may be found after a crash now: pending changes of names have happened up to some point,
   or all but one, or one alone, or some at random; content that was not flushed is there, missing, zeros or cut.
"""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from publishing import KINDS

_KINDS = {number: kind for kind, number in KINDS.items()}

# A path below the root to a file's content, to a link's target, or to None for a folder.
Image = dict[str, bytes | str | None]


@dataclass(frozen=True)
class Operation:
    """A change as the shim wrote it down; `offset` of an open tells whether the file was there."""

    kind: str
    flags: int
    offset: int
    path: str
    other: str
    data: bytes


def read_record(path: Path) -> list[Operation]:
    content, at, found = path.read_bytes(), 0, []
    head = struct.Struct("=iiiqIII")
    while at < len(content):
        kind, _, flags, offset, *lengths = head.unpack_from(content, at)
        at += head.size
        parts = []
        for length in lengths:
            parts.append(content[at : at + length])
            at += length
        found.append(Operation(_KINDS[kind], flags, offset, parts[0].decode(), parts[1].decode(), parts[2]))
    return found


@dataclass(eq=False)
class File:
    current: bytes = b""
    synced: bytes = b""


@dataclass(eq=False)
class Link:
    target: str


@dataclass(eq=False)
class Folder:
    current: dict[str, File | Link | Folder] = field(default_factory=dict)
    synced: dict[str, File | Link | Folder] = field(default_factory=dict)


Node = File | Link | Folder
# Happens whole or not at all: in this folder this name gets this content, or none.
Change = tuple[tuple[Folder, str, Node | None], ...]


class Disk:
    """A file system below one folder, played from a record.

    Args:
        root: the folder's path in the record.
    """

    def __init__(self, root: Path) -> None:
        self._root_path = str(root)
        self.root = Folder()
        self.pending: list[Change] = []

    @classmethod
    def of(cls, root: Path) -> Disk:
        """With what is there now, all of it flushed."""
        disk = cls(root)

        def scan(folder: Folder, path: Path) -> None:
            for entry in path.iterdir():
                node: Node
                if entry.is_symlink():
                    node = Link(os.readlink(entry))
                elif entry.is_dir():
                    node = Folder()
                    scan(node, entry)
                else:
                    node = File(entry.read_bytes(), entry.read_bytes())
                folder.current[entry.name] = folder.synced[entry.name] = node

        scan(disk.root, root)
        return disk

    # -- playing -----------------------------------------------------------------------------------------------------

    def play(self, operation: Operation) -> None:
        getattr(self, f"_{operation.kind}")(operation)

    def _find(self, path: str) -> Node | None:
        node: Node | None = self.root
        for name in self._parts(path):
            node = node.current.get(name) if isinstance(node, Folder) else None
        return node

    def _parts(self, path: str) -> list[str]:
        assert path.startswith(self._root_path), path
        return [part for part in path[len(self._root_path) :].split("/") if part not in ("", ".")]

    def _place(self, path: str) -> tuple[Folder, str]:
        folder = self._find(os.path.dirname(path))
        assert isinstance(folder, Folder), path
        return folder, os.path.basename(path)

    def _file(self, path: str) -> File | None:
        node = self._find(path)
        assert node is None or isinstance(node, File), path
        return node  # None: written through a descriptor after its name was gone

    def _change(self, *change: tuple[Folder, str, Node | None]) -> None:
        self.pending.append(change)
        _apply(change, lambda folder: folder.current)

    def _open(self, operation: Operation) -> None:
        if not operation.offset:
            self._change((*self._place(operation.path), File()))
        elif operation.flags & os.O_TRUNC and (file := self._file(operation.path)):
            file.current = b""

    def _write(self, operation: Operation) -> None:
        if file := self._file(operation.path):
            before = file.current.ljust(operation.offset, b"\0")
            end = operation.offset + len(operation.data)
            file.current = before[: operation.offset] + operation.data + before[end:]

    def _truncate(self, operation: Operation) -> None:
        if file := self._file(operation.path):
            file.current = file.current[: operation.offset].ljust(operation.offset, b"\0")

    def _fsync(self, operation: Operation) -> None:
        node = self._find(operation.path)
        if isinstance(node, File):
            node.synced = node.current
        elif isinstance(node, Folder):
            node.synced = dict(node.current)
            self.pending = [c for c in self.pending if any(folder is not node for folder, _, _ in c)]

    def _rename(self, operation: Operation) -> None:
        assert operation.flags == 0, "a rename of a kind that is not modelled"
        node = self._find(operation.path)
        source, target = self._place(operation.path), self._place(operation.other)
        self._change((*source, None), (*target, node))

    def _link(self, operation: Operation) -> None:
        self._change((*self._place(operation.other), self._find(operation.path)))

    def _symlink(self, operation: Operation) -> None:
        self._change((*self._place(operation.path), Link(operation.other)))

    def _unlink(self, operation: Operation) -> None:
        self._change((*self._place(operation.path), None))

    _rmdir = _unlink

    def _mkdir(self, operation: Operation) -> None:
        self._change((*self._place(operation.path), Folder()))

    def _mark(self, operation: Operation) -> None:
        pass

    # -- looking -----------------------------------------------------------------------------------------------------

    def now(self) -> Image:
        """What a process sees, and finds after it was killed."""
        return self._image(lambda folder: folder.current, lambda file: file.current)

    def images(self, chance: random.Random) -> Iterator[Image]:
        """What may be found after a crash: a choice out of very many."""
        number = len(self.pending)
        every = list(range(number))
        for happened in [every[:end] for end in range(number + 1)]:
            for content in (_lost, _zeros, _half, _kept):
                yield self._after(happened, content)
        for one in every:
            for happened in ([one], [i for i in every if i != one]):
                for content in (_lost, _kept):
                    yield self._after(happened, content)
        for _ in range(4):
            happened = [i for i in every if chance.random() < 0.5]
            fates: dict[int, bytes] = {}

            def mixed(file: File, fates: dict[int, bytes] = fates) -> bytes:
                return fates.setdefault(id(file), chance.choice((_lost, _zeros, _half, _kept))(file))

            yield self._after(happened, mixed)

    def _after(self, happened: Iterable[int], content: Callable[[File], bytes]) -> Image:
        entries: dict[int, dict[str, Node]] = {}

        def names(folder: Folder) -> dict[str, Node]:
            return entries.get(id(folder), folder.synced)

        def own(folder: Folder) -> dict[str, Node]:
            return entries.setdefault(id(folder), dict(folder.synced))

        for index in happened:
            _apply(self.pending[index], own)
        return self._image(names, content)

    def _image(self, names: Callable[[Folder], dict[str, Node]], content: Callable[[File], bytes]) -> Image:
        image: Image = {}

        def walk(folder: Folder, path: str) -> None:
            for name, node in names(folder).items():
                if isinstance(node, Folder):
                    image[path + name] = None
                    walk(node, f"{path}{name}/")
                else:
                    image[path + name] = node.target if isinstance(node, Link) else content(node)

        walk(self.root, "")
        return image


def _apply(change: Change, names: Callable[[Folder], dict[str, Node]]) -> None:
    for folder, name, node in change:
        if node is None:
            names(folder).pop(name, None)
        else:
            names(folder)[name] = node


def _kept(file: File) -> bytes:
    return file.current


def _lost(file: File) -> bytes:
    return file.synced


def _zeros(file: File) -> bytes:
    """The length has reached the disk, and the content that was not flushed has not."""
    certain = _certain(file)
    return certain + bytes(len(file.current) - len(certain))


def _half(file: File) -> bytes:
    certain = _certain(file)
    return file.current[: (len(certain) + len(file.current)) // 2]


def _certain(file: File) -> bytes:
    """What was flushed stays what it was where a file has only grown."""
    return file.synced if file.current.startswith(file.synced) else b""


def lay_out(image: Image, folder: Path) -> None:
    """Makes the image real in an empty or missing folder."""
    folder.mkdir(exist_ok=True)
    for path, content in image.items():
        if content is None:
            (folder / path).mkdir()
        elif isinstance(content, str):
            (folder / path).symlink_to(content)
        else:
            (folder / path).write_bytes(content)


def image_of(folder: Path) -> Image:
    """What a folder holds."""
    return Disk.of(folder).now()
