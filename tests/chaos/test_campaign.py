"""Runs killed at random instants, again and again, end with the bits of one that was never stopped and never saved."""

from __future__ import annotations

import os
import random
import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import runs
from babygpt.settings import VerifySettings
from babygpt.verify import verify
from forking import Child, ForkServer

pytestmark = pytest.mark.chaos

KILLS, INSIDE = 42, 10
# How a run is killed does not depend on its recipe: some runs differ in what they must agree on, others in how
# they save. Only the first three fields of a recipe change what is learned, and have a reference of their own.
RECIPES: dict[str, dict[str, Any]] = {
    "adamw": {"optim__name": "adamw"},
    "muon": {"optim__name": "muon"},
    "isolated": {"data__packing": "isolated"},
}
RUNS: list[tuple[str, dict[str, Any]]] = [
    ("adamw", {"checkpoint.every_steps": 3}),
    ("muon", {"checkpoint.every_steps": 3}),
    ("isolated", {"checkpoint.every_steps": 2}),
    ("adamw", {"checkpoint.every_steps": 4, "validate.every_steps": 10, "checkpoint.keep": 1}),
    ("adamw", {"checkpoint.every_steps": "null", "checkpoint.every_minutes": 0.003}),
    ("muon", {"checkpoint.every_steps": 3, "machine.workers": 1}),
]


@dataclass
class Campaign:
    """One run folder and what was done to it."""

    out: Path
    kind: str
    extra: dict[str, Any]
    log: list[str] = field(default_factory=list)
    kills: int = 0
    inside: int = 0
    mid_epoch: int = 0
    process: int = 0

    @property
    def checkpoints(self) -> Path:
        return self.out / "checkpoints"

    def partials(self) -> set[str]:
        """Saves under way, or left behind by a kill."""
        if not self.checkpoints.is_dir():
            return set()
        return {name for name in os.listdir(self.checkpoints) if name.startswith(".partial-")}

    def arguments(self, model: Path, text: Path) -> list[str]:
        if not (self.out / "recipe.yaml").exists():
            return runs.arguments(
                runs.recipe(model, text, **RECIPES[self.kind]) | self.extra | {"out": self.out}
            )
        machine = {k: v for k, v in self.extra.items() if k.split(".")[0] in ("checkpoint", "machine")}
        return runs.arguments({"resume": self.out, **runs.MACHINE, **machine})


@pytest.fixture(scope="module")
def references(
    forks: ForkServer, tiny_gpt2: Path, text: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Runs that saved nothing before their end."""
    folder = tmp_path_factory.mktemp("references")

    def run(kind: str) -> Path:
        fields = runs.recipe(tiny_gpt2, text, **RECIPES[kind])
        fields |= {"checkpoint.every_steps": "null", "checkpoint.every_minutes": "null", "out": folder / kind}
        child = forks.run(
            "runs:train",
            runs.arguments(fields),
            str(folder / f"{kind}.steps"),
            output=folder / f"{kind}.txt",
        )
        assert child.wait() == 0, child.text()
        return folder / kind

    with ThreadPoolExecutor(2) as lanes:
        return dict(zip(RECIPES, lanes.map(run, RECIPES), strict=True))


def wait_for_first_step(child: Child, steps: Path) -> bool:
    """Whether the process came to it."""
    while not child.has_ended():
        if steps.exists() and steps.stat().st_size:
            return True
        time.sleep(0.002)
    return False


def kill_once(run: Campaign, child: Child, steps: Path, chance: random.Random) -> None:
    """Kills at a random instant after the process's first step; every third time, aimed at a save."""
    before = run.partials()
    aimed, delay = chance.random() < 1 / 3, chance.uniform(0, 1.0)
    if not wait_for_first_step(child, steps):
        return
    if aimed:
        while not (run.partials() - before) and not child.has_ended():
            time.sleep(0.001)
        delay *= 0.15
    time.sleep(delay)
    child.send(9)
    if child.wait() != -9:
        return
    left = run.partials() - before
    done = steps.stat().st_size
    run.kills += 1
    run.inside += bool(left)
    where = f"inside a save ({', '.join(sorted(left))})" if left else "between saves"
    run.log.append(
        f"{run.out.name}: process {run.process} killed {delay:.3f} s after its "
        f"{'first save began' if aimed else 'first step'}, {done} steps done, {where}"
    )


def go_on(
    run: Campaign, forks: ForkServer, model: Path, text: Path, chance: random.Random, kills: int
) -> None:
    """Starts, kills and resumes until it has been killed often enough, and then lets it end."""
    while True:
        run.process += 1
        output = run.out.with_name(f"{run.out.name}-{run.process}.txt")
        steps = output.with_suffix(".steps")
        child = forks.start("runs:train", run.arguments(model, text), str(steps), output=output)
        if run.kills < kills:
            kill_once(run, child, steps, chance)
        code = child.wait()
        assert code in (0, -9), child.text()
        if code == 0:
            return


def test_killed_again_and_again(
    forks: ForkServer,
    tiny_gpt2: Path,
    text: Path,
    tmp_path: Path,
    references: dict[str, Path],
    figures: list[str],
) -> None:
    seed = int(os.environ.get("CHAOS_SEED") or secrets.randbelow(10**6))
    print(f"CHAOS_SEED={seed}")
    began = time.monotonic()
    done: list[Campaign] = []

    def one(number: int) -> Campaign:
        kind, extra = RUNS[number % len(RUNS)]
        run = Campaign(tmp_path / f"run-{number}", kind, extra)
        go_on(run, forks, tiny_gpt2, text, random.Random(f"{seed} {number}"), -(-KILLS // len(RUNS)))
        return run

    with ThreadPoolExecutor(2) as lanes:
        # Runs that ended before they were killed often enough are made up for by further ones.
        while sum(r.kills for r in done) < KILLS or sum(r.inside for r in done) < INSIDE:
            assert len(done) < 4 * len(RUNS), "runs end before they can be killed"
            more = len(RUNS) if not done else 2
            done += lanes.map(one, range(len(done), len(done) + more))
    print("\n".join(line for run in done for line in run.log))
    kills, inside = sum(r.kills for r in done), sum(r.inside for r in done)
    figures.append(
        f"campaign: CHAOS_SEED={seed}: {kills} kills over {len(done)} runs, {inside} of them inside a save,"
        f" {time.monotonic() - began:.0f} s"
    )
    for run in done:
        check(run, references[run.kind])


def check(run: Campaign, reference: Path) -> None:
    """The run's end against the reference's."""
    last = run.checkpoints / f"step-{runs.STEPS:06d}"
    theirs = runs.fingerprint(reference / "checkpoints" / last.name)
    assert runs.fingerprint(last) == theirs, run.log
    metrics, expected = (runs.lines_of(folder / "metrics.jsonl") for folder in (run.out, reference))
    steps = [line for line in metrics if "train_loss" in line]
    assert [line["step"] for line in steps] == list(range(1, runs.STEPS + 1)), run.log
    for ours, wanted in zip(steps, (line for line in expected if "train_loss" in line), strict=True):
        for name in ("tokens", "train_loss", "lr", "grad_norm"):
            assert ours[name] == wanted[name], (run.out.name, ours["step"], name)
    every = run.extra.get("validate.every_steps", runs.STEPS)
    validated = list(range(0, runs.STEPS + 1, every))
    assert [line["step"] for line in metrics if "val_loss" in line] == validated
    samples = runs.lines_of(run.out / "samples.jsonl")
    assert [line["step"] for line in samples] == validated
    assert samples[-1] == runs.lines_of(reference / "samples.jsonl")[-1]
    verify(VerifySettings(str(run.out)))
    assert run.partials() == set(), "the last save clears up"
