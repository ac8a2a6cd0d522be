"""Preparing data, killed on the way, and gone on with to the same bytes."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest

from forking import ForkServer

pytestmark = pytest.mark.chaos

MEGABYTES = int(os.environ.get("CHAOS_PREPARE_MB", "20"))
KILLS = 5


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """Text of the size asked for, as `.jsonl` of short documents, a tenth with prompts, and as few long `.txt`."""
    folder = tmp_path_factory.mktemp("corpora")
    rng = random.Random(7)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 10))) for _ in range(5000)]
    weights = [1 / rank for rank in range(1, len(words) + 1)]
    rows, pairs = folder / "rows.jsonl", folder / "pairs.jsonl"
    texts = [folder / f"{number}.txt" for number in range(8)]
    left = MEGABYTES * 1_000_000
    with rows.open("w") as plain, pairs.open("w") as halves:
        while left > 0:
            text = " ".join(rng.choices(words, weights, k=rng.randint(5, 600)))
            if rng.random() < 0.9:
                left -= plain.write(json.dumps({"text": text}) + "\n")
            else:
                left -= halves.write(json.dumps({"prompt": text[:50], "completion": text[50:]}) + "\n")
    lines = rows.read_text().splitlines()
    for number, path in enumerate(texts):
        path.write_text("\n".join(json.loads(line)["text"] for line in lines[number :: len(texts)]))
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


@pytest.mark.parametrize("kind", ["documents", "tail"])
def test_killed_five_times_it_comes_to_the_same_bytes(
    forks: ForkServer, corpora: dict[str, list[Path]], tmp_path: Path, figures: list[str], kind: str
) -> None:
    seed = int(os.environ.get("CHAOS_SEED", "0"))
    rng = random.Random(f"{seed}-{kind}")
    arguments = [
        *("data", "prepare", "--json", "--data.tokenizer", "train:2000", "--data.path"),
        *map(str, corpora[kind]),
    ]

    began = time.monotonic()
    child = forks.run(
        "runs:prepare", arguments, str(tmp_path / "whole"), output=tmp_path / "whole.txt", timeout=600
    )
    assert child.wait() == 0, child.text()
    undisturbed = time.monotonic() - began
    (expected,) = (tmp_path / "whole" / "data").iterdir()

    home, gone_on, codes = tmp_path / "killed", 0, []
    for number in range(KILLS):
        before = encoded(home)
        child = forks.start("runs:prepare", arguments, str(home), output=tmp_path / f"{number}.txt")
        # Anywhere before the first position, and then a while after each further one.
        while number and not child.has_ended() and encoded(home) <= before:
            time.sleep(0.02)
        time.sleep(rng.uniform(0, undisturbed / (3 if number == 0 else 12)))
        child.send(signal.SIGKILL)
        codes.append(child.wait())
        gone_on += "going on after the " in child.text()
    child = forks.run("runs:prepare", arguments, str(home), output=tmp_path / "last.txt", timeout=600)
    assert child.wait() == 0, child.text()
    gone_on += "going on after the " in child.text()
    assert codes.count(-signal.SIGKILL) >= KILLS - 1, "it was killed while it worked"
    assert gone_on >= KILLS - 2, "it went on each time after the first positions"
    assert whole(home / "data" / expected.name) == whole(expected)
    assert sorted(p.name for p in (home / "data").iterdir()) == [expected.name]
    figures.append(
        f"prepare, {kind}: {MEGABYTES} MB in {undisturbed:.0f} s undisturbed, killed"
        f" {codes.count(-signal.SIGKILL)} times, gone on with {gone_on} times, seed {seed}"
    )
