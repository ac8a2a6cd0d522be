"""How good the dial is: `babygpt train --budget.minutes M` beside a grid of sizes that are given the same minutes.

    python benchmarks/dial.py --minutes 2                       the dial's own size and the grid, one run each
    python benchmarks/dial.py --minutes 5 --models auto         the dial alone
    python benchmarks/dial.py --minutes 10 --plan grid.json     the steps that the grid's sizes can do in that time
    python benchmarks/dial.py --minutes 10 --steps grid.json    the grid, each size for as many steps
    python benchmarks/dial.py --table                           the table, from the results file

Each run is a command of its own on a machine that should do nothing else; its time is that of the whole process. Data
are prepared beforehand (`babygpt data prepare`). A run that is done is one line of the results file and is not done
again, so that a grid can be run in pieces.

With `--plan` only `babygpt plan`, a few seconds a size, needs the machine for itself. The runs of `--steps` may stand
beside other work: a loss depends on the steps, not on how long they take.
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


def planned(model: str, minutes: float) -> dict[str, Any]:
    """The steps that `babygpt plan` has a size do in so many minutes, and the seconds that it foretells."""
    words = ["--model.name", model, "--budget.minutes", str(minutes), "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "babygpt", "plan", *words], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    found = json.loads(done.stdout)
    return {"steps": found["steps"], "planned_seconds": round(found["seconds"], 1)}


def run(model: str, minutes: float, plan: dict[str, Any] | None = None) -> dict[str, Any]:
    """Trains, and returns the line; with a plan for its steps, whose seconds are those foretold."""
    with tempfile.TemporaryDirectory(prefix="babygpt-dial-") as place:
        out = Path(place) / "run"
        budget = (
            ["--budget.minutes", str(minutes)] if plan is None else ["--budget.steps", str(plan["steps"])]
        )
        words = ["--model.name", model, *budget, "--out", str(out), "--json"]
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
        **({"seconds": round(seconds, 1)} if plan is None else {"planned_seconds": plan["planned_seconds"]}),
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
            share = line["seconds"] / (60 * minutes) if "seconds" in line else None
            bits = line["val_bits_per_byte"]
            rows.append(
                f"| {minutes:g} | {names} | {line['steps']} | {line['tokens']:,}"
                f" | {'' if share is None else f'{share:.3f}'}"
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
    parser.add_argument("--plan", type=Path, metavar="FILE", help="write the steps, and train nothing")
    parser.add_argument(
        "--steps", type=Path, metavar="FILE", help="as many as it says, instead of the minutes"
    )
    parser.add_argument("--table", action="store_true", help="print what there is")
    asked = parser.parse_args()
    if asked.table:
        print(table(lines_of(asked.results)))
        return
    if asked.plan:
        sizes = [model for model in asked.models if model != "auto"]
        asked.plan.write_text(json.dumps({model: planned(model, asked.minutes) for model in sizes}, indent=1))
        return
    plans = json.loads(asked.steps.read_text()) if asked.steps else {}
    done = {(line["asked"], line["minutes"]) for line in lines_of(asked.results)}
    missing = [model for model in asked.models if (model, asked.minutes) not in done]
    for model in missing[: asked.most]:
        line = run(model, asked.minutes, plans[model] if asked.steps else None)
        append(asked.results, line)
        print(table([line]).splitlines()[-1], flush=True)


if __name__ == "__main__":
    main()
