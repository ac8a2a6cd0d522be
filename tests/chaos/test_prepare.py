"""Preparing data, killed on the way, and gone on with to the same bytes."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from forking import Child, ForkServer

pytestmark = pytest.mark.chaos

MEGABYTES = {"documents": int(os.environ.get("CHAOS_PREPARE_MB", "200")), "tail": 10}
PHASES = ("survey", "tokenizer", "encoding", "encoding", "ending")
# What the command prints where a phase begins; the end is what it writes.
SAYS = {"survey": "data: reading", "tokenizer": "data: sampling", "encoding": "data: encoding"}


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """`documents`: `.jsonl` of short ones, a tenth with prompts; `tail`: too few and long to hold whole ones out."""
    folder = tmp_path_factory.mktemp("corpora")
    rng = random.Random(7)
    # Few and long words: cheap to tokenise.
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(6, 18))) for _ in range(400)]
    weights = [1 / rank for rank in range(1, len(words) + 1)]
    # Sentences put together anew: to draw each word would take longer than to tokenise it.
    sentences = [" ".join(rng.choices(words, weights, k=rng.randint(5, 40))) + ". " for _ in range(20_000)]
    rows, pairs = folder / "rows.jsonl", folder / "pairs.jsonl"
    left = MEGABYTES["documents"] * 1_000_000
    with rows.open("w") as plain, pairs.open("w") as halves:
        while left > 0:
            text = "".join(rng.choices(sentences, k=rng.randint(1, 25)))
            if rng.random() < 0.9:
                left -= plain.write(json.dumps({"text": text}) + "\n")
            else:
                left -= halves.write(json.dumps({"prompt": text[:50], "completion": text[50:]}) + "\n")
    texts = [folder / f"{number}.txt" for number in range(8)]
    for path in texts:
        size = MEGABYTES["tail"] * 1_000_000 // len(texts)
        path.write_text("\n".join(rng.choices(sentences, k=size // 280)))
    return {"documents": [rows, pairs], "tail": texts}


def whole(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def encoded(home: Path) -> int:
    """Documents that need not be encoded again."""
    for path in (home / "data").glob(".building-*/progress.json"):
        try:
            return int(json.loads(path.read_text())["documents"])
        except FileNotFoundError:
            pass
    return 0


def phase(child: Child, home: Path, before: int) -> str:
    """Where a preparation is; `encoding` from its first new position on."""
    said = child.text() if child.output.exists() else ""
    at = [name for name, line in SAYS.items() if line in said]
    # What a killed one had ended lies there too: of this one it is from its encoding on.
    if at and at[-1] == "encoding":
        ended = (".building-*/store/val/babygpt.json", ".building-*/whole/babygpt.json")
        if any(True for pattern in ended for _ in (home / "data").glob(pattern)):
            return "ending"
        if encoded(home) <= before:
            return "between"
    return at[-1] if at else "start"


def watch(child: Child, home: Path) -> dict[str, float]:
    """Waits for a preparation; seconds of each phase."""
    spent: Counter[str] = Counter()
    last = time.monotonic()
    while not child.has_ended():
        now = phase(child, home, 0)
        time.sleep(0.05)
        spent[now] += time.monotonic() - last
        last = time.monotonic()
    assert child.wait() == 0, child.text()
    return spent


@pytest.mark.parametrize("kind", ["documents", "tail"])
def test_killed_five_times_it_comes_to_the_same_bytes(
    forks: ForkServer, corpora: dict[str, list[Path]], tmp_path: Path, figures: list[str], kind: str
) -> None:
    seed = int(os.environ.get("CHAOS_SEED", "0"))
    rng = random.Random(f"{seed}-{kind}")
    print(f"seed {seed}")
    arguments = [
        *("data", "prepare", "--json", "--data.tokenizer", "train:2000", "--data.path"),
        *map(str, corpora[kind]),
    ]

    began = time.monotonic()
    undisturbed = tmp_path / "whole"
    child = forks.start("runs:prepare", arguments, str(undisturbed), output=tmp_path / "whole.txt")
    spent = watch(child, undisturbed)
    took = time.monotonic() - began
    (expected,) = (undisturbed / "data").iterdir()
    count = sum(json.loads(p.read_text())["num_documents"] for p in expected.glob("*/babygpt.json"))

    home, gone_on, killed = tmp_path / "killed", 0, []
    for number, wanted in enumerate(PHASES):
        before = encoded(home)
        child = forks.start("runs:prepare", arguments, str(home), output=tmp_path / f"{number}.txt")
        while not child.has_ended() and phase(child, home, before) != wanted:
            time.sleep(0.02)
        # Half of the phase, of the encoding a quarter, so that it is not over; at any moment of that.
        until = time.monotonic() + rng.uniform(0, spent[wanted] / (2 * PHASES.count(wanted)))
        # On a machine that has grown faster since, the encoding ends no sooner than in its third part.
        while time.monotonic() < until and (wanted != "encoding" or encoded(home) < before + count / 3):
            time.sleep(0.01)
        killed.append(phase(child, home, before))
        child.send(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL, f"it ended before it was killed:\n{child.text()}"
        gone_on += "going on after the " in child.text()
    # The last one may have published its store already, and been killed while it cleared up.
    published = (home / "data" / expected.name).exists()
    child = forks.run("runs:prepare", arguments, str(home), output=tmp_path / "last.txt", timeout=600)
    assert child.wait() == 0, child.text()
    gone_on += "going on after the " in child.text()
    assert set(killed) == set(PHASES)
    assert gone_on + published == 3, "it went on after each kill behind a position"
    assert whole(home / "data" / expected.name) == whole(expected)
    assert sorted(p.name for p in (home / "data").iterdir()) == [expected.name]
    figures.append(
        f"prepare, {kind}: {MEGABYTES[kind]} MB in {took:.0f} s undisturbed, killed in {', '.join(killed)};"
        f" {time.monotonic() - began:.0f} s in all, seed {seed}"
    )
