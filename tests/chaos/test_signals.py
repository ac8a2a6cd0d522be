"""Stopped by signals, in the middle of a step and in the middle of a save, on one process and on two."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import runs
from babygpt.checkpoints import newest
from babygpt.files import read_manifest
from babygpt.settings import VerifySettings
from babygpt.verify import verify
from forking import Child, ForkServer

pytestmark = pytest.mark.chaos

STEPS, MICRO_BATCHES = 12, 4
ONE_BY_ONE = {"machine.micro_batch": 1}
# How long the rest of a run may take to notice that a process is gone.
NOTICED = 60.0


def step_of(out: Path) -> int | None:
    """Of the checkpoint that going on would begin at."""
    found = newest(out / "checkpoints", pytest.fail)
    return None if found is None else int(read_manifest(found).facts["step"])


class Runs:
    """One process: runs of twelve steps of four micro-batches."""

    def __init__(self, forks: ForkServer, model: Path, text: Path, folder: Path) -> None:
        self._forks, self._model, self._text, self.folder = forks, model, text, folder
        self._number = 0

    def start(self, out: Path, events: list[tuple[int, int | str]], **more: Any) -> Child:
        self._number += 1
        fields = runs.recipe(self._model, self._text, budget__steps=STEPS, validate__every_steps=STEPS)
        fields |= {"out": out}
        if (out / "recipe.yaml").exists():
            fields = {**runs.MACHINE, "resume": out}
        fields |= ONE_BY_ONE | {name.replace("__", "."): value for name, value in more.items()}
        output = self.folder / f"{self._number}.txt"
        return self._forks.start("runs:train_with_events", runs.arguments(fields), events, output=output)

    def __call__(self, out: Path, events: list[tuple[int, int | str]] | None = None, **more: Any) -> int:
        child = self.start(out, events or [], **more)
        code = child.wait()
        print(child.text())
        return code

    def end_of(self, out: Path) -> dict[str, Any]:
        return runs.fingerprint(out / "checkpoints" / f"step-{STEPS:06d}")


@pytest.fixture(scope="module")
def run(forks: ForkServer, tiny_gpt2: Path, text: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(forks, tiny_gpt2, text, tmp_path_factory.mktemp("signals"))


@pytest.fixture(scope="module")
def whole(run: Runs) -> dict[str, Any]:
    """The end of a run that nothing happened to."""
    assert run(run.folder / "whole") == 0
    return run.end_of(run.folder / "whole")


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stop_in_mid_accumulation(
    run: Runs, whole: dict[str, Any], tmp_path: Path, signum: int, code: int
) -> None:
    assert run(tmp_path / "run", [(6 * MICRO_BATCHES + 1, signum)]) == code
    assert step_of(tmp_path / "run") == 7
    assert run(tmp_path / "run", [(2 * MICRO_BATCHES + 2, signum)]) == code
    assert step_of(tmp_path / "run") == 10
    assert run(tmp_path / "run") == 0
    assert run.end_of(tmp_path / "run") == whole


def test_usr1_saves_and_goes_on(run: Runs, whole: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert run(out, [(6 * MICRO_BATCHES + 1, signal.SIGUSR1)], checkpoint__every_steps=1000) == 0
    assert [c.step for c in verify(VerifySettings(str(out))).checkpoints] == [STEPS, 7, STEPS]
    assert run.end_of(out) == whole


def test_a_second_ctrl_c_ends_with_130(run: Runs, tmp_path: Path) -> None:
    twice = [(MICRO_BATCHES + at, int(signal.SIGINT)) for at in (1, 2)]
    assert run(tmp_path / "run", [*twice]) == 130


def test_a_second_ctrl_c_stops_at_once(run: Runs, whole: dict[str, Any], tmp_path: Path) -> None:
    out, first = tmp_path / "run", 7 * MICRO_BATCHES + 1
    assert run(out, [(first, signal.SIGINT), (first + 1, signal.SIGINT)], checkpoint__every_steps=3)
    # The save of step 6 may still have been under way in its thread; one of the step that was stopped there is not.
    assert step_of(out) in (3, 6), "not even the step was ended"
    verify(VerifySettings(str(out)))
    assert run(out) == 0
    assert run.end_of(out) == whole


@pytest.mark.parametrize("delay", [0.0, 0.01, 0.03, 0.08])
def test_a_second_ctrl_c_inside_the_save_leaves_the_last_checkpoint_whole(
    run: Runs, whole: dict[str, Any], tmp_path: Path, delay: float
) -> None:
    out = tmp_path / "run"
    child = run.start(out, [(7 * MICRO_BATCHES + 1, signal.SIGINT)], checkpoint__every_steps=6)
    folder = out / "checkpoints"
    while not child.has_ended():
        with suppress(FileNotFoundError):
            if any(name.startswith(".partial-step-000008") for name in os.listdir(folder)):
                break
        time.sleep(0.001)
    time.sleep(delay)
    child.send(signal.SIGINT)
    assert child.wait(), child.text()
    assert step_of(out) in (6, 8)
    verify(VerifySettings(str(out)))
    assert run(out) == 0
    assert run.end_of(out) == whole


def test_skipped_steps_are_the_same_after_a_kill_between_the_skip_and_the_save(
    run: Runs, tmp_path: Path
) -> None:
    """Step 4 is skipped before the save at 6, step 8 after it; the process dies in step 10 and does 8 again."""
    spoiled = [(3 * MICRO_BATCHES + 1, "nan"), (7 * MICRO_BATCHES + 2, "nan")]
    assert run(tmp_path / "whole", [*spoiled], checkpoint__every_steps=6) == 0
    expected = run.end_of(tmp_path / "whole")
    assert expected["babygpt"]["skipped"] == [4, 8]
    out = tmp_path / "run"
    killed = [*spoiled, (9 * MICRO_BATCHES + 1, int(signal.SIGKILL))]
    assert run(out, killed, checkpoint__every_steps=6) == -signal.SIGKILL
    assert step_of(out) == 6
    assert run(out, [(1 * MICRO_BATCHES + 2, "nan")], checkpoint__every_steps=6) == 0
    assert run.end_of(out) == expected
    lines = [
        [line for line in runs.lines_of(folder / "metrics.jsonl") if line.get("skipped")]
        for folder in (tmp_path / "whole", out)
    ]
    assert [line["step"] for line in lines[0]] == [4, 8]
    assert [line["windows"] for line in lines[0]] == [line["windows"] for line in lines[1]]


# -- two processes ---------------------------------------------------------------------------------------------------


class TwoRanks:
    """A run on two processes, started by the command itself or by torchrun, written down by rows.py."""

    def __init__(self, model: Path, text: Path, folder: Path, *, torchrun: bool = False) -> None:
        self._model, self._text, self.folder, self.torchrun = model, text, folder, torchrun
        self.out = folder / "run"
        self._number = 0

    def start(
        self, devices: int = 2, *, steps: int, stop_in: int = 0, **more: Any
    ) -> subprocess.Popen[bytes]:
        self._number += 1
        fields = runs.recipe(
            self._model, self._text, budget__steps=steps, validate__every_steps=steps, model__dropout=0.0
        )
        if (self.out / "recipe.yaml").exists():
            fields = {**runs.MACHINE, "resume": self.out}
        else:
            fields["out"] = self.out
        fields |= ONE_BY_ONE | {"machine.devices": devices, "checkpoint.every_steps": 3}
        fields |= {name.replace("__", "."): value for name, value in more.items()}
        program: list[str | Path] = [sys.executable, Path(__file__).with_name("rows.py")]
        if self.torchrun and devices > 1:
            del fields["machine.devices"]
            program[1:1] = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(devices)]
        self.output = self.folder / f"{self._number}.txt"
        with self.output.open("wb") as output:
            return subprocess.Popen(
                [*program, self.folder / f"rows-{self._number}", *runs.arguments(fields)],
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join(sys.path),
                    "STOP_IN_FORWARD": str(stop_in),
                },
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_until(self, true: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
        end = time.monotonic() + 120
        while not true():
            assert process.poll() is None, self.output.read_text()
            assert time.monotonic() < end, self.output.read_text()
            time.sleep(0.01)

    def saved(self) -> bool:
        return (self.out / "checkpoints" / "last").exists()

    def rows(self, number: int, devices: int, micro_batches: int) -> list[str]:
        """The windows of one start, in the order of (step, micro-batch, rank, row), by a hash of each."""
        ranks = [
            [line.split() for line in (self.folder / f"rows-{number}.{rank}").read_text().splitlines()]
            for rank in range(devices)
        ]
        whole = min(map(len, ranks)) // micro_batches * micro_batches
        return [row for micro in range(whole) for rank in ranks for row in rank[micro]]


@pytest.fixture
def two(tiny_gpt2: Path, text: Path, tmp_path: Path) -> TwoRanks:
    return TwoRanks(tiny_gpt2, text, tmp_path)


def child_of(process: subprocess.Popen[bytes]) -> int:
    """The process that the run has started for the second device."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for child in children:
        with suppress(OSError):
            if b"LOCAL_RANK=1" in Path(f"/proc/{child}/environ").read_bytes():
                return int(child)
    raise AssertionError(f"no second process among {children}")


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def end(process: subprocess.Popen[bytes]) -> None:
    """Nothing of it stays behind, whatever the test found; torchrun's processes have sessions of their own."""
    for pid in descendants(process.pid):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def descendants(pid: int) -> list[int]:
    try:
        children = [int(c) for c in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
    return [each for child in children for each in (*descendants(child), child)]


@pytest.mark.parametrize("rank", [0, 1])
def test_sigterm_to_one_of_two_ranks(two: TwoRanks, rank: int, figures: list[str]) -> None:
    process = two.start(steps=100_000)
    try:
        two.wait_until(two.saved, process)
        other = child_of(process)
        began = time.monotonic()
        os.kill(other if rank else process.pid, signal.SIGTERM)
        assert process.wait(NOTICED) == 143, two.output.read_text()
        figures.append(f"SIGTERM to rank {rank} of two: over after {time.monotonic() - began:.1f} s")
        while not is_gone(other):
            assert time.monotonic() < began + NOTICED, "the second process is still there"
            time.sleep(0.05)
    finally:
        end(process)
    step = step_of(two.out)
    assert step
    trained = two.rows(1, 2, MICRO_BATCHES // 2)
    assert len(trained) == step * 4, "both ended with the step that was saved"
    metrics = [line["step"] for line in runs.lines_of(two.out / "metrics.jsonl") if "train_loss" in line]
    assert metrics == list(range(1, step + 1))


def test_sigterm_to_torchrun(two: TwoRanks, figures: list[str]) -> None:
    two.torchrun = True
    process = two.start(steps=100_000)
    try:
        two.wait_until(two.saved, process)
        began = time.monotonic()
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(NOTICED) == 1, two.output.read_text()
        figures.append(f"SIGTERM to torchrun: over after {time.monotonic() - began:.1f} s")
    finally:
        end(process)
    assert two.output.read_text().count("stopped by signal 15\n") == 1
    step = step_of(two.out)
    assert step
    assert len(two.rows(1, 2, MICRO_BATCHES // 2)) == step * 4, "both ended with the step that was saved"


@pytest.mark.parametrize("rank", [0, 1])
def test_sigkill_to_one_of_two_ranks(two: TwoRanks, rank: int, figures: list[str]) -> None:
    process = two.start(steps=100_000)
    try:
        two.wait_until(two.saved, process)
        other = child_of(process)
        began = time.monotonic()
        os.kill(other if rank else process.pid, signal.SIGKILL)
        if rank:
            assert process.wait(NOTICED) != 0
        while not is_gone(other):
            assert time.monotonic() < began + NOTICED, f"it goes on without rank 0: {two.output.read_text()}"
            time.sleep(0.05)
        figures.append(f"SIGKILL to rank {rank} of two: over after {time.monotonic() - began:.1f} s")
    finally:
        end(process)
    assert step_of(two.out)
    verify(VerifySettings(str(two.out)))


@pytest.mark.parametrize("torchrun", [False, True])
def test_on_two_then_one_then_two_the_windows_are_those_of_an_uninterrupted_run(
    two: TwoRanks, tiny_gpt2: Path, text: Path, tmp_path: Path, torchrun: bool
) -> None:
    steps, two.torchrun = 60, torchrun
    (tmp_path / "reference").mkdir()
    reference = TwoRanks(tiny_gpt2, text, tmp_path / "reference")
    process = reference.start(1, steps=steps)
    assert process.wait(180) == 0, reference.output.read_text()
    expected = reference.rows(1, 1, MICRO_BATCHES)
    assert len(expected) == 4 * steps
    seen: list[str] = []
    for number, devices in enumerate((2, 1, 2), 1):
        # In the second micro-batch of the 6th step of this start.
        stop_in = 5 * MICRO_BATCHES // devices + 2 if number < 3 else 0
        process = two.start(devices, steps=steps, stop_in=stop_in)
        try:
            stopped = 1 if torchrun and devices > 1 else 143  # torchrun has one code for all that goes wrong
            assert process.wait(120) == (stopped if number < 3 else 0), two.output.read_text()
            lines = two.output.read_text().splitlines()  # torchrun's report says it again
            assert lines.count("babygpt train: stopped by signal 15") == (number < 3), "it is said once"
            assert (step_of(two.out) or 0) < steps or number == 3, "it was not stopped on the way"
        finally:
            end(process)
        seen += two.rows(number, devices, MICRO_BATCHES // devices)
        assert len(seen) == 4 * (step_of(two.out) or 0)
    assert seen == expected
    losses = [
        [line["train_loss"] for line in runs.lines_of(out / "metrics.jsonl") if "train_loss" in line]
        for out in (reference.out, two.out)
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
