"""The machine dies with writes and renames not yet on the disk: what was published before is found, whole."""

from __future__ import annotations

import random
import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from babygpt.checkpoints import keep, load_state, newest
from babygpt.files import read_manifest
from crash import Disk, Image, Operation, image_of, lay_out, read_record
from forking import ForkServer
from publishing import WAYS, Arm, digest, digest_at

pytestmark = pytest.mark.chaos

LAST = 4


@dataclass
class Recorded:
    """What was on the disk, what was done then, and what there was in the end."""

    before: Disk
    operations: list[Operation]
    after: Image
    root: Path


class Judge:
    """Makes images real and looks for the newest checkpoint in them; the same image is looked at once.

    Args:
        place: a folder to work in.
        inside: where checkpoints are, in an image.
    """

    def __init__(self, place: Path, inside: str = "checkpoints") -> None:
        self._place, self._inside = place, inside
        self._known: dict[frozenset[tuple[str, Any]], tuple[int | None, list[str]]] = {}
        self._contents: dict[str, int] = {}

    @property
    def looked_at(self) -> int:
        return len(self._known)

    def __call__(self, image: Image) -> tuple[int | None, list[str]]:
        """The step of the checkpoint that is found, and what was said."""
        # What is inside a folder that was never finished is not read.
        key = frozenset((p, c) for p, c in image.items() if not re.search(r"(^|/)\.partial-[^/]*/", p))
        if key not in self._known:
            folder = self._place / "image"
            lay_out(image, folder)
            self._known[key] = self._look(folder / self._inside)
            shutil.rmtree(folder)
        return self._known[key]

    def _look(self, parent: Path) -> tuple[int | None, list[str]]:
        said: list[str] = []
        found = newest(parent, said.append)
        if found is None:
            keep(parent, newest=2, say=said.append)
            return None, said
        step = self._step_of(found)
        keep(parent, newest=2, say=said.append)
        again = newest(parent, said.append)
        assert again is not None
        assert self._step_of(again) == step, "clearing up has lost it"
        assert not [p.name for p in parent.iterdir() if p.name.startswith(".")], "leftovers stay for ever"
        return step, said

    def _step_of(self, checkpoint: Path) -> int:
        """Every byte has been compared with the manifest; the state in those bytes is read once."""
        manifest = read_manifest(checkpoint)
        key = repr(sorted(manifest.files.items()))
        if key not in self._contents:
            step = int(manifest.facts["step"])
            assert self.is_right(checkpoint, step)
            self._contents[key] = step
        return self._contents[key]

    def is_right(self, checkpoint: Path, step: int) -> bool:
        return digest(load_state(checkpoint)) == digest_at(step)


def record(server: ForkServer, folder: Path, way: str) -> Recorded:
    """Publishes steps 1 to LAST in a folder that is there and empty."""
    root = folder / "recorded"
    root.mkdir()
    before = Disk.of(root)
    arm = Arm(str(root), log=str(folder / "record")).to_dict()
    child = server.run(
        *("publishing:publish_steps", way, str(root / "checkpoints"), 1, LAST, arm),
        output=folder / "recorded.txt",
        in_full=False,
    )
    assert child.wait() == 0, child.text()
    return Recorded(before, read_record(folder / "record"), image_of(root), root)


@pytest.mark.parametrize("way", WAYS)
def test_every_change_is_recorded(shimmed: ForkServer, quick: Path, way: str) -> None:
    """What the record leads to is what is there: nothing passes the shim by."""
    recorded = record(shimmed, quick, way)
    for operation in recorded.operations:
        recorded.before.play(operation)
    assert recorded.before.now() == recorded.after


@pytest.mark.parametrize("way", WAYS)
def test_unflushed_changes_are_lost_at_every_point(
    shimmed: ForkServer, quick: Path, way: str, figures: list[str]
) -> None:
    began = time.monotonic()
    recorded = record(shimmed, quick, way)
    disk, judge, chance = recorded.before, Judge(quick), random.Random(0)
    least, images, messages = 0, 0, set()
    problems = []
    for number, operation in enumerate(recorded.operations):
        disk.play(operation)
        if operation.kind == "mark":
            least = int(operation.path.removeprefix("published "))
        for image in (disk.now(), *disk.images(chance)):
            images += 1
            step, said = judge(image)
            messages.update(said)
            if not least <= (step or 0) <= least + 1 or said:
                problems.append(
                    f"after operation {number} ({operation.kind} {operation.path}): step {step} is"
                    f" found, and {least} was published; {said}"
                )
    figures.append(
        f"crashes, {way}: {len(recorded.operations)} operations, {images} images, {judge.looked_at} different,"
        f" {time.monotonic() - began:.0f} s"
    )
    print(len(problems), len(messages), sorted(messages)[:5])
    assert problems[:5] == []
