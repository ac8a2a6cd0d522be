"""What preparing data takes, and how fast windows are read from a token store.

    python benchmarks/data.py
    python benchmarks/data.py --megabytes 2000 --form jsonl

1. Text of random words of uneven frequency, made anew: documents of 1.8 kB on average as `.jsonl`, or `.txt` files of
   1.3 MB.
2. `babygpt data prepare` in a process of its own, with an empty cache and a tokenizer trained on the text.
3. In another one, windows of 1,024 tokens at random positions of the training store, copied out of the map.

Prints one JSON object: seconds and processor seconds of the whole command, its peak memory, and microseconds a window
(median of rounds, each of them over positions of its own; the store's pages are in memory after the first).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

_PREPARE = """
import json, resource, sys
from babygpt.cli import main
code = main(["data", "prepare", "--json", "--model.name", "preset:llama-5m", "--data.path", sys.argv[1]])
used = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps({"cpu_s": round(used.ru_utime + used.ru_stime, 1), "peak_mib": used.ru_maxrss // 1024}))
sys.exit(code)
"""
_WINDOW, _READS, _ROUNDS = 1024, 20_000, 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=200, help="of text")
    parser.add_argument("--form", choices=["jsonl", "txt"], default="jsonl")
    parser.add_argument("--read", type=Path, help="only measure reading, of this store")
    asked = parser.parse_args()
    if asked.read:
        print(json.dumps(read(asked.read)))
        return
    with tempfile.TemporaryDirectory(prefix="babygpt-data-") as name:
        folder = Path(name)
        text = write(folder / "text", asked.megabytes * 1_000_000, asked.form)
        environment = {**os.environ, "BABYGPT_CACHE": str(folder / "cache")}
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-c", _PREPARE, str(text)], env=environment, check=True, stdout=subprocess.PIPE
        )
        seconds = time.monotonic() - began
        found, used = map(json.loads, done.stdout.splitlines())
        result = {"megabytes": asked.megabytes, "form": asked.form, "seconds": round(seconds, 1), **used}
        result |= {
            "tokens": found["train"]["tokens"] + found["val"]["tokens"],
            "stored_mb": found["size"] / 1e6,
        }
        print(json.dumps(result | read(Path(found["folder"]) / "train")))


def write(folder: Path, size: int, form: str) -> Path:
    """Text of about `size` bytes; returns what to give as data.path."""
    folder.mkdir()
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 10))) for _ in range(20_000)]
    weights = [1 / rank for rank in range(1, len(words) + 1)]
    # A pool of sentences, put together anew for each document: drawing every word would take longer than tokenising.
    sentences = [" ".join(rng.choices(words, weights, k=rng.randint(4, 30))) + ".\n" for _ in range(200_000)]

    def document(length: int) -> str:
        start = rng.randrange(len(sentences) - length)
        return "".join(sentences[start : start + length])

    if form == "txt":
        for number in range(max(1, size // 1_300_000)):
            (folder / f"{number:05}.txt").write_text(document(13_000), encoding="utf-8")
        return folder
    with (folder / "text.jsonl").open("w", encoding="utf-8") as file:
        while size > 0:
            size -= file.write(
                json.dumps({"text": document(min(500, int(rng.lognormvariate(2.4, 1)) + 1))}) + "\n"
            )
    return folder / "text.jsonl"


def read(folder: Path) -> dict[str, float]:
    """Microseconds a window of 1,024 at a random position."""
    import numpy as np

    from babygpt.data.arrow import open_store

    store = open_store(folder)
    times = []
    for number in range(_ROUNDS):
        starts = np.random.default_rng(number).integers(0, store.num_tokens - _WINDOW, _READS).tolist()
        began = time.perf_counter()
        for start in starts:
            store.ids(start, _WINDOW).astype(np.int64)
        times.append((time.perf_counter() - began) / _READS * 1e6)
    return {"window_us": round(statistics.median(times), 2), "first_round_us": round(times[0], 2)}


if __name__ == "__main__":
    main()
