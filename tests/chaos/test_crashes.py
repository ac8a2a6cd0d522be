"""The machine dies with writes and renames not yet on the disk: what was published before is found, whole."""

from __future__ import annotations

import json
import random
import re
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import runs
from babygpt.checkpoints import keep, load_state, newest
from babygpt.files import read_manifest
from crash import Disk, Image, Operation, image_of, lay_out, read_record
from forking import ForkServer
from publishing import KILL, WAYS, Arm, digest, digest_at

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


# -- a whole run -----------------------------------------------------------------------------------------------------


class RunJudge(Judge):
    """Of a run's folder; that the state is right is shown by going on from it."""

    def is_right(self, checkpoint: Path, step: int) -> bool:
        return bool(load_state(checkpoint)["global_step"] == step)


SAVING = {"checkpoint.every_steps": 3, "checkpoint.keep": 1}


def record_run(server: ForkServer, folder: Path, model: Path, text: Path, begin: str = "made") -> Recorded:
    """A run of eleven steps with saves and validations at unlike steps.

    Args:
        server: forks processes with the shim.
        folder: to work in.
        model: to train.
        text: to train on.
        begin: the run's folder is `made` before, or is made by the run (`new`); or the run was killed between two
            saves, with lines in its files beyond the last one, and is now `resumed`.
    """
    root = folder / "recorded"
    out = root / "run"
    (root if begin == "new" else out).mkdir(parents=True)
    fields = runs.recipe(model, text, budget__steps=11, validate__every_steps=5) | SAVING | {"out": out}
    if begin == "resumed":
        # The first sample after a save is written in the validation of step 5.
        arm = Arm(str(out / "samples.jsonl"), KILL, at=2, kinds=("open",))
        child = server.run("runs:armed", runs.arguments(fields), arm.to_dict(), output=folder / "killed.txt")
        assert child.wait() == -9, child.text()
        fields = {"resume": out, **runs.MACHINE, **SAVING}
    before = Disk.of(root)
    child = server.run(
        "runs:armed",
        *(runs.arguments(fields), Arm(str(root), log=str(folder / "record")).to_dict()),
        output=folder / "recorded.txt",
    )
    assert child.wait() == 0, child.text()
    return Recorded(before, read_record(folder / "record"), image_of(root), root)


def durable_step(disk: Disk, least: int, operation: Operation) -> int:
    """Once `last` points at a checkpoint, that has been published."""
    if operation.kind == "rename" and operation.other.endswith("/checkpoints/last"):
        target = disk.now()["run/checkpoints/last"]
        return int(str(target).removeprefix("step-"))
    return least


def test_a_run_goes_on_from_every_point(
    shimmed: ForkServer,
    forks: ForkServer,
    tiny_gpt2: Path,
    text: Path,
    quick: Path,
    tmp_path: Path,
    figures: list[str],
) -> None:
    began = time.monotonic()
    recorded = record_run(shimmed, quick, tiny_gpt2, text)
    disk, judge, chance = recorded.before, RunJudge(quick, "run/checkpoints"), random.Random(1)
    least, images = 0, 0
    problems, kept = [], []
    for number, operation in enumerate(recorded.operations):
        disk.play(operation)
        least = durable_step(disk, least, operation)
        for image in (disk.now(), *disk.images(chance)):
            images += 1
            step, said = judge(image)
            if (step or 0) < least or said:
                problems.append(
                    f"after operation {number} ({operation.kind} {operation.path}): step {step} is found,"
                    f" and {least} was published; {said}"
                )
            if "run/recipe.yaml" in image:
                kept.append(image)
    assert disk.now() == recorded.after, "nothing passes the shim by"
    assert problems[:5] == []
    expected = runs.fingerprint(recorded.root / "run" / "checkpoints" / "step-000011")
    chosen = chance.sample(kept, 8)
    for number, image in enumerate(chosen):
        out = tmp_path / f"crash-{number}"
        lay_out(image, out)
        child = forks.run(
            "runs:train",
            *(
                runs.arguments({"resume": out / "run", **runs.MACHINE, **SAVING}),
                str(tmp_path / f"{number}.steps"),
            ),
            output=tmp_path / f"{number}.txt",
        )
        assert child.wait() == 0, child.text()
        assert runs.fingerprint(out / "run" / "checkpoints" / "step-000011") == expected
    figures.append(
        f"crashes of a run: {len(recorded.operations)} operations, {images} images, {judge.looked_at} different,"
        f" {len(chosen)} of them gone on with, {time.monotonic() - began:.0f} s"
    )


@pytest.mark.parametrize(
    ("name", "begin"),
    [
        ("metrics.jsonl", "made"),
        ("metrics.jsonl", "resumed"),
        ("samples.jsonl", "made"),
        ("samples.jsonl", "resumed"),
    ],
)
def test_lines_before_a_checkpoint_are_on_the_disk_before_it(
    shimmed: ForkServer, tiny_gpt2: Path, text: Path, quick: Path, name: str, begin: str
) -> None:
    recorded = record_run(shimmed, quick, tiny_gpt2, text, begin)
    disk, judge, chance = recorded.before, RunJudge(quick, "run/checkpoints"), random.Random(2)
    kind = "train_loss" if name == "metrics.jsonl" else "text"
    every = list(range(1, 12)) if name == "metrics.jsonl" else [0, 5, 10, 11]
    problems = []
    for number, operation in enumerate(recorded.operations):
        disk.play(operation)
        for image in (disk.now(), *disk.images(chance)):
            step, _ = judge(image)
            content = image.get(f"run/{name}", b"")
            assert isinstance(content, bytes)
            steps = [line["step"] for line in whole_lines(content) if kind in line]
            wanted = [s for s in every if s <= (step or -1)]
            if [s for s in steps if s <= (step or -1)] != wanted:
                problems.append(
                    f"after operation {number} ({operation.kind}): lines {steps}, checkpoint {step}"
                )
    assert problems[:5] == []


def whole_lines(content: bytes) -> list[dict[str, Any]]:
    found = []
    for line in content.split(b"\n"):
        with suppress(ValueError):
            found.append(json.loads(line))
    return found


def test_a_folder_that_the_run_makes_is_on_the_disk_before_its_checkpoints(
    shimmed: ForkServer, quick: Path, tiny_gpt2: Path, text: Path
) -> None:
    recorded = record_run(shimmed, quick, tiny_gpt2, text, "new")
    disk, least = recorded.before, 0
    for number, operation in enumerate(recorded.operations):
        disk.play(operation)
        least = durable_step(disk, least, operation)
        certain = next(iter(disk.images(random.Random(0))))
        assert not least or "run/recipe.yaml" in certain, f"after operation {number}, step {least} published"
