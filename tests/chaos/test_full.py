"""Whole runs on a disk that fills up, turns read-only or takes the process with it, and the way on from there."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import runs
from babygpt import checkpoints
from babygpt.checkpoints import load_state, newest
from babygpt.errors import SpaceError
from babygpt.settings import VerifySettings
from babygpt.verify import verify
from forking import Child, ForkServer
from publishing import FAIL_FROM, KILL, Arm, digest, digest_at, save_of_a_run
from test_operations import FAULTS, in_lanes, number

pytestmark = pytest.mark.chaos

STEPS = 11
SAVING = {"checkpoint.every_steps": 3, "checkpoint.keep": 1}
SAMPLES = 16


class Place:
    """A run in a folder of its own, with the shim at work on it."""

    def __init__(self, server: ForkServer, model: Path, text: Path, folder: Path) -> None:
        self._server, self._model, self._text = server, model, text
        self.folder, self.out = folder, folder / "run"
        folder.mkdir()

    def __call__(self, **arm: Any) -> Child:
        """Begins the run, or goes on with it."""
        fields = runs.recipe(self._model, self._text, budget__steps=STEPS, validate__every_steps=5)
        fields["out"] = self.out
        if (self.out / "recipe.yaml").exists():
            fields = {**runs.MACHINE, "resume": self.out}
        arguments = runs.arguments(fields | SAVING)
        given = Arm(**{"folder": str(self.out), **arm}).to_dict()
        output = self.folder / "out.txt"
        output.unlink(missing_ok=True)
        return self._server.run("runs:armed", arguments, given, output=output, in_full=False)

    def end(self) -> dict[str, Any]:
        return runs.fingerprint(self.out / "checkpoints" / f"step-{STEPS:06d}")


EXPECTED = {
    "killed": ("", {-9}),
    "full": (r"no space left on the device.*Free some space", {2}),
    "read-only": (
        r"[Rr]ead-only file system",
        {1, 2},
    ),  # 1 with a traceback is not as it should be: see below
}


@pytest.mark.parametrize("fault", EXPECTED)
def test_a_run_goes_on_after_a_fault_anywhere(
    shimmed: ForkServer, tiny_gpt2: Path, text: Path, quick: Path, fault: str, figures: list[str]
) -> None:
    """At operations spread evenly over the run; every single one of a save is tried elsewhere."""
    began = time.monotonic()
    error, kinds, _ = FAULTS.get(fault, (0, FAULTS["broken"][1], ""))
    message, codes = EXPECTED[fault]
    whole = Place(shimmed, tiny_gpt2, text, quick / "whole")
    child = whole(log=str(quick / "record"), kinds=kinds)
    assert child.wait() == 0, child.text()
    total = number("operations", child.text())
    assert total

    def one(at: int) -> str | None:
        place = Place(shimmed, tiny_gpt2, text, quick / f"{fault}-{at}")
        mode = KILL if fault == "killed" else FAIL_FROM
        child = place(mode=mode, at=at, error=error, kinds=kinds)
        code, said = child.wait(), child.text()
        if code == 0 and fault != "killed" and place.end() == whole.end():
            return None  # all that was refused was to delete what is superseded
        if code not in codes or not re.search(message, said):
            return f"operation {at} of {total}: exit code {code}: {said[-600:]}"
        if (place.out / "checkpoints").is_dir() and newest(place.out / "checkpoints", print):
            verify(VerifySettings(str(place.out)))
        child = place()
        if child.wait() != 0 or place.end() != whole.end():
            return f"operation {at} of {total}: going on: {child.text()[-600:]}"
        return None

    chosen = sorted({total * part // SAMPLES for part in range(SAMPLES)})
    assert in_lanes(one, chosen) == []
    figures.append(
        f"whole runs, {fault}: at {len(chosen)} of {total} operations, {time.monotonic() - began:.0f} s"
    )


@pytest.mark.parametrize("name", ["", "/metrics.jsonl"])
def test_a_read_only_folder_is_one_plain_message(
    shimmed: ForkServer, tiny_gpt2: Path, text: Path, quick: Path, name: str
) -> None:
    place = Place(shimmed, tiny_gpt2, text, quick / "place")
    child = place(
        folder=f"{place.out}{name}", mode=FAIL_FROM, at=0, error=errno.EROFS, kinds=FAULTS["full"][1]
    )
    assert child.wait() == 2, child.text()
    assert "cannot be written to (read-only file system)" in child.text()
    assert "Traceback" not in child.text()


# -- a real disk -----------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path, figures: list[str]) -> Iterator[Path]:
    """A file system in memory of 4 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        figures.append("a real small disk: not tried, since this user may not mount one")
        pytest.skip("this user may not mount a file system")
    yield folder
    subprocess.run(["umount", folder], check=True)


def fill_up(disk: Path, leave: int) -> Path:
    filler = disk / "filler"
    filler.unlink(missing_ok=True)
    found = os.statvfs(disk)
    filler.write_bytes(bytes(max(0, found.f_bavail * found.f_frsize - leave)))
    return filler


def test_a_save_on_a_disk_with_ever_so_little_room(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch, figures: list[str]
) -> None:
    monkeypatch.setattr(checkpoints, "ensure_space", lambda *_: None)  # as if somebody else were quicker
    parent = small_disk / "checkpoints"
    save_of_a_run(parent, 1)
    refused = 0
    for room in range(0, 400_000, 4096):
        filler = fill_up(small_disk, room)
        try:
            save_of_a_run(parent, 2)
            break
        except SpaceError as error:
            said = str(error)
        assert "no space left on the device" in said
        refused += 1
        found = newest(parent, pytest.fail)
        assert found is not None
        step = load_state(found)["global_step"]
        assert step in (1, 2)
        assert digest(load_state(found)) == digest_at(step)
        if step == 2:
            break
    assert refused > 5
    filler.unlink()
    save_of_a_run(parent, 3)
    found = newest(parent, pytest.fail)
    assert found is not None
    assert digest(load_state(found)) == digest_at(3)
    figures.append(f"a real small disk: refused {refused} times, with 0 to {room // 1024} KB left")


def test_a_run_on_a_disk_that_fills_up(
    forks: ForkServer, tiny_gpt2: Path, text: Path, small_disk: Path, tmp_path: Path
) -> None:
    def run(out: Path, **more: Any) -> Child:
        fields = runs.recipe(tiny_gpt2, text, budget__steps=STEPS, validate__every_steps=STEPS) | {"out": out}
        if (out / "recipe.yaml").exists():
            fields = {**runs.MACHINE, "resume": out}
        fields |= {"checkpoint.every_steps": 3} | more
        events: list[Any] = [(2 * 4 + 1, 15)] if out.parent == small_disk and "out" in fields else []
        return forks.run(
            "runs:train_with_events", runs.arguments(fields), events, output=tmp_path / "out.txt"
        )

    assert run(tmp_path / "whole").wait() == 0
    out = small_disk / "run"
    assert run(out).wait() == 143
    filler = fill_up(small_disk, 300_000)
    child = run(out)
    assert child.wait() == 2, child.text()
    assert "the checkpoint step-000006 needs" in child.text()
    verify(VerifySettings(str(out)))
    filler.unlink()
    child = run(out)
    assert child.wait() == 0, child.text()
    last = f"checkpoints/step-{STEPS:06d}"
    assert runs.fingerprint(out / last) == runs.fingerprint(tmp_path / "whole" / last)
