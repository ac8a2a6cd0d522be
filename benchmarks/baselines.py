"""What a run's bits per byte are worth: xz and a unigram model on the same held-out text.

    python benchmarks/baselines.py                  the text of `babygpt train` with nothing else said
    python benchmarks/baselines.py runs/NAME        the text of a run, and its best checkpoint beside
    python benchmarks/baselines.py --json           one JSON object

    xz         `xz -9` of the held-out documents: as one file, and each by itself, file headers included
    unigram    -log2 of ((count in the training tokens + 1) / (tokens + vocabulary)), summed over the held-out tokens
    the run    summed loss of its best checkpoint over every held-out token, as `babygpt eval` gives it

Each divided by the UTF-8 bytes of the held-out text. It also counts held-out documents that equal a training one.
"""

from __future__ import annotations

import argparse
import json
import lzma
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from babygpt import DataRecipe, EvalSettings, evaluate
from babygpt.checkpoints import best
from babygpt.data.arrow import TokenStore
from babygpt.data.prepared import PreparedData
from babygpt.data.store import prepare
from babygpt.recipe import read_recipe


def documents_of(data: PreparedData, store: TokenStore) -> list[bytes]:
    """The text of each document, UTF-8."""
    texts = []
    for number in range(len(store)):
        ids = store.document(number).tolist()
        text = data.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        texts.append(str(text).encode())
    return texts


def unigram_bits(
    train: npt.NDArray[np.unsignedinteger], held_out: npt.NDArray[np.unsignedinteger], vocabulary: int
) -> float:
    """Bits of the held-out tokens under their add-one smoothed frequencies in the training tokens."""
    counts = np.bincount(train, minlength=vocabulary) + 1.0
    return float(-np.log2(counts / counts.sum())[held_out].sum())


def xz_bytes(text: bytes) -> int:
    """Size of what `xz -9` makes of it."""
    return len(lzma.compress(text, preset=9))


def measure(run: Path | None) -> dict[str, Any]:
    """Every figure."""
    recipe = None if run is None else read_recipe(run / "recipe.yaml")
    data = prepare(
        DataRecipe() if recipe is None else recipe.data,
        model_name="auto" if recipe is None else recipe.model.name,
    )
    train, val = data.train, data.val
    held_out, trained_on = documents_of(data, val), set(documents_of(data, train))
    size = sum(map(len, held_out))
    counted = val.manifest.bytes_per_target * val.manifest.num_targets
    if abs(counted - size) > 1e-6 * size:
        raise SystemExit(f"the decoded text has {size} bytes and the store counted {counted:.0f}")
    ids = train.ids(0, train.num_tokens), val.ids(0, val.num_tokens)
    found: dict[str, Any] = {
        "documents": {"training": len(train), "held out": len(val)},
        "equal documents": sum(text in trained_on for text in held_out),
        "bytes": size,
        "tokens": val.num_tokens,
        "vocabulary": len(data.tokenizer),
        "bits per byte": {
            "unigram": unigram_bits(*ids, len(data.tokenizer)) / size,
            "xz -9, each document": 8 * sum(map(xz_bytes, held_out)) / size,
            "xz -9, all in one": 8 * xz_bytes(b"".join(held_out)) / size,
        },
    }
    if run is not None:
        checkpoint = best(run / "checkpoints")
        if checkpoint is None:
            raise SystemExit(f"{run} holds no checkpoint with a validation loss")
        found["bits per byte"][str(checkpoint.path)] = evaluate(
            EvalSettings(str(checkpoint.path))
        ).bits_per_byte
    return found


def main() -> None:
    """Prints the table, or the JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", nargs="?", type=Path, help="a run folder; without one, the default text")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    found = measure(arguments.run)
    if arguments.json:
        print(json.dumps(found))
        return
    documents = found["documents"]
    print(
        f"held out: {documents['held out']} of {sum(documents.values())} documents, {found['bytes']:,} bytes,"
    )
    print(f"{found['tokens']:,} tokens; {found['equal documents']} of them equal a training document\n")
    width = max(map(len, found["bits per byte"]))
    print(f"| {'':<{width}} | bits per byte |\n| :{'-' * (width - 1)} | ------------: |")
    for name, bits in found["bits per byte"].items():
        print(f"| {name:<{width}} | {bits:13.3f} |")


if __name__ == "__main__":
    main()
