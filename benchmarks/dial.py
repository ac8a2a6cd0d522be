"""How good the dial is: `babygpt train --budget.minutes M` beside a grid of sizes that are given the same minutes.

    python benchmarks/dial.py --minutes 2                       the dial's own size and the grid, one run each
    python benchmarks/dial.py --minutes 5 --models auto         the dial alone
    python benchmarks/dial.py --table                           the table, from the results file

Each run is a command of its own on a machine that should do nothing else; its time is that of the whole process. Data
are prepared beforehand (`babygpt data prepare`). A run that is done is one line of the results file and is not done
again, so that a grid can be run in pieces.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from results_file import append, lines_of

RESULTS = Path(__file__).parent / "results" / "dial.jsonl"
GRID = ("auto", *(f"preset:llama-{each}" for each in ("64x2", "96x3", "128x4", "192x4", "256x4")))


def run(model: str, minutes: float) -> dict[str, Any]:
    """Trains, and returns the line."""
    with tempfile.TemporaryDirectory(prefix="babygpt-dial-") as place:
        out = Path(place) / "run"
        words = ["--model.name", model, "--budget.minutes", str(minutes), "--out", str(out), "--json"]
        command = [sys.executable, "-m", "babygpt", "train", *words]
        begun = time.monotonic()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        seconds = time.monotonic() - begun
        said = done.stderr.splitlines()
        if done.returncode:
            raise SystemExit(done.stderr)
        result = json.loads(done.stdout)
        recipe = (out / "recipe.yaml").read_text()
    return {
        "asked": model,
        "model": next(line.split()[-1] for line in recipe.splitlines() if line.startswith("  name: preset:")),
        "minutes": minutes,
        "seconds": round(seconds, 1),
        "steps": result["steps"],
        "tokens": result["tokens"],
        "val_loss": result["val_loss"],
        "val_bits_per_byte": result["val_bits_per_byte"],
        "expected": next((line for line in said if line.startswith("expected:")), None),
        "load": os.getloadavg()[0],
    }


def table(lines: list[dict[str, Any]]) -> str:
    """Rows of runs, those of the same minutes together, the loss beside the best of them."""
    rows = [
        "| minutes | asked | model | steps | tokens | command / dial | bits a byte | above the best |",
        "| --: | :-- | :-- | --: | --: | --: | --: | --: |",
    ]
    for minutes in sorted({line["minutes"] for line in lines}):
        group = [line for line in lines if line["minutes"] == minutes]
        best = min(line["val_bits_per_byte"] for line in group)
        for line in group:
            names = f"{line['asked'].removeprefix('preset:')} | {line['model'].removeprefix('preset:')}"
            share = line["seconds"] / (60 * minutes)
            bits = line["val_bits_per_byte"]
            rows.append(
                f"| {minutes:g} | {names} | {line['steps']} | {line['tokens']:,} | {share:.3f}"
                f" | {bits:.4f} | {bits / best - 1:.1%} |"
            )
    return "\n".join(rows)


def main() -> None:
    """Does the runs that are missing, or prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--models", nargs="+", default=GRID)
    parser.add_argument("--most", type=int, default=sys.maxsize, help="runs to do before ending")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="print what there is")
    asked = parser.parse_args()
    if asked.table:
        print(table(lines_of(asked.results)))
        return
    done = {(line["asked"], line["minutes"]) for line in lines_of(asked.results)}
    missing = [model for model in asked.models if (model, asked.minutes) not in done]
    for model in missing[: asked.most]:
        line = run(model, asked.minutes)
        append(asked.results, line)
        print(table([line]).splitlines()[-1], flush=True)


if __name__ == "__main__":
    main()
