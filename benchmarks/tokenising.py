"""How fast documents become ids, beside the tokenizers library's own `encode_batch`.

    python benchmarks/tokenising.py
    python benchmarks/tokenising.py --characters 500 --rounds 9
    python benchmarks/tokenising.py --chat

Both get the same documents, from memory, in the same batches, and give their ids; the library's as the lists that it
makes. BabyGPT's `encode` gives arrays with end-of-text and targets, and the hash of each document's content. Rounds are
interleaved; medians of wall and processor seconds are printed with the ratio of each, library / BabyGPT, as one JSON
object. The text is the standard library of the Python that runs.

With `--chat` the documents are conversations of four turns, and the library is given their rendered text: what remains
is the price of the template and of finding the turns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

from babygpt.data.encoding import encode  # noqa: E402
from babygpt.data.sources import Document, read_documents  # noqa: E402
from babygpt.data.tokenizers import train_tokenizer  # noqa: E402

_BATCH = 2_000_000  # characters given to the library at once


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=float, default=8)
    parser.add_argument("--characters", type=int, default=2000, help="of a document; 0 takes whole files")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--chat", action="store_true")
    asked = parser.parse_args()
    texts = documents_of(asked.megabytes * 1e6, asked.characters)
    tokenizer = train_tokenizer(texts[::3], 8192, chat=asked.chat)
    documents = [Document(str(n), text=text) for n, text in enumerate(texts)]
    if asked.chat:
        documents = [Document(d.id, messages=talk(d.text or "")) for d in documents]
        texts = [
            str(tokenizer.apply_chat_template(list(d.messages or ()), tokenize=False)) for d in documents
        ]
    batches = in_batches(texts)

    def library() -> int:
        found = (
            tokenizer.backend_tokenizer.encode_batch(batch, add_special_tokens=False) for batch in batches
        )
        return sum(len(encoding.ids) for batch in found for encoding in batch)

    def ours() -> int:
        return sum(len(encoded.ids) for encoded in encode(documents, tokenizer))

    times: dict[str, list[tuple[float, float]]] = {"library": [], "babygpt": []}
    tokens = {"library": library(), "babygpt": ours()}  # once before it counts
    for _ in range(asked.rounds):
        for name, run in (("library", library), ("babygpt", ours)):
            times[name].append(timed(run))
    medians = {
        name: [statistics.median(column) for column in zip(*found, strict=True)]
        for name, found in times.items()
    }
    print(
        json.dumps(
            {
                "documents": len(documents),
                "megabytes": round(sum(len(text.encode()) for text in texts) / 1e6, 1),
                "tokens": tokens,
                **{f"{name}_s": [round(value, 2) for value in found] for name, found in medians.items()},
                "wall_ratio": round(medians["library"][0] / medians["babygpt"][0], 3),
                "cpu_ratio": round(medians["library"][1] / medians["babygpt"][1], 3),
            }
        )
    )


def documents_of(size: float, characters: int) -> list[str]:
    texts: list[str] = []
    for document in read_documents(["builtin:python"]):
        whole = document.text or ""
        step = characters or len(whole)
        texts += [whole[at : at + step] for at in range(0, len(whole), step)]
        size -= len(whole)
        if size <= 0:
            break
    return texts


def talk(text: str) -> tuple[dict[str, str], ...]:
    quarter = max(1, len(text) // 4)
    parts = [text[at : at + quarter] for at in range(0, 4 * quarter, quarter)]
    return tuple({"role": ("user", "assistant")[n % 2], "content": part} for n, part in enumerate(parts))


def in_batches(texts: list[str]) -> list[list[str]]:
    batches: list[list[str]] = [[]]
    size = 0
    for text in texts:
        batches[-1].append(text)
        size += len(text)
        if size >= _BATCH:
            batches.append([])
            size = 0
    return [batch for batch in batches if batch]


def timed(run: Callable[[], int]) -> tuple[float, float]:
    wall, used = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - wall, time.process_time() - used


if __name__ == "__main__":
    main()
